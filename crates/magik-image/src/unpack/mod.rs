//! Layers from archives to directories.

mod archive;
mod budget;
mod changes;
mod copy;
mod entry;
mod extract;
mod files;
mod flat;
#[cfg(fuzzing)]
pub mod fuzzing;
mod header;
mod info;
mod lower;
mod metadata;
mod module;
mod open_dir;
mod pax;
mod received;
mod remove;
mod schedule;
mod sparse;
mod staged;
mod stream;
mod tree;
mod whiteouts;

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use magik_cas::{Algorithm, Digest};

use crate::{
    Error, Image, ImageStore, Result, background::blocking, limits::MAX_TAR_HEADER_SIZE, store::Layer,
};
use budget::{Budget, RootfsBudget};
use entry::Entry;
use extract::{Extractor, LowerTrees};
use tree::Fault;

pub(crate) use archive::{Archive, Piece};
pub use changes::{Change, ChangeKind, MAX_CHANGES};
pub(crate) use entry::clean;
pub(crate) use files::each_file;
pub(crate) use header::MemberKind;
pub(crate) use info::LayerInfo;
pub(crate) use metadata::is_opaque;
pub use received::{ReceivedTree, Wanted};
pub(crate) use remove::{names, remove_tree};
#[cfg(feature = "registry")]
pub(crate) use staged::StagedLayer;
pub(crate) use staged::{Placement, Work};
pub(crate) use stream::{ArchiveStream, Compression, Refusal, decompress};

/// The name of a layer's tree in its directory.
pub(crate) const TREE: &str = "fs";
/// What the name of a layer's lock file ends with.
pub(crate) const LOCK_SUFFIX: &str = ".lock";
/// What the name of a layer under way, or being removed, ends with.
pub(crate) const TEMP_SUFFIX: &str = ".tmp";

/// Where a layer's blob is read from.
pub(crate) enum Source {
    /// The store.
    Store,
    /// Whoever is downloading it; its end means that it is whole and has the right digest. It must
    /// bear not being read for as long as the layers below take: a layer may need to look into
    /// them.
    #[cfg_attr(
        not(feature = "registry"),
        expect(dead_code, reason = "nothing is downloaded")
    )]
    Arriving(Box<dyn Read + Send>),
}

/// How much of an entry's name a message quotes, in characters.
const SHOWN_NAME: usize = 200;

impl ImageStore {
    /// Unpacks the layers of an image that are not unpacked yet, and returns all directories, the
    /// **uppermost first**, as overlayfs' `lowerdir` wants them.
    ///
    /// The layers stay until the lease of that name is [released](Self::release), despite
    /// [`prune`](Self::prune). A lease holds layers of any number of images. Unpacking again is
    /// cheap. Processes wait for each other on the same layer only.
    ///
    /// If the future is dropped, the layers under way are still completed.
    ///
    /// # Errors
    /// [`Error::InvalidLayer`], [`Error::InvalidEntry`], [`Error::DiffIdMismatch`],
    /// [`Error::TooLarge`], [`Error::TooMany`], [`Error::Cas`] or [`Error::Io`]. Complete layers
    /// remain, nothing of others. The lease remains; release it.
    pub async fn unpack(&self, image: &Image, lease: &str) -> Result<Vec<PathBuf>> {
        let (store, image, lease) = (self.clone(), image.clone(), lease.to_owned());
        blocking(move || store.unpack_blocking(&image, &lease)).await
    }

    /// [`unpack`](Self::unpack) for callers without an async runtime.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn unpack_blocking(&self, image: &Image, lease: &str) -> Result<Vec<PathBuf>> {
        let _blobs = self.cas().lease()?;
        self.check_layers(image)?;
        self.add_to_lease(lease, image)?;
        self.unpacked(image)
    }

    fn check_layers(&self, image: &Image) -> Result<()> {
        if image.layers().len() > self.limits().max_layers {
            let what = format!("image {}: layers", image.name());
            return Err(Error::too_many(what, self.limits().max_layers as u64));
        }
        Ok(())
    }

    /// The trees of the layers, the uppermost first, which may be removed unless something holds
    /// them: a lease, or the blob store's while it is held.
    fn unpacked(&self, image: &Image) -> Result<Vec<PathBuf>> {
        self.check_layers(image)?;
        let layers = image.layers();
        let trees: Vec<PathBuf> = layers
            .iter()
            .map(|l| self.layer_dir(&l.chain_id).join(TREE))
            .collect();
        // The chain id covers all lower layers, so together they kept the limits.
        if !trees.iter().all(|tree| tree.is_dir()) {
            let work = Work {
                source: &|_| Source::Store,
                done: &|_| {},
            };
            self.unpack_layers(image.name(), layers, &work, Placement::AtOnce)?;
        }
        Ok(trees.into_iter().rev().collect())
    }

    pub(crate) fn layer_dir(&self, chain_id: &Digest) -> PathBuf {
        self.layers_dir().join(chain_id.hex())
    }

    /// Whether a layer is unpacked.
    #[cfg(feature = "registry")]
    pub(crate) fn has_layer(&self, layer: &Layer) -> bool {
        self.layer_dir(&layer.chain_id).join(TREE).is_dir()
    }

    /// Unpacks one layer to `dir`, which does not exist; `lower` waits for the layers below and
    /// returns their trees, the uppermost first.
    fn unpack_into(
        &self,
        layer: &Layer,
        dir: &Path,
        source: Source,
        rootfs: &RootfsBudget,
        lower: LowerTrees<'_>,
    ) -> Result<()> {
        let context = || format!("unpack layer {} to {}", layer.digest, dir.display());
        let tree = dir.join(TREE);
        fs::create_dir(dir)
            .and_then(|()| fs::create_dir(&tree))
            .map_err(Error::io(context()))?;
        let root = tree::open_root(&tree).map_err(Error::io(context()))?;
        let mut extractor = Extractor::overlay(root, lower);
        let mut budget = Budget::new(rootfs, self.limits(), format!("layer {}", layer.digest));
        self.extract(layer, source, &mut extractor, &mut budget)?;

        let user_xattr = finish(extractor, layer)?;
        let info = LayerInfo {
            diff_id: layer.diff_id,
            size: budget.bytes(),
            files: budget.files(),
            user_xattr,
        };
        info.write(dir)?;
        tracing::debug!(layer = %layer.digest, chain_id = %layer.chain_id, files = info.files, "unpacked");
        Ok(())
    }

    /// Streams a layer's blob through `extractor` and checks its diff id.
    fn extract(
        &self,
        layer: &Layer,
        source: Source,
        extractor: &mut Extractor<'_>,
        budget: &mut Budget<'_>,
    ) -> Result<()> {
        let limits = self.limits();
        let (stored, blob): (bool, Box<dyn Read>) = match source {
            Source::Arriving(source) => (false, source),
            Source::Store => {
                let blob = self.cas().open_blob(&layer.digest)?;
                if blob.size() > limits.max_layer_size {
                    let what = format!("layer {}", layer.digest);
                    return Err(Error::too_large(what, limits.max_layer_size));
                }
                (true, Box::new(blob.into_file()))
            }
        };
        let algorithm = layer.diff_id.algorithm();
        let found = if layer.is_module {
            module::extract(blob, layer, extractor, budget)
        } else {
            extract_archive(blob, layer, algorithm, extractor, budget, limits.max_layer_size)
        };
        let error = match found {
            Ok(found) if found == layer.diff_id => return Ok(()),
            Ok(found) => Error::DiffIdMismatch {
                layer: layer.digest,
                expected: Box::new(layer.diff_id),
                found: Box::new(found),
            },
            Err(error) => error,
        };
        // Nonsense in a layer is either the image's or the disk's; only the bytes can tell.
        if stored
            && matches!(
                error,
                Error::InvalidLayer { .. } | Error::InvalidEntry { .. } | Error::DiffIdMismatch { .. }
            )
        {
            self.cas().check(&layer.digest)?;
        }
        Err(error)
    }
}

/// Reads the archive to its end and says what it hashes to.
fn extract_archive(
    blob: Box<dyn Read>,
    layer: &Layer,
    algorithm: Algorithm,
    extractor: &mut Extractor<'_>,
    budget: &mut Budget<'_>,
    cap: u64,
) -> Result<Digest> {
    let broken = |e| broken(layer, &e);
    let stream = ArchiveStream::new(blob, algorithm, cap).map_err(broken)?;
    let mut archive = Archive::new(stream, MAX_TAR_HEADER_SIZE);
    while let Some(member) = archive.next_member().map_err(broken)? {
        let name = shown(&member.path);
        let refused = |reason| Error::InvalidEntry {
            layer: layer.digest,
            entry: name.clone(),
            reason,
        };
        let entry = Entry::parse(member).map_err(refused)?;
        let added = extractor.add(entry, &mut archive, budget);
        added.map_err(|fault| fault_of(layer, fault, &name))?;
    }
    archive.into_inner().finish().map_err(broken)
}

/// Sets what an extractor has left for the end.
fn finish(extractor: Extractor<'_>, layer: &Layer) -> Result<bool> {
    let finished = extractor.finish();
    finished.map_err(|(path, fault)| fault_of(layer, fault, &shown(&path)))
}

fn fault_of(layer: &Layer, fault: Fault, name: &str) -> Error {
    match fault {
        Fault::Other(error) => *error,
        Fault::Refused(reason) => Error::InvalidEntry {
            layer: layer.digest,
            entry: name.to_owned(),
            reason,
        },
        // Errors of decompressor and archive have no number, unlike the file system's.
        Fault::Io(e) if e.raw_os_error().is_none() => broken(layer, &e),
        Fault::Io(source) => Error::io(format!("layer {}: entry {name:?}", layer.digest))(source),
    }
}

/// The error for an archive that could not be read on.
fn broken(layer: &Layer, error: &io::Error) -> Error {
    Refusal::of(error, || format!("layer {}", layer.digest)).unwrap_or_else(|| Error::InvalidLayer {
        layer: layer.digest,
        reason: error.to_string(),
    })
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(SHOWN_NAME).collect()
}

/// A tree that is removed on drop, unless it has been renamed.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    /// It stays where it is.
    fn keep(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if Path::exists(&self.0)
            && let Err(error) = remove_tree(&self.0)
        {
            tracing::warn!(%error, "leftover of an unpack, swept by the next one or by prune");
        }
    }
}
