//! Removing what dead callers have left.

use std::{fs, io};

use magik_infra::PENDING_SUFFIX;
use magik_sys::tree;

use super::{
    lock,
    paths::{self, entries},
    store::{CALLER, Store},
};
use crate::{Error, Result, SweepReport};

impl Store {
    /// Removes what dead callers have left. Cheap where there is nothing.
    pub(crate) fn sweep(&self) -> Result<SweepReport> {
        self.reap();
        let mut report = SweepReport::default();
        let pending: Vec<String> = entries(&self.paths.pods())?
            .into_iter()
            .filter_map(|name| name.strip_suffix(PENDING_SUFFIX).map(str::to_owned))
            .collect();
        let intents = entries(&self.paths.intents())?;
        if pending.is_empty() && intents.is_empty() && self.leftovers()?.is_empty() {
            return Ok(report);
        }
        let _reservations = self.lock_reservations()?;
        for id in pending {
            if self.sweep_pending(&id)? {
                tracing::info!(
                    pod = id,
                    "swept a pod whose launch or deletion had not come to its end"
                );
                report.pods.push(id);
            }
        }
        for id in intents {
            report.leftovers += usize::from(self.sweep_intent(&id)?);
        }
        // With the reservations locked none of these can become a pod.
        for id in self.leftovers()? {
            tracing::info!(pod = id, "removing what is left of a pod that does not exist");
            self.cgroups
                .remove(&id)
                .map_err(Error::io(format!("pod {id}: remove its cgroups")))?;
            tree::remove(&self.paths.sandbox(&id)).map_err(Error::io(format!("pod {id}")))?;
            tree::remove(&self.paths.data_pod(&id)).map_err(Error::io(format!("pod {id}")))?;
            self.release(&id)?;
            report.leftovers += 1;
        }
        Ok(report)
    }

    /// The ids under which there is something and that are no pod: the pods are listed last, as they are made first.
    fn leftovers(&self) -> Result<Vec<String>> {
        let mut ids = entries(&self.paths.sandboxes())?;
        ids.extend(entries(&self.paths.data_pods())?);
        ids.extend(
            self.images
                .leases()
                .map_err(|e| Error::io("list leases")(io::Error::other(e)))?,
        );
        ids.extend(self.cgroups.ids());
        ids.retain(|id| self.paths.is_own_id(id));
        ids.sort_unstable();
        ids.dedup();
        ids.retain(|id| !self.paths.intents().join(id).exists() && !self.exists(id));
        Ok(ids)
    }

    /// Removes a pending pod that nobody is at. Called with the reservations locked, so none is half made.
    fn sweep_pending(&self, id: &str) -> Result<bool> {
        if !paths::is_id(id) {
            return Ok(false);
        }
        let dir = self.paths.pending(id);
        let path = dir.join(CALLER);
        let context = || format!("lock {}", path.display());
        // Without the file, its maker died before it was made.
        let caller = match lock::open(&path, false) {
            Ok(caller) => Some(caller),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(Error::io(context())(e)),
        };
        if let Some(caller) = &caller {
            if !lock::try_exclusive_of_the_dead(caller).map_err(Error::io(context()))?
                || !lock::is_at(caller, &path).map_err(Error::io(context()))?
            {
                return Ok(false);
            }
            // Without its caller the pod is never committed, whether its init has noticed yet or not.
            let _lock = self.end(id, &dir)?;
            self.remove(id)?;
            return Ok(true);
        }
        if !dir.exists() {
            return Ok(false);
        }
        self.remove(id)?;
        Ok(true)
    }

    /// Ends the intent of a caller that died while it pulled images.
    fn sweep_intent(&self, id: &str) -> Result<bool> {
        let path = self.paths.intents().join(id);
        let context = || format!("lock {}", path.display());
        let file = match lock::open(&path, false) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(Error::io(context())(e)),
        };
        if !lock::try_exclusive_of_the_dead(&file).map_err(Error::io(context()))?
            || !lock::is_at(&file, &path).map_err(Error::io(context()))?
        {
            return Ok(false);
        }
        if paths::is_id(id) && !self.exists(id) {
            self.release(id)?;
        }
        fs::remove_file(&path).map_err(Error::io(context()))?;
        Ok(true)
    }
}
