//! Reading manifests, indexes and configurations: pure functions over untrusted bytes.
//!
//! Refused by name are:
//! - documents past [`Limits::max_manifest_size`] and [`Limits::max_config_size`], more than
//!   [`Limits::max_layers`] layers, layers whose stated sizes exceed [`Limits::max_layer_size`] or
//!   together [`Limits::max_rootfs_size`];
//! - documents that are manifest and index, or of another media type than fetched (CVE-2021-41190:
//!   two readers of the same bytes must not see two images);
//! - docker's schema 1, encrypted layers, artifacts that are no images, invalid digests and sizes.
//!
//! `urls` of layers are never read: an image must not cause requests (CVE-2020-15157).

use magik_cas::{Digest, InvalidDigest};
use oci_spec::image::{
    Descriptor, DescriptorBuilder, ImageConfiguration, ImageIndex, ImageManifest, MediaType,
};
use serde::Deserialize;

use crate::{Error, Limits, Result, wasm::config as wasm};

/// How deep an index may lie in another: the index of an index of manifests, and no deeper.
pub const MAX_INDEX_DEPTH: usize = 2;

/// Media types of manifests and indexes, in the order a registry is asked for them.
pub const MANIFEST_TYPES: [&str; 4] = [OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's index, the "manifest list".
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

const CONFIG_TYPES: [&str; 2] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
];

/// Layers' types; their compression is seen in their first bytes, as containerd does it.
const LAYER_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// What a reference led to.
#[derive(Debug, Clone)]
pub enum Document {
    /// An index: one image for each of several platforms.
    Index(Box<ImageIndex>),
    /// One image.
    Manifest(Box<ImageManifest>),
}

/// Only as much as tells the kinds of documents apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    manifests: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

/// Reads an image manifest; [`parse`] without a choice.
///
/// # Errors
/// As [`parse`], and [`Error::InvalidDocument`] for an index.
pub fn parse_manifest(bytes: &[u8], digest: &Digest, limits: &Limits) -> Result<ImageManifest> {
    match parse(bytes, digest, None, limits)? {
        Document::Manifest(manifest) => Ok(*manifest),
        Document::Index(_) => Err(Error::document(
            format!("manifest {digest}"),
            "is an index of images, not an image",
        )),
    }
}

/// Reads a manifest or an index of this `digest`, which errors name; `fetched_as` is the media type
/// of its descriptor or response. Digests in a manifest are ones that the blob store knows.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::TooMany`], or [`Error::InvalidDocument`], which names the field.
pub fn parse(bytes: &[u8], digest: &Digest, fetched_as: Option<&str>, limits: &Limits) -> Result<Document> {
    let document = format!("manifest {digest}");
    if bytes.len() as u64 > limits.max_manifest_size {
        return Err(Error::too_large(document, limits.max_manifest_size));
    }
    let invalid = |reason: String| Error::document(&document, reason);
    let shape: Shape = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;

    let media_type = media_type(&shape, fetched_as).map_err(invalid)?;
    if shape.schema_version == Some(1) || shape.fs_layers.is_some() {
        return Err(invalid(
            "is of docker's schema 1, which nobody supports any more; push the image again".into(),
        ));
    }
    if shape.schema_version != Some(2) {
        return Err(invalid("schemaVersion is not 2".into()));
    }
    let is_index = shape.manifests.is_some();
    if is_index && (shape.layers.is_some() || shape.config.is_some()) {
        return Err(invalid("is both a manifest and an index (CVE-2021-41190)".into()));
    }
    match media_type {
        OCI_INDEX | DOCKER_LIST if is_index => {
            let index = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
            Ok(Document::Index(Box::new(index)))
        }
        OCI_MANIFEST | DOCKER_MANIFEST if !is_index => {
            if let Some(artifact) = shape.artifact_type.filter(|_| shape.layers.is_none()) {
                return Err(invalid(format!(
                    "is an artifact of type {artifact:?}, not a container image"
                )));
            }
            let manifest: ImageManifest =
                serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
            check_manifest(&document, &manifest, limits)?;
            Ok(Document::Manifest(Box::new(manifest)))
        }
        other => Err(invalid(format!(
            "has the fields of another kind of document than its media type {other} says"
        ))),
    }
}

/// The media type, from where it was fetched, its own field and its shape, which must agree.
fn media_type<'a>(shape: &'a Shape, fetched_as: Option<&'a str>) -> Result<&'a str, String> {
    // Registries that keep files only answer with a general type.
    let general = |t: &&str| {
        !matches!(
            *t,
            "application/json" | "application/octet-stream" | "text/plain" | ""
        )
    };
    let fetched_as = fetched_as
        .map(|t| t.split(';').next().unwrap_or(t).trim())
        .filter(general);
    let media_type = match (shape.media_type.as_deref(), fetched_as) {
        (Some(own), Some(fetched)) if own != fetched => {
            return Err(format!("says it is {own:?}, but was given as {fetched:?}"));
        }
        (Some(one), _) | (None, Some(one)) => one,
        // mediaType is optional in OCI documents.
        (None, None) if shape.manifests.is_some() => OCI_INDEX,
        (None, None) => OCI_MANIFEST,
    };
    if media_type.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err("is of docker's schema 1, which nobody supports any more; push the image again".into());
    }
    if !MANIFEST_TYPES.contains(&media_type) {
        return Err(format!("is {media_type:?}, not an image manifest or index"));
    }
    Ok(media_type)
}

fn check_manifest(document: &str, manifest: &ImageManifest, limits: &Limits) -> Result<()> {
    let invalid = |reason: String| Error::document(document, reason);
    let config = manifest.config();
    let config_type = config.media_type().to_string();
    let is_wasm = wasm::is_config(config.media_type());
    if !is_wasm && !CONFIG_TYPES.contains(&config_type.as_str()) {
        let artifact = manifest
            .artifact_type()
            .as_ref()
            .map_or(config_type, ToString::to_string);
        return Err(invalid(format!(
            "is an artifact of type {artifact:?}, not a container image"
        )));
    }
    check_digest(config).map_err(|e| invalid(format!("config.digest: {e}")))?;
    if config.size() > limits.max_config_size {
        return Err(Error::too_large(
            format!("{document}: config"),
            limits.max_config_size,
        ));
    }
    if manifest.layers().len() > limits.max_layers {
        return Err(Error::too_many(
            format!("{document}: layers"),
            limits.max_layers as u64,
        ));
    }
    if is_wasm {
        wasm::check_layers(manifest.layers()).map_err(invalid)?;
    }
    for (n, layer) in manifest.layers().iter().enumerate() {
        let media_type = layer.media_type().to_string();
        if media_type.ends_with("+encrypted") {
            return Err(invalid(format!(
                "layers[{n}] is encrypted, which is not supported"
            )));
        }
        if !is_wasm && !LAYER_TYPES.iter().any(|base| is_archive_of(&media_type, base)) {
            return Err(invalid(format!(
                "layers[{n}] is {media_type:?}, not a layer of a file system"
            )));
        }
        check_digest(layer).map_err(|e| invalid(format!("layers[{n}].digest: {e}")))?;
        if layer.size() > limits.max_layer_size {
            let what = format!("{document}: layers[{n}] of {} bytes", layer.size());
            return Err(Error::too_large(what, limits.max_layer_size));
        }
    }
    let total = manifest
        .layers()
        .iter()
        .map(Descriptor::size)
        .fold(0, u64::saturating_add);
    if total > limits.max_rootfs_size {
        let what = format!("{document}: all layers together, {total} bytes,");
        return Err(Error::too_large(what, limits.max_rootfs_size));
    }
    Ok(())
}

/// Whether a media type is `base` with or without a compression.
fn is_archive_of(media_type: &str, base: &str) -> bool {
    media_type
        .strip_prefix(base)
        .is_some_and(|rest| matches!(rest, "" | ".gzip" | "+gzip" | ".zstd" | "+zstd"))
}

fn check_digest(descriptor: &Descriptor) -> Result<Digest, InvalidDigest> {
    descriptor.digest().as_ref().parse()
}

/// Reads the configuration of an image or artifact with this `digest`, of its manifest's type.
///
/// # Errors
/// As [`parse_config`].
pub fn parse_config_of(
    manifest: &ImageManifest,
    bytes: &[u8],
    digest: &Digest,
    limits: &Limits,
) -> Result<ImageConfiguration> {
    if wasm::is_config(manifest.config().media_type()) {
        return wasm::read_config(bytes, digest, manifest, limits);
    }
    parse_config(bytes, digest, limits)
}

/// Reads the configuration whose bytes hash to `digest`. Every diff id is a digest.
///
/// # Errors
/// [`Error::TooLarge`], or [`Error::InvalidDocument`], which names the field.
pub fn parse_config(bytes: &[u8], digest: &Digest, limits: &Limits) -> Result<ImageConfiguration> {
    let document = format!("config {digest}");
    if bytes.len() as u64 > limits.max_config_size {
        return Err(Error::too_large(document, limits.max_config_size));
    }
    let invalid = |reason: String| Error::document(&document, reason);
    let image: ImageConfiguration = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    let rootfs = image.rootfs();
    if rootfs.typ() != "layers" {
        return Err(invalid(format!(
            "rootfs.type is {:?}, not \"layers\"",
            rootfs.typ()
        )));
    }
    for (n, diff_id) in rootfs.diff_ids().iter().enumerate() {
        diff_id
            .parse::<Digest>()
            .map_err(|e| invalid(format!("rootfs.diff_ids[{n}]: {e}")))?;
    }
    Ok(image)
}

/// A descriptor of a blob.
pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Result<Descriptor> {
    let document = || format!("descriptor of {digest}");
    let invalid = |e: oci_spec::OciSpecError| Error::document(document(), e.to_string());
    let digest: oci_spec::image::Digest = digest.to_string().parse().map_err(invalid)?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .size(size)
        .digest(digest)
        .build()
        .map_err(invalid)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn digest() -> Digest {
        SHA.parse().unwrap()
    }

    fn descriptor(media_type: &str, size: u64) -> Value {
        json!({"mediaType": media_type, "digest": SHA, "size": size})
    }

    fn manifest(layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": descriptor(CONFIG_TYPES[0], 2), "layers": layers})
    }

    fn layer(size: u64) -> Value {
        descriptor("application/vnd.oci.image.layer.v1.tar+gzip", size)
    }

    fn parse(document: &Value, fetched_as: Option<&str>) -> Result<Document> {
        super::parse(
            document.to_string().as_bytes(),
            &digest(),
            fetched_as,
            &Limits::default(),
        )
    }

    #[track_caller]
    fn refused(document: &Value, reason: &str) {
        refused_as(None, document, reason);
    }

    #[track_caller]
    fn refused_as(fetched_as: Option<&str>, document: &Value, reason: &str) {
        let message = parse(document, fetched_as).expect_err(reason).to_string();
        assert!(
            message.starts_with("manifest sha256:") && message.contains(reason),
            "{message}"
        );
        assert!(!message.contains('\n'), "{message}");
    }

    #[test]
    fn reads_oci_and_docker_documents() {
        let mut docker = manifest(&[descriptor("application/vnd.docker.image.rootfs.diff.tar.gzip", 3)]);
        docker["mediaType"] = DOCKER_MANIFEST.into();
        docker["config"]["mediaType"] = CONFIG_TYPES[1].into();
        for (document, fetched) in [
            (manifest(&[layer(3)]), Some(OCI_MANIFEST)),
            (
                manifest(&[layer(3)]),
                Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
            ),
            (manifest(&[layer(3)]), Some("application/octet-stream")),
            (docker, Some(DOCKER_MANIFEST)),
        ] {
            let Document::Manifest(read) = parse(&document, fetched).unwrap() else {
                panic!("{document}")
            };
            assert_eq!((read.layers().len(), read.layers()[0].size()), (1, 3));
        }
        let index = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST, 7)]});
        for fetched in [None, Some(OCI_INDEX), Some(DOCKER_LIST)] {
            assert!(matches!(parse(&index, fetched).unwrap(), Document::Index(_)));
        }
    }

    #[test]
    fn refuses_a_document_that_is_manifest_and_index() {
        let mut both = manifest(&[layer(3)]);
        both["manifests"] = json!([]);
        refused(&both, "CVE-2021-41190");
        refused_as(Some(OCI_INDEX), &manifest(&[]), "was given as");
        refused_as(
            Some(OCI_MANIFEST),
            &json!({"schemaVersion": 2, "manifests": []}),
            "another kind",
        );
        let twice = format!(
            r#"{{"schemaVersion":2,"layers":[],"layers":[],"config":{}}}"#,
            layer(1)
        );
        assert!(super::parse(twice.as_bytes(), &digest(), None, &Limits::default()).is_err());
    }

    #[test]
    fn refuses_schema_1_and_other_versions() {
        refused(&json!({"schemaVersion": 1, "fsLayers": []}), "schema 1");
        refused_as(
            Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            &json!({"schemaVersion": 1}),
            "schema 1",
        );
        refused(&json!({"schemaVersion": 3, "layers": []}), "schemaVersion");
        refused(&json!({}), "schemaVersion");
    }

    #[test]
    fn names_an_artifact_as_such() {
        let mut helm = manifest(&[layer(1)]);
        helm["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
        refused(
            &helm,
            "artifact of type \"application/vnd.cncf.helm.config.v1+json\"",
        );
        helm["artifactType"] = "application/vnd.example".into();
        refused(&helm, "artifact of type \"application/vnd.example\"");
        refused(
            &manifest(&[descriptor("application/wasm", 1)]),
            "layers[0] is \"application/wasm\"",
        );
        let encrypted = descriptor("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", 1);
        refused(&manifest(&[encrypted]), "encrypted");
    }

    #[test]
    fn holds_every_limit_at_its_bound_and_one_past_it() {
        let limits = Limits::default();
        let many = |n| manifest(&vec![layer(1); n]);
        assert!(parse(&many(limits.max_layers), None).is_ok());
        refused(&many(limits.max_layers + 1), "more than 128");
        assert!(parse(&manifest(&[layer(limits.max_layer_size)]), None).is_ok());
        refused(
            &manifest(&[layer(limits.max_layer_size + 1)]),
            "larger than 536870912",
        );
        assert!(parse(&manifest(&vec![layer(limits.max_layer_size); 8]), None).is_ok());
        refused(&manifest(&vec![layer(limits.max_layer_size); 9]), "together");
        refused(&manifest(&[layer(u64::MAX)]), "larger than");

        let mut document = manifest(&[]).to_string().into_bytes();
        document.resize(usize::try_from(limits.max_manifest_size).unwrap(), b' ');
        assert!(super::parse(&document, &digest(), None, &limits).is_ok());
        document.push(b' ');
        assert!(matches!(
            super::parse(&document, &digest(), None, &limits),
            Err(Error::TooLarge { .. })
        ));

        let mut config = manifest(&[]);
        config["config"]["size"] = limits.max_config_size.into();
        assert!(parse(&config, None).is_ok());
        config["config"]["size"] = (limits.max_config_size + 1).into();
        refused(&config, "config is larger than");
    }

    #[test]
    fn refuses_digests_and_sizes_that_are_none() {
        for (field, value) in [
            ("digest", json!("sha256:zz")),
            ("digest", json!("../../etc/passwd")),
            ("digest", json!("md5:d41d8cd98f00b204e9800998ecf8427e")),
            ("digest", json!(format!("sha384:{}", "0".repeat(96)))),
            ("size", json!(-1)),
            ("size", json!("1")),
            ("size", json!(1.5)),
        ] {
            let mut bad = layer(1);
            bad[field] = value.clone();
            assert!(parse(&manifest(&[bad]), None).is_err(), "{field} {value}");
        }
    }

    #[test]
    fn reads_configurations_as_docker_writes_them_and_names_what_is_wrong() {
        let config = |ids: Value| {
            json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": null, "Volumes": null, "ExposedPorts": null, "Labels": null},
                "rootfs": {"type": "layers", "diff_ids": ids}, "docker_version": "20", "history": []})
            .to_string()
        };
        let read = |text: &str| parse_config(text.as_bytes(), &digest(), &Limits::default());
        assert_eq!(read(&config(json!([SHA]))).unwrap().rootfs().diff_ids().len(), 1);
        for (text, reason) in [
            (config(json!(["sha256:0"])), "diff_ids[0]"),
            (config(json!([SHA])).replace("layers", "squash"), "rootfs.type"),
            ("{".into(), "EOF"),
        ] {
            let message = read(&text).expect_err(reason).to_string();
            assert!(message.contains(reason), "{message}");
        }
        let mut padded = config(json!([])).into_bytes();
        padded.resize(1 << 20, b' ');
        assert!(parse_config(&padded, &digest(), &Limits::default()).is_ok());
        padded.push(b' ');
        assert!(matches!(
            parse_config(&padded, &digest(), &Limits::default()),
            Err(Error::TooLarge { .. })
        ));
    }
}
