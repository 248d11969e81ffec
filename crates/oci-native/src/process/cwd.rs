//! A process's working directory.

use std::{io, os::fd::BorrowedFd, path::PathBuf};

use magik_sys::mount::open_inside;
use oci_spec::runtime::Process;
use rustix::{
    fs::{Mode, OFlags, mkdirat},
    io::Errno,
};

use crate::failure::Failure;

/// Makes a missing working directory, as runc does; entering it reports a failure.
pub(crate) fn make(root: BorrowedFd<'_>, process: &Process) {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    let Ok(mut dir) = open_inside(root, "/".as_ref(), flags) else {
        return;
    };
    let mut path = PathBuf::from("/");
    for component in process.cwd().components() {
        let std::path::Component::Normal(name) = component else {
            continue;
        };
        path.push(name);
        // The kernel resolves each step inside the root, symlinks included.
        let opened = match open_inside(root, &path, flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match mkdirat(&dir, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => open_inside(root, &path, flags),
                    Err(e) => Err(e.into()),
                }
            }
            other => other,
        };
        let Ok(next) = opened else { return };
        dir = next;
    }
}

/// Entering it takes two steps.
pub(crate) struct Cwd {
    /// Root could not enter it; its user may.
    later: bool,
}

impl Cwd {
    /// Before the user changes: root may enter directories that the user may not.
    pub(crate) fn enter(process: &Process) -> Result<Self, Failure> {
        match rustix::process::chdir(process.cwd()) {
            Ok(()) => Ok(Self { later: false }),
            Err(Errno::PERM | Errno::ACCESS) => Ok(Self { later: true }),
            Err(e) => Err(failed(process, e)),
        }
    }

    /// As its user; the directory must lie in the container's root (CVE-2024-21626).
    pub(crate) fn verify(self, process: &Process) -> Result<(), Failure> {
        if self.later {
            rustix::process::chdir(process.cwd()).map_err(|e| failed(process, e))?;
        }
        let path = rustix::process::getcwd(Vec::new()).map_err(|e| failed(process, e))?;
        // Outside of the root the kernel's path begins with "(unreachable)/".
        if path.to_bytes().first() == Some(&b'/') {
            Ok(())
        } else {
            let cwd = process.cwd().display();
            Err(Failure::Other(format!(
                "process.cwd {cwd}: is outside of the container"
            )))
        }
    }
}

fn failed(process: &Process, e: Errno) -> Failure {
    let e = io::Error::from(e);
    Failure::Other(format!("process.cwd {}: {e}", process.cwd().display()))
}
