//! The pod's state directory, held by descriptor: the launcher renames it at commit, and nothing here minds.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::Arc,
};

use rustix::fs::{AtFlags, Mode, OFlags};
use tokio::net::UnixListener;

use crate::{events::Event, status::PodStatus};

/// The file name of the pod's status.
pub const STATUS_FILE: &str = "status.json";
/// The file name of the events of a pod that is over, a JSON document.
pub const EVENTS_FILE: &str = "events.json";
/// The file name of the control socket.
pub const CONTROL_SOCKET: &str = "control.sock";
/// What the directory's name ends with until the pod is committed.
pub const PENDING_SUFFIX: &str = ".pending";

/// A pod's state directory.
#[derive(Debug)]
pub struct StateDir(OwnedFd);

impl StateDir {
    /// Takes an open directory.
    #[must_use]
    pub const fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// Whether the directory still has its name from before the commit. Needs `/proc`.
    ///
    /// # Errors
    /// `/proc/self/fd` cannot be read.
    pub fn is_pending(&self) -> io::Result<bool> {
        let name = rustix::fs::readlink(self.proc_path(), Vec::new())?;
        Ok(name.as_bytes().ends_with(PENDING_SUFFIX.as_bytes()))
    }

    /// Binds `control.sock` in the directory, for its owner only. A stale socket of that name is replaced.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn bind_control(&self) -> io::Result<UnixListener> {
        match rustix::fs::unlinkat(&self.0, CONTROL_SOCKET, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
        // A path through /proc is short whatever the directory is called: sun_path holds 108 bytes.
        let path = self.proc_path().join(CONTROL_SOCKET);
        // The socket's mode is what the umask leaves; it must not be open to others even for an instant.
        let umask = rustix::process::umask(Mode::from_raw_mode(0o177));
        let listener = UnixListener::bind(&path);
        rustix::process::umask(umask);
        listener
    }

    /// Replaces `status.json` at once: readers see the old document or the new one.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_status(&self, status: &PodStatus) -> io::Result<()> {
        self.write(STATUS_FILE, &serde_json::to_vec(status)?)
    }

    /// Writes `events.json`: what happened in a pod that is over.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_events(&self, events: &[Arc<Event>]) -> io::Result<()> {
        let events: Vec<&Event> = events.iter().map(AsRef::as_ref).collect();
        self.write(EVENTS_FILE, &serde_json::to_vec(&events)?)
    }

    fn write(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let temporary = format!(".{name}.tmp");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(
            &self.0,
            &temporary,
            flags,
            Mode::from_raw_mode(0o600),
        )?);
        file.write_all(text)?;
        rustix::fs::renameat(&self.0, &temporary, &self.0, name)?;
        Ok(())
    }

    fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

impl AsFd for StateDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
