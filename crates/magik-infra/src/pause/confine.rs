//! What it gives up, in order, and then sleeps.

use std::{convert::Infallible, io, os::fd::AsFd as _, process::ExitCode};

use magik_sys::seccomp::{self, instruction};
use rustix::{
    fs::Mode,
    io::Errno,
    mount::{MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount},
    net::RecvFlags,
};

/// The user and group that Kubernetes' pause runs as: nobody's.
const NOBODY: libc::uid_t = 65535;

/// What failed, and why.
type Failed = (&'static str, io::Error);

/// The whole life of PID 1 of a shared process namespace; returns only if something could not be given up.
///
/// Call it at the very beginning of `main`, if [`is_asked_for`](super::is_asked_for) says so: before there are threads, and
/// before anything was opened. Descriptor 0 is where it reports to.
#[must_use]
pub fn main() -> ExitCode {
    let Err((what, error)) = become_nobody();
    let _ = rustix::io::write(rustix::stdio::stdin(), format!("{what}: {error}").as_bytes());
    ExitCode::FAILURE
}

fn become_nobody() -> Result<Infallible, Failed> {
    if !rustix::process::getpid().is_init() {
        return Err(("its pid", io::Error::other("is not 1")));
    }
    magik_sys::own_keyring().map_err(|e| ("keyctl", e))?;
    send_procfs().map_err(|e| ("make a procfs", e))?;
    empty_root()?;
    drop_rights()?;
    ignore_signals();
    let filter = filter();
    rustix::io::write(rustix::stdio::stdin(), super::DONE).map_err(|e| ("report", e.into()))?;
    seccomp::load(&filter, 0).map_err(|e| ("seccomp", e))?;
    // Now the report ends, and whoever reads it goes on.
    close_all()?;
    sleep()
}

/// A `/proc` of this namespace for each who will join it: only a process that is in it can make one
/// before Linux 6.17, and whoever joins it later would do so with rights that others there could
/// take from it.
fn send_procfs() -> io::Result<()> {
    let socket = rustix::stdio::stdin();
    let mut count = [0; 4];
    magik_sys::socket::receive(socket, &mut count, RecvFlags::empty())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    for _ in 0..u32::from_le_bytes(count) {
        let procfs = magik_sys::mount::new_mount("proc", &[], attributes)?;
        magik_sys::socket::send(socket, super::PROCFS, &[procfs.as_fd()])?;
    }
    Ok(())
}

fn check(what: &'static str, result: libc::c_long) -> Result<(), Failed> {
    if result < 0 {
        return Err((what, io::Error::last_os_error()));
    }
    Ok(())
}

/// An empty file system in place of everything that is mounted, in a mount namespace that was copied for this process.
fn empty_root() -> Result<(), Failed> {
    let failed = |what| move |error: Errno| (what, io::Error::from(error));
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).map_err(failed("make the mounts private"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    // Any directory will do to mount on: what is below it is not needed any more.
    mount(
        "none",
        "/proc",
        "tmpfs",
        flags,
        Some(c"mode=0555,size=4k,nr_inodes=1"),
    )
    .map_err(failed("mount an empty root"))?;
    rustix::process::chdir("/proc").map_err(failed("enter it"))?;
    // pivot_root(2), "pivot_root(".", ".")": the old root lies over the new one, until it is unmounted.
    rustix::process::pivot_root(".", ".").map_err(failed("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(failed("unmount the old root"))?;
    rustix::process::chdir("/").map_err(failed("enter the root"))
}

#[allow(unsafe_code, reason = "this process has one thread, and prctl takes numbers")]
fn drop_rights() -> Result<(), Failed> {
    rustix::process::umask(Mode::from_raw_mode(0o777));
    // SAFETY: system calls on numbers, and on plain data of this function's.
    unsafe {
        for capability in 0..64 {
            // Those that the kernel does not know are none.
            libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
        }
        check(
            "setgroups",
            libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()),
        )?;
        // Where the caller's users are few there may be no such one; the rights are given up all the same.
        for call in [libc::SYS_setresgid, libc::SYS_setresuid] {
            match check("setresuid", libc::syscall(call, NOBODY, NOBODY, NOBODY)) {
                Err((_, error)) if error.raw_os_error() == Some(libc::EINVAL) => {}
                changed => changed?,
            }
        }
        let ambient = libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        check("clear the ambient capabilities", ambient.into())?;
        // linux/capability.h: a header of version 3 and this process, then two sets of three words, all of them 0.
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0_u32; 6];
        check(
            "capset",
            libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()),
        )?;
        check(
            "no_new_privs",
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into(),
        )?;
        check("dumpable", libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0).into())?;
        check(
            "name",
            libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr(), 0, 0, 0).into(),
        )
    }
}

/// SIGCHLD is ignored, so that the kernel reaps what is left to this process; what std handles (SIGSEGV, SIGBUS) is not.
#[allow(unsafe_code, reason = "neither std nor rustix sets what a signal does")]
fn ignore_signals() {
    // SAFETY: no handler is set.
    unsafe {
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        libc::signal(libc::SIGSEGV, libc::SIG_DFL);
        libc::signal(libc::SIGBUS, libc::SIG_DFL);
    }
}

/// A program for the kernel: everything but sleeping, closing and ending ends the process.
fn filter() -> [seccomp::Instruction; 9] {
    /// Where `struct seccomp_data` has the number and the architecture.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0);
    let skip_if =
        |value, equal, other| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, value, equal, other);
    let number = |call: libc::c_long| u32::try_from(call).unwrap_or(u32::MAX);
    let answer = |value| instruction(libc::BPF_RET | libc::BPF_K, value, 0, 0);
    [
        load(ARCH),
        skip_if(seccomp::ARCHITECTURE, 0, 5),
        load(NUMBER),
        skip_if(number(libc::SYS_ppoll), 4, 0),
        skip_if(number(libc::SYS_restart_syscall), 3, 0),
        skip_if(number(libc::SYS_close_range), 2, 0),
        skip_if(number(libc::SYS_exit_group), 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        answer(libc::SECCOMP_RET_ALLOW),
    ]
}

#[allow(
    unsafe_code,
    reason = "neither std nor rustix closes descriptors that nobody owns"
)]
fn close_all() -> Result<(), Failed> {
    // SAFETY: nothing in this process uses a descriptor any more.
    check("close_range", unsafe {
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0)
    })
}

#[allow(unsafe_code, reason = "rustix's ppoll wants descriptors")]
fn sleep() -> ! {
    loop {
        // SAFETY: no descriptors, no time and no signal mask: a system call on zeroes, which waits for a signal.
        unsafe { libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0) };
    }
}
