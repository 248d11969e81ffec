//! The room that pods take.

use super::paths::{self, Paths, entries};
use crate::{Error, Result};

/// The room that a pod takes below the data root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodUsage {
    /// The pod's id.
    pub id: String,
    /// Whether it belongs to this state root.
    pub own: bool,
    /// The bytes of its containers' writable layers, its volumes and its logs, as du(1) has them.
    pub size: u64,
}

/// Of every pod that has files, in the order of their ids.
pub(super) fn of_pods(paths: &Paths) -> Result<Vec<PodUsage>> {
    let mut ids = entries(&paths.data_pods())?;
    ids.retain(|id| paths::is_id(id));
    ids.sort_unstable();
    let of = |id: String| {
        let dir = paths.data_pod(&id);
        let size = magik_sys::tree::size(&dir).map_err(Error::io(format!("read {}", dir.display())))?;
        let own = paths.is_own_id(&id);
        Ok(PodUsage { id, own, size })
    };
    ids.into_iter().map(of).collect()
}
