//! Bare files of WebAssembly.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use magik_cas::{Algorithm, Staged};
use oci_spec::image::{ImageManifestBuilder, MediaType};

use super::config::{CONFIG_TYPE, Config, LAYER_TYPE};
use crate::{Error, Image, ImageStore, Reference, Result, manifest};

/// The first bytes of a module or component.
const MAGIC: &[u8; 4] = b"\0asm";
/// The largest text to translate into a module, in bytes: that takes several times the memory.
const MAX_TEXT_SIZE: u64 = 16 << 20;

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
        manifest::descriptor(MediaType::from(media_type), &blob.info().digest, blob.info().size)
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
    store.publish(vec![module, config, manifest])?;
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
