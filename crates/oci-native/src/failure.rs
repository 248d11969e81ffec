//! Why a container or a process could not be made, in a form that passes between processes.

use magik_oci::{ContainerId, Error, ExecFailure};
use serde::{Deserialize, Serialize};

/// A job that failed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Failure {
    /// The program cannot be executed.
    Executable(CannotExecute),
    /// Anything else: which step, and what the kernel said.
    Other(String),
}

/// Why a program cannot be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CannotExecute {
    pub(crate) program: String,
    pub(crate) failure: ExecFailure,
    pub(crate) reason: String,
}

impl CannotExecute {
    pub(crate) fn new(program: &str, failure: ExecFailure, reason: impl Into<String>) -> Self {
        Self {
            program: program.to_owned(),
            failure,
            reason: reason.into(),
        }
    }
}

impl Failure {
    /// In the words of an error and all its sources.
    pub(crate) fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            source = cause.source();
        }
        Self::Other(text.replace('\0', ""))
    }

    /// As the error for the runtime's caller.
    pub(crate) fn of_container(self, id: &ContainerId, operation: &'static str) -> Error {
        match self {
            Self::Executable(why) => Error::CannotExecute {
                id: id.clone(),
                program: why.program,
                failure: why.failure,
                reason: why.reason,
            },
            Self::Other(reason) => Error::failed(id, operation, reason),
        }
    }
}

/// Adds which step it was.
pub(crate) fn step(context: &str) -> impl FnOnce(std::io::Error) -> Failure {
    let context = context.to_owned();
    move |e| Failure::Other(format!("{context}: {e}"))
}

/// The container is another process's child.
pub(crate) fn not_ours(id: &ContainerId) -> Error {
    Error::unsupported(
        format!("waiting for container {id}"),
        "another process created it",
    )
}
