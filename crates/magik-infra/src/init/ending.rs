//! Containers that are on their way: to their end, or to their next run.

use std::time::Duration;

use tokio::time::Instant;

use super::container::Created;
use crate::{error::LaunchError, shared::Answer};

/// How long a process may outlive SIGKILL (stuck in the kernel) before the pod is called over all the same.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stopping {
    pub(super) kill_at: Instant,
    pub(super) killed: bool,
}

/// A container that was asked to end.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) name: String,
    pub(super) kill_at: Instant,
    pub(super) killed: bool,
    /// Whether somebody asked for it; else its policy says whether it is run again then.
    pub(super) asked: bool,
    /// Whether it is run again then: what was asked last counts.
    pub(super) again: bool,
    /// Who wants to know that it has ended.
    pub(super) stops: Vec<Answer>,
    /// Who wants to know that it runs again.
    pub(super) restarts: Vec<Answer>,
}

/// A container that was created, or could not be.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) name: String,
    /// Whether it had run before, and is to be run at once.
    pub(super) again: bool,
    pub(super) answers: Vec<Answer>,
    pub(super) outcome: Result<Created, LaunchError>,
}

/// When a grace period that begins now is over.
pub(super) fn after(grace: Duration) -> Instant {
    // An absurd one is as good as a year.
    let year = Duration::from_secs(365 * 24 * 3600);
    Instant::now() + grace.min(year)
}
