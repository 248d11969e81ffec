//! What the layers below one look like, merged as overlayfs would.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    entry::Metadata,
    metadata::{self, is_opaque},
};

/// The layers below, the uppermost first.
#[derive(Debug, Default)]
pub(super) struct Lower {
    trees: Vec<Tree>,
}

#[derive(Debug)]
struct Tree {
    root: OwnedFd,
    /// The last missing directory: nothing below it exists, and lookups come in runs.
    absent: Vec<u8>,
}

/// What is at a path.
#[derive(Debug)]
pub(super) enum Found {
    Directory(Metadata),
    Symlink(Vec<u8>),
    /// Anything else.
    Other,
    Nothing,
}

/// What one layer says of a path.
enum Answer {
    /// It has something there.
    Has(Found),
    /// It has nothing there, those below it may.
    Passes,
    /// It hides what those below it have there.
    Hides,
}

impl Lower {
    pub(super) fn open(trees: &[PathBuf]) -> io::Result<Self> {
        let open = |tree: &PathBuf| {
            Ok(Tree {
                root: super::tree::open_root(tree)?,
                absent: Vec::new(),
            })
        };
        Ok(Self {
            trees: trees.iter().map(open).collect::<io::Result<_>>()?,
        })
    }

    /// What is at `path`, no part of which is a symbolic link but perhaps the last.
    pub(super) fn look_up(&mut self, path: &[u8]) -> io::Result<Found> {
        for tree in &mut self.trees {
            match tree.look_up(path)? {
                Answer::Has(found) => return Ok(found),
                Answer::Hides => break,
                Answer::Passes => {}
            }
        }
        Ok(Found::Nothing)
    }

    /// All names in the roots of the layers, some more than once.
    pub(super) fn root_names(&self) -> io::Result<Vec<std::ffi::CString>> {
        let mut names = Vec::new();
        for tree in &self.trees {
            names.extend(super::remove::names(tree.root.as_fd())?);
        }
        Ok(names)
    }
}

impl Tree {
    fn look_up(&mut self, path: &[u8]) -> io::Result<Answer> {
        if !self.absent.is_empty() && super::tree::is_at_or_below(path, &self.absent) {
            return Ok(Answer::Passes);
        }
        let mut dir: Option<OwnedFd> = None;
        let mut hides = false;
        let mut names = path.split(|b| *b == b'/').filter(|n| !n.is_empty()).peekable();
        let mut end = 0;
        while let Some(name) = names.next() {
            let parent = dir.as_ref().unwrap_or(&self.root).as_fd();
            hides |= is_opaque(parent);
            end += name.len();
            match open_directory(parent, name) {
                Ok(fd) => dir = Some(fd),
                Err(Errno::NOENT) if !hides => {
                    self.absent.clear();
                    self.absent.extend_from_slice(&path[..end]);
                    return Ok(Answer::Passes);
                }
                Err(Errno::NOENT) => return Ok(Answer::Hides),
                // What is no directory hides what lies below it in others.
                Err(Errno::NOTDIR | Errno::LOOP) if names.peek().is_some() => return Ok(Answer::Hides),
                Err(Errno::NOTDIR | Errno::LOOP) => return leaf(parent, name),
                Err(e) => return Err(e.into()),
            }
            end += 1;
        }
        let dir = dir.as_ref().unwrap_or(&self.root).as_fd();
        Ok(Answer::Has(Found::Directory(metadata::of_open(dir)?)))
    }
}

/// What is no directory.
fn leaf(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<Answer> {
    let stat = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = fs::readlinkat(parent, name, Vec::new())?;
            Answer::Has(Found::Symlink(target.into_bytes()))
        }
        FileType::CharacterDevice if stat.st_rdev == 0 => Answer::Hides,
        _ => Answer::Has(Found::Other),
    })
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(parent, name, flags, Mode::empty(), resolve)
}
