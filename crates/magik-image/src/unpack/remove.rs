//! Removing directory trees that someone else has filled.

use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, Dir, Mode, OFlags},
    io::Errno,
};

use crate::{Error, Result};

/// Removes the tree at `path`; none there is no error.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let context = || format!("remove {}", path.display());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::io(context())(io::Error::from(io::ErrorKind::InvalidInput)));
    };
    let parent = super::tree::open_root(parent).map_err(Error::io(context()))?;
    match remove_at(parent.as_fd(), name.as_encoded_bytes()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(Error::io(context())),
    }
}

/// Removes `name` in `parent`, with all that is in it.
///
/// A layer can nest directories deeper than a process has stack or descriptors. So this does not
/// descend: a directory two levels down is moved up to the first.
pub(super) fn remove_at(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        // EPERM is what POSIX, and some file systems, say of a directory.
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return Ok(other?),
    }
    let top = open_directory(parent, name)?;
    let mut moved = 0_u64;
    loop {
        let children = names(top.as_fd())?;
        if children.is_empty() {
            return Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?);
        }
        for child in children {
            remove_child(top.as_fd(), child.to_bytes(), &mut moved)?;
        }
    }
}

fn remove_child(top: BorrowedFd<'_>, name: &[u8], moved: &mut u64) -> io::Result<()> {
    match fs::unlinkat(top, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        other => return Ok(other?),
    }
    let dir = open_directory(top, name)?;
    for child in names(dir.as_fd())? {
        match fs::unlinkat(&dir, child.as_c_str(), AtFlags::empty()) {
            Err(Errno::ISDIR | Errno::PERM) => {
                if !rustix::process::geteuid().is_root() {
                    // Moving a directory writes its "..".
                    fs::chmodat(&dir, child.as_c_str(), Mode::RWXU, AtFlags::empty())?;
                }
                loop {
                    *moved += 1;
                    let unique = format!(".removing-{moved}");
                    match fs::renameat_with(&dir, child.as_c_str(), top, &unique, fs::RenameFlags::NOREPLACE)
                    {
                        Err(Errno::EXIST) => {}
                        other => break other?,
                    }
                }
            }
            other => other?,
        }
    }
    Ok(fs::unlinkat(top, name, AtFlags::REMOVEDIR)?)
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<rustix::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) if rustix::process::geteuid().is_root() => Ok(fd),
        // A layer's directories may have any mode; their owner may change it.
        Ok(_) | Err(Errno::ACCESS) => {
            fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            Ok(fs::openat(parent, name, flags, Mode::empty())?)
        }
        Err(e) => Err(e.into()),
    }
}

/// The names in a directory, but for `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_a_tree_deeper_than_descriptors_and_paths_allow() {
        // In memory where there is such a thing: a disk takes half a minute for these directories.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut at = super::super::tree::open_root(&top).unwrap();
        for _ in 0..5000 {
            fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            fs::mkdirat(&at, "e", Mode::RWXU).unwrap();
            fs::symlinkat("/", &at, "link").unwrap();
            at = fs::openat(&at, "d", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        remove_tree(&top).unwrap();
    }
}
