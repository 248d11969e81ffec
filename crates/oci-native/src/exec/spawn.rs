//! Starting the process: one clone, whose child does the rest itself ([`super::inside`]).

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use magik_sys::{
    cgroup::{MOUNT_ROOT, paths_of},
    clone::Clone,
};
use rustix::process::{DumpableBehavior, Pid};

use super::inside;
use crate::{
    cgroup::{self, Entry},
    fork,
    job::{Descriptors, ExecJob},
    process::birth::{self, Shared},
};

/// The new process, or the one that makes it and then ends.
#[derive(Debug)]
pub(crate) struct Made {
    first: Option<Pid>,
    born: Option<Shared>,
}

impl Made {
    /// A process whose pid is known already.
    pub(super) fn known(pid: i32) -> Self {
        Self {
            first: Pid::from_raw(pid.max(0)),
            born: None,
        }
    }

    /// The process that prepares one that is to join a pid namespace.
    pub(super) fn before(&self) -> Option<Pid> {
        self.first.filter(|_| self.born.is_some())
    }

    /// The pid of the process that executes the program, once known.
    pub(crate) fn pid(&self) -> Option<i32> {
        let pid = match &self.born {
            Some(born) => born.pid(),
            None => self.first,
        };
        pid.map(|pid| pid.as_raw_nonzero().get())
    }
}

/// Starts the process. It reports on `descriptors.report` why it failed, or closes it on success.
///
/// `sibling` makes it a child of this process's parent, and returns when it has left this process's
/// group. This process has one thread.
pub(crate) fn spawn(
    job: &ExecJob,
    preserve_fds: u32,
    descriptors: Descriptors,
    sibling: bool,
) -> io::Result<Made> {
    let init = job
        .init
        .pidfd()?
        .ok_or_else(|| io::Error::other("the container has ended"))?;
    // A container with the host's pids sees the child at once, with copies of our memory and
    // descriptors: none of its processes may trace the child or read its /proc (CVE-2016-9962).
    let _hidden = Hidden::begin()?;
    let born = Shared::new()?;
    let (left, leaves) = if sibling {
        let (left, leaves) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        (Some(left), Some(leaves))
    } else {
        (None, None)
    };

    let mask = fork::block_signals();
    let cloned = clone_into(&job.cgroup, job.init.pid, sibling);
    if let Ok(None) = cloned {
        drop(left);
        inside::run(job, preserve_fds, descriptors, init, leaves, &born);
    }
    fork::restore_signals(&mask);
    let first = cloned?;
    drop(leaves);
    if let Some(left) = left {
        // Its end comes when the child closes its copy.
        let _ = rustix::io::read(&left, &mut [0_u8; 1]);
    }
    Ok(Made {
        first,
        born: job.joins_pid().then_some(born),
    })
}

/// Hides this process and its children from others without `CAP_SYS_PTRACE` in its user namespace.
struct Hidden(DumpableBehavior);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = rustix::process::dumpable_behavior()?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let _ = rustix::process::set_dumpable_behavior(self.0);
    }
}

/// `None` in the child.
fn clone_into(cgroup: &Entry, init: i32, sibling: bool) -> io::Result<Option<Pid>> {
    let fork = |directory: Option<&OwnedFd>| {
        let clone = Clone {
            cgroup: directory.map(OwnedFd::as_fd),
            sibling,
            ..Clone::default()
        };
        birth::fork(&clone)
    };
    let directory = cgroup.directory()?;
    match fork(directory.as_ref()) {
        // The container has cgroups of its own below, one of which holds its init.
        Err(e) if directory.is_some() && e.raw_os_error() == Some(libc::EBUSY) => {
            let paths = paths_of(Some(init))?;
            let inner = paths.last().ok_or(e)?;
            let root = Path::new(MOUNT_ROOT);
            let inner = cgroup::directory(&root.join(inner.strip_prefix("/").unwrap_or(inner)))?;
            fork(Some(&inner))
        }
        other => other,
    }
}
