//! Removing directory trees that somebody else has made.

use std::{io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, renameat, unlinkat},
    io::Errno,
};

/// How deep the removal goes before it moves what is below up: each level takes a descriptor.
const MAX_DEPTH: usize = 64;

/// Removes a directory and what is in it; one that does not exist is no error. However deep it is nested, and whatever is
/// renamed meanwhile: nothing outside of it is touched, as every step is by descriptor and follows no symlink.
///
/// # Errors
/// Something of it cannot be removed; the message names the tree.
pub fn remove(path: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(named(path, e)),
    };
    let mut moved = 0;
    loop {
        let before = moved;
        clear(&top, &top, 0, &mut moved).map_err(|e| named(path, e))?;
        if moved == before {
            break;
        }
    }
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(named(path, e)),
    }
}

fn named(path: &Path, e: Errno) -> io::Error {
    let e = io::Error::from(e);
    io::Error::new(e.kind(), format!("remove {}: {e}", path.display()))
}

/// Empties a directory. What is too deep becomes a new entry of `top`, for the next round.
fn clear(dir: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut u64) -> Result<(), Errno> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if entry.file_type() != FileType::Directory && entry.file_type() != FileType::Unknown {
            gone(unlinkat(dir, name, AtFlags::empty()))?;
            continue;
        }
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTDIR) => {
                gone(unlinkat(dir, name, AtFlags::empty()))?;
                continue;
            }
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        if depth >= MAX_DEPTH {
            *moved += 1;
            renameat(dir, name, top, format!(".removed-{moved}"))?;
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let child = openat(dir, name, flags, Mode::empty())?;
        clear(&child, top, depth + 1, moved)?;
        gone(unlinkat(dir, name, AtFlags::REMOVEDIR))?;
    }
    Ok(())
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let kept = dir.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/f"), "x").unwrap();
        std::os::unix::fs::symlink(&kept, tree.join("a/link")).unwrap();
        remove(&tree).unwrap();
        assert!(!tree.exists() && kept.join("file").exists());
        remove(&tree).unwrap();
        std::os::unix::fs::symlink(&kept, &tree).unwrap();
        assert!(remove(&tree).is_err() && kept.join("file").exists());
    }

    #[test]
    fn removes_what_is_nested_deeper_than_a_path_can_name() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, &tree, flags, Mode::empty()).unwrap();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove(&tree).unwrap();
        assert!(!tree.exists());
    }
}
