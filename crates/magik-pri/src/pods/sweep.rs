//! Removing what dead callers have left.

use std::{fs, io};

use magik_infra::PENDING_SUFFIX;

use super::{
    lock,
    paths::{self, entries},
    store::{CALLER, Store},
};
use crate::{Error, Result, SweepReport};

impl Store {
    /// Sweeps. What cannot be removed now must not keep other pods from being run or deleted.
    pub(crate) fn try_sweep(&self) {
        if let Err(error) = self.sweep() {
            tracing::warn!(%error, "sweep");
        }
    }

    /// Removes what dead callers have left. Cheap where there is nothing.
    pub(crate) fn sweep(&self) -> Result<SweepReport> {
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
            self.discard(&id)?;
            report.leftovers += 1;
        }
        Ok(report)
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
        let _lock = match &caller {
            Some(caller) => {
                if !lock::try_exclusive_of_the_dead(caller).map_err(Error::io(context()))?
                    || !lock::is_at(caller, &path).map_err(Error::io(context()))?
                {
                    return Ok(false);
                }
                // Without its caller the pod is never committed, whether its init has noticed yet
                // or not.
                Some(self.end(id, &dir)?)
            }
            None if !dir.exists() => return Ok(false),
            None => None,
        };
        self.discard(id)?;
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
            self.discard(id)?;
        }
        fs::remove_file(&path).map_err(Error::io(context()))?;
        Ok(true)
    }
}
