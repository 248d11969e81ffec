//! The tree that is being written: its directories, and what keeps an entry out of it.

use std::{io, ops::Range, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::entry::{self, MAX_PATH};
use crate::Error;

/// Why an entry could not be written.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(String),
    Io(io::Error),
    Other(Box<Error>),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Other(Box::new(error))
    }
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

/// A directory of the tree that is being written.
#[derive(Debug)]
pub(super) struct Dir {
    /// Its path, through no links.
    pub(super) path: Vec<u8>,
    pub(super) fd: OwnedFd,
}

/// Opens a directory below `root`.
pub(super) fn resolve(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // openat2(2): EAGAIN when a rename elsewhere made the kernel unsure about the path.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

/// The path of `name` in `directory`.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Result<Vec<u8>> {
    let path = entry::join(directory, name);
    if path.len() > MAX_PATH {
        return Err(Fault::Refused(format!(
            "its path, through links, is longer than {MAX_PATH} bytes"
        )));
    }
    Ok(path)
}

/// All paths below a directory that is not the root.
pub(super) fn below(directory: &[u8]) -> Range<Vec<u8>> {
    // The byte after the slash.
    const AFTER: u8 = b'/' + 1;
    [directory, b"/"].concat()..[directory, &[AFTER]].concat()
}

pub(super) fn is_at_or_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Opens the directory that a layer is to be written into.
pub(super) fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::open(dir, flags, Mode::empty())?)
}
