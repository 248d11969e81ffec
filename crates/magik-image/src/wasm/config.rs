//! The configuration of an artifact, as that of an image.

use magik_cas::Digest;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfiguration, ImageConfigurationBuilder, ImageManifest, MediaType,
    Os, RootFsBuilder,
};
use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Result};

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

/// As far as it matters; fields that are not here are for tools.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) os: Option<String>,
    #[serde(default)]
    pub(super) layer_digests: Vec<String>,
    pub(super) architecture: Option<String>,
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
