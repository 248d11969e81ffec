//! Removing directory trees that other users have made.

use std::{ffi::CStr, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat},
    io::Errno,
    rand::{GetRandomFlags, getrandom},
};

/// How deep the removal goes before it moves what is below up: each level takes a descriptor.
const MAX_DEPTH: usize = 64;

/// How many names are tried for what has to be moved up.
const MAX_NAMES: u32 = 16;

/// Removes a directory and what is in it; one that does not exist is no error. Nothing outside is
/// touched, even if it is deep or parts are renamed meanwhile: every step is by descriptor and
/// follows no symlink.
///
/// # Errors
/// Something of it cannot be removed; the message names the tree.
pub fn remove(path: &Path) -> io::Result<()> {
    while !remove_some(path, usize::MAX)? {}
    Ok(())
}

/// Removes a directory as [`remove`] does, but at most so many of its entries, so that others have
/// their turn; `true` once it is gone.
///
/// # Errors
/// As [`remove`].
pub fn remove_some(path: &Path, most: usize) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match openat(CWD, path, flags, Mode::empty()) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(true),
        Err(e) => return Err(named(path, e)),
    };
    let mut removal = Removal {
        top: &top,
        left: most,
        moved: 0,
    };
    removal.clear(&top, 0).map_err(|e| named(path, e))?;
    if removal.left == 0 || removal.moved > 0 {
        return Ok(false);
    }
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(named(path, e)),
    }
}

fn named(path: &Path, e: Errno) -> io::Error {
    let e = io::Error::from(e);
    io::Error::new(e.kind(), format!("remove {}: {e}", path.display()))
}

struct Removal<'a> {
    top: &'a OwnedFd,
    /// How many entries may still be removed.
    left: usize,
    /// How many became entries of `top`, to be removed in the next round.
    moved: u64,
}

impl Removal<'_> {
    /// Empties a directory, as far as may be removed. What is too deep becomes a new entry of the
    /// top.
    fn clear(&mut self, dir: &OwnedFd, depth: usize) -> Result<(), Errno> {
        for entry in Dir::read_from(dir)? {
            if self.left == 0 {
                return Ok(());
            }
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            // Only what makes progress counts, not the way there.
            if entry.file_type() != FileType::Directory && entry.file_type() != FileType::Unknown {
                gone(unlinkat(dir, name, AtFlags::empty()))?;
                self.left -= 1;
                continue;
            }
            match unlinkat(dir, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                removed => {
                    match removed {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTDIR) => gone(unlinkat(dir, name, AtFlags::empty()))?,
                        Err(e) => return Err(e),
                    }
                    self.left -= 1;
                    continue;
                }
            }
            if depth >= MAX_DEPTH {
                self.move_up(dir, name)?;
                self.left -= 1;
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let child = openat(dir, name, flags, Mode::empty())?;
            self.clear(&child, depth + 1)?;
            if self.left > 0 {
                gone(unlinkat(dir, name, AtFlags::REMOVEDIR))?;
                self.left -= 1;
            }
        }
        Ok(())
    }

    /// Under a name that does not exist there, and that no process could have guessed.
    fn move_up(&mut self, dir: &OwnedFd, name: &CStr) -> Result<(), Errno> {
        for _ in 0..MAX_NAMES {
            let mut number = [0; 8];
            getrandom(&mut number, GetRandomFlags::empty())?;
            let new = format!(".removed-{:016x}", u64::from_ne_bytes(number));
            match renameat_with(dir, name, self.top, new, RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                Err(e) => return Err(e),
                Ok(()) => {
                    self.moved += 1;
                    return Ok(());
                }
            }
        }
        Err(Errno::EXIST)
    }
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
    fn removes_a_part_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        let mut deep = tree.join("deep");
        for _ in 0..2 * MAX_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        for n in 0..50 {
            fs::write(tree.join(n.to_string()), "x").unwrap();
        }
        let mut rounds = 1;
        while !remove_some(&tree, 10).unwrap() {
            rounds += 1;
        }
        assert!(rounds > 5 && !tree.exists(), "{rounds}");
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
