//! The pods on disk: finding them, how they stand, reserving, removing, sweeping.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use magik_image::ImageStore;
use magik_infra::{
    PENDING_SUFFIX, STATUS_FILE,
    status::{Phase, PodStatus},
};

use super::{
    cgroup::Hierarchies,
    lock,
    paths::{self, Paths, entries, make_dir, name_link},
    process::Process,
    tree,
};
use crate::{Error, PodSpec, Result, SweepReport, limits::MAX_PODS};

/// Held by the launcher and the init: the pod's liveness.
pub(super) const LOCK: &str = "lock";
/// Held by whoever launches or deletes the pod, and by nobody else.
const CALLER: &str = "caller";
/// A symlink whose target is the file name of the pod's reservation.
const NAME: &str = "name";
/// The specification, for people.
const SPEC: &str = "spec.json";
/// The largest status that is read, in bytes.
const MAX_STATUS_SIZE: u64 = 16 << 20;
/// How long a killed init may take to end.
const KILL_TIME: Duration = Duration::from_secs(10);

/// The pods of one pair of roots.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) paths: Paths,
    pub(super) images: ImageStore,
    pub(super) cgroups: Hierarchies,
}

/// A committed pod.
#[derive(Debug, Clone)]
pub(super) struct PodDir {
    pub(super) id: String,
    pub(super) dir: PathBuf,
}

impl PodDir {
    /// Whether its init is alive.
    pub(super) fn is_alive(&self) -> Result<bool> {
        match lock::open(&self.dir.join(LOCK), false).and_then(|file| lock::is_free(&file)) {
            Ok(free) => Ok(!free),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(self.id.clone())),
            Err(e) => Err(Error::io(format!("pod {}: lock", self.id))(e)),
        }
    }

    /// How it stands; a pod whose init died without a last word is `Failed`.
    pub(super) fn status(&self) -> Result<PodStatus> {
        let status = self.read_status()?;
        if status.phase.is_final() || self.is_alive()? {
            return Ok(status);
        }
        // The init may have ended between the two.
        let mut status = self.read_status()?;
        if !status.phase.is_final() {
            status.phase = Phase::Failed;
            status.reason = Some("InitDied".into());
            status.message = Some("the pod's init was killed, and every container with it".into());
        }
        Ok(status)
    }

    fn read_status(&self) -> Result<PodStatus> {
        use io::Read as _;
        let path = self.dir.join(STATUS_FILE);
        let mut bytes = Vec::new();
        match fs::File::open(&path).and_then(|file| file.take(MAX_STATUS_SIZE).read_to_end(&mut bytes)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(self.id.clone())),
            Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
        }
        serde_json::from_slice(&bytes).map_err(|e| Error::io(format!("read {}", path.display()))(io::Error::from(e)))
    }

    /// The init, if it is alive.
    pub(super) fn init(&self) -> Result<Option<Process>> {
        Process::recorded(&self.dir).map_err(Error::io(format!("pod {}: find its init", self.id)))
    }
}

impl Store {
    /// Finds a committed pod by id, `namespace/name`, name in the namespace `default`, or the start of an id.
    pub(super) fn resolve(&self, pod: &str) -> Result<PodDir> {
        let unknown = || Error::NotFound(pod.chars().take(300).collect());
        if paths::is_id(pod) {
            return self.committed(pod).ok_or_else(unknown);
        }
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        // A name cannot hold what would make it a path.
        if !name.contains(['/', '\0']) && !namespace.contains('\0')
            && let Ok(id) = fs::read_link(self.paths.names().join(name_link(namespace, name)))
            && let Some(found) = id.to_str().and_then(|id| self.committed(id))
        {
            return Ok(found);
        }
        let starts = |id: &String| !pod.is_empty() && id.starts_with(pod);
        let mut found: Vec<PodDir> = self.all()?.into_iter().filter(|p| starts(&p.id)).collect();
        match (found.pop(), found.is_empty()) {
            (Some(only), true) => Ok(only),
            (None, _) => Err(unknown()),
            (Some(last), false) => {
                found.push(last);
                let name = |p: &PodDir| p.status().map_or_else(|_| p.id.clone(), |s| format!("{}/{} ({})", s.namespace, s.name, p.id));
                Err(Error::Ambiguous { given: pod.into(), candidates: found.iter().map(name).collect() })
            }
        }
    }

    fn committed(&self, id: &str) -> Option<PodDir> {
        let dir = self.paths.pod(id);
        (paths::is_id(id) && dir.is_dir()).then(|| PodDir { id: id.to_owned(), dir })
    }

    /// Every committed pod.
    pub(super) fn all(&self) -> Result<Vec<PodDir>> {
        let names = entries(&self.paths.pods())?;
        Ok(names.into_iter().filter(|n| paths::is_id(n)).map(|id| PodDir { dir: self.paths.pod(&id), id }).collect())
    }

    /// Whether a pod of that id exists, pending or committed. Pending is looked for first: it turns into the other.
    fn exists(&self, id: &str) -> bool {
        self.paths.pending(id).exists() || self.paths.pod(id).exists()
    }

    /// Takes id and name for a new pod.
    pub(super) fn reserve(self: &Arc<Self>, id: &str, spec: &PodSpec) -> Result<Pending> {
        let _reservations = self.lock_reservations()?;
        if entries(&self.paths.pods())?.len() >= MAX_PODS {
            return Err(Error::TooManyPods);
        }
        let name = name_link(&spec.namespace, &spec.name);
        let link = self.paths.names().join(&name);
        if let Ok(other) = fs::read_link(&link) {
            let other = other.to_string_lossy().into_owned();
            if self.exists(&other) {
                return Err(Error::NameInUse { namespace: spec.namespace.clone(), name: spec.name.clone(), id: other });
            }
            fs::remove_file(&link).map_err(Error::io(format!("remove {}", link.display())))?;
        }
        let dir = self.paths.pending(id);
        let context = || format!("create {}", dir.display());
        make_dir(&dir, 0o700).map_err(Error::io(context()))?;
        let locked = |file: &str| -> io::Result<OwnedFd> {
            let lock = lock::open(&dir.join(file), true)?;
            if lock::try_exclusive(&lock)? { Ok(lock) } else { Err(io::ErrorKind::WouldBlock.into()) }
        };
        let locks = locked(LOCK).and_then(|lock| Ok((lock, locked(CALLER)?)));
        let (lock, caller) = locks.map_err(|e| {
            let _ = tree::remove(&dir);
            Error::io(context())(e)
        })?;
        let pending = Pending { store: self.clone(), id: id.to_owned(), lock: Some(lock), _caller: caller, init: None, kept: false };
        let json = serde_json::to_vec(spec).map_err(|e| Error::io(context())(io::Error::from(e)))?;
        // The name is noted before it is taken, so that whoever finds this directory knows what to give back.
        std::os::unix::fs::symlink(&name, dir.join(NAME))
            .and_then(|()| std::os::unix::fs::symlink(id, &link))
            .and_then(|()| fs::write(dir.join(SPEC), json))
            .map_err(Error::io(context()))?;
        Ok(pending)
    }

    fn lock_reservations(&self) -> Result<OwnedFd> {
        let path = self.paths.reservations_lock();
        let context = || format!("lock {}", path.display());
        let file = lock::open(&path, true).map_err(Error::io(context()))?;
        lock::exclusive(&file).map_err(Error::io(context()))?;
        Ok(file)
    }

    /// Removes all of a pod. Its directory is pending, nobody else is at it, and it goes last: what fails is tried again
    /// by the next sweep.
    fn remove(&self, id: &str) -> Result<()> {
        let dir = self.paths.pending(id);
        self.cgroups.remove(id).map_err(Error::io(format!("pod {id}: remove its cgroups")))?;
        let remove = |path: &Path| tree::remove(path).map_err(Error::io(format!("pod {id}")));
        remove(&self.paths.sandbox(id))?;
        remove(&self.paths.data_pod(id))?;
        self.release(id)?;
        if let Ok(name) = fs::read_link(dir.join(NAME)) {
            self.remove_name(&name, id);
        }
        remove(&dir)
    }

    /// Gives a pod's image layers back.
    pub(super) fn release(&self, id: &str) -> Result<()> {
        self.images.release(id).map_err(|e| Error::io(format!("pod {id}: release its images"))(io::Error::other(e)))
    }

    /// Gives a name back, if it is this pod's.
    fn remove_name(&self, name: &Path, id: &str) {
        let Some(name) = name.file_name() else { return };
        let link = self.paths.names().join(name);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new(id)) {
            let _ = fs::remove_file(link);
        }
    }

    /// Deletes a committed pod. Several callers take turns; those that come too late find it gone, which is no error.
    pub(super) fn delete(&self, pod: &PodDir, force: bool) -> Result<()> {
        let context = || format!("pod {}: lock", pod.id);
        let path = pod.dir.join(CALLER);
        let caller = match lock::open(&path, false) {
            Ok(caller) => caller,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(Error::io(context())(e)),
        };
        lock::exclusive(&caller).map_err(Error::io(context()))?;
        if !lock::is_at(&caller, &path).map_err(Error::io(context()))? {
            return Ok(());
        }
        if pod.is_alive()? && !force && !pod.status()?.phase.is_final() {
            let why = "is still running: stop it first, or use force".to_owned();
            return Err(Error::WrongState { pod: pod.id.clone(), operation: "delete", why });
        }
        let _lock = self.end(&pod.id, &pod.dir)?;
        let pending = self.paths.pending(&pod.id);
        fs::rename(&pod.dir, &pending).map_err(Error::io(format!("pod {}: rename its directory", pod.id)))?;
        self.remove(&pod.id)
    }

    /// Kills a pod's init, waits until everything of the pod has ended, and takes its lock.
    fn end(&self, id: &str, dir: &Path) -> Result<OwnedFd> {
        let context = || format!("pod {id}: kill its init");
        if let Some(init) = Process::recorded(dir).map_err(Error::io(context()))? {
            self.kill(id, &init).map_err(Error::io(context()))?;
        }
        let lock = lock::open(&dir.join(LOCK), false).map_err(Error::io(context()))?;
        let until = Instant::now() + KILL_TIME;
        while !lock::try_exclusive(&lock).map_err(Error::io(context()))? {
            if Instant::now() > until {
                return Err(Error::io(context())(io::Error::new(io::ErrorKind::TimedOut, "it does not end")));
            }
            // Somebody is looking whether it is alive.
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(lock)
    }

    /// Kills an init and waits for it.
    fn kill(&self, id: &str, init: &Process) -> io::Result<()> {
        const QUICK: Duration = Duration::from_millis(200);
        init.kill()?;
        if init.wait(QUICK)? {
            return Ok(());
        }
        self.cgroups.thaw(id);
        if init.wait(KILL_TIME)? { Ok(()) } else { Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end")) }
    }

    /// Removes what dead callers have left. Cheap where there is nothing.
    pub(super) fn sweep(&self) -> Result<SweepReport> {
        let mut report = SweepReport::default();
        let leftovers = self.leftovers()?;
        let pending: Vec<String> = entries(&self.paths.pods())?
            .into_iter()
            .filter_map(|name| name.strip_suffix(PENDING_SUFFIX).map(str::to_owned))
            .collect();
        let intents = entries(&self.paths.intents())?;
        if leftovers.is_empty() && pending.is_empty() && intents.is_empty() {
            return Ok(report);
        }
        let _reservations = self.lock_reservations()?;
        for id in pending {
            if self.sweep_pending(&id)? {
                tracing::info!(pod = id, "swept a pod whose launch or deletion had not come to its end");
                report.pods.push(id);
            }
        }
        for id in intents {
            report.leftovers += usize::from(self.sweep_intent(&id)?);
        }
        for id in leftovers {
            if self.exists(&id) || self.paths.intents().join(&id).exists() {
                continue;
            }
            tracing::info!(pod = id, "removing what is left of a pod that does not exist");
            self.cgroups.remove(&id).map_err(Error::io(format!("pod {id}: remove its cgroups")))?;
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
        ids.extend(self.images.leases().map_err(|e| Error::io("list leases")(io::Error::other(e)))?);
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
            if !lock::try_exclusive(caller).map_err(Error::io(context()))? || !lock::is_at(caller, &path).map_err(Error::io(context()))? {
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
        if !lock::try_exclusive(&file).map_err(Error::io(context()))? || !lock::is_at(&file, &path).map_err(Error::io(context()))? {
            return Ok(false);
        }
        if paths::is_id(id) && !self.exists(id) {
            self.release(id)?;
        }
        fs::remove_file(&path).map_err(Error::io(context()))?;
        Ok(true)
    }
}

/// Says that images are being pulled for a pod, so that their lease is not taken for a leftover.
#[derive(Debug)]
pub(super) struct Intent {
    store: Arc<Store>,
    id: String,
    path: PathBuf,
    _lock: OwnedFd,
    /// The lease belongs to the reserved pod now.
    pub(super) reserved: bool,
}

impl Intent {
    pub(super) fn new(store: &Arc<Store>, id: &str) -> Result<Self> {
        let path = store.paths.intents().join(id);
        let context = || format!("create {}", path.display());
        loop {
            let lock = lock::open(&path, true).map_err(Error::io(context()))?;
            lock::exclusive(&lock).map_err(Error::io(context()))?;
            // A sweep may have come between.
            if lock::is_at(&lock, &path).map_err(Error::io(context()))? {
                return Ok(Self { store: store.clone(), id: id.to_owned(), path, _lock: lock, reserved: false });
            }
        }
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        if !self.reserved
            && let Err(error) = self.store.release(&self.id)
        {
            tracing::warn!(pod = self.id, %error, "the lease of a pod that was not run remains");
        }
        let _ = fs::remove_file(&self.path);
    }
}

/// A pod that is being launched. Unless it is kept, dropping it removes everything of it.
#[derive(Debug)]
pub(super) struct Pending {
    store: Arc<Store>,
    pub(super) id: String,
    lock: Option<OwnedFd>,
    _caller: OwnedFd,
    pub(super) init: Option<Process>,
    kept: bool,
}

impl Pending {
    pub(super) fn dir(&self) -> PathBuf {
        self.store.paths.pending(&self.id)
    }

    /// The lock, for the init.
    pub(super) fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.as_ref().ok_or_else(|| io::Error::other("the lock was given up"))?.try_clone()
    }

    /// Makes the pod permanent; it is removed again if it is dropped before [`keep`](Self::keep).
    pub(super) fn commit(&self) -> io::Result<PodDir> {
        let dir = self.store.paths.pod(&self.id);
        fs::rename(self.dir(), &dir)?;
        Ok(PodDir { id: self.id.clone(), dir })
    }

    /// The pod stays; returns its init, for the one who will reap it.
    pub(super) fn keep(mut self) -> Option<Process> {
        self.kept = true;
        self.init.take()
    }

    /// How the init ended, if it has; for error messages.
    pub(super) fn last_words(&self) -> Option<String> {
        const QUICK: Duration = Duration::from_millis(200);
        let init = self.init.as_ref()?;
        if !init.wait(QUICK).unwrap_or(false) {
            return None;
        }
        let log = fs::read_to_string(self.store.paths.log(&self.id, super::INIT_LOG)).unwrap_or_default();
        let words = log.lines().rev().find(|line| !line.is_empty()).unwrap_or_default().to_owned();
        match (words, init.reap()) {
            (words, None) => Some(words),
            (words, Some(status)) if words.is_empty() => Some(status),
            (words, Some(status)) => Some(format!("{status}: {words}")),
        }
    }

    fn undo(&mut self) -> Result<()> {
        let context = || format!("pod {}", self.id);
        if let Some(init) = &self.init {
            self.store.kill(&self.id, init).map_err(Error::io(format!("{}: kill its init", context())))?;
            init.reap();
        }
        match fs::rename(self.store.paths.pod(&self.id), self.dir()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::io(context())(e)),
            _ => {}
        }
        self.store.remove(&self.id)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if let Err(error) = self.undo() {
            tracing::error!(pod = self.id, %error, "not everything of the pod could be removed: the next command tries again");
        }
    }
}
