//! Where a container's standard streams go.

/// An open file, pipe or socket: a descriptor, on Windows a handle.
#[cfg(unix)]
pub type OwnedStream = std::os::fd::OwnedFd;
/// An open file, pipe or socket: a descriptor, on Windows a handle.
#[cfg(windows)]
pub type OwnedStream = std::os::windows::io::OwnedHandle;

/// The three standard streams of a container's first process, or of an exec'd one.
///
/// `None` is `/dev/null`. The runtime passes the descriptors on and closes its own copies.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedStream>,
    /// Standard output.
    pub stdout: Option<OwnedStream>,
    /// Standard error.
    pub stderr: Option<OwnedStream>,
}

/// How an exec'd process is connected.
#[derive(Debug)]
pub enum ExecIo {
    /// Three separate streams.
    Pipes(Stdio),
    /// A new pseudo-terminal of the container; the runtime sends its master over this connected
    /// unix socket (SCM_RIGHTS, as runc's `--console-socket` does).
    Terminal {
        /// The connected socket the master is sent over.
        console: OwnedStream,
    },
}
