//! Starting the process: one clone, whose child does the rest itself ([`super::inside`]).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    process::{DumpableBehavior, Pid, Signal},
    thread::{
        LinkNameSpaceType, ThreadNameSpaceType, move_into_link_name_space, move_into_thread_name_spaces,
    },
};

use super::inside;
use crate::{
    cgroup::{self, Entry},
    worker::{self, Descriptors, ExecJob},
};

/// Starts the process, which then reports to `descriptors.report` why it could not be executed, or closes it. Returns its
/// pid.
///
/// `sibling` makes it a child of this process's parent, and returns when it has left this process's group. This process has
/// one thread.
pub(crate) fn spawn(
    job: &ExecJob,
    preserve_fds: u32,
    descriptors: Descriptors,
    sibling: bool,
) -> io::Result<i32> {
    let init = job
        .init
        .pidfd()?
        .ok_or_else(|| io::Error::other("the container has ended"))?;
    // From its first moment on the child is visible in the container's pid namespace, with copies of all our memory and
    // descriptors: nobody there may trace it or look into its /proc (CVE-2016-9962).
    let _hidden = Hidden::begin()?;
    let nursery = Nursery::choose(&init, job.namespaces())?;
    let (left, leaves) = if sibling {
        let (left, leaves) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        (Some(left), Some(leaves))
    } else {
        (None, None)
    };

    let mask = worker::block_signals();
    let cloned = clone_into(&job.cgroup, job.init.pid, sibling);
    if let Ok(None) = cloned {
        inside::run(job, preserve_fds, descriptors, init, leaves);
    }
    worker::restore_signals(&mask);
    let back = nursery.leave();
    let pid = cloned?.ok_or_else(|| io::Error::other("clone3 returned no pid"))?;
    if let Err(error) = back {
        // Our own later children would be the container's.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        return Err(error);
    }
    drop(leaves);
    if let Some(left) = left {
        // Its end comes when the child closes its copy.
        let _ = rustix::io::read(&left, &mut [0_u8; 1]);
    }
    Ok(pid.as_raw_nonzero().get())
}

/// While it lives nobody without `CAP_SYS_PTRACE` over this process's user namespace can look into it, or what it forks.
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

/// The pid namespace that this process's children are born in, where it is another than its own.
struct Nursery(Option<OwnedFd>);

impl Nursery {
    fn choose(init: &OwnedFd, namespaces: ThreadNameSpaceType) -> io::Result<Self> {
        if !namespaces.contains(ThreadNameSpaceType::PROCESS_ID) {
            return Ok(Self(None));
        }
        let own = rustix::fs::open(
            "/proc/self/ns/pid",
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::PROCESS_ID)?;
        Ok(Self(Some(own)))
    }

    fn leave(self) -> io::Result<()> {
        match self.0 {
            Some(own) => Ok(move_into_link_name_space(
                own.as_fd(),
                Some(LinkNameSpaceType::ProcessID),
            )?),
            None => Ok(()),
        }
    }
}

/// `None` in the child.
fn clone_into(cgroup: &Entry, init: i32, sibling: bool) -> io::Result<Option<Pid>> {
    let Entry::V2(dir) = cgroup else {
        return clone3(None, sibling);
    };
    match clone3(Some(&directory(dir)?), sibling) {
        // The container has made cgroups of its own below: its processes are in one of those, as its init is.
        Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
            let paths = cgroup::paths_of(Some(init))?;
            let inner = paths.last().ok_or(e)?;
            let root = Path::new(cgroup::MOUNT_ROOT);
            clone3(
                Some(&directory(&root.join(inner.strip_prefix("/").unwrap_or(inner)))?),
                sibling,
            )
        }
        other => other,
    }
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// clone(2) without any sharing, so a fork; `None` in the child.
#[allow(unsafe_code, reason = "there is no safe fork")]
fn clone3(cgroup: Option<&OwnedFd>, sibling: bool) -> io::Result<Option<Pid>> {
    // SAFETY: all zero is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(io::Error::other)?;
    }
    if sibling {
        arguments.flags |= libc::CLONE_PARENT as u64;
    } else {
        arguments.exit_signal = libc::SIGCHLD as u64;
    }
    // SAFETY: this process has one thread, so its copy finds no lock held; the structure has the size that is said.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut arguments,
            size_of::<libc::clone_args>(),
        )
    };
    match i32::try_from(answer) {
        Ok(0) => Ok(None),
        Ok(pid) if pid > 0 => Ok(Pid::from_raw(pid)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// linux/sched.h; libc's constant is too small a type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
