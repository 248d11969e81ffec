//! What changes among all pods, for those who watch: of each pod the last change, in the order of
//! these.
//!
//! A watcher that is slow therefore misses how a pod was in between, never how it is; and what is
//! kept does not grow with time. Only pods that are gone have to be forgotten at some time: who was
//! away for longer is told to start again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use magik_infra::status::PodStatus;
use tokio::sync::watch;

use crate::{Error, Result};

/// How many pods are remembered that are gone.
const MAX_GONE: usize = 4096;

/// A change, and where in the order of all changes it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Larger than those before it, also than those of earlier processes: who says it to
    /// [`watch`](crate::PodRuntime::watch) hears what changed since.
    pub position: u64,
    /// What changed.
    pub what: PodChange,
}

/// What became of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum PodChange {
    /// It was committed, or its status is another: so it is now.
    Is(Arc<PodStatus>),
    /// The pod with this id is gone, or nearly: its deletion has begun.
    Gone(String),
    /// It is not known what changed since the position that was given: forget what you know; all
    /// pods that there are follow.
    Resync,
}

impl PodChange {
    fn pod(&self) -> Option<&str> {
        match self {
            Self::Is(status) => Some(&status.id),
            Self::Gone(id) => Some(id),
            Self::Resync => None,
        }
    }
}

/// The last change of each pod.
#[derive(Debug)]
pub(crate) struct Changes {
    log: Mutex<Log>,
    /// The position of the last change.
    last: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Log {
    by_position: BTreeMap<u64, PodChange>,
    by_pod: HashMap<String, u64>,
    /// The positions of pods that are gone, in order.
    gone: VecDeque<u64>,
    /// After this position everything is known.
    known: u64,
    /// Why there will be no more.
    failed: Option<String>,
}

impl Changes {
    pub(crate) fn new() -> Arc<Self> {
        // Positions grow from one process to the next: nothing changes a million times per second.
        let first = u64::try_from(Timestamp::now().as_microsecond()).unwrap_or(1);
        let log = Log {
            known: first,
            ..Log::default()
        };
        Arc::new(Self {
            log: Mutex::new(log),
            last: watch::Sender::new(first),
        })
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how a pod is, unless it is known.
    pub(crate) fn note(&self, what: PodChange) {
        let Some(pod) = what.pod().map(str::to_owned) else {
            return;
        };
        let mut log = self.log();
        let before = log.by_pod.get(&pod).copied();
        let before = before.and_then(|at| Some((at, log.by_position.get(&at)?)));
        match before {
            Some((_, same)) if *same == what => return,
            Some((at, _)) => drop(log.by_position.remove(&at)),
            // Nobody has heard of it.
            None if matches!(what, PodChange::Gone(_)) => return,
            None => {}
        }
        let position = *self.last.borrow() + 1;
        if matches!(what, PodChange::Gone(_)) {
            log.gone.push_back(position);
        }
        log.by_position.insert(position, what);
        log.by_pod.insert(pod, position);
        if log.gone.len() > MAX_GONE
            && let Some(oldest) = log.gone.pop_front()
        {
            if let Some(PodChange::Gone(id)) = log.by_position.remove(&oldest) {
                log.by_pod.remove(&id);
            }
            log.known = oldest;
        }
        drop(log);
        self.last.send_replace(position);
    }

    /// There will be no more.
    pub(crate) fn fail(&self, why: String) {
        self.log().failed = Some(why);
        self.last.send_modify(|_| ());
    }

    pub(crate) fn have_failed(&self) -> bool {
        self.log().failed.is_some()
    }
}

/// The changes of all pods, one after the other.
#[derive(Debug)]
pub struct Watch {
    changes: Arc<Changes>,
    last: watch::Receiver<u64>,
    position: u64,
    /// Up to this position it hears of all pods for the first time; of those that are gone it need
    /// not.
    fresh: u64,
    /// It notes the changes as long as somebody has it.
    _watcher: Arc<dyn Debug + Send + Sync>,
}

impl Watch {
    pub(crate) fn new(changes: Arc<Changes>, position: u64, watcher: Arc<dyn Debug + Send + Sync>) -> Self {
        let last = changes.last.subscribe();
        let fresh = if position == 0 { *last.borrow() } else { 0 };
        Self {
            changes,
            last,
            position,
            fresh,
            _watcher: watcher,
        }
    }

    /// The next change. May be given up and called again: nothing is lost.
    ///
    /// # Errors
    /// Pods can be watched no longer by this one; another one may.
    pub async fn next(&mut self) -> Result<Change> {
        loop {
            let last = *self.last.borrow_and_update();
            if let Some(change) = self.known(last)? {
                return Ok(change);
            }
            let failed = |e| Error::io("watch the pods")(std::io::Error::other(e));
            self.last.changed().await.map_err(failed)?;
        }
    }

    /// The next of those up to the last.
    fn known(&mut self, last: u64) -> Result<Option<Change>> {
        let log = self.changes.log();
        if let Some(why) = &log.failed {
            return Err(Error::io("watch the pods")(std::io::Error::other(why.clone())));
        }
        // Something between here and there was forgotten, or it is a position of somebody else's.
        let lost = self.position < log.known && self.fresh < log.known;
        if lost || self.position > last {
            (self.position, self.fresh) = (0, last);
            return Ok(Some(Change {
                position: 0,
                what: PodChange::Resync,
            }));
        }
        for (position, what) in log.by_position.range(self.position + 1..) {
            self.position = *position;
            if *position > self.fresh || !matches!(what, PodChange::Gone(_)) {
                return Ok(Some(Change {
                    position: *position,
                    what: what.clone(),
                }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(changes: &Arc<Changes>, position: u64) -> Watch {
        Watch::new(changes.clone(), position, Arc::new(()))
    }

    /// All that is known now.
    fn all(watch: &mut Watch) -> Vec<Change> {
        let last = *watch.last.borrow_and_update();
        std::iter::from_fn(|| watch.known(last).unwrap()).collect()
    }

    fn is(id: usize, message: &str) -> PodChange {
        let status = serde_json::json!({
            "id": id.to_string(), "name": "p", "namespace": "default", "runtimeClass": "native", "phase": "Running",
            "message": message, "createdAt": "2026-01-01T00:00:00Z", "containers": [],
        });
        PodChange::Is(Arc::new(serde_json::from_value(status).unwrap()))
    }

    fn gone(id: usize) -> PodChange {
        PodChange::Gone(id.to_string())
    }

    fn whats(changes: &[Change]) -> Vec<&PodChange> {
        changes.iter().map(|change| &change.what).collect()
    }

    #[test]
    fn who_watches_hears_how_each_pod_is_and_then_what_changes() {
        let changes = Changes::new();
        changes.note(is(1, "a"));
        changes.note(is(2, "a"));
        changes.note(gone(3));
        changes.note(is(1, "b"));
        changes.note(is(1, "b"));
        let mut first = watch(&changes, 0);
        let seen = all(&mut first);
        assert_eq!(whats(&seen), [&is(2, "a"), &is(1, "b")]);
        changes.note(gone(2));
        assert_eq!(whats(&all(&mut first)), [&gone(2)]);
        assert_eq!(all(&mut first), []);
        // Of pods that are gone already nobody hears who hears of pods for the first time.
        assert_eq!(whats(&all(&mut watch(&changes, 0))), [&is(1, "b")]);
        // From a position on.
        assert_eq!(
            whats(&all(&mut watch(&changes, seen[0].position))),
            [&is(1, "b"), &gone(2)]
        );
        assert_eq!(whats(&all(&mut watch(&changes, seen[1].position))), [&gone(2)]);
    }

    #[test]
    fn a_position_that_is_too_old_or_of_somebody_else_starts_again() {
        let changes = Changes::new();
        changes.note(is(0, "a"));
        let seen = all(&mut watch(&changes, 0));
        let mut slow = watch(&changes, seen[0].position);
        for id in 1..=MAX_GONE + 1 {
            changes.note(is(id, "a"));
            changes.note(gone(id));
        }
        let again = [&PodChange::Resync, &is(0, "a")];
        assert_eq!(whats(&all(&mut slow)), again);
        assert_eq!(whats(&all(&mut watch(&changes, u64::MAX))), again);
        assert_eq!(whats(&all(&mut watch(&changes, 1))), again);
        assert_eq!(whats(&all(&mut watch(&changes, 0))), again[1..]);
        let log = changes.log();
        assert_eq!(
            (log.by_position.len(), log.by_pod.len()),
            (MAX_GONE + 1, MAX_GONE + 1)
        );
    }
}
