//! How much room directory trees take.

use std::{
    collections::HashSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat},
    io::Errno,
};

/// The unit of `st_blocks`, in bytes (stat(2)).
const BLOCK: u64 = 512;

/// The room that a directory and what is in it take on their file system, in bytes, as du(1) counts
/// it: a file with several names once, and nothing of another file system that is mounted there. One
/// that does not exist takes none.
///
/// What comes or goes meanwhile may be counted or not. What is nested deeper than a path can name, or
/// may not be read, is not.
///
/// # Errors
/// The directory cannot be read.
pub fn size(path: &Path) -> io::Result<u64> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(0),
        Err(e) => return Err(e.into()),
    };
    let mut total = room(&rustix::fs::fstat(&top)?);
    let mut linked = HashSet::new();
    let mut todo = vec![PathBuf::new()];
    while let Some(below) = todo.pop() {
        let Some(dir) = open(&top, &below)? else { continue };
        for entry in Dir::read_from(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = match statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name.to_bytes());
                todo.push(below.join(name));
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            total = total.saturating_add(room(&stat));
        }
    }
    Ok(total)
}

fn room(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(BLOCK)
}

/// A directory below the top one, unless it is gone, or none that is counted.
fn open(top: &OwnedFd, below: &Path) -> Result<Option<OwnedFd>, Errno> {
    let path = if below.as_os_str().is_empty() {
        Path::new(".")
    } else {
        below
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::NO_XDEV;
    loop {
        match openat2(top, path, flags, Mode::empty(), resolve) {
            // openat2(2): EAGAIN when a rename elsewhere made the kernel unsure about the path.
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::ACCESS,
            ) => return Ok(None),
            opened => return opened.map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn counts_each_file_once_and_follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        assert_eq!(size(&tree).unwrap(), 0);
        fs::create_dir_all(tree.join("a/b")).unwrap();
        let empty = size(&tree).unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("large"), vec![1; 4 << 20]).unwrap();
        fs::write(tree.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        let one = size(&tree).unwrap();
        assert!(one >= empty + (1 << 20), "{empty} {one}");
        fs::hard_link(tree.join("a/b/file"), tree.join("a/same")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        let two = size(&tree).unwrap();
        assert!(two < one + (1 << 20), "{one} {two}");
        std::os::unix::fs::symlink(&outside, dir.path().join("top")).unwrap();
        assert!(size(&dir.path().join("top")).is_err());
    }

    #[test]
    fn what_is_nested_deeper_than_a_path_can_name_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        size(dir.path()).unwrap();
        crate::tree::remove(&dir.path().join("d")).unwrap();
    }
}
