//! Errors of this crate.

use std::io;

use crate::{
    CannotExecute,
    client::{MAJOR, MINOR},
};

/// Why a pod did not start: which container, at which step, and what happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchError {
    /// The container; `None`: the pod itself.
    pub container: Option<String>,
    /// The step that failed.
    pub step: LaunchStep,
    /// What happened, in one line.
    pub message: String,
    /// The program that cannot be executed, where that is what happened.
    pub program: Option<Box<CannotExecute>>,
}

/// A step of a pod's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LaunchStep {
    /// The pod's plan is read.
    Plan,
    /// Its machine is started.
    Boot,
    /// The process namespace is made that its containers share.
    ProcessNamespace,
    /// File systems are mounted.
    Mounts,
    /// The process that runs its containers gives its rights up.
    Confine,
    /// A container is created.
    Create,
    /// A container's program is run.
    Start,
    /// An init container runs to its end.
    InitContainer,
    /// Its extensions are told.
    Extension,
    /// Its status is written.
    Status,
    /// It is waited for until its `activeDeadlineSeconds` have passed.
    Deadline,
    /// Somebody stops it meanwhile.
    Stopped,
    /// A container is removed at the runtime, to be created anew.
    Delete,
    /// A container's `postStart` hook runs.
    PostStart,
    /// A container's startup probe is waited for.
    StartupProbe,
    /// A step that this version does not know, of a newer init.
    Other,
}

impl LaunchStep {
    /// One word for messages, e.g. `init-container`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Boot => "boot",
            Self::ProcessNamespace => "process-namespace",
            Self::Mounts => "mounts",
            Self::Confine => "confine",
            Self::Create => "create",
            Self::Start => "start",
            Self::InitContainer => "init-container",
            Self::Extension => "extension",
            Self::Status => "status",
            Self::Deadline => "deadline",
            Self::Stopped => "stopped",
            Self::Delete => "delete",
            Self::PostStart => "post-start",
            Self::StartupProbe => "startup-probe",
            Self::Other => "start of the pod",
        }
    }
}

impl std::fmt::Display for LaunchStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LaunchError {
    /// Of the pod itself.
    pub fn pod(step: LaunchStep, message: &(impl std::fmt::Display + ?Sized)) -> Self {
        Self {
            container: None,
            step,
            message: message.to_string(),
            program: None,
        }
    }

    /// Of one container.
    pub fn container(name: &str, step: LaunchStep, message: &(impl std::fmt::Display + ?Sized)) -> Self {
        Self {
            container: Some(name.to_owned()),
            ..Self::pod(step, message)
        }
    }

    /// From the runtime; the container is named once, by this error.
    #[must_use]
    pub fn runtime(name: &str, step: LaunchStep, error: &magik_oci::Error) -> Self {
        let program = CannotExecute::of(error);
        let message = match (&program, error) {
            (Some(program), _) => program.to_string(),
            (None, magik_oci::Error::Failed { reason, .. }) => reason.clone(),
            (None, other) => other.to_string(),
        };
        Self {
            program: program.map(Box::new),
            ..Self::container(name, step, &message)
        }
    }
}

impl std::fmt::Display for LaunchError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(container) = &self.container {
            write!(f, "container {container}: ")?;
        }
        write!(f, "{}: {}", self.step, self.message)
    }
}

impl std::error::Error for LaunchError {}

/// What can go wrong when talking to a pod init.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// The control socket cannot be connected to: the pod is dead or was never there.
    #[error("cannot connect to {path}: {source}")]
    Connect {
        /// The socket.
        path: std::path::PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The pod init speaks another major version of the control service.
    #[error(
        "the pod init speaks version {major}.{minor} of the control service, this program {MAJOR}.{MINOR}: use the program that started the pod"
    )]
    Version {
        /// Its major version.
        major: u32,
        /// Its minor version.
        minor: u32,
    },
    /// The pod init refused or failed.
    #[error("{0}")]
    Refused(String),
    /// A program could not be executed in a container.
    #[error("{message}")]
    CannotExecute {
        /// What happened, naming the container.
        message: String,
        /// Which program, and what kind of failure it is.
        why: CannotExecute,
    },
    /// There is no such container in the pod.
    #[error("{0}")]
    NotFound(String),
    /// The pod's init cannot do that, or not for this kind of pod.
    #[error("{0}")]
    Unsupported(String),
    /// The pod did not start.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The connection ended before the answer came.
    #[error("the connection to the pod init ended")]
    Disconnected,
    /// No answer within the time that is allowed.
    #[error("the pod init did not answer within {0:?}")]
    Timeout(std::time::Duration),
    /// The pod init answered something that is no answer.
    #[error("the pod init answered out of order: {0}")]
    Protocol(String),
}

/// What the control service answers that is an error.
pub(crate) fn refused(code: ttrpc::Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.into()))
}
