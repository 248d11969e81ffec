//! What a worker is asked to do, and what it answers.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use magik_oci::{Error, Result, Stdio};
use magik_sys::process::Process;
use oci_spec::runtime::{LinuxPersonalityDomain, Spec};
use rustix::{
    fs::{Mode, OFlags},
    thread::ThreadNameSpaceType,
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::{Entry, Layout},
    failure::Failure,
    runner::RunnerJob,
    seccomp::Filter,
};

/// A job and its settings.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The calling process; the worker ends with it.
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
    /// The bundle's directory, for hooks.
    pub(crate) bundle: PathBuf,
    /// With an absolute `root.path`.
    pub(crate) spec: Spec,
    pub(crate) cgroup: PathBuf,
    pub(crate) layout: Layout,
    pub(crate) no_pivot: bool,
    /// Whether it gets a session keyring of its own.
    pub(crate) new_keyring: bool,
    /// Whether it looks into no process but its own ([`confine::stay_among_its_own`](crate::process::confine::stay_among_its_own)).
    pub(crate) own_domain: bool,
    pub(crate) filter: Option<Filter>,
    /// A program of the host that is executed instead of the container's.
    pub(crate) runner: Option<RunnerJob>,
    /// The streams' new owner, as a user id of the host.
    pub(crate) owner: Option<u32>,
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
    /// Whether it gets a session keyring of its own.
    pub(crate) new_keyring: bool,
    /// Whether it looks into no process but its own ([`confine::stay_among_its_own`](crate::process::confine::stay_among_its_own)).
    pub(crate) own_domain: bool,
    /// The streams' new owner, as a user id of the host.
    pub(crate) owner: Option<u32>,
    pub(crate) personality: Option<LinuxPersonalityDomain>,
    /// How many descriptors from 3 on it inherits.
    pub(crate) preserve_fds: u32,
}

impl ExecJob {
    /// Those of the init's namespaces that the process joins.
    pub(crate) fn namespaces(&self) -> ThreadNameSpaceType {
        ThreadNameSpaceType::from_bits_retain(self.namespaces)
    }

    /// Whether the process joins a pid namespace, which is its last step.
    pub(crate) fn joins_pid(&self) -> bool {
        self.namespaces().contains(ThreadNameSpaceType::PROCESS_ID)
    }
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
pub(crate) type Answer = std::result::Result<Done, Failure>;

/// The result of a job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Done {
    /// The process that was started.
    pub(crate) process: Option<Process>,
}

/// The descriptors a worker works with.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    /// The container's standard streams.
    pub(crate) stdio: Vec<OwnedFd>,
    /// Where the master of its terminal goes.
    pub(crate) console: Option<OwnedFd>,
    /// Where an exec'd process says why it could not be executed.
    pub(crate) report: Option<OwnedFd>,
    /// A program of the host that is executed instead of the container's.
    pub(crate) runner: Vec<OwnedFd>,
}

impl Descriptors {
    /// With a terminal there are no streams; until it is there, they are `/dev/null`.
    pub(crate) fn new(stdio: Stdio, console: Option<OwnedFd>) -> Result<Self> {
        if console.is_some() {
            return Ok(Self {
                console,
                ..Self::default()
            });
        }
        let null = || {
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::io("opening /dev/null")(e.into()))
        };
        let stdio = [stdio.stdin, stdio.stdout, stdio.stderr]
            .into_iter()
            .map(|fd| fd.map_or_else(null, Ok));
        Ok(Self {
            stdio: stdio.collect::<Result<_>>()?,
            ..Self::default()
        })
    }

    pub(crate) fn all(&self) -> Vec<BorrowedFd<'_>> {
        self.stdio
            .iter()
            .chain(&self.console)
            .chain(&self.report)
            .chain(&self.runner)
            .map(AsFd::as_fd)
            .collect()
    }
}
