//! The system calls that are left: those libkrun makes. Every other one fails with `EPERM`.
//!
//! The list is what `libkrun` 1.19.7 and the libraries it links call while a guest boots and serves files (seen with
//! strace), and what its sources call besides. A call that is missing is a guest's error, and no way out.

use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall, error::SeccompError,
};

/// Those that are harmless with any argument in a process that can open nothing but its shares.
const ALLOWED: &[&str] = &[
    // Memory.
    "brk",
    "madvise",
    "memfd_create",
    "mmap",
    "mprotect",
    "mremap",
    "msync",
    "munmap",
    // Threads and signals.
    "exit",
    "exit_group",
    "futex",
    "get_robust_list",
    "getpid",
    "getppid",
    "gettid",
    "membarrier",
    "prctl",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigpending",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "sigaltstack",
    "tgkill",
    // Who serves a file: the guest's users, as far as there are capabilities for it.
    "capget",
    "capset",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getresgid",
    "getresuid",
    "getuid",
    "setgroups",
    "setresgid",
    "setresuid",
    // Time and chance.
    "clock_getres",
    "clock_gettime",
    "clock_nanosleep",
    "getrandom",
    "gettimeofday",
    "nanosleep",
    "time",
    // Waiting.
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "eventfd2",
    "poll",
    "ppoll",
    "timerfd_create",
    "timerfd_gettime",
    "timerfd_settime",
    // Files that are open.
    "close",
    "close_range",
    "copy_file_range",
    "dup",
    "dup2",
    "dup3",
    "fadvise64",
    "fallocate",
    "fchown",
    "fcntl",
    "fdatasync",
    "fgetxattr",
    "flistxattr",
    "flock",
    "fremovexattr",
    "fsetxattr",
    "fstat",
    "fstatfs",
    "fsync",
    "ftruncate",
    "getdents64",
    "lseek",
    "pipe2",
    "pread64",
    "preadv",
    "preadv2",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "read",
    "readv",
    "sync_file_range",
    "syncfs",
    "write",
    "writev",
    // Files of the shares.
    "access",
    "faccessat",
    "faccessat2",
    "fchownat",
    "getxattr",
    "lgetxattr",
    "linkat",
    "listxattr",
    "llistxattr",
    "lremovexattr",
    "lsetxattr",
    "lstat",
    "name_to_handle_at",
    "newfstatat",
    "readlink",
    "readlinkat",
    "removexattr",
    "renameat",
    "renameat2",
    "setxattr",
    "stat",
    "statfs",
    "statx",
    "symlinkat",
    "umask",
    "unlinkat",
    "utimensat",
    // Sockets that are open.
    "accept4",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "recvfrom",
    "recvmsg",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "uname",
    "sysinfo",
    "getrlimit",
    "prlimit64",
];

/// Calls that give a file a mode, and which argument of theirs it is.
const MODES: &[(&str, u32)] = &[
    ("fchmod", 1),
    ("fchmodat", 2),
    ("mkdirat", 2),
    ("mknodat", 2),
    ("open", 2),
    ("openat", 3),
];
/// `S_ISUID | S_ISGID`.
const SPECIAL: u64 = 0o6000;

/// `CLONE_NEW*` and `CLONE_PTRACE`: a thread needs none of them.
const NEW_NAMESPACES: u64 = 0x7e02_2080;
const AF_UNIX: u64 = 1;
/// An ioctl's type is the second byte of its number; KVM's is 0xae (include/uapi/linux/kvm.h).
const IOCTL_TYPE: u64 = 0xff00;
const KVM: u64 = 0xae00;
/// `TCGETS`, `TIOCGWINSZ`, `FIONREAD`, `FIONBIO`, `FIOCLEX`: whether a descriptor is a terminal, and how it is read.
const IOCTLS: [u64; 5] = [0x5401, 0x5413, 0x541b, 0x5421, 0x5451];

/// `ENOSYS`: whoever asks for clone3 falls back to clone, whose flags a filter can read.
const NO_SUCH_CALL: i32 = 38;
const NOT_PERMITTED: i32 = 1;

/// A filter could not be made, or the kernel did not take it.
#[derive(Debug, thiserror::Error)]
#[error("limit the system calls: {0}")]
pub struct FilterError(#[from] SeccompError);

/// Limits the system calls of this thread and of those that it starts. It needs `no_new_privs`. Only with `setuid` may files be made
/// that give others the rights of their owner or group.
///
/// # Errors
/// libseccomp or the kernel refuses the filter.
pub fn enter(setuid: bool) -> Result<(), FilterError> {
    Ok(filter(setuid)?.load()?)
}

fn filter(setuid: bool) -> Result<ScmpFilterContext, SeccompError> {
    let mut filter = ScmpFilterContext::new(ScmpAction::Errno(NOT_PERMITTED))?;
    filter.add_arch(ScmpArch::native())?;
    // That `no_new_privs` is set is somebody else's business, and the caller's need.
    filter.set_ctl_nnp(false)?;
    // Looked up in a tree: file service is many calls.
    filter.set_ctl_optimize(2)?;
    for name in ALLOWED {
        // Not every architecture has the old ones.
        if let Ok(call) = ScmpSyscall::from_name(name) {
            filter.add_rule(ScmpAction::Allow, call)?;
        }
    }
    let masked = |arg, mask, value| ScmpArgCompare::new(arg, ScmpCompareOp::MaskedEqual(mask), value);
    let equal = |arg, value| ScmpArgCompare::new(arg, ScmpCompareOp::Equal, value);
    let rules = [
        ("clone", masked(0, NEW_NAMESPACES, 0)),
        ("socket", equal(0, AF_UNIX)),
        ("socketpair", equal(0, AF_UNIX)),
        ("ioctl", masked(1, IOCTL_TYPE, KVM)),
    ];
    let ioctls = IOCTLS.map(|number| ("ioctl", equal(1, number)));
    for (name, condition) in rules.into_iter().chain(ioctls) {
        filter.add_rule_conditional(ScmpAction::Allow, ScmpSyscall::from_name(name)?, &[condition])?;
    }
    for (name, argument) in MODES {
        // Not every architecture has the old ones.
        let Ok(call) = ScmpSyscall::from_name(name) else {
            continue;
        };
        let refused = if setuid { 0 } else { SPECIAL };
        filter.add_rule_conditional(ScmpAction::Allow, call, &[masked(*argument, refused, 0)])?;
    }
    let absent: &[&str] = if setuid {
        &["clone3"]
    } else {
        &["clone3", "openat2"]
    };
    for name in absent {
        filter.add_rule(ScmpAction::Errno(NO_SUCH_CALL), ScmpSyscall::from_name(name)?)?;
    }
    if setuid {
        filter.add_rule(ScmpAction::Allow, ScmpSyscall::from_name("openat2")?)?;
    }
    Ok(filter)
}

#[cfg(test)]
mod tests {
    use std::{fs, net::TcpListener, os::unix::net::UnixStream, process::Command};

    use rustix::{
        fs::{AtFlags, CWD},
        io::Errno,
        thread::{UnshareFlags, unshare_unsafe},
    };

    use super::*;

    /// A filter is a thread's, and ends with it.
    fn limited<T: Send + 'static>(setuid: bool, look: impl FnOnce() -> T + Send + 'static) -> T {
        let thread = std::thread::spawn(move || {
            rustix::thread::set_no_new_privs(true).unwrap();
            enter(setuid).unwrap();
            look()
        });
        thread.join().unwrap()
    }

    #[test]
    #[allow(unsafe_code, reason = "unshare")]
    fn nothing_is_executed_no_network_reached_and_no_namespace_made() {
        limited(false, || {
            assert!(Command::new("/bin/true").spawn().is_err());
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
            // SAFETY: the flag is no CLONE_FILES.
            assert_eq!(unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }, Err(Errno::PERM));
            let attached =
                rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
            assert_eq!(attached.unwrap_err(), Errno::PERM);
            assert_eq!(rustix::process::chroot("/").unwrap_err(), Errno::PERM);
        });
    }

    #[test]
    fn files_are_served_threads_started_and_unix_sockets_dialled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        limited(false, move || {
            fs::write(&path, "x").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "x");
            // As libkrun does it: by descriptors.
            let new = path.with_extension("new");
            rustix::fs::renameat(CWD, &path, CWD, &new).unwrap();
            rustix::fs::unlinkat(CWD, &new, AtFlags::empty()).unwrap();
            UnixStream::pair().unwrap();
            assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
        });
    }

    #[test]
    fn a_file_has_its_owners_rights_in_a_containers_root_alone() {
        for setuid in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            limited(setuid, move || {
                fs::write(&path, "x").unwrap();
                let permissions = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
                // As libkrun does it: by fchmodat.
                let change = |mode: u32| rustix::fs::chmodat(CWD, &path, mode.into(), AtFlags::empty());
                assert_eq!(change(0o4755).is_ok(), setuid);
                let file = fs::File::open(&path).unwrap();
                assert_eq!(file.set_permissions(permissions(0o2755)).is_ok(), setuid);
                let mut new = fs::OpenOptions::new();
                std::os::unix::fs::OpenOptionsExt::mode(new.write(true).create(true), 0o4755);
                assert_eq!(new.open(path.with_extension("new")).is_ok(), setuid);
                change(0o755).unwrap();
            });
        }
    }
}
