//! Starting it.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::PipeFlags,
    process::Pid,
};
use tokio::{io::AsyncReadExt, net::unix::pipe};

/// linux/sched.h; libc has it as a number that does not fit its type.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// The exit status of a child that could not execute the program.
const CANNOT_EXECUTE: i32 = 127;
/// The most that it may have to say, in bytes.
const MAX_REPORT: u64 = 1024;

/// Starts this process's own program as [`main`](super::main) in namespaces of its own; its pid, and where its report comes from.
pub(super) fn spawn() -> io::Result<(Pid, OwnedFd)> {
    let (report, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let flags = libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
    let pid = clone(
        u64::from(flags.cast_unsigned()),
        theirs.as_raw_fd(),
        program.as_raw_fd(),
    )?;
    Ok((pid, report))
}

/// What it reports until nothing more can come.
pub(super) async fn read_all(report: OwnedFd) -> io::Result<Vec<u8>> {
    let mut said = Vec::new();
    let report = pipe::Receiver::from_owned_fd(report)?;
    report.take(MAX_REPORT).read_to_end(&mut said).await?;
    Ok(said)
}

#[allow(unsafe_code, reason = "there is no safe clone3")]
fn clone(flags: u64, report: RawFd, program: RawFd) -> io::Result<Pid> {
    // SAFETY: clone_args is plain data, for which zeroes mean "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | CLONE_CLEAR_SIGHAND;
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    // SAFETY: without CLONE_VM this is a fork. The child runs `execute` alone, which makes system calls and nothing else
    // (signal-safety(7)), and never returns.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    if pid == 0 {
        // SAFETY: this is the child.
        unsafe { execute(report, program) }
    }
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("clone3: no pid"))
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
