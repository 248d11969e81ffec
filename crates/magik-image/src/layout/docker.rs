//! What `docker save` writes (moby's image/spec/v1.2.md, and the forms of podman and skopeo).

use std::path::Path;

use magik_cas::{Algorithm, Digest, Staged};
use oci_spec::image::{Descriptor, ImageManifestBuilder, MediaType};
use serde::{Deserialize, Serialize};

use super::{
    ImportOptions,
    contents::{Contents, invalid, stage},
};
use crate::{
    Error, Image, ImageStore, Reference, Result,
    manifest::{descriptor, parse_config, parse_manifest},
    platform,
    unpack::Compression,
};

/// The file that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";

/// One image in `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    pub(super) config: String,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

pub(super) fn import(
    store: &ImageStore,
    path: &Path,
    mut contents: Contents,
    options: &ImportOptions,
) -> Result<Vec<Image>> {
    let limits = store.limits();
    let list = contents.small(MANIFEST, limits.max_manifest_size)?;
    let list: Vec<SavedImage> =
        serde_json::from_slice(&list).map_err(|e| invalid(path, format!("{MANIFEST}: {e}")))?;
    let chosen = select(path, list, options)?;

    let mut manifests = Vec::new();
    let mut wanted = Vec::new();
    let mut names = Vec::new();
    for saved in &chosen {
        let manifest = manifest(store, path, &contents, saved, options, &mut wanted)?;
        names.push((manifest.info().digest, manifest.info().size, tags(saved, options)));
        manifests.push(manifest);
    }
    let mut blobs = contents.take(&wanted);
    blobs.extend(manifests);
    store.publish(blobs)?;

    let mut images = Vec::new();
    for (digest, size, tags) in names {
        let manifest = descriptor(MediaType::ImageManifest, &digest, size)?;
        if tags.is_empty() {
            images.push(store.keep(&manifest)?);
        }
        for tag in tags {
            images.push(store.tag(&tag, &manifest)?);
        }
    }
    Ok(images)
}

fn select(path: &Path, mut list: Vec<SavedImage>, options: &ImportOptions) -> Result<Vec<SavedImage>> {
    if let Some(tag) = &options.tag {
        let wanted: Reference = tag.parse()?;
        let is_wanted = |text: &String| text.parse::<Reference>().is_ok_and(|r| r == wanted);
        list.retain(|saved| saved.repo_tags.iter().flatten().any(is_wanted));
        if list.is_empty() {
            return Err(invalid(path, format!("it holds no image {tag:?}")));
        }
    }
    match list.len() {
        0 => Err(invalid(path, "it holds no image")),
        1 => Ok(list),
        _ if options.name.is_some() => Err(invalid(
            path,
            "it holds several images, which cannot all have one name: choose one by its tag",
        )),
        _ => Ok(list),
    }
}

fn tags(saved: &SavedImage, options: &ImportOptions) -> Vec<Reference> {
    if let Some(name) = &options.name {
        return vec![name.clone()];
    }
    if let Some(tag) = &options.tag {
        return tag.parse().into_iter().collect();
    }
    // What is no reference names nothing; the image is kept by its id then.
    saved
        .repo_tags
        .iter()
        .flatten()
        .filter_map(|text| text.parse().ok())
        .collect()
}

/// Makes the manifest that the archive does not have, and notes the blobs it names.
fn manifest(
    store: &ImageStore,
    path: &Path,
    contents: &Contents,
    saved: &SavedImage,
    options: &ImportOptions,
    wanted: &mut Vec<Digest>,
) -> Result<Staged> {
    let limits = store.limits();
    if saved.layers.len() > limits.max_layers {
        let what = format!("{}: layers", path.display());
        return Err(Error::too_many(what, limits.max_layers as u64));
    }
    let config_bytes = contents.small(&saved.config, limits.max_config_size)?;
    let config_info = *contents.file(&saved.config)?.info();
    check_name(path, &saved.config, &config_info.digest)?;
    let config = parse_config(&config_bytes, &config_info.digest, limits)?;
    platform::check(&config, &options.platform).map_err(|e| invalid(path, e.to_string()))?;
    let diff_ids = config.rootfs().diff_ids();
    if diff_ids.len() != saved.layers.len() {
        let (layers, ids) = (saved.layers.len(), diff_ids.len());
        return Err(invalid(
            path,
            format!("{:?} names {ids} layers, {MANIFEST} names {layers}", saved.config),
        ));
    }
    let mut layers = Vec::new();
    for (name, diff_id) in saved.layers.iter().zip(diff_ids) {
        layers.push(layer(contents, name, diff_id)?);
    }
    let config = descriptor(MediaType::ImageConfig, &config_info.digest, config_info.size)?;
    wanted.extend(
        layers
            .iter()
            .map(|(_, digest)| *digest)
            .chain([config_info.digest]),
    );

    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers.into_iter().map(|(layer, _)| layer).collect::<Vec<_>>())
        .build()
        .and_then(|manifest| manifest.to_string())
        .map_err(|e| invalid(path, e.to_string()))?;
    let writer = store.cas().begin(Algorithm::Sha256, limits.max_manifest_size)?;
    let staged = stage(
        writer,
        manifest.as_bytes(),
        &format!("manifest of {}", path.display()),
    )?;
    // The same rules as for a manifest from elsewhere, the sum of the layers' sizes among them.
    parse_manifest(manifest.as_bytes(), &staged.info().digest, limits)?;
    Ok(staged)
}

fn layer(contents: &Contents, name: &str, diff_id: &str) -> Result<(Descriptor, Digest)> {
    use std::io::Read;
    let file = contents.file(name)?;
    let info = *file.info();
    let mut start = Vec::new();
    file.open()?
        .take(8)
        .read_to_end(&mut start)
        .map_err(Error::io(format!("read layer {name:?}")))?;
    let media_type = match Compression::detect(&start) {
        Compression::None => {
            // An uncompressed layer is hashed already, so a wrong one is found before unpacking.
            if let Ok(expected) = diff_id.parse::<Digest>()
                && expected.algorithm() == info.digest.algorithm()
                && expected != info.digest
            {
                return Err(Error::DiffIdMismatch {
                    layer: info.digest,
                    expected: Box::new(expected),
                    found: Box::new(info.digest),
                });
            }
            MediaType::ImageLayer
        }
        Compression::Gzip => MediaType::ImageLayerGzip,
        Compression::Zstd => MediaType::ImageLayerZstd,
    };
    Ok((descriptor(media_type, &info.digest, info.size)?, info.digest))
}

/// A configuration is called `<digest>.json` or `blobs/sha256/<digest>`; the digest must be right.
fn check_name(path: &Path, name: &str, found: &Digest) -> Result<()> {
    let base = name.rsplit('/').next().unwrap_or(name);
    let base = base.strip_suffix(".json").unwrap_or(base);
    match Digest::from_hex(found.algorithm(), base) {
        Ok(named) if named != *found => Err(invalid(
            path,
            format!("{name:?} has the digest {found}, which is not its name"),
        )),
        _ => Ok(()),
    }
}
