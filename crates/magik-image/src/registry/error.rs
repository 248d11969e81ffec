//! What goes wrong with registries.

use std::time::Duration;

use magik_cas::Digest;

use crate::one_line::one_line;

/// A registry did not give, or did not take, what it should have. The message is one line that
/// names image and registry.
#[derive(Debug, thiserror::Error)]
#[error("{image}: registry {registry}: {problem}")]
pub struct RegistryError {
    /// The image, as a reference.
    pub image: String,
    /// The registry's host name and port.
    pub registry: String,
    /// What happened.
    pub problem: Problem,
}

/// What happened at a registry. Texts that the registry sent are shortened to one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It wants credentials, or others than it got.
    #[error("unauthorized{0}; log in with magikrun login or podman login, and check the name")]
    Unauthorized(String),
    /// It does not let in the user who logs in.
    #[error("it refuses this user name and password{0}")]
    LoginRefused(String),
    /// It has no such manifest or blob.
    #[error("{0} not found; check the name and the tag")]
    NotFound(String),
    /// It gave an answer that is no success.
    #[error("{what}: it answered {status}{message}{}", asks_to_wait(*retry_after))]
    Status {
        /// What was asked for.
        what: String,
        /// The HTTP status.
        status: u16,
        /// What it said about it.
        message: String,
        /// How long it asks to wait before the next try.
        retry_after: Option<Duration>,
    },
    /// Nothing was asked yet: what this machine has for it, such as certificates, cannot be used.
    #[error("set up: {0}")]
    SetUp(String),
    /// No connection, or one that broke.
    #[error("{what}: {reason}")]
    Connection {
        /// What was asked for.
        what: String,
        /// What the network layers said.
        reason: String,
    },
    /// Nothing arrived for too long.
    #[error("{what}: stalled, nothing arrived for {} s", after.as_secs_f32())]
    Stalled {
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The whole operation took too long.
    #[error("{what}: not done within {} s, which is the limit for the whole image", limit.as_secs_f32())]
    TimedOut {
        /// What was under way.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// It sent, or says it is about to send, more than is taken.
    #[error("{what} is larger than {limit} bytes, which is the limit")]
    TooLarge {
        /// What.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// Its blob has another size than the manifest says.
    #[error("{what} has {found}, but its manifest says {expected} bytes")]
    SizeMismatch {
        /// Which blob.
        what: String,
        /// The manifest's word.
        expected: u64,
        /// What arrived, "more bytes" or a number of them.
        found: String,
    },
    /// What it sent is not what the digest names.
    #[error("{what} hashes to {found}, not to {expected}: damaged, or not what was asked for")]
    DigestMismatch {
        /// What.
        what: String,
        /// The digest that was asked for.
        expected: Digest,
        /// What arrived.
        found: Digest,
    },
    /// A layer that registries may not keep is not kept.
    #[error("{0} is a foreign layer that is not kept there; its urls are not followed (CVE-2020-15157)")]
    Foreign(String),
    /// It does not speak the distribution protocol, or not properly.
    #[error("{what}: {reason}")]
    Protocol {
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        reason: String,
    },
}

fn asks_to_wait(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(String::new, |after| {
        format!("; it asks to try again in {} s", after.as_secs())
    })
}

impl Problem {
    /// Whether the same request may well succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Connection { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }

    /// Whether the part of a blob that has arrived may be resumed later.
    pub(crate) fn is_interruption(&self) -> bool {
        self.is_transient() || matches!(self, Self::Stalled { .. } | Self::TimedOut { .. })
    }
}

/// An error with its causes, which is where reqwest and hyper hide what happened.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    one_line(&text)
}
