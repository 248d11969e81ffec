//! sd_notify(3) through a container: it gets a socket in place of the caller's `NOTIFY_SOCKET`, and
//! its readiness is passed on with the pid that the caller knows.
//!
//! As in runc, `create` mounts a directory at `/run/notify`; `start` listens in it, and waits until
//! the container is ready or ends.

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd},
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, PermissionsExt as _},
            net::{SocketAddr, UnixDatagram},
        },
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use magik_oci::{ContainerId, CreateOptions};
use oci_spec::runtime::{Mount, MountBuilder};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// Where the container finds the directory.
const INSIDE: &str = "/run/notify";
/// The socket in it.
const SOCKET: &str = "notify.sock";
/// The longest message that is read; systemd's own bound is a page.
const MAX_MESSAGE: usize = 4096;

/// The caller's socket, if it has one.
fn callers_socket() -> Option<SocketAddr> {
    let name = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty())?;
    address(&name).ok()
}

/// A path, or a name of the abstract namespace after `@`.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(name),
    }
}

/// One directory per container; its parent's name is no container id, so it is not taken for one.
fn directory(root: &Path, id: &ContainerId) -> PathBuf {
    root.join(".notify").join(id)
}

/// `create`: the directory and the variable, if the caller wants to be notified.
pub(super) fn prepare(options: &mut CreateOptions, root: &Path, id: &ContainerId) -> Result<()> {
    if callers_socket().is_none() {
        return Ok(());
    }
    let directory = directory(root, id);
    // Left by a container whose delete was cut short.
    remove(root, id);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&directory)
        .with_context(|| directory.display().to_string())?;
    options.mounts.push(mount(&directory)?);
    options.env.push(format!("NOTIFY_SOCKET={INSIDE}/{SOCKET}"));
    Ok(())
}

fn mount(directory: &Path) -> Result<Mount> {
    let options = ["bind", "nosuid", "noexec", "nodev", "ro"]
        .map(str::to_owned)
        .to_vec();
    Ok(MountBuilder::default()
        .destination(INSIDE)
        .typ("bind")
        .source(directory)
        .options(options)
        .build()?)
}

/// `delete`: the directory goes with its container.
pub(super) fn remove(root: &Path, id: &ContainerId) {
    // Most containers have none.
    let _ = fs::remove_dir_all(directory(root, id));
}

/// A container that may say that it is ready.
#[derive(Debug)]
pub(super) struct Notify {
    ours: UnixDatagram,
    callers: SocketAddr,
}

impl Notify {
    /// `start`: listens, if the container has a socket and the caller still waits.
    pub(super) fn listen(root: &Path, id: &ContainerId) -> Result<Option<Self>> {
        let directory = directory(root, id);
        let (Some(callers), true) = (callers_socket(), directory.is_dir()) else {
            return Ok(None);
        };
        let path = directory.join(SOCKET);
        let ours = UnixDatagram::bind(&path).with_context(|| path.display().to_string())?;
        // Any user of the container may notify.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777))
            .with_context(|| path.display().to_string())?;
        ours.set_nonblocking(true)?;
        Ok(Some(Self { ours, callers }))
    }

    /// Passes on what has come; says whether the container is ready.
    pub(super) fn forward(&self, pid: i32) -> Result<bool> {
        let mut buffer = [0; MAX_MESSAGE];
        loop {
            let length = match self.ours.recv(&mut buffer) {
                Ok(length) => length,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e).context("NOTIFY_SOCKET"),
            };
            if let Some(message) = translate(&buffer[..length], pid) {
                let sender = UnixDatagram::unbound().context("NOTIFY_SOCKET")?;
                sender
                    .send_to_addr(message.as_bytes(), &self.callers)
                    .context("NOTIFY_SOCKET")?;
                return Ok(true);
            }
        }
    }

    /// Waits until the container is ready or has ended.
    pub(super) fn wait(&self, pid: i32) -> Result<()> {
        let process = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // No such process: it has ended.
        let Some(process) = process else {
            return self.forward(pid).map(drop);
        };
        loop {
            let mut fds = [
                PollFd::new(&self.ours, PollFlags::IN),
                PollFd::new(&process, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e).context("poll"),
            }
            let ended = !fds[1].revents().is_empty();
            if self.forward(pid)? || ended {
                return Ok(());
            }
        }
    }
}

impl AsFd for Notify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ours.as_fd()
    }
}

/// The message to the caller after `READY=1`; `None` for other messages.
fn translate(message: &[u8], pid: i32) -> Option<String> {
    let ready = message.split(|b| *b == b'\n').any(|line| line == b"READY=1");
    ready.then(|| format!("READY=1\nMAINPID={pid}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_passed_on_and_with_the_callers_pid() {
        assert_eq!(
            translate(b"STATUS=x\nREADY=1", 7).as_deref(),
            Some("READY=1\nMAINPID=7\n")
        );
        assert_eq!(translate(b"STATUS=READY=1\n", 7), None);
        // A container must not be able to name another process.
        assert_eq!(
            translate(b"READY=1\nMAINPID=1\n", 7).as_deref(),
            Some("READY=1\nMAINPID=7\n")
        );
    }

    #[test]
    fn sockets_have_paths_or_abstract_names() {
        assert!(address(OsStr::new("/run/s")).unwrap().as_pathname().is_some());
        assert_eq!(
            address(OsStr::new("@name")).unwrap().as_abstract_name(),
            Some(&b"name"[..])
        );
    }
}
