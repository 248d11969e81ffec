//! Reservations: what belongs to a pod before it is committed, and goes away with its owner.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use magik_sys::tree;
use tokio::sync::watch;

use super::{
    lock,
    paths::{INIT_LOG, entries, make_dir, name_link, remove_link},
    process::Process,
    store::{CALLER, LOCK, NAME, PodDir, SPEC, Store},
    users::{self, Users},
};
use crate::{Error, PodSpec, Result, limits::MAX_PODS};

impl Store {
    /// Takes id and name for a new pod.
    pub(crate) fn reserve(self: &Arc<Self>, id: &str, spec: &PodSpec, users: Users) -> Result<Pending> {
        let _reservations = self.lock_reservations()?;
        if entries(&self.paths.pods())?.len() >= MAX_PODS {
            return Err(Error::TooManyPods);
        }
        let name = name_link(&spec.namespace, &spec.name);
        let link = self.paths.names().join(&name);
        if let Ok(other) = fs::read_link(&link) {
            let other = other.to_string_lossy().into_owned();
            if self.exists(&other) {
                return Err(Error::NameInUse {
                    namespace: spec.namespace.clone(),
                    name: spec.name.clone(),
                    id: other,
                });
            }
            // Whoever removes that pod may be faster.
            remove_link(&link).map_err(Error::io(format!("remove {}", link.display())))?;
        }
        let dir = self.paths.pending(id);
        let context = || format!("create {}", dir.display());
        make_dir(&dir, 0o700).map_err(Error::io(context()))?;
        let locked = |file: &str| -> io::Result<OwnedFd> {
            let lock = lock::open(&dir.join(file), true)?;
            if lock::try_exclusive(&lock)? {
                Ok(lock)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            }
        };
        let locks = locked(LOCK).and_then(|lock| {
            let caller = locked(CALLER)?;
            lock::sign(&caller)?;
            Ok((lock, caller))
        });
        let (lock, caller) = locks.map_err(|e| {
            let _ = tree::remove(&dir);
            Error::io(context())(e)
        })?;
        let mut pending = Pending {
            store: self.clone(),
            id: id.to_owned(),
            lock,
            _caller: caller,
            init: OnceLock::new(),
            users: None,
            kept: AtomicBool::new(false),
            _busy: self.busy.subscribe(),
        };
        let json = serde_json::to_vec(spec).map_err(|e| Error::io(context())(io::Error::from(e)))?;
        // The name is noted before it is taken, so that whoever finds this directory knows what to give back.
        std::os::unix::fs::symlink(&name, dir.join(NAME))
            .and_then(|()| std::os::unix::fs::symlink(id, &link))
            .and_then(|()| fs::write(dir.join(SPEC), json))
            .map_err(Error::io(context()))?;
        if users != Users::OfHost {
            let taken = users::take(Path::new(users::DIRECTORY), &self.paths.pod(id), &dir);
            pending.users = taken.map_err(Error::io(format!("pod {}: take a range of users", spec.name)))?;
            if pending.users.is_none() && users == Users::Own {
                let e = io::Error::new(io::ErrorKind::QuotaExceeded, "every range of users is taken");
                return Err(Error::io(format!("pod {}: hostUsers: false", spec.name))(e));
            }
        }
        Ok(pending)
    }
}

/// Says that images are being pulled for a pod, so that their lease is not taken for a leftover.
#[derive(Debug)]
pub(crate) struct Intent {
    store: Arc<Store>,
    id: String,
    path: PathBuf,
    lock: OwnedFd,
    /// The lease belongs to the reserved pod now.
    reserved: AtomicBool,
    _busy: watch::Receiver<()>,
}

impl Intent {
    pub(crate) fn new(store: &Arc<Store>, id: &str, busy: watch::Receiver<()>) -> Result<Self> {
        let path = store.paths.intents().join(id);
        let context = || format!("create {}", path.display());
        loop {
            let lock = lock::open(&path, true).map_err(Error::io(context()))?;
            lock::exclusive(&lock).map_err(Error::io(context()))?;
            // A sweep may have come between.
            if lock::is_at(&lock, &path).map_err(Error::io(context()))? {
                let intent = Self {
                    store: store.clone(),
                    id: id.to_owned(),
                    path: path.clone(),
                    lock,
                    reserved: AtomicBool::new(false),
                    _busy: busy,
                };
                lock::sign(&intent.lock).map_err(Error::io(context()))?;
                return Ok(intent);
            }
        }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// The pod is reserved: its lease is no longer given back with this.
    pub(crate) fn hand_over(&self) {
        self.reserved.store(true, Ordering::Relaxed);
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        if !self.reserved.load(Ordering::Relaxed)
            && let Err(error) = self.store.images.release(&self.id)
        {
            tracing::warn!(pod = self.id, %error, "the lease of a pod that was not run remains");
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// A pod that is being launched. Unless it is kept, dropping it removes everything of it, which
/// takes its time: not for async contexts.
#[derive(Debug)]
pub(crate) struct Pending {
    store: Arc<Store>,
    pub(crate) id: String,
    lock: OwnedFd,
    _caller: OwnedFd,
    pub(crate) init: OnceLock<Arc<Process>>,
    /// The host's id of the pod's root, if it has users of its own.
    pub(crate) users: Option<u32>,
    kept: AtomicBool,
    _busy: watch::Receiver<()>,
}

impl Pending {
    pub(crate) fn dir(&self) -> PathBuf {
        self.store.paths.pending(&self.id)
    }

    /// The lock, for the init.
    pub(crate) fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone()
    }

    /// Makes the pod permanent; it is removed again if it is dropped before [`keep`](Self::keep).
    pub(crate) fn commit(&self) -> io::Result<PodDir> {
        let dir = self.store.paths.pod(&self.id);
        fs::rename(self.dir(), &dir)?;
        Ok(PodDir {
            id: self.id.clone(),
            dir,
        })
    }

    /// The pod stays.
    pub(crate) fn keep(&self) {
        self.kept.store(true, Ordering::Relaxed);
    }

    /// How the init ended, if it has; for error messages.
    pub(crate) fn last_words(&self) -> Option<String> {
        const QUICK: Duration = Duration::from_millis(200);
        let init = self.init.get()?;
        if !init.wait(QUICK).unwrap_or(false) {
            return None;
        }
        let log = fs::read_to_string(self.store.paths.log(&self.id, INIT_LOG)).unwrap_or_default();
        let words = log
            .lines()
            .rev()
            .find(|line| !line.is_empty())
            .unwrap_or_default()
            .to_owned();
        match (words, init.reap()) {
            (words, None) => Some(words),
            (words, Some(status)) if words.is_empty() => Some(status),
            (words, Some(status)) => Some(format!("{status}: {words}")),
        }
    }

    fn undo(&self) -> Result<()> {
        let context = || format!("pod {}", self.id);
        if let Some(init) = self.init.get() {
            self.store
                .kill(&self.id, init)
                .map_err(Error::io(format!("{}: kill its init", context())))?;
        }
        match fs::rename(self.store.paths.pod(&self.id), self.dir()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(context())(e)),
            _ => {}
        }
        self.store.discard(&self.id)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.kept.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = self.undo() {
            tracing::error!(pod = self.id, %error, "not everything of the pod could be removed: the next command tries again");
        }
    }
}
