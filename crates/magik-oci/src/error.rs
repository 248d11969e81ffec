//! The errors of a container runtime.

use std::{io, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ContainerId, InvalidId, Status};

/// The result of a runtime operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a program cannot be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ExecFailure {
    /// No such file, none in `PATH`, or a script's interpreter or a program's loader is missing.
    NotFound,
    /// The file exists but may not be executed: its mode, file system, or it is a directory.
    Denied,
    /// The file is no program that this machine can execute.
    NotExecutable,
    /// Anything else.
    Other,
}

impl ExecFailure {
    /// What an error of execve(2), or of looking for the program, stands for.
    ///
    /// ```
    /// use magik_oci::ExecFailure;
    /// let error = std::io::Error::from(std::io::ErrorKind::NotFound);
    /// assert_eq!(ExecFailure::of(&error), ExecFailure::NotFound);
    /// ```
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            // A part of the path that is a file has no files in it.
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::IsADirectory => Self::Denied,
            _ if error.raw_os_error().is_some_and(is_no_program) => Self::NotExecutable,
            _ => Self::Other,
        }
    }

    /// The exit code of a command that could not execute its program (POSIX, "Exit Status for
    /// Commands"): 127 if there is none, else 126.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        if self == Self::NotFound { 127 } else { 126 }
    }
}

/// Whether it is the kernel's word for a file in no format that it can execute.
#[cfg(target_os = "linux")]
fn is_no_program(errno: i32) -> bool {
    matches!(errno, libc::ENOEXEC | libc::ELIBBAD)
}

/// Nothing is executed here.
#[cfg(not(target_os = "linux"))]
fn is_no_program(_: i32) -> bool {
    false
}

/// What can go wrong in a runtime operation; every variant names its container, if there is one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The id is not one.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// There is no such container. containerd and others look for "does not exist".
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
    /// A container of that id exists.
    #[error("container {0} already exists")]
    AlreadyExists(ContainerId),
    /// The operation is not allowed in the container's state (runtime-spec, "Operations").
    ///
    /// For an ended container, callers look for runc's words "container not running". containerd's
    /// shim, CRI-O and podman then treat a `kill` that came too late as done.
    #[error("{}cannot {operation} container {id} in state {status}", not_running(operation, *status))]
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
        /// What kind of failure it is: for programs, which must not read `reason`.
        failure: ExecFailure,
        /// Why not, as the kernel said it: for people.
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
        source: io::Error,
    },
}

/// What an operation that needs a process says first of a container that has none any more.
fn not_running(operation: &str, status: Status) -> &'static str {
    // A container is started once: that it has ended is not what keeps it from being started.
    if status == Status::Stopped && operation != "start" {
        "container not running: "
    } else {
        ""
    }
}

impl Error {
    /// [`InvalidBundle`](Self::InvalidBundle), for a reason that names the field.
    pub fn invalid_bundle(bundle: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::InvalidBundle {
            bundle: bundle.into(),
            reason: reason.into(),
        }
    }

    /// [`WrongState`](Self::WrongState), for the state that the container was found in.
    #[must_use]
    pub fn wrong_state(id: &ContainerId, operation: &'static str, status: Status) -> Self {
        Self::WrongState {
            id: id.clone(),
            operation,
            status,
        }
    }

    /// [`Unsupported`](Self::Unsupported), for a reason.
    pub fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }

    /// [`Failed`](Self::Failed), in the backend's words.
    pub fn failed(id: &ContainerId, operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Failed {
            id: id.clone(),
            operation,
            reason: reason.into(),
        }
    }

    /// Wraps an I/O error with what was being done, for use in `map_err`.
    pub fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_missing_program_is_127_and_one_that_may_not_run_126() {
        for (errno, failure, code) in [
            (libc::ENOENT, ExecFailure::NotFound, 127),
            (libc::ENOTDIR, ExecFailure::NotFound, 127),
            (libc::EACCES, ExecFailure::Denied, 126),
            (libc::EPERM, ExecFailure::Denied, 126),
            (libc::EISDIR, ExecFailure::Denied, 126),
            (libc::ENOEXEC, ExecFailure::NotExecutable, 126),
            (libc::ELIBBAD, ExecFailure::NotExecutable, 126),
            (libc::ELOOP, ExecFailure::Other, 126),
            (libc::ETXTBSY, ExecFailure::Other, 126),
        ] {
            let found = ExecFailure::of(&io::Error::from_raw_os_error(errno));
            assert_eq!((found, found.exit_code()), (failure, code), "errno {errno}");
        }
    }

    fn wrong_state(operation: &'static str, status: Status) -> String {
        let id = "c".parse().expect("an id");
        Error::wrong_state(&id, operation, status).to_string()
    }

    #[test]
    fn an_operation_on_a_container_that_has_ended_says_so_in_runcs_words() {
        for operation in ["kill", "pause", "resume", "update", "exec"] {
            assert_eq!(
                wrong_state(operation, Status::Stopped),
                format!("container not running: cannot {operation} container c in state stopped")
            );
        }
        for (operation, status) in [
            ("start", Status::Stopped),
            ("start", Status::Running),
            ("delete", Status::Running),
            ("pause", Status::Paused),
            ("kill", Status::Creating),
        ] {
            let text = wrong_state(operation, status);
            assert_eq!(text, format!("cannot {operation} container c in state {status}"));
        }
    }
}
