//! When a process becomes visible to a container.
//!
//! A process in a container's pid namespace can be inspected by others with `CAP_SYS_PTRACE` there:
//! its root, descriptors and memory. So a process joins a namespace that others are in as its last
//! step: the preparing process stays outside, sets the namespace of its children, gives up what the
//! container may not have, and only then makes the child that executes the program ([`join`]).

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd, IntoRawFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    ptr::NonNull,
    sync::atomic::{AtomicI32, Ordering},
};

use magik_sys::clone::Clone;
use oci_spec::runtime::Process;
use rustix::{
    fs::Stat,
    process::{Pid, WaitOptions, waitpid},
};

use crate::{failure::Failure, fork::exit, seccomp::Filter};

/// Two numbers in memory that this process shares with its children: a container's filter may
/// forbid every system call that could pass them.
#[derive(Debug)]
pub(crate) struct Shared(NonNull<Numbers>);

#[derive(Debug)]
#[repr(C)]
struct Numbers {
    pid: AtomicI32,
    ready: AtomicI32,
}

// SAFETY: what it points to is atomics, in a mapping of its own that lasts as long as the value.
#[allow(unsafe_code, reason = "a pointer says nothing of what it points to")]
unsafe impl Send for Shared {}

impl Shared {
    #[allow(unsafe_code, reason = "there is no safe anonymous mapping")]
    pub(crate) fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping, placed by the kernel; it is zeroed, and zeros are valid numbers.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Numbers>(),
                protection,
                flags,
                -1,
                0,
            )
        };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast())
            .map(Self)
            .ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    #[allow(unsafe_code, reason = "shared memory is known by its address")]
    fn numbers(&self) -> &Numbers {
        // SAFETY: mapped until this is dropped, initialised, and used as atomics only.
        unsafe { self.0.as_ref() }
    }

    /// The pid of the new process, in its maker's namespace.
    pub(crate) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.numbers().pid.load(Ordering::SeqCst).max(0))
    }

    /// Where a [`Clone`] writes that pid.
    pub(crate) fn pid_at(&self) -> &AtomicI32 {
        &self.numbers().pid
    }

    /// Says that all went well.
    pub(crate) fn set_ready(&self) {
        self.numbers().ready.store(1, Ordering::SeqCst);
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.numbers().ready.load(Ordering::SeqCst) == 1
    }
}

impl Drop for Shared {
    #[allow(unsafe_code, reason = "the mapping is known by its address")]
    fn drop(&mut self) {
        // SAFETY: this value made the mapping, and no reference to it is left.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Numbers>()) };
    }
}

/// Makes a process; `None` in the child. This process has one thread.
#[allow(unsafe_code, reason = "there is no safe fork")]
pub(crate) fn fork(clone: &Clone<'_>) -> io::Result<Option<Pid>> {
    // SAFETY: a worker, and an init that makes containers, has one thread.
    unsafe { clone.fork() }
}

/// Whether the process must join before its filter is loaded, which forbids that. It is then among
/// others for a moment with all that the container may, and with every system call. So its
/// capabilities have to be the container's by then, which they are only where the filter may come
/// last.
pub(crate) fn joins_early(
    process: &Process,
    filter: Option<&Filter>,
    shared: &Shared,
) -> Result<bool, Failure> {
    let pid = shared.pid_at().as_ptr().expose_provenance() as u64;
    let clone = [u64::from(JOIN.cast_unsigned()), 0, pid, 0, 0, 0];
    let calls = [(libc::SYS_clone, clone), (libc::SYS_setsid, [0; 6])];
    if filter.is_none_or(|filter| filter.allows(calls)) {
        return Ok(false);
    }
    if process.no_new_privileges() != Some(true) {
        let why = "linux.seccomp: forbids clone or setsid: only a process with noNewPrivileges can join a pid namespace";
        return Err(Failure::Other(why.into()));
    }
    Ok(true)
}

/// Of linux/capability.h.
const CAP_SYS_PTRACE: u32 = 19;

/// Whether a process in a pid namespace, or in one below it, may trace others in it. Every thread
/// counts, with each capability set: one that left the bounding set may still be permitted.
pub(crate) fn are_traced(namespace: &Stat) -> io::Result<bool> {
    let own = fs::metadata("/proc/self/ns/pid")?;
    let is_there = |pid: &Path| {
        // Those of this process's own namespace are no container's; all others may be below that
        // one, and see into it.
        let of_pid = fs::metadata(pid.join("ns/pid"));
        of_pid.is_ok_and(|n| {
            let id = (n.dev(), n.ino());
            id == (namespace.st_dev, namespace.st_ino)
                || id != (own.dev(), own.ino()) && is_below(&pid.join("ns/pid"), namespace)
        })
    };
    let may_trace = |thread: &Path| {
        // A process that has ended meanwhile is no danger.
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        let sets = status
            .lines()
            .filter_map(|line| line.strip_prefix("Cap")?.split_once(':'));
        let sets = sets.filter_map(|(_, set)| u64::from_str_radix(set.trim(), 16).ok());
        sets.fold(0, |all, set| all | set) >> CAP_SYS_PTRACE & 1 == 1
    };
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        if !is_there(&path) {
            continue;
        }
        let threads = fs::read_dir(path.join("task")).into_iter().flatten().flatten();
        if threads
            .map(|thread| thread.path())
            .any(|thread| may_trace(&thread))
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a pid namespace (its file) is below another one.
#[allow(unsafe_code, reason = "rustix has no ioctl of nsfs")]
fn is_below(file: &Path, namespace: &Stat) -> bool {
    /// ioctl_nsfs(2)
    const NS_GET_PARENT: libc::Ioctl = 0xb702;
    let Ok(mut at) = fs::File::open(file) else {
        return false;
    };
    loop {
        // SAFETY: the request takes no argument, and its answer is a new descriptor or an error,
        // which it is at the top.
        let parent = unsafe { libc::ioctl(at.as_raw_fd(), NS_GET_PARENT as _) };
        if parent < 0 {
            return false;
        }
        // SAFETY: the kernel has just made it, and it has no other owner.
        at = unsafe { fs::File::from_raw_fd(parent) };
        let found = at.metadata().map(|n| (n.dev(), n.ino()));
        if found.is_ok_and(|id| id == (namespace.st_dev, namespace.st_ino)) {
            return true;
        }
    }
}

/// The flags for clone(2).
const JOIN: i32 = libc::CLONE_PARENT | libc::CLONE_PARENT_SETTID;

/// Goes on as a child in the pid namespace set for children, with the same parent; the process
/// outside ends.
///
/// With clone(2), not clone3(2): filters refuse clone3 (ENOSYS), whose arguments they cannot see.
#[allow(unsafe_code, reason = "there is no safe fork")]
pub(crate) fn join(shared: &Shared) -> io::Result<()> {
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: this process has one thread, so its copy finds no lock held; without a stack of its
    // own the child uses a copy of this one; the address is the first shared number's.
    match unsafe { libc::syscall(libc::SYS_clone, JOIN, none, shared.0.as_ptr(), none, none) } {
        0 => Ok(()),
        -1 => Err(io::Error::last_os_error()),
        _ => exit(0),
    }
}

/// Has a child in the pid namespace set for children open something for this process. It is there
/// briefly, with all our rights; only a process with `CAP_SYS_PTRACE` could look into it.
#[allow(
    unsafe_code,
    reason = "the child shares the descriptors, so the one it opened is this process's"
)]
pub(crate) fn made_inside(make: impl FnOnce() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    let opened = Shared::new()?;
    let clone = Clone {
        flags: libc::CLONE_FILES,
        ..Clone::default()
    };
    let Some(child) = fork(&clone)? else {
        let (answer, code) = match make() {
            Ok(fd) => (fd.into_raw_fd(), 0),
            Err(e) => (e.raw_os_error().unwrap_or(libc::EIO), 1),
        };
        opened.numbers().pid.store(answer, Ordering::SeqCst);
        exit(code);
    };
    let status = waitpid(Some(child), WaitOptions::empty())?;
    let answer = opened.numbers().pid.load(Ordering::SeqCst);
    match status.and_then(|(_, status)| status.exit_status()) {
        // SAFETY: the child opened it in our shared table and has ended: no other owner.
        Some(0) => Ok(unsafe { OwnedFd::from_raw_fd(answer) }),
        Some(1) => Err(io::Error::from_raw_os_error(answer)),
        _ => Err(io::Error::other("the child that was to open it ended")),
    }
}
