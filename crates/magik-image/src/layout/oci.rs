//! OCI image layouts (image-spec, image-layout.md), in a directory or a tar file.

use std::{
    collections::HashSet,
    io::Read,
    path::{Path, PathBuf},
};

use magik_cas::{Digest, Lease, Staged};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex};

use super::{
    CONTAINERD_NAME, ImportOptions,
    contents::{Contents, invalid, open_regular, stage},
};
use crate::{
    Error, Image, ImageStore, Limits, Reference, Result,
    manifest::{Document, MAX_INDEX_DEPTH, descriptor as new_descriptor, parse, parse_config_of},
    platform,
    store::oci_digest,
};

pub(super) const LAYOUT_FILE: &str = "oci-layout";
pub(super) const INDEX_FILE: &str = "index.json";
pub(super) const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// A layout in a directory or an archive.
pub(super) trait Layout {
    /// `index.json` or `oci-layout`.
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>>;
    /// A small blob, verified.
    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>>;
    /// The blobs of these descriptors, verified, in this order and each once, for publishing.
    fn stage(&mut self, blobs: &[&Descriptor]) -> Result<Vec<Staged>>;
}

/// Where a blob lies in a layout.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

pub(super) fn import(
    store: &ImageStore,
    source: &Path,
    layout: &mut impl Layout,
    options: &ImportOptions,
) -> Result<Image> {
    let _lease = store.cas().lease()?;
    let limits = store.limits();
    check_version(source, &layout.document(LAYOUT_FILE, limits.max_manifest_size)?)?;
    let index = layout.document(INDEX_FILE, limits.max_manifest_size)?;
    let index: ImageIndex =
        serde_json::from_slice(&index).map_err(|e| invalid(source, format!("{INDEX_FILE}: {e}")))?;
    let listed = select(source, &index, options)?;
    let name = options.name.clone().or_else(|| full_name(listed));

    let mut descriptor = listed.clone();
    let mut depth = 0;
    let (digest, manifest) = loop {
        let digest = oci_digest(&descriptor)?;
        let bytes = layout.read(&digest, limits.max_manifest_size)?;
        let media_type = descriptor.media_type().to_string();
        match parse(&bytes, &digest, Some(&media_type), limits)? {
            Document::Manifest(manifest) => break (digest, manifest),
            Document::Index(_) if depth == MAX_INDEX_DEPTH => {
                return Err(invalid(source, "its indexes are nested too deeply"));
            }
            Document::Index(index) => {
                let chosen = platform::choose(index.manifests(), &options.platform);
                descriptor = chosen.map_err(|e| invalid(source, e.to_string()))?.clone();
                depth += 1;
            }
        }
    };
    let config_digest = oci_digest(manifest.config())?;
    let config = layout.read(&config_digest, limits.max_config_size)?;
    let config = parse_config_of(&manifest, &config, &config_digest, limits)?;
    platform::check(&config, &options.platform).map_err(|e| invalid(source, e.to_string()))?;

    // What the index says about the manifest beside its digest is not the image's.
    let manifest_size = layout.read(&digest, limits.max_manifest_size)?.len() as u64;
    let plain = new_descriptor(descriptor.media_type().clone(), &digest, manifest_size)?;
    let mut blobs: Vec<&Descriptor> = manifest.layers().iter().collect();
    blobs.extend([manifest.config(), &plain]);
    store.publish(layout.stage(&blobs)?)?;
    match name {
        Some(name) => store.tag(&name, &plain),
        None => store.keep(&plain),
    }
}

pub(super) fn import_archive(
    store: &ImageStore,
    file: &Path,
    contents: Contents,
    options: &ImportOptions,
) -> Result<Image> {
    let limits = *store.limits();
    import(store, file, &mut Archive { contents, limits }, options)
}

fn check_version(source: &Path, document: &[u8]) -> Result<()> {
    let layout: oci_spec::image::OciLayout =
        serde_json::from_slice(document).map_err(|e| invalid(source, format!("{LAYOUT_FILE}: {e}")))?;
    let version = layout.image_layout_version();
    if version.starts_with("1.") {
        return Ok(());
    }
    Err(invalid(
        source,
        format!("image layout version {version:?} is not supported, 1.0.0 is"),
    ))
}

fn annotation<'a>(descriptor: &'a Descriptor, key: &str) -> Option<&'a str> {
    descriptor.annotations().as_ref()?.get(key).map(String::as_str)
}

/// A name is full if it says more than a tag: `v1` in a layout is not Docker Hub's image `v1`.
fn full_name(descriptor: &Descriptor) -> Option<Reference> {
    let name = annotation(descriptor, CONTAINERD_NAME)
        .or_else(|| annotation(descriptor, ANNOTATION_REF_NAME).filter(|n| n.contains(['/', ':', '@'])))?;
    name.parse().ok()
}

/// The entry of a layout's index that the options mean.
fn select<'a>(source: &Path, index: &'a ImageIndex, options: &ImportOptions) -> Result<&'a Descriptor> {
    let entries = index.manifests();
    if let Some(tag) = &options.tag {
        let same_name =
            |text: &str| matches!((text.parse::<Reference>(), tag.parse()), (Ok(a), Ok(b)) if a == b);
        let is_named = |entry: &&Descriptor| {
            annotation(entry, ANNOTATION_REF_NAME) == Some(tag)
                || annotation(entry, CONTAINERD_NAME).is_some_and(same_name)
        };
        let named: Vec<Descriptor> = entries.iter().filter(is_named).cloned().collect();
        if named.is_empty() {
            let names = names(entries);
            return Err(invalid(
                source,
                format!("it holds no image {tag:?}, only {names}"),
            ));
        }
        let chosen = platform::choose(&named, &options.platform);
        let chosen = chosen.map_err(|e| invalid(source, e.to_string()))?;
        // `chosen` is a copy; the entry itself is what outlives this function.
        return entries
            .iter()
            .find(|entry| *entry == chosen)
            .ok_or_else(|| invalid(source, format!("it holds no image {tag:?}")));
    }
    let distinct: HashSet<_> = entries
        .iter()
        .map(|e| annotation(e, ANNOTATION_REF_NAME))
        .collect();
    match entries.as_slice() {
        [] => Err(invalid(source, "it holds no image")),
        _ if distinct.len() == 1 => {
            platform::choose(entries, &options.platform).map_err(|e| invalid(source, e.to_string()))
        }
        _ => Err(invalid(
            source,
            format!("it holds several images, name one of {}", names(entries)),
        )),
    }
}

fn names(entries: &[Descriptor]) -> String {
    let names = entries
        .iter()
        .filter_map(|e| annotation(e, ANNOTATION_REF_NAME))
        .take(8);
    let names: Vec<_> = names.map(|n| n.chars().take(80).collect::<String>()).collect();
    if names.is_empty() {
        "images without a name".to_owned()
    } else {
        names.join(", ")
    }
}

/// A layout in a directory.
#[derive(Debug)]
pub(super) struct Directory<'a> {
    store: &'a ImageStore,
    path: PathBuf,
    lease: Lease,
}

impl<'a> Directory<'a> {
    pub(super) fn open(store: &'a ImageStore, path: &Path) -> Result<Self> {
        if !path.join(LAYOUT_FILE).exists() {
            return Err(invalid(
                path,
                format!("not an OCI image layout: it has no file {LAYOUT_FILE:?}"),
            ));
        }
        Ok(Self {
            store,
            path: path.to_owned(),
            lease: store.cas().lease()?,
        })
    }
}

impl Layout for Directory<'_> {
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        let path = self.path.join(name);
        let mut bytes = Vec::new();
        let read = open_regular(&path)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(Error::io(format!("read {}", path.display())))?;
        if bytes.len() as u64 > limit {
            return Err(Error::too_large(format!("file {}", path.display()), limit));
        }
        Ok(bytes)
    }

    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let bytes = self.document(&blob_path(digest), limit)?;
        check_digest(Digest::of(digest.algorithm(), &bytes), *digest)?;
        Ok(bytes)
    }

    fn stage(&mut self, blobs: &[&Descriptor]) -> Result<Vec<Staged>> {
        let mut staged = Vec::new();
        let mut seen = HashSet::new();
        let cap = self.store.limits().max_layer_size;
        for descriptor in blobs {
            let digest = oci_digest(descriptor)?;
            if !seen.insert(digest) || self.store.cas().stat(&digest)? == Some(descriptor.size()) {
                continue;
            }
            let path = self.path.join(blob_path(&digest));
            let writer =
                self.store
                    .cas()
                    .begin_under(&self.lease, digest.algorithm(), cap.min(descriptor.size()))?;
            let blob = stage(writer, open_regular(&path)?, &format!("blob {}", path.display()))?;
            check(&blob, descriptor, &digest)?;
            staged.push(blob);
        }
        Ok(staged)
    }
}

fn check(blob: &Staged, descriptor: &Descriptor, expected: &Digest) -> Result<()> {
    let (expected, info) = (*expected, blob.info());
    if info.size != descriptor.size() {
        let (size, found) = (descriptor.size(), info.size);
        return Err(magik_cas::Error::SizeMismatch {
            expected,
            size,
            found,
        }
        .into());
    }
    check_digest(info.digest, expected)
}

fn check_digest(found: Digest, expected: Digest) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let found = Box::new(found);
    Err(magik_cas::Error::DigestMismatch { expected, found }.into())
}

/// A layout in a tar file.
#[derive(Debug)]
struct Archive {
    contents: Contents,
    limits: Limits,
}

impl Layout for Archive {
    fn document(&self, name: &str, limit: u64) -> Result<Vec<u8>> {
        self.contents.small(name, limit)
    }

    fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
        let path = blob_path(digest);
        check_digest(self.contents.file(&path)?.info().digest, *digest)?;
        self.contents.small(&path, limit.min(self.limits.max_layer_size))
    }

    fn stage(&mut self, blobs: &[&Descriptor]) -> Result<Vec<Staged>> {
        let mut wanted = Vec::new();
        for descriptor in blobs {
            let digest = oci_digest(descriptor)?;
            check(self.contents.file(&blob_path(&digest))?, descriptor, &digest)?;
            wanted.push(digest);
        }
        Ok(self.contents.take(&wanted))
    }
}
