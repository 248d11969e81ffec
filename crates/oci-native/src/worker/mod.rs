//! Workers: the short-lived processes that make containers.
//!
//! Making a container changes the process that does it, and its children inherit its descriptors.
//! So a worker does it. It has one thread, only the descriptors for the container, default signal
//! dispositions, and its own process group:
//!
//! - From a process with one thread it is a fork, and answers over a pipe.
//! - From one with several it is a re-exec of the helper binary: the request and the descriptors go
//!   to its stdin, a socket, and the answer comes back on it.
//!
//! Containers are children of the worker's parent, this process. A container's process makes its
//! own session; the others stay in the worker's process group, and waiting for it reaps just them.

mod serve;
mod wire;

use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, Stdio as ProcessStdio},
};

use magik_sys::process::is_single_threaded;
use rustix::process::{Pid, Signal, WaitOptions};
pub use serve::run_worker_if_asked;
use tokio::{
    io::AsyncReadExt,
    net::{UnixStream, unix::pipe},
};

use crate::{
    children::Children,
    fork,
    job::{Answer, Descriptors, Request},
};

/// The most an answer may have in bytes.
const MAX_ANSWER_SIZE: u64 = 1 << 20;

/// Runs one job in a worker and returns its answer. Dropping the future kills the worker.
pub(crate) async fn run(
    children: &Children,
    helper: &Path,
    request: Request,
    descriptors: Descriptors,
) -> io::Result<Answer> {
    let single = is_single_threaded();
    let mut group = if single {
        by_fork(&request, descriptors, children)?
    } else {
        by_exec(helper, &request, &descriptors, children)?
    };
    let mut bytes = Vec::new();
    let read = match &mut group.answers {
        Answers::Pipe(pipe) => pipe.take(MAX_ANSWER_SIZE).read_to_end(&mut bytes).await.map(drop),
        Answers::Socket(socket) => socket
            .take(MAX_ANSWER_SIZE)
            .read_to_end(&mut bytes)
            .await
            .map(drop),
    };
    read?;
    if bytes.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the worker ended without an answer",
        ));
    }
    let answer: Answer = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
    if answer.is_ok() {
        group.finish();
    }
    // Else dropping the group kills what is left of it.
    Ok(answer)
}

/// Where a worker's answer comes from.
enum Answers {
    Pipe(pipe::Receiver),
    Socket(UnixStream),
}

/// A worker and what it makes on the way, as a process group.
struct Group {
    id: Pid,
    /// The reaper task waits for every child.
    reaped_elsewhere: bool,
    finished: bool,
    answers: Answers,
}

impl Group {
    /// Waits for all: they have answered, and are about to end.
    fn finish(&mut self) {
        self.finished = true;
        if !self.reaped_elsewhere {
            while let Ok(Some(_)) | Err(rustix::io::Errno::INTR) =
                rustix::process::waitpgid(self.id, WaitOptions::empty())
            {}
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.finished {
            // We have reaped none of the group yet; with a reaper task it may be gone.
            let _ = rustix::process::kill_process_group(self.id, Signal::KILL);
            self.finish();
        }
    }
}

/// A worker by fork; this process has one thread.
#[allow(unsafe_code, reason = "there is no safe fork")]
fn by_fork(request: &Request, descriptors: Descriptors, children: &Children) -> io::Result<Group> {
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let receiver = pipe::Receiver::from_owned_fd(nonblocking(reader)?)?;
    let caller = rustix::process::getpid();
    // A handler that ran in the child would use descriptors and memory of the caller's event loop.
    let mask = fork::block_signals();
    // SAFETY: this process has one thread (checked by the caller), so the child finds no lock held
    // by another; it runs only `serve::serve`, which never returns.
    match unsafe { libc::fork() } {
        0 => serve::serve(request, descriptors, writer, caller),
        -1 => {
            let error = io::Error::last_os_error();
            fork::restore_signals(&mask);
            Err(error)
        }
        pid => {
            fork::restore_signals(&mask);
            let id = Pid::from_raw(pid).ok_or_else(|| io::Error::other("fork returned no pid"))?;
            // Parent and child both do this: the group must exist before it is killed.
            let _ = rustix::process::setpgid(Some(id), Some(id));
            let reaped_elsewhere = children.reaps_orphans();
            Ok(Group {
                id,
                reaped_elsewhere,
                finished: false,
                answers: Answers::Pipe(receiver),
            })
        }
    }
}

/// A worker by re-exec of the helper; this process has several threads.
fn by_exec(
    helper: &Path,
    request: &Request,
    descriptors: &Descriptors,
    children: &Children,
) -> io::Result<Group> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    let (ours, theirs) = (OwnedFd::from(ours), OwnedFd::from(theirs));
    let child = Command::new(helper)
        .arg0("oci-native-worker")
        .arg(serve::WORKER_ARGUMENT)
        .env_clear()
        .stdin(ProcessStdio::from(theirs))
        .stdout(ProcessStdio::null())
        .stderr(ProcessStdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", helper.display())))?;
    let id = Pid::from_child(&child);
    let reaped_elsewhere = children.reaps_orphans();
    let group = |answers| Group {
        id,
        reaped_elsewhere,
        finished: false,
        answers,
    };
    let mut sent_along = descriptors.all();
    sent_along.extend(preserved(request.preserve_fds));
    let sent = wire::send(&ours, request, &sent_along);
    let socket = nonblocking(ours).and_then(|fd| UnixStream::from_std(fd.into()));
    match (sent, socket) {
        (Ok(()), Ok(socket)) => Ok(group(Answers::Socket(socket))),
        (Err(e), Ok(socket)) => {
            drop(group(Answers::Socket(socket)));
            Err(io::Error::new(
                e.kind(),
                format!(
                    "{}: {e}: does its main call run_worker_if_asked?",
                    helper.display()
                ),
            ))
        }
        (_, Err(e)) => {
            let _ = rustix::process::kill_process_group(id, Signal::KILL);
            Err(e)
        }
    }
}

/// The descriptors the container is to inherit, which the caller of `create` vouches for by number.
#[allow(unsafe_code, reason = "they are known by number only")]
fn preserved<'a>(count: u32) -> impl Iterator<Item = BorrowedFd<'a>> {
    let end = i32::try_from(count).map_or(3, |n| n.saturating_add(3));
    // SAFETY: borrowed for one sendmsg, which answers EBADF for a number that is not open.
    (3..end).map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

fn nonblocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(fd)
}
