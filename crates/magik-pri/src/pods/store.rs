//! The pods on disk: finding them, how they stand, reserving, removing, sweeping.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use magik_image::ImageStore;
use magik_infra::{
    EVENTS_FILE, EventStream, STATUS_FILE,
    status::{Phase, PodReason, PodStatus},
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::watch;

use super::{
    cgroup::Hierarchies,
    lock,
    paths::{self, Paths, Roots, entries, name_link},
    process::Process,
};
use crate::{Error, PodSpec, Result};

/// Held by the launcher and the init: the pod's liveness.
pub(crate) const LOCK: &str = "lock";
/// Held by whoever launches or deletes the pod, and by nobody else.
pub(crate) const CALLER: &str = "caller";
/// A symlink whose target is the file name of the pod's reservation.
pub(crate) const NAME: &str = "name";
/// What the pod was run with.
pub(crate) const SPEC: &str = "spec.json";
/// The most that is read of a status, or of events, in bytes.
const MAX_DOCUMENT_SIZE: u64 = 16 << 20;
/// How long a killed init may take to end.
const KILL_TIME: Duration = Duration::from_secs(10);

/// The pods of one pair of roots.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) paths: Paths,
    pub(crate) images: ImageStore,
    pub(crate) cgroups: Hierarchies,
    /// Has a receiver for each pod that is being run, until it is a pod or nothing is left of it.
    pub(crate) busy: watch::Sender<()>,
}

/// A committed pod.
#[derive(Debug, Clone)]
pub(crate) struct PodDir {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
}

impl PodDir {
    /// Whether its init is alive.
    pub(crate) fn is_alive(&self) -> Result<bool> {
        match lock::open(&self.dir.join(LOCK), false).and_then(|file| lock::is_free(&file)) {
            Ok(free) => Ok(!free),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(self.id.clone())),
            Err(e) => Err(Error::io(format!("pod {}: lock", self.id))(e)),
        }
    }

    /// How it stands; a pod whose init died without a last word is `Failed`.
    pub(crate) fn status(&self) -> Result<PodStatus> {
        let status = self.read_status()?;
        if status.phase.is_final() || self.is_alive()? {
            return Ok(status);
        }
        // The init may have ended between the two.
        let mut status = self.read_status()?;
        if !status.phase.is_final() {
            status.phase = Phase::Failed;
            status.reason = Some(PodReason::InitDied);
            status.message = Some("the pod's init ended before it, and every container with it".into());
        }
        Ok(status)
    }

    /// What it was run with.
    pub(crate) fn spec(&self) -> Result<PodSpec> {
        let path = self.dir.join(SPEC);
        let failed = || Error::io(format!("read {}", path.display()));
        let bytes = read_document(&path).map_err(failed())?;
        serde_json::from_slice(&bytes)
            .map_err(io::Error::from)
            .map_err(failed())
    }

    /// What happened in it, if it is over.
    pub(crate) fn past_events(&self) -> Result<EventStream> {
        let path = self.dir.join(EVENTS_FILE);
        let document = match read_document(&path) {
            Ok(document) => document,
            // Its init died, or could not write it.
            Err(e) if e.kind() == io::ErrorKind::NotFound => b"[]".to_vec(),
            Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
        };
        EventStream::of_past(&document)
            .map_err(|e| Error::io(format!("read {}", path.display()))(io::Error::from(e)))
    }

    fn read_status(&self) -> Result<PodStatus> {
        let path = self.dir.join(STATUS_FILE);
        let bytes = match read_document(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(self.id.clone())),
            Err(e) => return Err(Error::io(format!("read {}", path.display()))(e)),
        };
        let status = serde_json::from_slice::<PodStatus>(&bytes)
            .map_err(|e| Error::io(format!("read {}", path.display()))(io::Error::from(e)))?;
        // Who writes the file may be the pod's own program: which pod it is about is not said there.
        let id = self.id.clone();
        Ok(PodStatus { id, ..status })
    }

    /// Namespace and name as they were reserved, or the id: what the status says of them may be the
    /// pod's own program's words.
    fn full_name(&self) -> String {
        let reserved = fs::read_link(self.dir.join(NAME)).ok();
        let name = reserved.as_deref().and_then(Path::to_str);
        name.map_or_else(|| self.id.clone(), |name| name.replacen('_', "/", 1))
    }

    /// The init, if it is alive.
    pub(crate) fn init(&self) -> Result<Option<Process>> {
        Process::recorded(&self.dir).map_err(Error::io(format!("pod {}: find its init", self.id)))
    }
}

/// Reads a file that a pod's init writes. An init that was taken over may have put something else in
/// its place: no link is followed, and nothing is waited for.
fn read_document(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_SIZE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Store {
    /// Makes the directories that are not there, and touches nothing else.
    pub(crate) fn open(roots: &Roots) -> Result<Self> {
        let paths = Paths::open(roots)?;
        let images = ImageStore::open(paths.data_root());
        Ok(Self {
            images: images.map_err(|e| Error::io("open the image store")(io::Error::other(e)))?,
            cgroups: Hierarchies::detect().map_err(Error::io("find the cgroup hierarchies"))?,
            busy: watch::Sender::new(()),
            paths,
        })
    }

    /// Finds a committed pod by id, `namespace/name`, name in the namespace `default`, or the start of an id.
    pub(crate) fn resolve(&self, pod: &str) -> Result<PodDir> {
        let unknown = || Error::NotFound(pod.chars().take(300).collect());
        if paths::is_id(pod) {
            return self.committed(pod).ok_or_else(unknown);
        }
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        // A name cannot hold what would make it a path.
        if !name.contains(['/', '\0'])
            && !namespace.contains('\0')
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
                let name = |p: &PodDir| {
                    p.status().map_or_else(
                        |_| p.id.clone(),
                        |s| format!("{}/{} ({})", s.namespace, s.name, p.id),
                    )
                };
                Err(Error::Ambiguous {
                    given: pod.into(),
                    candidates: found.iter().map(name).collect(),
                })
            }
        }
    }

    fn committed(&self, id: &str) -> Option<PodDir> {
        let dir = self.paths.pod(id);
        (paths::is_id(id) && dir.is_dir()).then(|| PodDir {
            id: id.to_owned(),
            dir,
        })
    }

    /// Every committed pod.
    pub(crate) fn all(&self) -> Result<Vec<PodDir>> {
        let names = entries(&self.paths.pods())?;
        Ok(names
            .into_iter()
            .filter(|n| paths::is_id(n))
            .map(|id| PodDir {
                dir: self.paths.pod(&id),
                id,
            })
            .collect())
    }

    /// Whether a pod of that id exists, pending or committed. Pending is looked for first: it turns into the other.
    pub(crate) fn exists(&self, id: &str) -> bool {
        self.paths.pending(id).exists() || self.paths.pod(id).exists()
    }

    pub(crate) fn lock_reservations(&self) -> Result<OwnedFd> {
        let path = self.paths.reservations_lock();
        let context = || format!("lock {}", path.display());
        let file = lock::open(&path, true).map_err(Error::io(context()))?;
        lock::exclusive(&file).map_err(Error::io(context()))?;
        Ok(file)
    }

    /// Deletes a committed pod. Several callers take turns; those that come too late find it gone, which is no error.
    pub(crate) fn delete(&self, pod: &PodDir, force: bool) -> Result<()> {
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
        // A full disk keeps nobody from deleting; while the file is not signed its holder is taken to be alive.
        let _ = lock::sign(&caller);
        if !force && pod.is_alive()? && !pod.status()?.phase.is_final() {
            return Err(Error::WrongState {
                pod: pod.full_name(),
                operation: "delete",
                why: "is still running: stop it first, or use force".to_owned(),
            });
        }
        let _lock = self.end(&pod.id, &pod.dir)?;
        let pending = self.paths.pending(&pod.id);
        fs::rename(&pod.dir, &pending).map_err(Error::io(format!("pod {}: rename its directory", pod.id)))?;
        self.discard(&pod.id)
    }

    /// Kills a pod's init, waits until everything of the pod has ended, and takes its lock.
    pub(crate) fn end(&self, id: &str, dir: &Path) -> Result<OwnedFd> {
        let context = || format!("pod {id}: kill its init");
        if let Some(init) = Process::recorded(dir).map_err(Error::io(context()))? {
            self.kill(id, &init).map_err(Error::io(context()))?;
        }
        let lock = lock::open(&dir.join(LOCK), false).map_err(Error::io(context()))?;
        let until = Instant::now() + KILL_TIME;
        while !lock::try_exclusive(&lock).map_err(Error::io(context()))? {
            if Instant::now() > until {
                return Err(Error::io(context())(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "it does not end",
                )));
            }
            // Somebody is looking whether it is alive.
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(lock)
    }

    /// Kills an init, waits for it, and takes its exit status if it is this process's child.
    pub(crate) fn kill(&self, id: &str, init: &Process) -> io::Result<()> {
        const QUICK: Duration = Duration::from_millis(200);
        init.kill()?;
        if !init.wait(QUICK)? {
            self.cgroups.thaw(id);
            if !init.wait(KILL_TIME)? {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not end"));
            }
        }
        init.reap();
        Ok(())
    }
}
