//! What differs between two images, by their unpacked layers.
//!
//! Both are seen as overlayfs would merge their layers. A directory of which both have the same
//! layers is not looked into, so what an image shares with its parent costs nothing.

use std::{
    collections::BTreeSet,
    ffi::CString,
    fs::File,
    io::{self, Read as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStringExt as _,
    },
    path::PathBuf,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{
    metadata,
    tree::{Fault, join, open_root, resolve},
};
use crate::{Error, Image, ImageStore, Result};

/// The most changes that are listed.
pub const MAX_CHANGES: usize = 1_000_000;

const BUFFER: usize = 64 << 10;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// Only the new image has it.
    Added,
    /// Both have it: its type, content, owner, mode, attributes or link target are others, or,
    /// of a directory, something in it is. A time of modification alone is no change.
    Changed,
    /// Only the old image has it, with all that is in it.
    Deleted,
}

/// A path that differs between two images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Where it is, from the root of the image: `/etc/passwd`.
    pub path: PathBuf,
}

impl ImageStore {
    /// What changes from `old` to `new`, in the order of the paths; without `old`, what the
    /// uppermost layer of `new` changes. Unpacks layers that are not unpacked yet; they stay.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack), and [`Error::TooMany`] for more than [`MAX_CHANGES`].
    pub fn changes(&self, old: Option<&Image>, new: &Image) -> Result<Vec<Change>> {
        // No layer is removed while this is held.
        let _blobs = self.cas().lease()?;
        let after = self.unpacked(new)?;
        let before = match old {
            Some(old) => self.unpacked(old)?,
            None => after.iter().skip(1).cloned().collect(),
        };
        let mut trees: Vec<PathBuf> = before.iter().chain(&after).cloned().collect();
        trees.sort();
        trees.dedup();
        let numbers = |of: &[PathBuf]| -> Vec<usize> {
            let number = |tree: &PathBuf| trees.binary_search(tree).ok();
            of.iter().filter_map(number).collect()
        };
        let root = Pair {
            path: Vec::new(),
            old: numbers(&before),
            new: numbers(&after),
        };
        let failed = |source| Error::io(format!("compare image {}", new.name()))(source);
        let roots: io::Result<Vec<OwnedFd>> = trees.iter().map(|tree| open_root(tree)).collect();
        let mut comparison = Comparison {
            roots: roots.map_err(failed)?,
            image: new.name(),
            found: Vec::new(),
        };
        comparison.run(root)?;
        Ok(comparison.finish())
    }
}

/// A directory of both images, by the layers that have it: the uppermost first.
struct Pair {
    path: Vec<u8>,
    old: Vec<usize>,
    new: Vec<usize>,
}

/// What an image has under a name.
struct Entry {
    /// The layers that have it: several of a directory.
    layers: Vec<usize>,
    /// Of the uppermost of them.
    stat: Stat,
}

impl Entry {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    fn is_directory(&self) -> bool {
        self.kind() == FileType::Directory
    }
}

/// A directory of each layer that has it.
type Directories = Vec<(usize, OwnedFd)>;

struct Comparison {
    roots: Vec<OwnedFd>,
    image: String,
    /// Paths without a leading slash.
    found: Vec<(Vec<u8>, ChangeKind)>,
}

impl Comparison {
    fn run(&mut self, root: Pair) -> Result<()> {
        // By paths and not by descending, as in `copy`.
        let mut todo = vec![root];
        while let Some(pair) = todo.pop() {
            if pair.old == pair.new {
                continue;
            }
            self.directory(&pair, &mut todo).map_err(|fault| match fault {
                Fault::Other(error) => *error,
                Fault::Refused(reason) => self.failed(&pair.path, io::Error::other(reason)),
                Fault::Io(error) => self.failed(&pair.path, error),
            })?;
        }
        Ok(())
    }

    fn failed(&self, path: &[u8], error: io::Error) -> Error {
        let path = super::shown(path);
        Error::io(format!("compare {path:?} of image {}", self.image))(error)
    }

    fn directory(&mut self, pair: &Pair, todo: &mut Vec<Pair>) -> Result<(), Fault> {
        let old = self.open(&pair.path, &pair.old)?;
        let new = self.open(&pair.path, &pair.new)?;
        let mut names: BTreeSet<CString> = BTreeSet::new();
        for (_, dir) in old.iter().chain(&new) {
            names.extend(super::remove::names(dir.as_fd())?);
        }
        for name in names {
            let path = join(&pair.path, name.to_bytes())?;
            let (before, after) = (look_up(&old, &name)?, look_up(&new, &name)?);
            let mut below = |old: Vec<usize>, after: &Entry| {
                if after.is_directory() {
                    let (path, new) = (path.clone(), after.layers.clone());
                    todo.push(Pair { path, old, new });
                }
            };
            let kind = match (before, after) {
                (None, None) => continue,
                (Some(_), None) => ChangeKind::Deleted,
                (None, Some(after)) => {
                    below(Vec::new(), &after);
                    ChangeKind::Added
                }
                (Some(before), Some(after)) if before.layers == after.layers => continue,
                (Some(before), Some(after)) => {
                    let both = before.is_directory() && after.is_directory();
                    below(if both { before.layers.clone() } else { Vec::new() }, &after);
                    if !differs((&old, &before), (&new, &after), &name)? {
                        continue;
                    }
                    ChangeKind::Changed
                }
            };
            if self.found.len() == MAX_CHANGES {
                let what = format!("changes of image {}", self.image);
                return Err(Error::too_many(what, MAX_CHANGES as u64).into());
            }
            self.found.push((path, kind));
        }
        Ok(())
    }

    fn open(&self, path: &[u8], layers: &[usize]) -> io::Result<Directories> {
        let open = |layer: &usize| Ok((*layer, resolve(&self.roots[*layer], path, OFlags::RDONLY)?));
        layers.iter().map(open).collect()
    }

    /// Adds the directories in which something changed, and sorts.
    fn finish(mut self) -> Vec<Change> {
        let known: BTreeSet<&[u8]> = self.found.iter().map(|(path, _)| path.as_slice()).collect();
        let mut above: BTreeSet<Vec<u8>> = BTreeSet::new();
        for (path, _) in &self.found {
            let mut path = path.as_slice();
            while let (parent @ [_, ..], _) = super::entry::split(path) {
                if known.contains(parent) || !above.insert(parent.to_vec()) {
                    break;
                }
                path = parent;
            }
        }
        let above = above.into_iter().map(|path| (path, ChangeKind::Changed));
        self.found.extend(above);
        let parts =
            |path: &[u8]| -> Vec<Vec<u8>> { path.split(|b| *b == b'/').map(<[u8]>::to_vec).collect() };
        self.found.sort_by_cached_key(|(path, _)| parts(path));
        let change = |(path, kind): (Vec<u8>, ChangeKind)| Change {
            kind,
            path: PathBuf::from(std::ffi::OsString::from_vec([b"/", path.as_slice()].concat())),
        };
        self.found.into_iter().map(change).collect()
    }
}

/// What overlayfs would show under a name, `None` if nothing.
fn look_up(directories: &Directories, name: &CString) -> io::Result<Option<Entry>> {
    let mut found: Option<Entry> = None;
    for (layer, dir) in directories {
        let stat = match fs::statat(dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::CharacterDevice && stat.st_rdev == 0 {
            break; // a whiteout
        }
        match &mut found {
            None => {
                let layers = vec![*layer];
                found = Some(Entry { layers, stat });
                if kind != FileType::Directory {
                    break;
                }
            }
            Some(above) if kind == FileType::Directory => above.layers.push(*layer),
            Some(_) => break, // a directory hides it
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = fs::openat(dir, name.as_c_str(), flags, Mode::empty())?;
        if metadata::is_opaque(opened.as_fd()) {
            break;
        }
    }
    Ok(found)
}

/// Whether two entries of one name differ in themselves.
fn differs(
    (old, before): (&Directories, &Entry),
    (new, after): (&Directories, &Entry),
    name: &CString,
) -> io::Result<bool> {
    let (a, b) = (&before.stat, &after.stat);
    if a.st_mode != b.st_mode || a.st_uid != b.st_uid || a.st_gid != b.st_gid {
        return Ok(true);
    }
    let (Some(old), Some(new)) = (directory_of(old, before), directory_of(new, after)) else {
        return Ok(true);
    };
    let same = match after.kind() {
        FileType::Directory | FileType::Fifo | FileType::Socket => true,
        FileType::Symlink => {
            fs::readlinkat(old, name.as_c_str(), Vec::new())?
                == fs::readlinkat(new, name.as_c_str(), Vec::new())?
        }
        FileType::RegularFile => a.st_size == b.st_size && has_same_content(old, new, name, before, after)?,
        _ => a.st_rdev == b.st_rdev,
    };
    Ok(!same || attributes(old, name, a)? != attributes(new, name, b)?)
}

fn directory_of<'a>(directories: &'a Directories, entry: &Entry) -> Option<&'a OwnedFd> {
    let layer = entry.layers.first()?;
    directories
        .iter()
        .find(|(number, _)| number == layer)
        .map(|(_, dir)| dir)
}

fn attributes(dir: &OwnedFd, name: &CString, stat: &Stat) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut attributes = metadata::of_name(dir.as_fd(), name.to_bytes(), stat)?.xattrs;
    attributes.sort();
    Ok(attributes)
}

fn has_same_content(
    old: &OwnedFd,
    new: &OwnedFd,
    name: &CString,
    before: &Entry,
    after: &Entry,
) -> io::Result<bool> {
    let (a, b) = (&before.stat, &after.stat);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(true);
    }
    let open = |dir: &OwnedFd| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::openat(dir, name.as_c_str(), flags, Mode::empty()).map(File::from)
    };
    let (mut old, mut new) = match (open(old), open(new)) {
        (Ok(old), Ok(new)) => (old, new),
        // Of a mode that keeps out its owner, who is not root: the time has to do.
        (Err(Errno::ACCESS), _) | (_, Err(Errno::ACCESS)) => {
            return Ok((a.st_mtime, a.st_mtime_nsec) == (b.st_mtime, b.st_mtime_nsec));
        }
        (Err(e), _) | (_, Err(e)) => return Err(e.into()),
    };
    let (mut left, mut right) = (Vec::with_capacity(BUFFER), Vec::with_capacity(BUFFER));
    loop {
        for (file, buffer) in [(&mut old, &mut left), (&mut new, &mut right)] {
            buffer.clear();
            file.take(BUFFER as u64).read_to_end(buffer)?;
        }
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    /// What differs between two trees of one layer each.
    fn compare(old: &[&std::path::Path], new: &[&std::path::Path]) -> String {
        let roots = old.iter().chain(new).map(|tree| open_root(tree).unwrap());
        let mut comparison = Comparison {
            roots: roots.collect(),
            image: "test".into(),
            found: Vec::new(),
        };
        comparison
            .run(Pair {
                path: Vec::new(),
                old: (0..old.len()).collect(),
                new: (old.len()..old.len() + new.len()).collect(),
            })
            .unwrap();
        let lines = comparison.finish().into_iter();
        lines
            .map(|change| format!("{:?} {}\n", change.kind, change.path.display()))
            .collect()
    }

    #[test]
    fn a_time_is_no_change_and_a_mode_a_target_or_a_byte_is() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        for (tree, byte, target, mode) in [(&a, "x", "one", 0o644), (&b, "y", "two", 0o600)] {
            fs::create_dir_all(tree.join("d/e")).unwrap();
            for (name, text) in [("same", "same"), ("d/byte", byte), ("mode", "m")] {
                fs::write(tree.join(name), text).unwrap();
            }
            fs::set_permissions(tree.join("mode"), fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::symlink(target, tree.join("link")).unwrap();
        }
        let later = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        File::options()
            .write(true)
            .open(b.join("same"))
            .unwrap()
            .set_times(later)
            .unwrap();
        fs::remove_dir(b.join("d/e")).unwrap();
        fs::write(b.join("d/e"), "a file now").unwrap();
        fs::create_dir_all(b.join("new/dir")).unwrap();
        fs::create_dir_all(a.join("old/dir")).unwrap();
        assert_eq!(
            compare(&[&a], &[&b]),
            "Changed /d\nChanged /d/byte\nChanged /d/e\nChanged /link\nChanged /mode\n\
             Added /new\nAdded /new/dir\nDeleted /old\n"
        );
        assert_eq!(compare(&[&a], &[&a]), "");
        assert_eq!(compare(&[], &[&a]).lines().count(), 8);
    }
}
