//! Starting it, and listening to it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use magik_sys::{clone::Clone, process::watch_readable, socket};
use rustix::{
    fs::{Mode, OFlags},
    net::RecvFlags,
    process::Pid,
};

/// The exit status of a child that could not execute the program.
const CANNOT_EXECUTE: i32 = 127;
/// The longest message it may have, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Starts this process's own program as [`main`](super::main) in namespaces of its own, and has it
/// make so many procfs; its pid, and where its report comes from.
#[allow(unsafe_code, reason = "there is no safe clone3")]
pub(super) fn spawn(procfs: usize) -> io::Result<(Pid, OwnedFd)> {
    let (report, theirs) = socket::pair()?;
    let procfs = u32::try_from(procfs).map_err(io::Error::other)?;
    socket::send(&report, &procfs.to_le_bytes(), &[])?;
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let clone = Clone {
        flags: libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP,
        clear_handlers: true,
        ..Clone::default()
    };
    // SAFETY: the child runs `execute` alone, which makes system calls and nothing else, and never
    // returns.
    match unsafe { clone.fork() }? {
        Some(pid) => Ok((pid, report)),
        // SAFETY: this is the child.
        None => unsafe { execute(theirs.as_raw_fd(), program.as_raw_fd()) },
    }
}

/// What it says until nothing more can come, and the procfs it made.
pub(super) async fn read_all(report: OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let report = watch_readable(report)?;
    let (mut said, mut procfs) = (Vec::new(), Vec::new());
    loop {
        let mut ready = report.readable().await?;
        let mut message = [0; MAX_MESSAGE];
        match socket::receive(&report, &mut message, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Ok((said, procfs)),
            Ok((size, descriptors)) if descriptors.is_empty() => said.extend_from_slice(&message[..size]),
            Ok((_, descriptors)) => procfs.extend(descriptors),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
            Err(e) => return Err(e),
        }
    }
}

/// The child's whole life before the program: its report is descriptor 0, and nothing else stays open.
///
/// # Safety
/// Only in the child of a clone.
#[allow(unsafe_code, reason = "nothing but raw system calls is allowed here")]
unsafe fn execute(report: RawFd, program: RawFd) -> ! {
    const _: () = assert!(super::ARGUMENTS.len() == 2);
    let argv = [
        c"magikrun".as_ptr(),
        c"pod-init".as_ptr(),
        c"pause".as_ptr(),
        std::ptr::null(),
    ];
    let envp = [std::ptr::null::<libc::c_char>()];
    // SAFETY: plain system calls on numbers and on constants.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        libc::setsid();
        if libc::dup2(report, 0) == 0
            && libc::syscall(libc::SYS_close_range, 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0
        {
            libc::syscall(
                libc::SYS_execveat,
                program,
                c"".as_ptr(),
                argv.as_ptr(),
                envp.as_ptr(),
                libc::AT_EMPTY_PATH,
            );
        }
        libc::_exit(CANNOT_EXECUTE)
    }
}
