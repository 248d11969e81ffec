//! How much room directory trees take.

use std::{collections::HashSet, io, os::fd::OwnedFd, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, DirEntry, FileType, Mode, OFlags, Stat, openat, statat},
    io::Errno,
};

/// The unit of `st_blocks`, in bytes (stat(2)).
const BLOCK: u64 = 512;
/// How deep it is looked: each level takes a descriptor.
const MAX_DEPTH: usize = 128;
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The most files with several names that are remembered; of more each name counts.
const MAX_LINKED: usize = 1 << 17;

/// The room that a directory and what is in it take on their file system, in bytes, as du(1)
/// counts it: a file with several names once, and nothing of another file system that is mounted
/// there. One that does not exist takes none.
///
/// What comes or goes meanwhile may be counted or not. What is nested deeper than 128 directories,
/// or may not be read, is not. Every step is by descriptor and follows no symlink, and how much
/// memory it takes does not depend on how many directories there are.
///
/// # Errors
/// The directory cannot be read.
pub fn size(path: &Path) -> io::Result<u64> {
    let mut measure = Measure::begin(path)?;
    while !measure.step(usize::MAX)? {}
    Ok(measure.size())
}

/// The same, a part at a time.
#[derive(Debug, Default)]
pub struct Measure {
    total: u64,
    device: u64,
    linked: HashSet<u64>,
    /// The directories from the top to the one that is read.
    open: Vec<Dir>,
    too_deep: bool,
}

impl Measure {
    /// Begins with a directory.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let top: OwnedFd = match openat(CWD, path, DIRECTORY, Mode::empty()) {
            Ok(top) => top,
            Err(Errno::NOENT) => return Ok(Self::default()),
            Err(e) => return Err(e.into()),
        };
        let stat = rustix::fs::fstat(&top)?;
        Ok(Self {
            total: room(&stat),
            device: stat.st_dev,
            open: vec![Dir::new(top)?],
            ..Self::default()
        })
    }

    /// Looks at so many files more; `true`: that was all.
    ///
    /// # Errors
    /// The kernel's.
    pub fn step(&mut self, mut files: usize) -> io::Result<bool> {
        while let Some(dir) = self.open.last_mut() {
            let Some(entry) = dir.read() else {
                self.open.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let here = dir.fd()?;
            match statat(here, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                found => self.count(&found?, &entry)?,
            }
            files -= 1;
            if files == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn count(&mut self, found: &Stat, entry: &DirEntry) -> io::Result<()> {
        if found.st_dev != self.device {
            return Ok(());
        }
        let is_dir = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
        let is_counted = !is_dir && found.st_nlink > 1 && !self.is_new(found.st_ino);
        if !is_counted {
            self.total = self.total.saturating_add(room(found));
        }
        if !is_dir {
            return Ok(());
        }
        if self.open.len() >= MAX_DEPTH {
            self.too_deep = true;
        } else if let Some(below) = enter(self.open.last(), entry)? {
            self.open.push(below);
        }
        Ok(())
    }

    fn is_new(&mut self, file: u64) -> bool {
        self.linked.len() >= MAX_LINKED || self.linked.insert(file)
    }

    /// What was counted so far, in bytes.
    pub fn size(&self) -> u64 {
        self.total
    }

    /// Whether something is nested so deep that it was not counted.
    pub fn is_too_deep(&self) -> bool {
        self.too_deep
    }
}

fn room(stat: &Stat) -> u64 {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    blocks.saturating_mul(BLOCK)
}

/// A directory in another, unless it is gone or may not be read.
fn enter(dir: Option<&Dir>, entry: &DirEntry) -> Result<Option<Dir>, Errno> {
    let Some(dir) = dir else { return Ok(None) };
    match openat(dir.fd()?, entry.file_name(), DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(None),
        opened => Dir::new(opened?).map(Some),
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
    fn what_is_nested_too_deep_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, dir.path(), flags, Mode::empty()).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        size(dir.path()).unwrap();
        let mut measure = Measure::begin(dir.path()).unwrap();
        let mut steps = 0;
        while !measure.step(10).unwrap() {
            steps += 1;
        }
        assert!(measure.is_too_deep() && steps == 12, "{steps}");
        crate::tree::remove(&dir.path().join("d")).unwrap();
    }
}
