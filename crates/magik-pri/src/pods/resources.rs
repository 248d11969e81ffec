//! What a pod has beside its processes, as one list. Deleting a pod, undoing a run that failed, and
//! sweeping what a dead caller has left all end with [`Store::discard`], which goes through it.
//!
//! To add a kind: a file that makes it and takes it away, and its entry here. Ports are none of
//! these: what listens for them is the init's, and goes with it.

use std::{fs, io, path::Path};

use magik_sys::tree;

use super::{
    paths::{entries, remove_link},
    store::{NAME, Store},
    users,
};
use crate::{Error, Result};

/// A kind of thing that pods have.
struct Resource {
    /// What it is called in messages.
    what: &'static str,
    /// The ids that have one. So a sweep finds what belongs to no pod; what only the pod's
    /// directory tells of is found by that.
    ids: fn(&Store) -> Result<Vec<String>>,
    /// Takes away what a pod has of it. A pod that has none is no error: an earlier attempt may
    /// have come this far, or the pod never did.
    discard: fn(&Store, &str) -> io::Result<()>,
}

/// In the order in which they are taken away. First whatever may hold processes, then what these
/// had in use. The pod's directory is the last: while it is there the next sweep tries again what
/// failed, and it tells of the entries before it.
const RESOURCES: [Resource; 7] = [
    Resource {
        what: "cgroups",
        ids: |store| Ok(store.cgroups.ids()),
        discard: |store, id| store.cgroups.remove(id),
    },
    Resource {
        what: "sandbox",
        ids: |store| entries(&store.paths.sandboxes()),
        discard: |store, id| tree::remove(&store.paths.sandbox(id)),
    },
    Resource {
        what: "data",
        ids: |store| entries(&store.paths.data_pods()),
        discard: |store, id| tree::remove(&store.paths.data_pod(id)),
    },
    Resource {
        what: "lease of images",
        ids: |store| {
            let leases = store.images.leases();
            leases.map_err(|e| Error::io("list leases")(io::Error::other(e)))
        },
        discard: |store, id| store.images.release(id).map_err(io::Error::other),
    },
    Resource {
        what: "name",
        ids: |_| Ok(Vec::new()),
        discard: discard_name,
    },
    Resource {
        what: "users",
        ids: |_| Ok(Vec::new()),
        discard: |store, id| {
            let (pod, dir) = (store.paths.pod(id), store.paths.pending(id));
            users::give_back(Path::new(users::DIRECTORY), &pod, &dir);
            Ok(())
        },
    },
    Resource {
        what: "directory",
        ids: |_| Ok(Vec::new()),
        discard: |store, id| tree::remove(&store.paths.pending(id)),
    },
];

/// Gives back the name that the pod's directory tells of, if it is this pod's.
fn discard_name(store: &Store, id: &str) -> io::Result<()> {
    let noted = fs::read_link(store.paths.pending(id).join(NAME)).ok();
    let Some(name) = noted.as_deref().and_then(Path::file_name) else {
        return Ok(());
    };
    let link = store.paths.names().join(name);
    match fs::read_link(&link) {
        Ok(target) if target == Path::new(id) => remove_link(&link),
        _ => Ok(()),
    }
}

impl Store {
    /// Removes all of a pod. Nothing of it runs, its directory is pending, and nobody else is at
    /// it.
    pub(crate) fn discard(&self, id: &str) -> Result<()> {
        for Resource { what, discard, .. } in &RESOURCES {
            discard(self, id).map_err(Error::io(format!("pod {id}: remove its {what}")))?;
        }
        Ok(())
    }

    /// The ids under which there is something and that are no pod: the pods are listed last, as
    /// they are made first.
    pub(crate) fn leftovers(&self) -> Result<Vec<String>> {
        let mut ids = Vec::new();
        for resource in &RESOURCES {
            ids.extend((resource.ids)(self)?);
        }
        ids.retain(|id| self.paths.is_own_id(id));
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !self.paths.intents().join(id).exists() && !self.exists(id));
        Ok(ids)
    }
}
