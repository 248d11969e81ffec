//! Removing images, with what only they needed.

use std::{collections::HashSet, fs};

use magik_cas::Digest;

use super::{Image, ImageStore, oci_digest, record};
use crate::{Error, Result, unpack};

/// What [`ImageStore::remove_images`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RemoveReport {
    /// The names that were removed.
    pub images: Vec<String>,
    /// The leases (a pod's is its id) that use an image, whose layers stay until their release.
    pub used_by: Vec<String>,
    /// How many blobs were removed.
    pub blobs: u64,
    /// How many unpacked layers were removed.
    pub layers: u64,
    /// How many compiled programs of WebAssembly were removed.
    pub programs: u64,
    /// The bytes of all: blobs as stored, layers' file contents, programs' machine code.
    pub bytes: u64,
    /// A pull, import or unpack was running: the rest is left to [`ImageStore::prune`].
    pub deferred: bool,
}

/// What must stay.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Blobs, by their digests.
    pub(super) blobs: HashSet<Digest>,
    /// Unpacked layers, by their chain ids.
    pub(super) layers: HashSet<Digest>,
}

impl Live {
    pub(super) fn add(&mut self, image: &Image) -> Result<()> {
        for descriptor in image.blobs() {
            self.blobs.insert(oci_digest(descriptor)?);
        }
        self.layers.extend(image.layers().iter().map(|l| l.chain_id));
        Ok(())
    }
}

impl ImageStore {
    /// Removes the names of these images and those of their blobs, layers and compiled programs
    /// that no other image and no lease needs. It does not wait for pulls: what they may need is
    /// left to [`prune`](Self::prune).
    ///
    /// # Errors
    /// [`Error::NotFound`] if a name is gone, [`Error::Io`], or [`Error::Cas`].
    pub fn remove_images(&self, images: &[Image]) -> Result<RemoveReport> {
        let mut report = RemoveReport::default();
        for image in images {
            self.remove_image(image)?;
            report.images.push(image.name());
        }
        for name in self.leases()? {
            let lease = self.read_lease(&name)?.unwrap_or_default();
            if images
                .iter()
                .any(|image| lease.images.contains(&image.manifest_digest))
            {
                report.used_by.push(name);
            }
        }
        let Some(exclusive) = self.cas().try_exclusive()? else {
            report.deferred = true;
            return Ok(report);
        };
        let mut gone = Live::default();
        for image in images {
            gone.add(image)?;
        }
        // Only now: images recorded under a lease are there.
        let mut live = Live {
            layers: self.leased()?.layers.into_iter().collect(),
            ..Live::default()
        };
        for image in self.prunable()? {
            live.add(&image)?;
        }
        for digest in gone.blobs.difference(&live.blobs) {
            let size = self.cas().stat(digest)?.unwrap_or(0);
            if exclusive.remove(digest)? {
                report.blobs += 1;
                report.bytes += size;
            }
        }
        for chain_id in gone.layers.difference(&live.layers) {
            if let Some(bytes) = self.remove_layer(&chain_id.hex())? {
                report.layers += 1;
                report.bytes += bytes;
            }
        }
        let compiled = self.prune_compiled(&live)?;
        report.programs = compiled.programs;
        report.bytes += compiled.bytes;
        Ok(report)
    }

    /// Removes a name. The image's blobs and layers stay until [`prune`](Self::prune).
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn remove(&self, reference: &crate::Reference) -> Result<()> {
        if self.remove_record(&record::key(reference))? {
            return Ok(());
        }
        Err(Error::NotFound(reference.to_string()))
    }

    /// Removes the name (or id) of an image from [`list`](Self::list) or [`find`](Self::find). Its
    /// blobs and layers stay until [`prune`](Self::prune).
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn remove_image(&self, image: &Image) -> Result<()> {
        let key = match &image.reference {
            Some(reference) => record::key(reference),
            None => record::unnamed_key(&image.manifest_digest),
        };
        if self.remove_record(&key)? {
            return Ok(());
        }
        Err(Error::NotFound(image.name()))
    }

    /// Removes an unpacked layer by its directory's name; returns its size, `None` if it is not
    /// there. The caller holds [`magik_cas::Exclusive`].
    pub(super) fn remove_layer(&self, name: &str) -> Result<Option<u64>> {
        let path = self.layers_dir().join(name);
        if fs::symlink_metadata(&path).is_err() {
            return Ok(None);
        }
        let bytes = unpack::LayerInfo::read(&path).map_or(0, |info| info.size);
        // Renamed first, so that a crash half-way leaves no layer that looks complete.
        let temp = self.layers_dir().join(format!("{name}{}", unpack::TEMP_SUFFIX));
        unpack::remove_tree(&temp)?;
        fs::rename(&path, &temp).map_err(Error::io(format!("rename {}", path.display())))?;
        unpack::remove_tree(&temp)?;
        Ok(Some(bytes))
    }
}
