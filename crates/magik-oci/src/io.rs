//! Where a container's standard streams go.

use std::os::fd::OwnedFd;

/// The three standard streams of a container's first process, or of an exec'd one.
///
/// `None` is `/dev/null`. The descriptors are consumed: the runtime gives them to the process and closes its own copies.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
}

/// How an exec'd process is connected.
#[derive(Debug)]
pub enum ExecIo {
    /// Three separate streams.
    Pipes(Stdio),
    /// A new pseudo-terminal of the container; the runtime sends its master over this connected unix socket
    /// (SCM_RIGHTS, as runc's `--console-socket` does).
    Terminal {
        /// The connected socket the master is sent over.
        console: OwnedFd,
    },
}
