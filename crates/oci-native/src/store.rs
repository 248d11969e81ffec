//! What is kept of a container: `<root>/<id>/`.
//!
//! ```text
//! <root>/<id>/record.json   pid, start time, cgroup, bundle; replaced by rename
//!             config.json   the runtime spec the container was made from
//!             seccomp.bpf   the compiled filter, if it has one
//!             exec.fifo     open for reading in the init until it executes its program
//!             start.sock    through which the init is told to execute it
//!             init.pid      the init's pid while it is made
//! ```
//!
//! The lock of a container is an flock of its directory: it needs no file of its own, and vanishes
//! with its holder. A container whose record cannot be read can still be deleted.

use std::{
    collections::HashMap,
    fs, io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use magik_oci::{ContainerId, ContainerState, Error, Result, Status};
use magik_sys::process::Process;
use rustix::fs::{FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

/// The most a record may have in bytes; annotations are the only part that grows.
const MAX_RECORD_SIZE: u64 = 4 << 20;
const RECORD: &str = "record.json";

/// The durable facts of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) oci_version: String,
    pub(crate) id: ContainerId,
    pub(crate) bundle: PathBuf,
    #[serde(default)]
    pub(crate) annotations: HashMap<String, String>,
    /// RFC 3339.
    pub(crate) created: String,
    /// Absolute, canonical, below the mount of each hierarchy.
    pub(crate) cgroup: PathBuf,
    /// The container's init; absent while it is being created.
    pub(crate) init: Option<Process>,
    /// Which hooks the bundle has that are run outside of creation.
    #[serde(default)]
    pub(crate) poststart: bool,
    #[serde(default)]
    pub(crate) poststop: bool,
}

impl Record {
    /// As the runtime-spec's state.
    pub(crate) fn state(self, status: Status) -> ContainerState {
        ContainerState {
            oci_version: self.oci_version,
            id: self.id,
            status,
            pid: self.init.filter(|_| status != Status::Stopped).map(|p| p.pid),
            bundle: self.bundle,
            annotations: self.annotations,
            created: Some(self.created),
        }
    }
}

/// The directory of all containers.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id)
    }

    /// Reserves an id: makes its directory and locks it.
    pub(crate) fn reserve(&self, id: &ContainerId) -> Result<Locked> {
        let make = |dir: &Path, all| fs::DirBuilder::new().recursive(all).mode(0o700).create(dir);
        let dir = self.dir(id);
        let made = match make(&dir, false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                make(&self.root, true).map_err(Error::io(format!("creating {}", self.root.display())))?;
                make(&dir, false)
            }
            other => other,
        };
        match made {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists(id.clone()));
            }
            Err(e) => return Err(Error::io(format!("creating {}", dir.display()))(e)),
        }
        // A concurrent delete may be quicker: then our reservation is over.
        match self.try_lock(id)? {
            Some(locked) => Ok(locked),
            None => Err(Error::AlreadyExists(id.clone())),
        }
    }

    /// Waits for the lock of a container.
    pub(crate) async fn lock(&self, id: &ContainerId) -> Result<Locked> {
        let mut pause = Duration::from_micros(500);
        loop {
            if let Some(locked) = self.try_lock(id)? {
                return Ok(locked);
            }
            // Blocking in flock would need a thread, which a process that forks must not have.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// `None` when another process has it.
    fn try_lock(&self, id: &ContainerId) -> Result<Option<Locked>> {
        let dir = self.dir(id);
        let failed = |e: rustix::io::Errno| Error::io(format!("locking {}", dir.display()))(e.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(&dir, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Err(Error::NotFound(id.clone())),
            Err(e) => return Err(failed(e)),
        };
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(failed(e)),
        }
        // Deleted, or deleted and made anew, since it was opened.
        let held = rustix::fs::fstat(&fd).map_err(failed)?;
        match fs::symlink_metadata(&dir) {
            Ok(now) if (now.dev(), now.ino()) == (held.st_dev, held.st_ino) => Ok(Some(Locked {
                id: id.clone(),
                dir,
                fd,
            })),
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotFound(id.clone())),
            Err(e) => Err(Error::io(format!("locking {}", dir.display()))(e)),
        }
    }

    /// Whether a process holds the lock.
    pub(crate) fn is_locked(&self, id: &ContainerId) -> Result<bool> {
        Ok(self.try_lock(id)?.is_none())
    }

    /// Reads a record without the lock; replacing it by rename makes that safe.
    pub(crate) fn read(&self, id: &ContainerId) -> Result<Record> {
        read_record(&self.dir(id), id)
    }

    /// The ids that have a directory.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>> {
        let failed = || Error::io(format!("reading {}", self.root.display()));
        let mut ids = Vec::new();
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(ids),
            Err(e) => return Err(failed()(e)),
        };
        for entry in entries {
            let entry = entry.map_err(failed())?;
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            if let (true, Some(Ok(id))) = (is_dir, entry.file_name().to_str().map(ContainerId::new)) {
                ids.push(id);
            }
        }
        ids.sort();
        Ok(ids)
    }
}

fn read_record(dir: &Path, id: &ContainerId) -> Result<Record> {
    let file = dir.join(RECORD);
    let damaged = |why: String| {
        let reason = format!("{}: {why}; delete it with force", file.display());
        Error::failed(id, "reading its state", reason)
    };
    let bytes = match fs::metadata(&file) {
        Ok(meta) if meta.len() > MAX_RECORD_SIZE => return Err(damaged("too large".into())),
        Ok(_) => fs::read(&file).map_err(|e| damaged(e.to_string()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound && !dir.is_dir() => {
            return Err(Error::NotFound(id.clone()));
        }
        Err(e) => return Err(damaged(e.to_string())),
    };
    let record: Record = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    if &record.id != id {
        Err(damaged(format!("is of container {}", record.id)))
    } else {
        Ok(record)
    }
}

/// A container whose lock is held.
#[derive(Debug)]
pub(crate) struct Locked {
    id: ContainerId,
    dir: PathBuf,
    fd: OwnedFd,
}

impl Locked {
    pub(crate) fn id(&self) -> &ContainerId {
        &self.id
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    pub(crate) fn read(&self) -> Result<Record> {
        read_record(&self.dir, &self.id)
    }

    /// Replaces the record: readers see the old or the new one, even if this process is killed.
    pub(crate) fn write(&self, record: &Record) -> Result<()> {
        let new = self.dir.join("record.json.new");
        let bytes = serde_json::to_vec(record).unwrap_or_default();
        fs::write(&new, bytes)
            .and_then(|()| fs::rename(&new, self.dir.join(RECORD)))
            .map_err(Error::io(format!("writing {}", self.dir.join(RECORD).display())))
    }

    /// Removes the directory, and with it the container's existence.
    pub(crate) fn remove(self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("removing {}", self.dir.display()))(e))
            }
            _ => Ok(()),
        }
    }
}

/// Writes a pid to a file. When the file appears, it holds the whole pid.
///
/// # Errors
/// It cannot be written.
pub fn write_pid_file(file: &Path, pid: i32) -> Result<()> {
    let mut new = file.to_owned().into_os_string();
    new.push(".new");
    fs::write(&new, pid.to_string())
        .and_then(|()| fs::rename(&new, file))
        .map_err(Error::io(format!("writing {}", file.display())))
}
