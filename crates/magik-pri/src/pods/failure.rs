//! Why a pod could not be laid out, before there is an init that could say so.

use std::{fmt::Display, io};

/// What failed, in which container.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) container: Option<String>,
    pub(crate) reason: String,
}

impl Failure {
    /// What failed, whatever the container.
    pub(crate) fn new(reason: impl Display) -> Self {
        Self {
            container: None,
            reason: reason.to_string(),
        }
    }

    pub(crate) fn io(what: impl Display) -> impl FnOnce(io::Error) -> Self {
        move |e| Self::new(format!("{what}: {e}"))
    }

    pub(super) fn of(container: &str) -> impl FnOnce(Self) -> Self {
        move |failure| Self {
            container: Some(container.to_owned()),
            ..failure
        }
    }
}
