//! The errors of a pod runtime.

use std::fmt;

use magik_infra::ControlError;

use crate::{SpecError, SpecErrors};

/// The result of a pod operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The steps of `run_pod`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The specification is checked; nothing is touched.
    Validate,
    /// Images are pulled and unpacked; no pod state is touched.
    Images,
    /// Id and name are taken.
    Reserve,
    /// The pod init is started.
    Launch,
    /// The pod init starts the containers.
    Start,
    /// The pod is made permanent.
    Commit,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Validate => "validate",
            Self::Images => "images",
            Self::Reserve => "reserve",
            Self::Launch => "launch",
            Self::Start => "start",
            Self::Commit => "commit",
        })
    }
}

/// What can go wrong with a pod; one line, saying what and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The specification is not one that can be run: all that is wrong with it.
    #[error(transparent)]
    Spec(#[from] SpecErrors),
    /// `run_pod` failed, and nothing of the pod exists.
    #[error("pod {pod}: step {step}: {}{reason}", container.as_ref().map(|c| format!("container {c}: ")).unwrap_or_default())]
    Run {
        /// `namespace/name`.
        pod: String,
        /// The step that failed.
        step: Step,
        /// The container it was about; absent: the pod itself.
        container: Option<String>,
        /// What failed.
        reason: String,
    },
    /// Another pod has the name.
    #[error("pod {namespace}/{name} exists already (id {id}): delete it first, or choose another name")]
    NameInUse {
        /// `metadata.namespace`.
        namespace: String,
        /// `metadata.name`.
        name: String,
        /// The other pod.
        id: String,
    },
    /// There are [`MAX_PODS`](crate::limits::MAX_PODS) pods.
    #[error("there are {} pods, which is the limit: delete some", crate::limits::MAX_PODS)]
    TooManyPods,
    /// No pod has that id or name. Callers look for the words "does not exist".
    #[error("pod {0} does not exist")]
    NotFound(String),
    /// A prefix of an id, or a name, means several pods.
    #[error("pod {given} is ambiguous: {}", candidates.join(", "))]
    Ambiguous {
        /// As it was given.
        given: String,
        /// The pods it can mean, as `namespace/name (id)`.
        candidates: Vec<String>,
    },
    /// No volume has that name, as `namespace/name`.
    #[error("volume {0} does not exist")]
    NoVolume(String),
    /// A volume has that name already.
    #[error("volume {0} exists already: choose another name")]
    VolumeExists(String),
    /// Pods use a volume.
    #[error("volume {volume} is in use: delete {} {} first", if pods.len() == 1 { "pod" } else { "pods" }, pods.join(", "))]
    VolumeInUse {
        /// As `namespace/name`.
        volume: String,
        /// Their ids.
        pods: Vec<String>,
    },
    /// The operation needs a running pod, or one that does not run.
    #[error("cannot {operation} pod {pod}: it {why}")]
    WrongState {
        /// The pod.
        pod: String,
        /// The operation.
        operation: &'static str,
        /// How the pod stands, e.g. "is still running: stop it first, or use force".
        why: String,
    },
    /// No container of the pod has that name, or none was given and there are several.
    #[error("pod {pod}: {reason}")]
    Container {
        /// The pod.
        pod: String,
        /// What is wrong, naming the containers there are.
        reason: String,
    },
    /// A program could not be executed in a container: not found, or not executable.
    #[error("pod {pod}: {reason}")]
    CannotExecute {
        /// The pod.
        pod: String,
        /// What kind of failure it is: for programs, which must not read `reason`.
        failure: magik_oci::ExecFailure,
        /// The container, the program, and why not, as the kernel said it.
        reason: String,
    },
    /// The pod init refused or could not do an operation.
    #[error("pod {pod}: {operation}: {reason}")]
    Control {
        /// The pod.
        pod: String,
        /// The operation.
        operation: &'static str,
        /// What it said.
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
    /// A file or system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to which path.
        context: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl From<SpecError> for Error {
    fn from(error: SpecError) -> Self {
        Self::Spec(error.into())
    }
}

impl Error {
    /// Wraps an I/O error with what was being done, for use in `map_err`.
    pub fn io<E: Into<std::io::Error>>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |source| Self::Io {
            context,
            source: source.into(),
        }
    }

    /// What the control service answered to an operation on a pod.
    #[cfg(target_os = "linux")]
    pub(crate) fn control(pod: &str, operation: &'static str, error: &ControlError) -> Self {
        let pod = pod.to_owned();
        match error {
            ControlError::NotFound(reason) => Self::Container {
                pod,
                reason: reason.clone(),
            },
            ControlError::CannotExecute { message, why } => Self::CannotExecute {
                pod,
                failure: why.failure,
                reason: message.clone(),
            },
            ControlError::Unsupported(why) => Self::Unsupported {
                what: format!("{operation} in pod {pod}"),
                why: why.clone(),
            },
            other => Self::Control {
                pod,
                operation,
                reason: other.to_string(),
            },
        }
    }
}
