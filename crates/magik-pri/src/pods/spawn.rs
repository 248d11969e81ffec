//! Starting the pod init: one `clone3` into new namespaces, then our own binary with exactly the descriptors that it is given.

use std::{
    ffi::{CStr, CString, OsStr},
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use magik_sys::{clone::Clone, program::pointers};
use rustix::fs::{Mode, OFlags};

use super::process::Process;
use crate::limits::MAX_HOST_PORTS_PER_POD;

/// Where the descriptors wait for their numbers: above all of these.
const LOWEST: RawFd = 128;
const _: () = assert!(6 + MAX_HOST_PORTS_PER_POD < LOWEST as usize);
/// The exit status of a child that could not become the init.
const CANNOT_EXECUTE: i32 = 127;

/// What the init is started with.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    /// The binary; its `main` is an init's.
    pub(crate) path: &'a Path,
    /// The binary, open, in a form that nobody can write to; absent: it is opened.
    pub(crate) sealed: Option<OwnedFd>,
    /// Its arguments, the name of the program first.
    pub(crate) arguments: &'a [&'a OsStr],
    /// Its environment, `NAME=value`.
    pub(crate) environment: &'a [String],
    /// Descriptors 0 to 5.
    pub(crate) descriptors: [OwnedFd; 6],
    /// Those from 6 on: the host's listeners for the pod's ports.
    pub(crate) listeners: Vec<OwnedFd>,
    /// The cgroup it starts in (v2).
    pub(crate) cgroup: Option<OwnedFd>,
    /// What it gets of its own beside mounts and host name; `None`: nothing at all.
    pub(crate) namespaces: Option<Namespaces>,
}

/// The namespaces that not every init gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Namespaces {
    /// Users: the caller is root in it, and nobody else is anybody. For callers who may make no other namespaces.
    pub(crate) user: bool,
    /// Processes; without it they are the host's, and the init's end does not end the others.
    pub(crate) pid: bool,
    /// System V IPC and POSIX message queues.
    pub(crate) ipc: bool,
    /// Network interfaces, ports, routes.
    pub(crate) network: bool,
}

impl Namespaces {
    fn flags(self) -> i32 {
        let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWUTS;
        if self.pid {
            flags |= libc::CLONE_NEWPID;
        }
        if self.ipc {
            flags |= libc::CLONE_NEWIPC;
        }
        if self.network {
            flags |= libc::CLONE_NEWNET;
        }
        if self.user {
            flags |= libc::CLONE_NEWUSER;
        }
        flags
    }
}

/// Starts the init.
#[allow(unsafe_code, reason = "there is no safe clone3")]
pub(crate) fn spawn(init: Init<'_>) -> io::Result<Process> {
    let binary = match init.sealed {
        Some(binary) => binary,
        None => rustix::fs::open(init.path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?,
    };
    // Every allocation is made before the clone: another thread may hold the allocator's lock for ever in the child.
    let arguments = c_strings(init.arguments.iter().map(|a| a.as_bytes().to_vec()))?;
    let environment = c_strings(init.environment.iter().map(|v| v.clone().into_bytes()))?;
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
    let moved = init
        .descriptors
        .iter()
        .chain(&init.listeners)
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, LOWEST))
        .collect::<Result<Vec<_>, _>>()?;
    let binary = rustix::io::fcntl_dupfd_cloexec(&binary, LOWEST)?;
    drop((init.descriptors, init.listeners));
    let numbers: Vec<RawFd> = moved.iter().map(AsRawFd::as_raw_fd).collect();

    let maps = init.namespaces.is_some_and(|own| own.user).then(IdMaps::own);
    let child = Child {
        moved: &numbers,
        binary: binary.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        maps,
    };
    let clone = Clone {
        flags: init.namespaces.map_or(0, Namespaces::flags),
        cgroup: init.cgroup.as_ref().map(AsFd::as_fd),
        clear_handlers: true,
        ..Clone::default()
    };
    // SAFETY: the child runs `become_init` alone, which makes system calls and nothing else, and
    // never returns.
    match unsafe { clone.fork_with_pidfd() }? {
        Some(made) => Ok(Process::new(made.pid, made.pidfd)),
        // SAFETY: this is the child, and all it points to was copied with it.
        None => unsafe { become_init(&child) },
    }
}

fn c_strings(strings: impl Iterator<Item = Vec<u8>>) -> io::Result<Vec<CString>> {
    strings
        .map(|s| CString::new(s).map_err(io::Error::other))
        .collect()
}

/// What the child works with: numbers and pointers to what the parent allocated.
struct Child<'a> {
    moved: &'a [RawFd],
    binary: RawFd,
    argv: *const *const libc::c_char,
    envp: *const *const libc::c_char,
    maps: Option<IdMaps>,
}

/// What is written to make the caller root of a new user namespace (user_namespaces(7)): files below /proc/self, and texts.
struct IdMaps([(&'static CStr, String); 3]);

impl IdMaps {
    fn own() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        Self([
            (c"/proc/self/setgroups", "deny".to_owned()),
            (c"/proc/self/uid_map", format!("0 {} 1", uid.as_raw())),
            (c"/proc/self/gid_map", format!("0 {} 1", gid.as_raw())),
        ])
    }
}

/// The child's whole life before the init: signals, session, keyring, descriptors, execve.
///
/// # Safety
/// Only in the child of a clone, with `child` as [`spawn`] makes it.
#[allow(unsafe_code, reason = "nothing but raw system calls is allowed here")]
unsafe fn become_init(child: &Child<'_>) -> ! {
    // SAFETY: plain system calls on numbers, and on memory that the parent prepared.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::setsid();
        if magik_sys::own_keyring().is_err() {
            libc::_exit(CANNOT_EXECUTE);
        }
        if let Some(IdMaps(maps)) = &child.maps {
            for (path, text) in maps {
                let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                if file < 0 || libc::write(file, text.as_ptr().cast(), text.len()) < 0 {
                    libc::_exit(CANNOT_EXECUTE);
                }
                libc::close(file);
            }
        }
        let mut number = 0;
        for moved in child.moved {
            if libc::dup2(*moved, number) < 0 {
                libc::_exit(CANNOT_EXECUTE);
            }
            number += 1;
        }
        // Whatever the program around us has open without O_CLOEXEC is not the pod's.
        libc::syscall(
            libc::SYS_close_range,
            number.cast_unsigned(),
            u32::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        libc::syscall(
            libc::SYS_execveat,
            child.binary,
            c"".as_ptr(),
            child.argv,
            child.envp,
            libc::AT_EMPTY_PATH,
        );
        const MESSAGE: &[u8] = b"cannot execute the pod init\n";
        libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(CANNOT_EXECUTE)
    }
}
