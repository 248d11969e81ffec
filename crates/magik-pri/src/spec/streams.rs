//! A container's standard streams, and where it says why it ended.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as k8s;
use magik_infra::plan::ConsolePlan;
use serde::{Deserialize, Serialize};

use super::{
    IgnoredField, Mount,
    check::{At, absolute},
    errors::Problems,
};

/// `terminationMessagePath` where a container does not say.
pub(crate) const MESSAGE_PATH: &str = "/dev/termination-log";

/// What a container says about its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminationMessage {
    /// `terminationMessagePath`: the file that it writes.
    pub path: PathBuf,
    /// `terminationMessagePolicy`.
    pub policy: MessagePolicy,
}

impl Default for TerminationMessage {
    /// As in Kubernetes.
    fn default() -> Self {
        Self {
            path: MESSAGE_PATH.into(),
            policy: MessagePolicy::File,
        }
    }
}

/// `terminationMessagePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MessagePolicy {
    /// The file, whatever it holds.
    #[default]
    File,
    /// The end of the log, where the container has failed and the file is empty.
    FallbackToLogsOnError,
}

/// What is asked for, of a container.
pub(super) struct Asked {
    path: Option<String>,
    policy: Option<String>,
    stdin: Option<bool>,
    stdin_once: Option<bool>,
    tty: Option<bool>,
}

impl Asked {
    /// Takes its fields out of a container.
    pub(super) fn of(container: &mut k8s::Container) -> Self {
        Self {
            path: container.termination_message_path.take(),
            policy: container.termination_message_policy.take(),
            stdin: container.stdin.take(),
            stdin_once: container.stdin_once.take(),
            tty: container.tty.take(),
        }
    }

    /// Its streams, for the container at this path.
    pub(super) fn console(&self, path: &str, problems: &mut Problems) -> ConsolePlan {
        let stdin = self.stdin.unwrap_or(false);
        if self.stdin_once == Some(true) && !stdin {
            let field = format!("{path}.stdinOnce");
            problems
                .ignored
                .push(IgnoredField::new(field, "there is no stdin: true"));
        }
        ConsolePlan {
            stdin,
            stdin_once: stdin && self.stdin_once.unwrap_or(false),
            tty: self.tty.unwrap_or(false),
        }
    }

    /// Its message, for the container at this path that mounts these volumes.
    pub(super) fn message(
        &self,
        mounts: &[Mount],
        path: &str,
        problems: &mut Problems,
    ) -> TerminationMessage {
        let field = format!("{path}.terminationMessagePath");
        let given = self.path.as_deref().filter(|text| !text.is_empty());
        let file = given.map(|text| file(text, mounts)).transpose().at(&field);
        let file = problems.or_default(file);
        let policy = policy(self.policy.as_deref()).at(&format!("{path}.terminationMessagePolicy"));
        TerminationMessage {
            path: file.unwrap_or_else(|| MESSAGE_PATH.into()),
            policy: problems.or_default(policy),
        }
    }
}

/// As the kubelet has it, a path that is not absolute begins at `/`.
fn file(text: &str, mounts: &[Mount]) -> Result<PathBuf, String> {
    let file = if text.starts_with('/') {
        absolute(text)?
    } else {
        absolute(&format!("/{text}"))?
    };
    if file.file_name().is_none() || text.ends_with('/') {
        return Err(format!(
            "{text:?} is a directory: name a file, such as {MESSAGE_PATH}"
        ));
    }
    if ["/proc", "/sys"].iter().any(|kernels| file.starts_with(kernels)) {
        return Err(format!("{text:?} is the kernel's: choose another file"));
    }
    let covered = |mount: &&Mount| mount.path == file || mount.path.starts_with(&file);
    match mounts.iter().find(covered) {
        Some(mount) => {
            let volume = &mount.volume;
            Err(format!(
                "the volume {volume} is mounted there: choose another file"
            ))
        }
        None => Ok(file),
    }
}

fn policy(text: Option<&str>) -> Result<MessagePolicy, String> {
    match text {
        None | Some("" | "File") => Ok(MessagePolicy::File),
        Some("FallbackToLogsOnError") => Ok(MessagePolicy::FallbackToLogsOnError),
        Some(other) => Err(format!("{other:?} is none of File, FallbackToLogsOnError")),
    }
}

impl TerminationMessage {
    /// Whether it lies where it does if nobody says.
    #[must_use]
    pub fn is_usual_file(&self) -> bool {
        self.path == Path::new(MESSAGE_PATH)
    }
}
