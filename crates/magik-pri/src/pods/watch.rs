//! Sees what changes among all pods: a thread that waits for the kernel to say so.
//!
//! It says when a pod's directory gets its name (the commit) or loses it (the deletion), when the
//! pod's status is replaced (inotify), and when an init ends, which may leave no last word (a
//! descriptor of each process).

use std::{
    collections::{BTreeSet, HashMap},
    io,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};

use magik_infra::STATUS_FILE;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
};

use super::{
    paths::is_id,
    process::Process,
    store::{PodDir, Store},
};
use crate::{
    Error, Result,
    changes::{Changes, PodChange},
};

/// How much of what the kernel says is read at once, in bytes.
const BUFFER: usize = 16 << 10;
/// A pod whose init has ended may be somebody else's for a moment, who launches or deletes it: how
/// soon it is looked at again.
const AGAIN: Duration = Duration::from_millis(20);

/// The thread; it ends with this.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) changes: Arc<Changes>,
    _end: OwnedFd,
}

impl Watcher {
    /// Starts it. The pods that there are have been noted when this returns.
    pub(super) fn start(store: Arc<Store>) -> Result<Self> {
        let changes = Changes::new();
        let (ended, end) = pipe_with(PipeFlags::CLOEXEC).map_err(Error::io("make a pipe"))?;
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK);
        let inotify = inotify.map_err(Error::io("inotify_init"))?;
        let pods = store.paths.pods();
        let flags = WatchFlags::ONLYDIR | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO;
        let names = inotify::add_watch(&inotify, &pods, flags);
        let mut eyes = Eyes {
            names: names.map_err(Error::io(format!("watch {}", pods.display())))?,
            store,
            changes: changes.clone(),
            inotify,
            seen: HashMap::new(),
            dirs: HashMap::new(),
        };
        eyes.look_at_all()?;
        let watch = move || {
            if let Err(error) = eyes.watch(&ended) {
                eyes.changes.fail(error.to_string());
            }
        };
        let thread = std::thread::Builder::new().name("pods".to_owned()).spawn(watch);
        thread.map_err(Error::io("start a thread"))?;
        Ok(Self { changes, _end: end })
    }
}

/// What the thread works with.
#[derive(Debug)]
struct Eyes {
    store: Arc<Store>,
    changes: Arc<Changes>,
    inotify: OwnedFd,
    /// The watch of the directory of all pods.
    names: i32,
    /// The pods that there are, by id.
    seen: HashMap<String, Seen>,
    /// The ids by the watches of their directories.
    dirs: HashMap<i32, String>,
}

#[derive(Debug)]
struct Seen {
    dir: i32,
    /// While its end is waited for.
    init: Option<Process>,
    /// Whether it ought to be over and is not.
    again: bool,
}

impl Eyes {
    fn watch(&mut self, ended: &OwnedFd) -> Result<()> {
        let failed = Error::io::<Errno>;
        loop {
            let again = self.seen.values().any(|pod| pod.again);
            let limit = again.then(|| Timespec::try_from(AGAIN)).transpose();
            let limit = limit.map_err(|e| Error::io("poll")(io::Error::other(e)))?;
            let inits = self
                .seen
                .iter()
                .filter_map(|(id, pod)| Some((id, pod.init.as_ref()?)));
            let (ids, inits): (Vec<_>, Vec<_>) = inits.unzip();
            let mut fds = vec![
                PollFd::new(ended, PollFlags::IN),
                PollFd::new(&self.inotify, PollFlags::IN),
            ];
            fds.extend(inits.iter().map(|init| PollFd::new(*init, PollFlags::IN)));
            match poll(&mut fds, limit.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(failed("poll")(e)),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if ready[0] {
                return Ok(());
            }
            let over = ids.into_iter().zip(&ready[2..]).filter(|(_, over)| **over);
            let mut changed: BTreeSet<String> = over.map(|(id, _)| id.clone()).collect();
            for id in &changed {
                if let Some(pod) = self.seen.get_mut(id) {
                    pod.init = None;
                }
            }
            changed.extend(
                self.seen
                    .iter()
                    .filter(|(_, pod)| pod.again)
                    .map(|(id, _)| id.clone()),
            );
            if self.read(&mut changed).map_err(failed("read of inotify"))? {
                self.look_at_all()?;
            }
            for id in changed {
                self.look(&id)?;
            }
        }
    }

    /// The ids of which something is said; whether more was said than the kernel keeps.
    fn read(&self, changed: &mut BTreeSet<String>) -> Result<bool, Errno> {
        let mut buffer = [const { MaybeUninit::uninit() }; BUFFER];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut overflown = false;
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(overflown),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e),
            };
            overflown |= event.events().contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().and_then(|name| name.to_str().ok());
            if event.wd() == self.names {
                changed.extend(name.filter(|name| is_id(name)).map(str::to_owned));
            } else if name == Some(STATUS_FILE) {
                changed.extend(self.dirs.get(&event.wd()).cloned());
            }
        }
    }

    fn look_at_all(&mut self) -> Result<()> {
        let mut ids: BTreeSet<String> = self.store.all()?.into_iter().map(|pod| pod.id).collect();
        ids.extend(self.seen.keys().cloned());
        ids.iter().try_for_each(|id| self.look(id))
    }

    /// Notes how a pod is.
    fn look(&mut self, id: &str) -> Result<()> {
        let pod = PodDir {
            dir: self.store.paths.pod(id),
            id: id.to_owned(),
        };
        let looked = self.see(&pod).and_then(|()| pod.status());
        match looked {
            Ok(status) => {
                if let Some(seen) = self.seen.get_mut(id) {
                    if status.phase.is_final() {
                        seen.init = None;
                    }
                    seen.again = !status.phase.is_final() && seen.init.is_none();
                }
                self.changes.note(PodChange::Is(Arc::new(status)));
                Ok(())
            }
            Err(Error::NotFound(_)) => {
                if let Some(seen) = self.seen.remove(id) {
                    self.dirs.remove(&seen.dir);
                    // The kernel may have done so itself.
                    let _ = inotify::remove_watch(&self.inotify, seen.dir);
                }
                self.changes.note(PodChange::Gone(id.to_owned()));
                Ok(())
            }
            // One pod whose status cannot be read does not hide the others.
            Err(error) if self.seen.contains_key(id) => {
                tracing::warn!(id, %error, "the status of a pod cannot be read");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Has the kernel say what becomes of a pod, if it does not yet.
    fn see(&mut self, pod: &PodDir) -> Result<()> {
        if self.seen.contains_key(&pod.id) {
            return Ok(());
        }
        let flags = WatchFlags::ONLYDIR | WatchFlags::MOVED_TO;
        let dir = match inotify::add_watch(&self.inotify, &pod.dir, flags) {
            Ok(dir) => dir,
            Err(Errno::NOENT) => return Err(Error::NotFound(pod.id.clone())),
            Err(e) => return Err(Error::io(format!("watch {}", pod.dir.display()))(e)),
        };
        self.dirs.insert(dir, pod.id.clone());
        let seen = Seen {
            dir,
            init: pod.init()?,
            again: false,
        };
        self.seen.insert(pod.id.clone(), seen);
        Ok(())
    }
}
