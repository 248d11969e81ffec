//! Layers that are unpacked and not visible yet.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
};

use magik_cas::Durability;

use super::{
    LOCK_SUFFIX, LayerInfo, Source, TEMP_SUFFIX, TREE, Temporary, budget::RootfsBudget, remove_tree,
    schedule, tree::open_root,
};
use crate::{
    Error, ImageStore, Result,
    store::{Layer, lock_file, try_lock_file},
};

/// A complete, verified layer beside its final path, with its lock. Dropped without
/// [`publish`](Self::publish), it leaves nothing.
#[derive(Debug)]
pub(crate) struct StagedLayer {
    temp: Temporary,
    dir: PathBuf,
    _lock: fs::File,
}

impl StagedLayer {
    /// Moves the layer to its path. [`Durability::Full`] needs its files synced before.
    pub(crate) fn publish(self) -> Result<()> {
        fs::rename(&self.temp.0, &self.dir).map_err(Error::io(format!("rename to {}", self.dir.display())))
    }
}

/// When a complete layer is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placement {
    /// It appears; another process that unpacks it is waited for.
    AtOnce,
    /// It is kept aside. A held lock is not waited for: waiting with the locks of lower layers
    /// could deadlock. That layer and those above are unpacked [`AtOnce`](Self::AtOnce) later.
    Later,
}

/// Callbacks about layers, by their index.
pub(crate) struct Work<'a> {
    /// Where the blob of a layer comes from.
    pub(crate) source: &'a (dyn Fn(usize) -> Source + Sync),
    /// Hears of each layer that has been unpacked.
    pub(crate) done: &'a (dyn Fn(usize) + Sync),
}

impl ImageStore {
    /// Unpacks those of `layers`, all of one image and the lowest first, that are not there yet.
    pub(crate) fn unpack_layers(
        &self,
        image: String,
        layers: &[Layer],
        work: &Work<'_>,
        placement: Placement,
    ) -> Result<Vec<StagedLayer>> {
        let rootfs = RootfsBudget::new(image, self.limits());
        let mut locks: Vec<Mutex<Option<fs::File>>> = Vec::new();
        let mut count = layers.len();
        if placement == Placement::Later {
            for layer in layers {
                match try_lock_file(&self.layer_sibling(layer, LOCK_SUFFIX))? {
                    Some(lock) => locks.push(Mutex::new(Some(lock))),
                    None => break,
                }
            }
            count = locks.len();
        }
        let trees: Vec<OnceLock<PathBuf>> = layers.iter().map(|_| OnceLock::new()).collect();
        let staged = Mutex::new(Vec::new());
        schedule::in_order(count, |index, progress| {
            let layer = &layers[index];
            let dir = self.layer_dir(&layer.chain_id);
            let lock = match locks.get(index) {
                Some(lock) => lock.lock().unwrap_or_else(PoisonError::into_inner).take(),
                None => Some(lock_file(&self.layer_sibling(layer, LOCK_SUFFIX))?),
            };
            let Some(lock) = lock else {
                unreachable!("each index is handed out once")
            };
            if dir.is_dir() {
                // A process that has the right to unpack it, and a blob that is not asked for.
                trees[index].get_or_init(|| dir.join(TREE));
                return rootfs.take(LayerInfo::read(&dir)?.size);
            }
            // The lock is ours, so the process that left this is dead.
            let temp = Temporary(self.layer_sibling(layer, TEMP_SUFFIX));
            remove_tree(&temp.0)?;
            let lower = || {
                progress.wait_for_all_below(index)?;
                let below = trees[..index].iter().rev();
                Ok(below.filter_map(OnceLock::get).cloned().collect())
            };
            self.unpack_into(layer, &temp.0, (work.source)(index), &rootfs, &lower)?;
            let layer = StagedLayer {
                temp,
                dir: dir.clone(),
                _lock: lock,
            };
            (work.done)(index);
            if placement == Placement::AtOnce {
                self.sync_layers(&layer.temp.0)?;
                layer.publish()?;
                self.sync_layer_names()?;
                trees[index].get_or_init(|| dir.join(TREE));
            } else {
                trees[index].get_or_init(|| layer.temp.0.join(TREE));
                staged.lock().unwrap_or_else(PoisonError::into_inner).push(layer);
            }
            Ok(())
        })?;
        Ok(staged.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes all files of the file system of `path` durable: one call for all.
    pub(crate) fn sync_layers(&self, path: &Path) -> Result<()> {
        if self.cas().durability() != Durability::Full {
            return Ok(());
        }
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(open_root(path)?)?) };
        sync().map_err(Error::io(format!("sync {}", path.display())))
    }

    /// Makes the names of layers durable.
    pub(crate) fn sync_layer_names(&self) -> Result<()> {
        if self.cas().durability() != Durability::Full {
            return Ok(());
        }
        let dir = self.layers_dir();
        let synced = fs::File::open(&dir).and_then(|dir| dir.sync_all());
        synced.map_err(Error::io(format!("sync {}", dir.display())))
    }

    fn layer_sibling(&self, layer: &Layer, suffix: &str) -> PathBuf {
        self.layers_dir()
            .join(format!("{}{suffix}", layer.chain_id.hex()))
    }
}
