//! WebAssembly as an OCI artifact, and bare files of it.
//!
//! An artifact is a manifest with a configuration of type [`CONFIG_TYPE`] and the module as its
//! only layer (<https://tag-runtime.cncf.io/wgs/wasm/deliverables/wasm-oci-artifact/>), or in the
//! older form of `wasm-to-oci`. It is an image with one file, [`MODULE`], its entrypoint.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use magik_cas::{Algorithm, Digest, Staged};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifest,
    ImageManifestBuilder, MediaType, Os, RootFsBuilder,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Image, ImageStore, Limits, Reference, Result, manifest};

/// The configuration of an artifact.
pub const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// Its layer.
pub const LAYER_TYPE: &str = "application/wasm";
/// The file that the module is in the container.
pub const MODULE: &str = "main.wasm";

/// What `wasm-to-oci` wrote.
const OLD_CONFIG_TYPE: &str = "application/vnd.wasm.config.v1+json";
/// As above.
const OLD_LAYER_TYPE: &str = "application/vnd.wasm.content.layer.v1+wasm";

/// The first bytes of a module or component.
const MAGIC: &[u8; 4] = b"\0asm";
/// The largest text to translate into a module, in bytes: that takes several times the memory.
const MAX_TEXT_SIZE: u64 = 16 << 20;

/// As far as it matters; fields that are not here are for tools.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    os: Option<String>,
    #[serde(default)]
    layer_digests: Vec<String>,
    architecture: Option<String>,
}

/// Whether a configuration of that type makes a manifest an artifact of WebAssembly.
pub(crate) fn is_config(media_type: &MediaType) -> bool {
    matches!(media_type.to_string().as_str(), CONFIG_TYPE | OLD_CONFIG_TYPE)
}

/// Whether a layer of that type is a module.
pub(crate) fn is_layer(media_type: &MediaType) -> bool {
    matches!(media_type.to_string().as_str(), LAYER_TYPE | OLD_LAYER_TYPE)
}

/// Checks an artifact's layers.
pub(crate) fn check_layers(layers: &[Descriptor]) -> Result<(), String> {
    match layers {
        [module] if is_layer(module.media_type()) => Ok(()),
        [other] => Err(format!(
            "layers[0] is {:?}, not a module",
            other.media_type().to_string()
        )),
        _ => Err(format!(
            "has {} layers, and a WebAssembly artifact has one, its module",
            layers.len()
        )),
    }
}

/// Reads an artifact's configuration as that of an image.
pub(crate) fn read_config(
    bytes: &[u8],
    digest: &Digest,
    manifest: &ImageManifest,
    limits: &Limits,
) -> Result<ImageConfiguration> {
    let document = format!("config {digest}");
    if bytes.len() as u64 > limits.max_config_size {
        return Err(Error::too_large(document, limits.max_config_size));
    }
    let invalid = |reason: String| Error::document(&document, reason);
    let config: Config = serde_json::from_slice(bytes).map_err(|e| invalid(e.to_string()))?;
    if let Some(other) = config.architecture.as_deref().filter(|a| !a.starts_with("wasm")) {
        return Err(invalid(format!("architecture is {other:?}, not \"wasm\"")));
    }
    let layers: Vec<String> = manifest.layers().iter().map(|l| l.digest().to_string()).collect();
    if !config.layer_digests.is_empty() && config.layer_digests != layers {
        return Err(invalid(
            "layerDigests are not the digests of the manifest's layers".into(),
        ));
    }
    let os = config.os.unwrap_or_else(|| "wasi".into());
    as_image(&os, layers).map_err(|e| invalid(e.to_string()))
}

fn as_image(os: &str, layers: Vec<String>) -> Result<ImageConfiguration, oci_spec::OciSpecError> {
    let run = ConfigBuilder::default()
        .entrypoint(vec![format!("/{MODULE}")])
        .build()?;
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(layers).build()?;
    ImageConfigurationBuilder::default()
        .os(Os::from(os))
        .architecture(Arch::Wasm)
        .config(run)
        .rootfs(rootfs)
        .build()
}

/// Whether a file begins as WebAssembly does, in binary or in text, so that [`load`] would take it.
///
/// # Errors
/// It cannot be read.
pub fn is_module_file(file: &Path) -> io::Result<bool> {
    let mut start = [0; 64];
    let mut from = File::open(file)?;
    let n = from.read(&mut start)?;
    let start = &start[..n];
    let text = String::from_utf8_lossy(start);
    let text = text.trim_start();
    Ok(start.starts_with(MAGIC)
        || ["(module", "(component", ";;", "(;"]
            .iter()
            .any(|begin| text.starts_with(begin)))
}

/// Makes an image of a bare file: a module or component, or its text. It is an artifact as in
/// registries, with this `name`, or kept by its id.
///
/// # Errors
/// [`Error::InvalidArchive`], [`Error::TooLarge`], or [`Error::Io`].
pub fn load(store: &ImageStore, file: &Path, name: Option<&Reference>) -> Result<Image> {
    let context = || format!("read {}", file.display());
    let limit = store.limits().max_layer_size;
    let mut bytes = Vec::new();
    let open = File::open(file).map_err(Error::io(context()))?;
    open.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io(context()))?;
    if bytes.len() as u64 > limit {
        return Err(Error::too_large(file.display().to_string(), limit));
    }
    let bytes = binary(bytes, file)?;
    let _lease = store.cas().lease()?;
    let module = stage(store, &bytes)?;
    let digest = module.info().digest;
    let os = if is_component(&bytes) { "wasip2" } else { "wasip1" };
    let config = Config {
        os: Some(os.into()),
        layer_digests: vec![digest.to_string()],
        architecture: Some("wasm".into()),
    };
    let document = |e: serde_json::Error| Error::io(context())(io::Error::from(e));
    let config = stage(store, &serde_json::to_vec(&config).map_err(document)?)?;
    let describe = |media_type: &str, blob: &Staged| {
        crate::layout::descriptor(MediaType::from(media_type), &blob.info().digest, blob.info().size)
    };
    let manifest = ImageManifestBuilder::default()
        .schema_version(2_u32)
        .media_type(MediaType::ImageManifest)
        .config(describe(CONFIG_TYPE, &config)?)
        .layers(vec![describe(LAYER_TYPE, &module)?])
        .build()
        .map_err(|e| Error::archive(file, e.to_string()))?;
    let manifest = stage(store, &serde_json::to_vec(&manifest).map_err(document)?)?;
    let descriptor = describe(manifest::OCI_MANIFEST, &manifest)?;
    crate::layout::publish(store, vec![module, config, manifest])?;
    match name {
        Some(name) => store.tag(name, &descriptor),
        None => store.keep(&descriptor),
    }
}

fn stage(store: &ImageStore, bytes: &[u8]) -> Result<Staged> {
    let mut writer = store.cas().begin(Algorithm::Sha256, bytes.len() as u64)?;
    writer.append(bytes)?;
    Ok(writer.finish()?)
}

/// The version field of components has a layer of 1 in its upper half.
fn is_component(bytes: &[u8]) -> bool {
    bytes.get(6..8) == Some(&[1, 0])
}

fn binary(bytes: Vec<u8>, file: &Path) -> Result<Vec<u8>> {
    if bytes.starts_with(MAGIC) {
        return Ok(bytes);
    }
    if bytes.len() as u64 > MAX_TEXT_SIZE {
        return Err(Error::archive(
            file,
            format!("is no binary module, and too large for a text: at most {MAX_TEXT_SIZE} bytes"),
        ));
    }
    translated(&bytes, file)
}

/// The module that a text stands for.
#[cfg(feature = "wasm")]
fn translated(text: &[u8], file: &Path) -> Result<Vec<u8>> {
    match wat::parse_bytes(text) {
        Ok(module) => Ok(module.into_owned()),
        Err(error) => {
            let lines = error.to_string();
            let line = lines.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(Error::archive(
                file,
                format!(
                    "is no WebAssembly: {}",
                    line.chars().take(300).collect::<String>()
                ),
            ))
        }
    }
}

#[cfg(not(feature = "wasm"))]
fn translated(_: &[u8], file: &Path) -> Result<Vec<u8>> {
    Err(Error::MissingFeature {
        what: format!("{}, which is no binary module", file.display()),
        feature: "wasm",
    })
}

impl Image {
    /// Whether it is for a WebAssembly runtime: an artifact, or of a platform as `wasi/wasm`.
    #[must_use]
    pub fn is_wasm(&self) -> bool {
        crate::platform::Platform::from(&self.config).is_wasm()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, ImageStore) {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("root")).unwrap();
        (dir, store)
    }

    const EMPTY: &[u8] = b"\0asm\x01\0\0\0";

    #[test]
    fn a_module_becomes_an_image_with_one_file_that_is_run() {
        let (dir, store) = store();
        let file = dir.path().join("m.wasm");
        std::fs::write(&file, EMPTY).unwrap();
        assert!(is_module_file(&file).unwrap());
        let name: Reference = "localhost/m:1".parse().unwrap();
        let image = load(&store, &file, Some(&name)).unwrap();
        assert!(image.is_wasm());
        assert_eq!(
            store.get(&name).unwrap().unwrap().manifest_digest,
            image.manifest_digest
        );
        let run = image.config.config().as_ref().unwrap();
        assert_eq!(run.entrypoint().as_deref().unwrap(), ["/main.wasm"]);
        let layers = store.unpack_blocking(&image, "lease").unwrap();
        assert_eq!(std::fs::read(layers[0].join(MODULE)).unwrap(), EMPTY);
        let flat = dir.path().join("flat");
        store.unpack_flat(&image, &flat).unwrap();
        assert_eq!(std::fs::read(flat.join(MODULE)).unwrap(), EMPTY);
        store.release("lease").unwrap();
    }

    #[cfg(feature = "wasm")]
    #[test]
    fn text_is_translated_and_its_mistakes_are_one_line() {
        let (dir, store) = store();
        let file = dir.path().join("m.wat");
        std::fs::write(&file, "(component)").unwrap();
        assert!(is_module_file(&file).unwrap());
        let image = load(&store, &file, None).unwrap();
        assert_eq!(image.config.os().to_string(), "wasip2");
        for text in ["(module (func $f (call $g)))", "#!/bin/sh", ""] {
            std::fs::write(&file, text).unwrap();
            let said = load(&store, &file, None).unwrap_err().to_string();
            assert!(said.contains("m.wat") && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn an_artifact_has_one_module_and_a_configuration_that_agrees_with_it() {
        let (dir, store) = store();
        let file = dir.path().join("m.wasm");
        std::fs::write(&file, EMPTY).unwrap();
        let image = load(&store, &file, None).unwrap();
        let digest = image.config_digest;
        let read = |text: &str| read_config(text.as_bytes(), &digest, &image.manifest, &Limits::default());
        // As wasm-to-oci wrote them.
        assert_eq!(read("{}").unwrap().os().to_string(), "wasi");
        for (text, reason) in [
            (r#"{"architecture":"amd64"}"#, "architecture"),
            (r#"{"layerDigests":["sha256:00"]}"#, "layerDigests"),
            ("[", "EOF"),
        ] {
            let said = read(text).unwrap_err().to_string();
            assert!(
                said.contains(reason) && said.starts_with("config sha256:"),
                "{said}"
            );
        }
        let module = image.manifest.layers()[0].clone();
        assert!(check_layers(std::slice::from_ref(&module)).is_ok());
        assert!(check_layers(&[]).is_err() && check_layers(&[module.clone(), module]).is_err());
    }
}
