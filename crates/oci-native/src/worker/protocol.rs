//! What goes to a worker and comes back.

use std::{
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use oci_spec::runtime::{LinuxCapabilities, LinuxPersonalityDomain};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};

use super::Placement;
use crate::{
    cgroup::Entry, executor::CannotExecute, proc::Process, runner::RunnerJob, seccomp::Filter,
    surroundings::Surroundings,
};

/// The largest request in bytes: an exec's whole process, environment included.
const MAX_REQUEST_SIZE: usize = 16 << 20;
/// The most descriptors sent along: three streams, a console, where an exec reports, a runner's, and those to preserve.
const MAX_DESCRIPTORS: usize = 64;

/// A job and the circumstances.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The process that asks: its end is the worker's.
    pub(crate) caller: i32,
    /// How many descriptors from 3 on the container inherits.
    pub(crate) preserve_fds: u32,
    /// Whether the last descriptor is a console.
    pub(crate) console: bool,
    /// How many descriptors of a runner come after those.
    pub(crate) runner: usize,
    pub(crate) job: Job,
}

/// What a worker can do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Job {
    Create(Box<CreateJob>),
    Exec(Box<ExecJob>),
    Hooks(HooksJob),
}

/// `create`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CreateJob {
    pub(crate) id: String,
    /// The container's directory.
    pub(crate) dir: PathBuf,
    /// Where libcontainer finds config.json.
    pub(crate) bundle: PathBuf,
    pub(crate) no_pivot: bool,
    pub(crate) systemd: bool,
    pub(crate) label: Option<String>,
    /// Where its cgroup is, unless that is left to libcontainer.
    pub(crate) placement: Option<Placement>,
    /// What to do beside what libcontainer does.
    pub(crate) surroundings: Surroundings,
    /// The seccomp filter, which the config.json given to libcontainer then lacks.
    pub(crate) filter: Option<LoadFilter>,
    /// What is executed instead of a program of the container's.
    pub(crate) runner: Option<RunnerJob>,
    /// Whose the standard streams become, as the host numbers users.
    pub(crate) owner: Option<u32>,
}

/// A compiled filter, and what its loading depends on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadFilter {
    pub(crate) filter: Filter,
    /// Dropped after loading it; absent where no_new_privs lets libcontainer drop them before.
    pub(crate) capabilities: Option<LinuxCapabilities>,
}

/// `exec`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecJob {
    pub(crate) init: Process,
    /// Those of the init's namespaces that the process joins, as clone(2)'s flags.
    pub(crate) namespaces: u32,
    pub(crate) cgroup: Entry,
    /// With everything filled in that it inherits from the container.
    pub(crate) process: oci_spec::runtime::Process,
    pub(crate) filter: Option<Filter>,
    /// Whose the standard streams become, as the host numbers users.
    pub(crate) owner: Option<u32>,
    pub(crate) personality: Option<LinuxPersonalityDomain>,
    /// How many descriptors from 3 on it inherits.
    pub(crate) preserve_fds: u32,
}

/// Runs the hooks of one kind.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HooksJob {
    pub(crate) hooks: Vec<oci_spec::runtime::Hook>,
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) annotations: std::collections::HashMap<String, String>,
    pub(crate) pid: Option<i32>,
    pub(crate) stopped: bool,
}

/// What a worker answers.
pub(crate) type Answer = Result<Done, Failure>;

/// A job well done.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// The process that was started.
    pub(crate) process: Option<Process>,
}

/// A job that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The program cannot be executed.
    Executable(CannotExecute),
    /// Anything else, in libcontainer's words.
    Other(String),
}

/// Sends a request with its descriptors: a length, then JSON; the descriptors go with the length.
pub(crate) fn send(socket: &OwnedFd, request: &Request, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let json = serde_json::to_vec(request).map_err(io::Error::other)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?.to_le_bytes();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    rustix::net::sendmsg(
        socket,
        &[IoSlice::new(&length)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    let mut rest = json.as_slice();
    while !rest.is_empty() {
        let n = rustix::io::retry_on_intr(|| rustix::net::send(socket, rest, SendFlags::NOSIGNAL))?;
        rest = &rest[n..];
    }
    Ok(())
}

/// Receives one.
pub(crate) fn receive(socket: &OwnedFd) -> io::Result<(Request, Vec<OwnedFd>)> {
    let mut length = [0_u8; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut length)], &mut control, flags)?;
    if received.bytes != length.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            descriptors.extend(fds);
        }
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_REQUEST_SIZE {
        return Err(io::Error::other("the request is too long"));
    }
    let mut json = vec![0; length];
    std::fs::File::from(socket.as_fd().try_clone_to_owned()?).read_exact(&mut json)?;
    Ok((
        serde_json::from_slice(&json).map_err(io::Error::other)?,
        descriptors,
    ))
}
