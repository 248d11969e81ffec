//! Talking to registries (OCI distribution-spec 1.1).
//!
//! A registry is not trusted: every body is counted while it streams, every wait has an end.
//! Credentials go to the registry and its token server only, and never over plain HTTP if the
//! registry speaks HTTPS. It may redirect us for a blob, but no nearer than it is itself: a public
//! registry must not make us send requests to this machine, this link or a private network.

mod answer;
mod blob;
mod client;
mod error;
mod http;
mod retry;
mod token;
mod upload;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

pub(crate) use blob::{Fetch, Wanted};
pub(crate) use client::{Operation, Registry};
pub use error::{Problem, RegistryError};
pub use retry::MAX_RETRY_AFTER;

use crate::{Reference, auth::AuthSource, one_line::one_line};

/// How a registry is talked to.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub insecure_http: bool,
    /// Never plain HTTP, wherever the registry is.
    pub always_verify: bool,
    pub auth: AuthSource,
    /// A directory of certificates, instead of the usual ones.
    pub certificates: Option<PathBuf>,
    /// How long nothing may arrive.
    pub idle_timeout: Duration,
    /// When everything has to be done, and how long that was at the beginning.
    pub deadline: Deadline,
}

/// The end of an operation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline {
    at: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        // No limit: a century, which every clock can hold.
        let century = Duration::from_secs(100 * 365 * 24 * 3600);
        Self {
            at: Instant::now() + limit.min(century),
            limit,
        }
    }
}

/// Where the registry of a reference is found.
fn host(reference: &Reference) -> &str {
    match reference.registry() {
        crate::reference::DEFAULT_REGISTRY => "registry-1.docker.io",
        registry => registry,
    }
}

/// Whether a registry is this very machine: then plain HTTP is used, as in docker and podman.
fn is_loopback(host: &str) -> bool {
    let name = http::bare(host);
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in [
            "localhost",
            "localhost:5000",
            "127.0.0.1:80",
            "127.9.9.9",
            "[::1]:5000",
            "[::1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "localhost.example.com",
            "127.0.0.1.nip.io",
            "10.0.0.1:5000",
            "docker.io",
            "[2001:db8::1]:5000",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
