//! Layers from archives to directories.

mod budget;
mod entry;
mod extract;
mod flat;
mod info;
mod metadata;
mod module;
mod remove;
mod schedule;
mod stream;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use magik_cas::{Algorithm, Digest, Durability};

use crate::{
    Error, Image, ImageStore, Result,
    limits::MAX_TAR_HEADER_SIZE,
    store::{Layer, lock_file},
};
use budget::{Budget, RootfsBudget};
use entry::Entry;
use extract::{Extractor, Fault, Whiteouts};
use schedule::Progress;

pub(crate) use entry::clean;
pub(crate) use info::LayerInfo;
pub(crate) use remove::remove_tree;
pub(crate) use stream::{ArchiveStream, Compression, Exceeded, decompress};

/// The name of a layer's tree in its directory.
pub(crate) const TREE: &str = "fs";
/// What the name of a layer's lock file ends with.
pub(crate) const LOCK_SUFFIX: &str = ".lock";
/// What the name of a layer under way, or being removed, ends with.
pub(crate) const TEMP_SUFFIX: &str = ".tmp";

/// How much of an entry's name a message quotes, in characters.
const SHOWN_NAME: usize = 200;

impl ImageStore {
    /// Unpacks the layers of an image that are not unpacked yet, and returns the directories of all, the **uppermost first**, as
    /// overlayfs' `lowerdir` wants them.
    ///
    /// The layers stay until the lease of that name is [released](Self::release), whatever [`prune`](Self::prune)
    /// does; a lease holds the layers of any number of images. Unpacking an image again is cheap. Processes that unpack
    /// the same layer wait for each other, different layers are unpacked at the same time.
    ///
    /// If the future is dropped, the layers under way are still completed in the background.
    ///
    /// # Errors
    /// [`Error::InvalidLayer`], [`Error::InvalidEntry`] and [`Error::DiffIdMismatch`] for what is wrong with a layer,
    /// [`Error::TooLarge`] and [`Error::TooMany`] for limits, [`Error::Cas`] if a blob is missing or damaged, or [`Error::Io`].
    /// Layers that were complete by then remain, nothing of the others does. The lease remains; release it.
    pub async fn unpack(&self, image: &Image, lease: &str) -> Result<Vec<PathBuf>> {
        let (store, image, lease) = (self.clone(), image.clone(), lease.to_owned());
        let task = tokio::task::spawn_blocking(move || store.unpack_blocking(&image, &lease));
        task.await.map_err(|e| Error::Task(e.to_string()))?
    }

    /// [`unpack`](Self::unpack) for callers without an async runtime.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack).
    pub fn unpack_blocking(&self, image: &Image, lease: &str) -> Result<Vec<PathBuf>> {
        let layers = image.layers();
        if layers.len() > self.limits().max_layers {
            let what = format!("image {}: layers", image.name());
            return Err(Error::TooMany {
                what,
                limit: self.limits().max_layers as u64,
            });
        }
        let _blobs = self.cas().lease()?;
        self.add_to_lease(lease, image)?;
        let trees: Vec<PathBuf> = layers
            .iter()
            .map(|l| self.layer_dir(&l.chain_id).join(TREE))
            .collect();
        // A layer's chain id stands for all below it, so what is there has been within the limits together.
        if !trees.iter().all(|tree| tree.is_dir()) {
            let rootfs = RootfsBudget::new(image.name(), self.limits());
            let unpack = |index: usize, progress: &Progress| {
                self.unpack_layer(&layers[index], index, &trees, &rootfs, progress)
            };
            schedule::in_order(layers.len(), unpack)?;
        }
        Ok(trees.into_iter().rev().collect())
    }

    fn layer_dir(&self, chain_id: &Digest) -> PathBuf {
        self.layers_dir().join(chain_id.hex())
    }

    /// Unpacks one layer unless it is there. `trees` are those of all layers, the lowest first.
    fn unpack_layer(
        &self,
        layer: &Layer,
        index: usize,
        trees: &[PathBuf],
        rootfs: &RootfsBudget,
        progress: &Progress,
    ) -> Result<()> {
        let dir = self.layer_dir(&layer.chain_id);
        let sibling = |suffix| {
            self.layers_dir()
                .join(format!("{}{suffix}", layer.chain_id.hex()))
        };
        let _lock = lock_file(&sibling(LOCK_SUFFIX))?;
        if dir.is_dir() {
            return rootfs.take(LayerInfo::read(&dir)?.size);
        }
        // The lock is ours, so whoever left this is dead.
        let temp = Temporary(sibling(TEMP_SUFFIX));
        remove_tree(&temp.0)?;
        let context = || format!("unpack layer {} to {}", layer.digest, temp.0.display());
        let tree = temp.0.join(TREE);
        fs::create_dir(&temp.0)
            .and_then(|()| fs::create_dir(&tree))
            .map_err(Error::io(context()))?;
        let root = extract::open_root(&tree).map_err(Error::io(context()))?;
        let mut extractor = Extractor::new(root, Whiteouts::Overlay, true);
        let mut budget = Budget::new(rootfs, self.limits(), layer.digest);
        self.extract(layer, &mut extractor, &mut budget)?;

        let below: Vec<PathBuf> = if extractor.needs_lower() {
            progress.wait_for_all_below(index)?;
            trees[..index].iter().rev().cloned().collect()
        } else {
            Vec::new()
        };
        let user_xattr = extractor
            .finish(&below)
            .map_err(|(path, e)| entry_failed(layer, &path, e))?;
        let info = LayerInfo {
            diff_id: layer.diff_id,
            size: budget.bytes(),
            files: budget.files(),
            user_xattr,
        };
        info.write(&temp.0)?;
        let durable = self.cas().durability() == Durability::Full;
        let publish = || -> io::Result<()> {
            if durable {
                // One call for all the files, instead of one each.
                rustix::fs::syncfs(extract::open_root(&temp.0)?)?;
            }
            fs::rename(&temp.0, &dir)?;
            if durable {
                fs::File::open(self.layers_dir())?.sync_all()?;
            }
            Ok(())
        };
        publish().map_err(Error::io(context()))?;
        tracing::debug!(layer = %layer.digest, chain_id = %layer.chain_id, files = info.files, "unpacked");
        Ok(())
    }

    /// Streams a layer's blob through `extractor` and checks its diff id.
    fn extract(&self, layer: &Layer, extractor: &mut Extractor, budget: &mut Budget<'_>) -> Result<()> {
        let limits = self.limits();
        let blob = self.cas().open_blob(&layer.digest)?;
        if blob.size() > limits.max_layer_size {
            let what = format!("layer {}", layer.digest);
            return Err(Error::TooLarge {
                what,
                limit: limits.max_layer_size,
            });
        }
        let algorithm = layer.diff_id.algorithm();
        let found = if layer.is_module {
            module::extract(blob.into_file(), layer, extractor, budget)
        } else {
            extract_archive(
                blob.into_file(),
                layer,
                algorithm,
                extractor,
                budget,
                limits.max_layer_size,
            )
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
        if matches!(
            error,
            Error::InvalidLayer { .. } | Error::InvalidEntry { .. } | Error::DiffIdMismatch { .. }
        ) {
            self.cas().check(&layer.digest)?;
        }
        Err(error)
    }
}

/// Reads the archive to its end and says what it hashes to.
fn extract_archive(
    blob: fs::File,
    layer: &Layer,
    algorithm: Algorithm,
    extractor: &mut Extractor,
    budget: &mut Budget<'_>,
    cap: u64,
) -> Result<Digest> {
    let broken = |e: io::Error| match Exceeded::of(&e) {
        Some(Exceeded::Stream(limit)) => Error::TooLarge {
            what: format!("layer {}, decompressed,", layer.digest),
            limit: *limit,
        },
        _ => Error::InvalidLayer {
            layer: layer.digest,
            reason: e.to_string(),
        },
    };
    let stream = ArchiveStream::new(blob, algorithm, cap, MAX_TAR_HEADER_SIZE).map_err(broken)?;
    let header_budget = stream.budget();
    let mut archive = tar::Archive::new(stream);
    let mut entries = archive.entries().map_err(broken)?;
    loop {
        header_budget.header();
        let Some(entry) = entries.next() else { break };
        header_budget.content();
        let mut source = entry.map_err(broken)?;
        let entry = Entry::parse(&mut source).map_err(|reason| Error::InvalidEntry {
            layer: layer.digest,
            entry: shown(&source.path_bytes()),
            reason,
        })?;
        let path = entry.path.clone();
        extractor
            .add(entry, &mut source, budget)
            .map_err(|fault| match fault {
                Fault::Limit(error) => *error,
                Fault::Refused(reason) => Error::InvalidEntry {
                    layer: layer.digest,
                    entry: shown(&path),
                    reason,
                },
                Fault::Io(e) if Exceeded::of(&e).is_some() => broken(e),
                // Errors of the decompressor and of the archive have no number, those of the file system do.
                Fault::Io(e) if e.raw_os_error().is_none() => broken(e),
                Fault::Io(e) => entry_failed(layer, &path, e),
            })?;
        io::copy(&mut source, &mut io::sink()).map_err(broken)?;
    }
    archive.into_inner().finish().map_err(broken)
}

fn entry_failed(layer: &Layer, path: &[u8], source: io::Error) -> Error {
    Error::Io {
        context: format!("layer {}: entry {:?}", layer.digest, shown(path)),
        source,
    }
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(SHOWN_NAME).collect()
}

/// A tree that is removed unless it has been renamed by then.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        if Path::exists(&self.0)
            && let Err(error) = remove_tree(&self.0)
        {
            tracing::warn!(%error, "leftover of an unpack, swept by the next one or by prune");
        }
    }
}
