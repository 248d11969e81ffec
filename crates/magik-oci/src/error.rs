//! The errors of a container runtime.

use std::path::PathBuf;

use crate::{ContainerId, InvalidId, Status};

/// The result of a runtime operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in a runtime operation; every variant names the container it is about where there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The id is not one.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// No container of that id exists. Callers such as containerd look for the words "does not exist".
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
    /// A container of that id exists.
    #[error("container {0} already exists")]
    AlreadyExists(ContainerId),
    /// The operation is not allowed in the state the container is in (runtime-spec, "Operations").
    #[error("cannot {operation} container {id} in state {status}")]
    WrongState {
        /// The container.
        id: ContainerId,
        /// The operation that was asked for.
        operation: &'static str,
        /// The state it was found in.
        status: Status,
    },
    /// The bundle's `config.json` is missing, malformed or asks for something refused.
    #[error("bundle {bundle}: {reason}")]
    InvalidBundle {
        /// The bundle's directory.
        bundle: PathBuf,
        /// What is wrong, naming the field.
        reason: String,
    },
    /// The container's program could not be executed: not found, or not executable.
    #[error("container {id}: cannot execute {program}: {reason}")]
    CannotExecute {
        /// The container.
        id: ContainerId,
        /// `process.args[0]`.
        program: String,
        /// Why not, as the kernel said it.
        reason: String,
    },
    /// This runtime, or this host, cannot do that.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The operation or field.
        what: String,
        /// The reason.
        why: String,
    },
    /// The underlying runtime refused or failed.
    #[error("container {id}: {operation}: {reason}")]
    Failed {
        /// The container.
        id: ContainerId,
        /// The operation that was under way.
        operation: &'static str,
        /// What the backend said.
        reason: String,
    },
    /// A file or system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to which path.
        context: String,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done, for use in `map_err`.
    pub fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}
