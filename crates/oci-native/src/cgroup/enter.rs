//! Putting another process into a container's cgroup, without the wait that `cgroup.procs` causes.
//!
//! A write to `cgroup.procs` moves all threads of a process. It takes a lock that every fork needs,
//! and that takes an RCU grace period. A process with one thread avoids it: on v1 it writes to
//! `tasks`, on v2 it is born in the cgroup (`CLONE_INTO_CGROUP`).

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use magik_sys::cgroup::missing_is_none;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::{Cgroup, Layout};

/// The cgroup of a container, for a process to enter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Entry {
    /// The directory to be born in.
    V2(PathBuf),
    /// The directories to write oneself to, one per hierarchy.
    V1(Vec<PathBuf>),
}

impl Cgroup<'_> {
    pub(crate) fn entry(&self) -> Entry {
        match self.layout {
            Layout::V2(root) => Entry::V2(self.below(root)),
            Layout::V1(_) => Entry::V1(self.dirs()),
        }
    }
}

impl Entry {
    /// Where a process is to be born (v2).
    pub(crate) fn directory(&self) -> io::Result<Option<OwnedFd>> {
        match self {
            Self::V2(path) => directory(path).map(Some),
            Self::V1(_) => Ok(None),
        }
    }

    /// Moves this process, which has one thread; on v2 it has been there from the start.
    pub(crate) fn enter(&self) -> io::Result<()> {
        let Self::V1(dirs) = self else { return Ok(()) };
        for dir in dirs {
            let tasks = dir.join("tasks");
            // A hierarchy that was mounted later does not have the container.
            missing_is_none(fs::OpenOptions::new().write(true).open(&tasks))
                .and_then(|file| file.map_or(Ok(()), |mut file| io::Write::write_all(&mut file, b"0")))
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", tasks.display())))?;
        }
        Ok(())
    }
}

/// Opens a cgroup for a process to be born in.
pub(crate) fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}
