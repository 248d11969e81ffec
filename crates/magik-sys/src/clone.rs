//! Making processes: clone3(2), which can do what fork(2) cannot.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::atomic::AtomicI32,
};

use rustix::process::Pid;

/// linux/sched.h; libc has these as numbers of a type that is too small.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// How a process is made. Memory is never shared with it: it is a copy of this one, as fork's is.
#[derive(Debug, Default, Clone, Copy)]
pub struct Clone<'a> {
    /// The new namespaces that it is in, `CLONE_NEW*`, and what is shared with it (`CLONE_FILES`).
    pub flags: i32,
    /// The control group (v2) that it is born in.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Makes it a child of this process's parent, not of this process.
    pub sibling: bool,
    /// Has every signal that this process handles at its default in the child.
    pub clear_handlers: bool,
    /// Gets its pid, as this process numbers it, before it runs: in memory that is shared with it.
    pub pid: Option<&'a AtomicI32>,
}

/// A process that was made.
#[derive(Debug)]
pub struct Made {
    /// Its pid, as this process numbers it.
    pub pid: Pid,
    /// A descriptor of it.
    pub pidfd: OwnedFd,
}

impl Clone<'_> {
    /// Makes the process; `None` in the child.
    ///
    /// # Safety
    /// Either this process has one thread, so that its copy finds no lock held; or the child does
    /// nothing but make system calls until it executes a program or ends (signal-safety(7)).
    ///
    /// # Errors
    /// The kernel's.
    #[allow(unsafe_code, reason = "there is no safe fork")]
    pub unsafe fn fork(&self) -> io::Result<Option<Pid>> {
        // SAFETY: as promised to this function.
        unsafe { self.call(None) }
    }

    /// The same, with a descriptor of the process.
    ///
    /// # Safety
    /// As [`fork`](Self::fork).
    ///
    /// # Errors
    /// The kernel's.
    #[allow(unsafe_code, reason = "there is no safe fork")]
    pub unsafe fn fork_with_pidfd(&self) -> io::Result<Option<Made>> {
        let mut pidfd: RawFd = -1;
        // SAFETY: as promised to this function.
        let made = unsafe { self.call(Some(&mut pidfd)) }?;
        Ok(made.map(|pid| Made {
            pid,
            // SAFETY: the kernel has stored a new descriptor, which is ours.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }))
    }

    #[allow(unsafe_code, reason = "there is no safe clone3")]
    unsafe fn call(&self, pidfd: Option<&mut RawFd>) -> io::Result<Option<Pid>> {
        let flag = |flag: i32| u64::from(flag.cast_unsigned());
        // SAFETY: clone_args is plain data, for which zeroes mean "not used".
        let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
        arguments.flags = flag(self.flags);
        if let Some(cgroup) = self.cgroup {
            arguments.flags |= CLONE_INTO_CGROUP;
            arguments.cgroup = flag(cgroup.as_raw_fd());
        }
        if let Some(pid) = self.pid {
            arguments.flags |= flag(libc::CLONE_PARENT_SETTID);
            arguments.parent_tid = pid.as_ptr().expose_provenance() as u64;
        }
        if let Some(pidfd) = pidfd {
            arguments.flags |= flag(libc::CLONE_PIDFD);
            arguments.pidfd = (&raw mut *pidfd).expose_provenance() as u64;
        }
        if self.clear_handlers {
            arguments.flags |= CLONE_CLEAR_SIGHAND;
        }
        if self.sibling {
            arguments.flags |= flag(libc::CLONE_PARENT);
        } else {
            arguments.exit_signal = flag(libc::SIGCHLD);
        }
        // SAFETY: without CLONE_VM this is a fork, for which the caller has promised what it takes;
        // the structure has the size that is said, and the addresses in it are of numbers that are
        // alive.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code, reason = "this is what is tested")]
    fn a_child_is_known_by_pid_and_descriptor() {
        let clone = Clone {
            clear_handlers: true,
            ..Clone::default()
        };
        // SAFETY: the child makes one system call.
        let made = match unsafe { clone.fork_with_pidfd() }.unwrap() {
            Some(made) => made,
            // SAFETY: this is the child.
            None => unsafe { libc::_exit(7) },
        };
        let id = rustix::process::WaitId::PidFd(std::os::fd::AsFd::as_fd(&made.pidfd));
        let ended = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED).unwrap();
        assert_eq!(ended.and_then(|status| status.exit_status()), Some(7));
    }
}
