//! One image: its documents, checked.

use magik_cas::Digest;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};

use super::{ImageStore, record::Record};
use crate::{Error, Reference, Result};

/// An image whose manifest and configuration have been read, verified and checked for limits.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name, unless it is kept by id only.
    pub reference: Option<Reference>,
    /// The digest of its manifest.
    pub manifest_digest: Digest,
    /// Its manifest.
    pub manifest: ImageManifest,
    /// The digest of its configuration: the image id.
    pub config_digest: Digest,
    /// Its configuration.
    pub config: ImageConfiguration,
    descriptor: Descriptor,
    layers: Vec<Layer>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The digest of its blob, compressed as it was distributed.
    pub digest: Digest,
    /// The size of its blob in bytes.
    pub size: u64,
    /// The digest of its decompressed archive (image-spec, "Layer DiffID").
    pub diff_id: Digest,
    /// The digest of this layer on top of those below it (image-spec, "Layer ChainID").
    pub chain_id: Digest,
    /// Whether its blob is a WebAssembly module, unpacked as one file, and no archive.
    pub is_module: bool,
}

impl Image {
    /// Its reference, or its manifest's digest if it has none.
    #[must_use]
    pub fn name(&self) -> String {
        self.reference
            .as_ref()
            .map_or_else(|| self.manifest_digest.to_string(), ToString::to_string)
    }

    /// The size of manifest, configuration and layers as they are stored, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.blobs().map(Descriptor::size).fold(0, u64::saturating_add)
    }

    /// Its layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The descriptor of its manifest.
    #[must_use]
    pub const fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// The descriptors of manifest, configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        [&self.descriptor, self.manifest.config()]
            .into_iter()
            .chain(self.manifest.layers())
    }
}

impl ImageStore {
    /// Reads and checks the documents of an image.
    pub(super) fn load(&self, record: &Record) -> Result<Image> {
        let descriptor = record.manifest.clone();
        let manifest_digest = oci_digest(&descriptor)?;
        let limits = self.limits();
        let bytes = self.read_document(&manifest_digest, "manifest", limits.max_manifest_size)?;
        let manifest = crate::manifest::parse_manifest(&bytes, &manifest_digest, limits)?;
        let config_digest = oci_digest(manifest.config())?;
        let bytes = self.read_document(&config_digest, "config", limits.max_config_size)?;
        let config = crate::manifest::parse_config_of(&manifest, &bytes, &config_digest, limits)?;
        let layers = layers_of(&manifest, &manifest_digest, &config, &config_digest)?;
        let reference = record.reference.clone();
        Ok(Image {
            reference,
            manifest_digest,
            manifest,
            config_digest,
            config,
            descriptor,
            layers,
        })
    }

    fn read_document(&self, digest: &Digest, kind: &str, limit: u64) -> Result<Vec<u8>> {
        self.cas().read(digest, limit).map_err(|e| match e {
            magik_cas::Error::TooLarge { .. } => Error::too_large(format!("{kind} {digest}"), limit),
            other => other.into(),
        })
    }

    /// As `load`, but `None` if a blob is missing or has the wrong size.
    pub(super) fn load_if_complete(&self, record: &Record) -> Result<Option<Image>> {
        let image = match self.load(record) {
            Ok(image) => image,
            Err(Error::Cas(magik_cas::Error::NotFound(digest))) => {
                tracing::warn!(image = %record.name(), %digest, "image is incomplete: pull it again");
                return Ok(None);
            }
            Err(other) => return Err(other),
        };
        for descriptor in image.blobs() {
            let digest = oci_digest(descriptor)?;
            if self.cas().stat(&digest)? != Some(descriptor.size()) {
                tracing::warn!(image = %image.name(), %digest, "image is incomplete: pull it again");
                return Ok(None);
            }
        }
        Ok(Some(image))
    }
}

/// The layers of an image, the lowest first.
pub(crate) fn layers_of(
    manifest: &ImageManifest,
    manifest_digest: &Digest,
    config: &ImageConfiguration,
    config_digest: &Digest,
) -> Result<Vec<Layer>> {
    let diff_ids = config.rootfs().diff_ids();
    let invalid = |reason| Error::document(format!("config {config_digest}"), reason);
    if diff_ids.len() != manifest.layers().len() {
        return Err(invalid(format!(
            "rootfs.diff_ids has {} entries, manifest {manifest_digest} has {} layers",
            diff_ids.len(),
            manifest.layers().len()
        )));
    }
    let diff_ids: Vec<Digest> = diff_ids
        .iter()
        .map(|text| text.parse().map_err(|e| invalid(format!("rootfs.diff_ids: {e}"))))
        .collect::<Result<_>>()?;
    let layers = manifest.layers().iter().zip(chain_ids(&diff_ids)).zip(diff_ids);
    layers
        .map(|((descriptor, chain_id), diff_id)| {
            Ok(Layer {
                digest: oci_digest(descriptor)?,
                size: descriptor.size(),
                diff_id,
                chain_id,
                is_module: crate::wasm::config::is_layer(descriptor.media_type()),
            })
        })
        .collect()
}

/// The chain ids of layers, the lowest first (image-spec, config.md, "Layer ChainID").
fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => *diff_id,
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain
}

/// A descriptor's digest, which must be of an algorithm that the blob store knows.
pub(crate) fn oci_digest(descriptor: &Descriptor) -> Result<Digest> {
    descriptor
        .digest()
        .as_ref()
        .parse()
        .map_err(|e: magik_cas::InvalidDigest| {
            Error::document(
                format!("descriptor of type {}", descriptor.media_type()),
                e.to_string(),
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let [a, b, c] = [b"a", b"b", b"c"].map(|x| Digest::sha256(x));
        let ab = Digest::sha256(format!("{a} {b}").as_bytes());
        let abc = Digest::sha256(format!("{ab} {c}").as_bytes());
        assert_eq!(chain_ids(&[a, b, c]), [a, ab, abc]);
        assert_eq!(chain_ids(&[]), []);
    }
}
