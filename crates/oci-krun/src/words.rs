//! What the command line and [`PROGRAM`] say to each other.

use magik_oci::ExecFailure;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// The program that knows machines; it lies beside `magikrun`.
pub const PROGRAM: &str = "magikrun-vm";

/// The first argument of what is asked about a new container.
pub(crate) const PREPARE: &str = "container-prepare";
/// The first argument of a further program in a container.
pub(crate) const EXEC: &str = "container-exec";
/// Its last argument where it has a terminal; else it has [`PIPES`].
pub(crate) const TERMINAL: &str = "terminal";
/// The other one.
pub(crate) const PIPES: &str = "pipes";
/// The first argument of a signal for a container.
pub(crate) const SIGNAL: &str = "container-signal";
/// Its last argument where every process of the container gets it; else it is [`FIRST`].
pub(crate) const ALL: &str = "all";
/// The other one.
pub(crate) const FIRST: &str = "first";

/// In a container's directory: a pipe in which it is said whether the program runs, as a [`Report`].
pub(crate) const STARTED: &str = "started";

/// What is answered about a bundle, in JSON on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Answer {
    /// The container on the host.
    Spec(Box<Spec>),
    /// What is wrong with the bundle, naming the field.
    Bundle(String),
    /// Why there can be no machine.
    Refused(String),
}

/// What is said of a program that was to be started, in one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Report {
    /// It runs.
    Started,
    /// It cannot be executed.
    CannotExecute {
        program: String,
        failure: ExecFailure,
        reason: String,
    },
    /// It was not started.
    Failed(String),
}
