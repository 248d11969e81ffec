//! Errors of this crate.

use std::{io, path::PathBuf};

use crate::{DRIVER_VARIABLE, Ended, UnknownDriver};

/// Why a virtual machine could not be started, or did not boot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something that every machine needs is not installed.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What it is.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A process of the machine ended.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// The guest did not say hello in time.
    #[error("the guest did not say hello within {limit:?}{console}")]
    NoHello {
        /// How long it was waited for.
        limit: std::time::Duration,
        /// The console's last lines, after a colon; may be empty.
        console: String,
    },
    /// No guest boots on this host.
    #[error("no guest boots on this host: {0}")]
    Unavailable(String),
    /// The environment names a driver that there is not.
    #[error("{DRIVER_VARIABLE}: {0}")]
    Driver(UnknownDriver),
    /// More than a machine may have.
    #[error("{what}: {asked} is more than {limit}")]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// How much was asked for.
        asked: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A path that a monitor's command line cannot carry.
    #[error("{path} cannot be shared with a guest: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// This crate's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Says what was being done.
    pub(crate) fn io<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> Self {
        let what = what.into();
        move |source| Self::Io {
            what,
            source: source.into(),
        }
    }
}
