//! The worker's side: becoming a process that holds nothing of the caller, then doing the job.

use std::{
    fs::File,
    io::{self, Write},
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};

use super::{Answer, Descriptors, Failure, Job, Request, operations, protocol};

/// The only argument of a worker that was started by re-exec.
pub(crate) const WORKER_ARGUMENT: &str = "oci-native-worker";

/// The first thing in `main` of a binary that is its own helper: when this process was started as a worker, does the job
/// and exits; otherwise returns at once.
pub fn run_worker_if_asked() {
    let mut arguments = std::env::args_os();
    let is_worker = arguments.next().is_some_and(|a| a == WORKER_ARGUMENT)
        && arguments.next().is_some_and(|a| a == WORKER_ARGUMENT)
        && arguments.next().is_none();
    if !is_worker {
        return;
    }
    // Kept out of the way of the descriptors to be preserved.
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 100) else {
        exit(1)
    };
    let Ok((request, mut received)) = protocol::receive(&socket) else {
        exit(1)
    };
    let preserved = received.split_off(received.len().saturating_sub(request.preserve_fds as usize));
    // They arrived under the very numbers that the preserved ones are to have.
    let mut stdio = Vec::new();
    for fd in received {
        let Ok(moved) = rustix::io::fcntl_dupfd_cloexec(&fd, 300) else {
            exit(1)
        };
        std::mem::forget(fd);
        stdio.push(moved);
    }
    if place_preserved(preserved).is_err() {
        exit(1);
    }
    let runner = stdio.split_off(stdio.len().saturating_sub(request.runner));
    let report = if matches!(request.job, Job::Exec(_)) {
        stdio.pop()
    } else {
        None
    };
    let console = if request.console { stdio.pop() } else { None };
    let Some(caller) = Pid::from_raw(request.caller) else {
        exit(1)
    };
    let descriptors = Descriptors {
        stdio,
        console,
        report,
        runner,
    };
    serve(&request, descriptors, socket, caller)
}

/// Gives the descriptors to be preserved their numbers, from 3 on.
#[allow(unsafe_code, reason = "a descriptor is given a number of our choice")]
fn place_preserved(descriptors: Vec<OwnedFd>) -> io::Result<()> {
    // Out of the way first: one may sit on another's number.
    let moved = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 200))
        .collect::<Result<Vec<_>, _>>()?;
    for (number, fd) in (3..).zip(&moved) {
        // SAFETY: dup2 of an open descriptor; this process has one thread and nothing of value below 100.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The numbers may be those of `descriptors`, which must then stay open.
    descriptors.into_iter().for_each(std::mem::forget);
    Ok(())
}

/// Does the job and exits; never returns into the caller's code.
pub(super) fn serve(request: &Request, descriptors: Descriptors, answers: OwnedFd, caller: Pid) -> ! {
    // Nothing of the caller may be dropped, flushed or unwound into here.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let (descriptors, answers) = match settle(request, descriptors, answers, caller) {
            Ok(settled) => settled,
            Err(e) => return Err(e),
        };
        let job = AssertUnwindSafe(|| operations::run(request, descriptors, answers.as_raw_fd()));
        let answer: Answer =
            catch_unwind(job).unwrap_or_else(|_| Err(Failure::Other("libcontainer panicked".into())));
        let json = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        File::from(answers).write_all(&json)
    }));
    exit(i32::from(!matches!(outcome, Ok(Ok(())))))
}

/// Ends this process at once: no destructor, no atexit handler, no flush of the caller's buffers.
#[allow(
    unsafe_code,
    reason = "std::process::exit would run the caller's atexit handlers"
)]
pub(crate) fn exit(code: i32) -> ! {
    // SAFETY: always sound; it does not return.
    unsafe { libc::_exit(code) }
}

/// Leaves behind all that was inherited.
fn settle(
    request: &Request,
    descriptors: Descriptors,
    answers: OwnedFd,
    caller: Pid,
) -> io::Result<(Descriptors, OwnedFd)> {
    // The group by which the caller waits for us; the helper was given one already.
    let _ = rustix::process::setpgid(None, None);
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(caller) {
        exit(1);
    }
    reset_signals(false);

    // Move ours above the numbers the container is to inherit, and close all others: a created container waits with
    // copies of everything its maker has open (trap 8).
    let first = first_free(request.preserve_fds);
    let above = |fd| above(fd, first);
    let stdio = descriptors
        .stdio
        .into_iter()
        .map(above)
        .collect::<io::Result<Vec<_>>>()?;
    let console = descriptors.console.map(above).transpose()?;
    let report = descriptors.report.map(above).transpose()?;
    let runner = descriptors
        .runner
        .into_iter()
        .map(above)
        .collect::<io::Result<Vec<_>>>()?;
    let answers = above(answers)?;
    let keep = stdio
        .iter()
        .chain(&console)
        .chain(&report)
        .chain(&runner)
        .chain([&answers])
        .map(AsRawFd::as_raw_fd)
        .collect();
    close_others(first, keep);

    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    // What the caller had not flushed yet goes nowhere, rather than into the container's output when libcontainer's
    // processes exit.
    let _ = io::stdout().flush();

    // libcontainer takes LISTEN_FDS of its own environment for a wish to hand down descriptors.
    remove_listen_fds();
    // It wants to return to its working directory, which the caller's may no longer be.
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let descriptors = Descriptors {
        stdio,
        console,
        report,
        runner,
    };
    Ok((descriptors, answers))
}

/// The first number after those of the descriptors to be preserved.
pub(crate) fn first_free(preserve_fds: u32) -> RawFd {
    let end = i32::try_from(preserve_fds).ok().and_then(|n| n.checked_add(3));
    end.unwrap_or(i32::MAX)
}

/// A descriptor under a number from `first` on.
pub(crate) fn above(fd: OwnedFd, first: RawFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= first {
        return Ok(fd);
    }
    let moved = rustix::io::fcntl_dupfd_cloexec(&fd, first)?;
    if fd.as_raw_fd() >= 3 {
        // A number to be preserved, of which this is the caller's descriptor.
        std::mem::forget(fd);
    }
    Ok(moved)
}

/// Closes every descriptor from `first` on but those, and has those below it survive execve.
pub(crate) fn close_others(first: RawFd, mut keep: Vec<RawFd>) {
    keep.sort_unstable();
    let mut from = first;
    for fd in keep {
        close_range(from, fd - 1);
        from = fd + 1;
    }
    close_range(from, i32::MAX);
    inherit_preserved(first);
}

#[allow(
    unsafe_code,
    reason = "the environment is changed, in a process with one thread"
)]
fn remove_listen_fds() {
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        // SAFETY: a worker has one thread.
        unsafe { std::env::remove_var(name) };
    }
}

#[allow(unsafe_code, reason = "rustix has no close_range")]
fn close_range(first: RawFd, last: RawFd) {
    if first <= last {
        // SAFETY: the descriptors belong to objects of the caller's that this process never touches again.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
}

/// What is to be preserved must survive execve.
#[allow(unsafe_code, reason = "the descriptors are known by number only")]
fn inherit_preserved(first: RawFd) {
    for number in 3..first.min(1024) {
        // SAFETY: borrowed for one call; a number that is not open is an error of fcntl.
        let fd = unsafe { BorrowedFd::borrow_raw(number) };
        let _ = rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty());
    }
}

/// A signal mask of the C library.
pub(crate) struct Mask(libc::sigset_t);

/// Blocks every signal and returns what was blocked before.
#[allow(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn block_signals() -> Mask {
    let (mut all, mut before) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: sigfillset initialises `all`, sigprocmask initialises `before`; neither fails with these arguments.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr());
        Mask(before.assume_init())
    }
}

/// Returns to a mask.
#[allow(unsafe_code, reason = "rustix has no signal masks")]
pub(crate) fn restore_signals(mask: &Mask) {
    // SAFETY: the mask is one that the C library filled in.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask.0, std::ptr::null_mut()) };
}

/// Every signal to its default, nothing blocked. Without `sigpipe` that one is ignored: libcontainer writes to hooks that
/// need not read. The launcher undoes that.
#[allow(unsafe_code, reason = "rustix has no signal dispositions")]
pub(crate) fn reset_signals(sigpipe: bool) {
    for signal in 1..=64 {
        // The kernel's own structure, handler first, all else zero: the C library refuses signals 32 and 33, which can
        // be ignored all the same.
        let handler = if signal == libc::SIGPIPE && !sigpipe {
            libc::SIG_IGN
        } else {
            libc::SIG_DFL
        };
        let action = [handler, 0, 0, 0];
        let none = std::ptr::null_mut::<usize>();
        // SAFETY: the kernel reads one structure, no larger than the array, and writes none; neither disposition runs
        // code of ours. SIGKILL and SIGSTOP are an error.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, 8_usize) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises `none`.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// A failure in the words of an error and all its sources.
pub(super) fn failure(error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    match crate::executor::CannotExecute::find(&text) {
        Some(why) => Failure::Executable(why),
        None => Failure::Other(text.replace('\0', "")),
    }
}
