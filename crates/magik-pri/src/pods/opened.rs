//! The store of one pair of roots, which is opened when it is first used, and swept then and later.

use std::{
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{background::blocking, paths::Roots, store::Store, watch::Watcher};
use crate::Result;

/// How often what dead callers have left is swept away while nothing is run or deleted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The store, opened when it is first used.
#[derive(Debug)]
pub(super) struct Opened {
    roots: Roots,
    pub(super) store: OnceLock<Arc<Store>>,
    /// Started when it is first asked for.
    watcher: Mutex<Option<Arc<Watcher>>>,
    /// Whether there is a task that sweeps from time to time.
    kept_swept: AtomicBool,
}

impl Opened {
    pub(super) fn new(roots: Roots) -> Self {
        Self {
            roots,
            store: OnceLock::new(),
            watcher: Mutex::default(),
            kept_swept: AtomicBool::new(false),
        }
    }

    /// Has the store, once it is opened, swept from time to time. Called where tasks run: one that
    /// another thread spawned would wake that one first.
    pub(super) fn keep_swept(&self) {
        if let Some(store) = self.store.get()
            && !self.kept_swept.swap(true, Ordering::Relaxed)
        {
            tokio::spawn(keep_swept(Arc::downgrade(store)));
        }
    }

    /// The store, and whether it was opened just now.
    pub(super) fn open(&self) -> Result<(&Arc<Store>, bool)> {
        if let Some(store) = self.store.get() {
            return Ok((store, false));
        }
        let new = Arc::new(Store::open(&self.roots)?);
        let store = self.store.get_or_init(|| new.clone());
        let first = Arc::ptr_eq(store, &new);
        Ok((store, first))
    }

    /// The store; what dead callers have left was swept away since it was opened.
    pub(super) fn swept_once(&self) -> Result<&Arc<Store>> {
        let (store, first) = self.open()?;
        if first {
            store.try_sweep();
        }
        Ok(store)
    }

    /// What sees the pods change.
    pub(super) fn watcher(&self) -> Result<Arc<Watcher>> {
        let store = self.swept_once()?;
        let mut watcher = self.watcher.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watcher) = watcher.as_ref().filter(|watcher| !watcher.changes.have_failed()) {
            return Ok(watcher.clone());
        }
        Ok(watcher.insert(Arc::new(Watcher::start(store.clone())?)).clone())
    }

    /// The store, swept now.
    pub(super) fn swept(&self) -> Result<&Arc<Store>> {
        let (store, _) = self.open()?;
        store.try_sweep();
        Ok(store)
    }
}

/// Sweeps as long as there is a store.
async fn keep_swept(store: Weak<Store>) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        let Some(store) = store.upgrade() else { return };
        let swept = blocking(move || {
            store.try_sweep();
            Ok(())
        });
        if swept.await.is_err() {
            return;
        }
    }
}
