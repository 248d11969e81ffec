//! Removing what is not needed any more.

use std::{collections::HashSet, fs};

use magik_cas::Digest;

use super::{ImageStore, record, remove::Live};
use crate::{Error, Result, unpack};

/// What [`ImageStore::prune`] removes beside garbage.
#[derive(Debug, Clone, Copy, Default)]
pub struct PruneOptions {
    /// Images that no lease uses, whether they have a name or not.
    pub unused_images: bool,
}

/// What [`ImageStore::prune`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PruneReport {
    /// The names of images.
    pub images: Vec<String>,
    /// How many unpacked layers.
    pub layers: u64,
    /// How many blobs.
    pub blobs: u64,
    /// How many compiled programs of WebAssembly.
    pub programs: u64,
    /// How many leftovers of processes that died.
    pub leftovers: u64,
    /// The bytes of all: blobs as stored, layers' file contents, programs' machine code.
    pub bytes: u64,
}

impl ImageStore {
    /// Removes blobs that no image needs, layers and programs that no image or lease needs, and
    /// files of dead processes. Waits for imports, pulls and unpacks.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Cas`], or [`Error::InvalidDocument`] if a lease is malformed. An
    /// image whose documents cannot be read is incomplete, and its rest is garbage.
    pub fn prune(&self, options: PruneOptions) -> Result<PruneReport> {
        let exclusive = self.cas().exclusive()?;
        let leased = self.leased()?;
        let mut report = PruneReport::default();
        let mut live = Live {
            layers: leased.layers.iter().copied().collect(),
            ..Live::default()
        };
        for image in self.prunable()? {
            if options.unused_images && !leased.images.contains(&image.manifest_digest) {
                self.remove_image(&image)?;
                report.images.push(image.name());
                continue;
            }
            live.add(&image)?;
        }
        let swept = exclusive.sweep(|digest| live.blobs.contains(digest))?;
        report.blobs = swept.blobs;
        report.leftovers = swept.temporary;
        report.bytes = swept.bytes;
        let compiled = self.prune_compiled(&live)?;
        report.programs = compiled.programs;
        report.leftovers += compiled.leftovers;
        report.bytes += compiled.bytes;
        self.prune_layers(&live.layers, &mut report)?;
        self.prune_temporary(&mut report)?;
        Ok(report)
    }

    /// Every image whose documents are there. Unlike `list`, it fails if the reason may pass: what
    /// is left out here is removed.
    pub(super) fn prunable(&self) -> Result<Vec<super::Image>> {
        let mut images = Vec::new();
        for record in self.read_records()? {
            match self.load(&record) {
                Ok(image) => images.push(image),
                Err(
                    error @ (Error::InvalidDocument { .. }
                    | Error::TooLarge { .. }
                    | Error::TooMany { .. }
                    | Error::Cas(magik_cas::Error::NotFound(_) | magik_cas::Error::Damaged { .. })),
                ) => tracing::warn!(image = %record.name(), %error, "unusable image pruned"),
                Err(other) => return Err(other),
            }
        }
        Ok(images)
    }

    fn prune_layers(&self, live: &HashSet<Digest>, report: &mut PruneReport) -> Result<()> {
        let live: HashSet<String> = live.iter().map(Digest::hex).collect();
        let dir = self.layers_dir();
        let names = super::file_names(&dir)?;
        // First what is left over: a layer that is removed takes such a name.
        for name in &names {
            let path = dir.join(name);
            if name.ends_with(unpack::LOCK_SUFFIX) {
                fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))?;
            } else if name.ends_with(unpack::TEMP_SUFFIX) {
                unpack::remove_tree(&path)?;
                report.leftovers += 1;
            }
        }
        for name in names
            .iter()
            .filter(|name| !name.contains('.') && !live.contains(*name))
        {
            if let Some(bytes) = self.remove_layer(name)? {
                report.bytes += bytes;
                report.layers += 1;
            }
        }
        Ok(())
    }

    fn prune_temporary(&self, report: &mut PruneReport) -> Result<()> {
        let dir = self.cas().tmp_dir();
        for name in super::file_names(&dir)? {
            if name.starts_with(record::PREFIX) {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(Error::io(format!("remove {}", path.display())))?;
                report.leftovers += 1;
            }
        }
        Ok(())
    }
}
