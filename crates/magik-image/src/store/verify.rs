//! Finding damage.

use std::path::PathBuf;

use magik_cas::Digest;

use super::{ImageStore, oci_digest};
use crate::{Error, Result, unpack};

/// What [`ImageStore::verify`] found to be wrong; each message says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// A blob is damaged.
    #[error("{0}: remove it with `image verify --repair` and pull its image again")]
    Blob(magik_cas::Damage),
    /// An image lacks a blob.
    #[error("image {image}: blob {digest} is missing or has the wrong size: pull the image again")]
    Missing {
        /// The image's name.
        image: String,
        /// The blob.
        digest: Digest,
    },
    /// An image's record, manifest or configuration cannot be read.
    #[error("image {image}: {error}")]
    Image {
        /// The image's name, or the key of its record.
        image: String,
        /// Why not.
        error: Box<Error>,
    },
    /// An unpacked layer is not what was unpacked.
    #[error("layer {path}: {reason}", path = path.display())]
    Layer {
        /// Its directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

impl ImageStore {
    /// Reads all blobs, images' documents and layers' descriptions; says what is damaged.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Cas`] if the store cannot be read at all.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        let _lease = self.cas().lease()?;
        let mut damage: Vec<Damage> = self.cas().verify()?.into_iter().map(Damage::Blob).collect();
        for key in self.record_keys()? {
            let record = match self.read_record(&key) {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(error) => {
                    damage.push(Damage::Image {
                        image: key,
                        error: Box::new(error),
                    });
                    continue;
                }
            };
            let name = record.name();
            match self.load(&record) {
                Ok(image) => {
                    for descriptor in image.blobs() {
                        let digest = oci_digest(descriptor)?;
                        if self.cas().stat(&digest)? != Some(descriptor.size()) {
                            damage.push(Damage::Missing {
                                image: name.clone(),
                                digest,
                            });
                        }
                    }
                }
                Err(Error::Cas(magik_cas::Error::NotFound(digest))) => {
                    damage.push(Damage::Missing { image: name, digest });
                }
                Err(error) => damage.push(Damage::Image {
                    image: name,
                    error: Box::new(error),
                }),
            }
        }
        for name in super::file_names(&self.layers_dir())? {
            let path = self.layers_dir().join(&name);
            if name.contains('.') {
                continue;
            }
            if let Err(error) = unpack::LayerInfo::read(&path) {
                damage.push(Damage::Layer {
                    path,
                    reason: error.to_string(),
                });
            } else if !path.join(unpack::TREE).is_dir() {
                damage.push(Damage::Layer {
                    path,
                    reason: "its fs directory is missing: prune and pull again".into(),
                });
            }
        }
        Ok(damage)
    }

    /// Removes the damaged blobs that [`verify`](Self::verify) found, so that the next pull fetches
    /// them; returns how many. Waits for imports, pulls and unpacks.
    ///
    /// # Errors
    /// [`Error::Cas`] if a blob cannot be removed.
    pub fn remove_damaged(&self, damage: &[Damage]) -> Result<u64> {
        let exclusive = self.cas().exclusive()?;
        let mut removed = 0;
        for found in damage {
            // It may have been replaced by a good one since.
            if let Damage::Blob(blob) = found
                && self.cas().check(blob.digest()).is_err()
                && exclusive.remove(blob.digest())?
            {
                removed += 1;
            }
        }
        Ok(removed)
    }
}
