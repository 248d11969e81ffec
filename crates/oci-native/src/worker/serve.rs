//! The worker's side: becoming a process that holds nothing of the caller, then doing the job.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsRawFd, OwnedFd},
};

use magik_sys::process::Process;
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal},
};

use super::wire;
use crate::{
    container, exec,
    failure::step,
    fork::{EndsHere, above, close_others, exit, first_free, forget_environment, reset_signals},
    job::{Answer, Descriptors, Done, ExecJob, Job, Request},
    process::streams,
};

/// The only argument of a worker that was started by re-exec.
pub(crate) const WORKER_ARGUMENT: &str = "oci-native-worker";

/// The first thing in `main` of a binary that is its own helper: when this process was started as a
/// worker, does the job and exits; otherwise returns at once.
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
    let Ok((request, mut received)) = wire::receive(&socket) else {
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
    // Moved up first: one may have another's number.
    let moved = descriptors
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 200))
        .collect::<Result<Vec<_>, _>>()?;
    for (number, fd) in (3..).zip(&moved) {
        // SAFETY: dup2 of an open descriptor; one thread, nothing of value below 100.
        if unsafe { libc::dup2(fd.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // The numbers may be those of `descriptors`, which must then stay open.
    descriptors.into_iter().for_each(std::mem::forget);
    Ok(())
}

/// Does the job and exits; never returns, so that the caller's code drops and flushes nothing.
pub(super) fn serve(request: &Request, descriptors: Descriptors, answers: OwnedFd, caller: Pid) -> ! {
    let _end = EndsHere;
    // Logs and panic messages would go to descriptors that are the container's by now.
    let _quiet = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    std::panic::set_hook(Box::new(|_| {}));
    forget_environment();
    let done = settle(request, descriptors, answers, caller).and_then(|(descriptors, answers)| {
        let answer = match &request.job {
            Job::Create(job) => container::make(job, request.preserve_fds, descriptors),
            Job::Exec(job) => enter(job, request.preserve_fds, descriptors),
            Job::Hooks(job) => container::run_hooks(job),
        };
        let json = serde_json::to_vec(&answer).map_err(io::Error::other)?;
        File::from(answers).write_all(&json)
    });
    exit(i32::from(done.is_err()))
}

/// The process becomes a child of the worker's parent, and reports itself why it failed.
fn enter(job: &ExecJob, preserve_fds: u32, descriptors: Descriptors) -> Answer {
    let made = exec::spawn(job, preserve_fds, descriptors, true).map_err(step("exec"))?;
    let process = made
        .pid()
        .map(|pid| Process::of(pid).unwrap_or(Process { pid, start_time: 0 }));
    Ok(Done { process })
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

    // Move ours above the numbers the container is to inherit, and close all others: a created
    // container waits with copies of everything its maker has open.
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
    streams::connect_all(&null)?;
    // The caller's working directory is not the container's, nor a hook's.
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
