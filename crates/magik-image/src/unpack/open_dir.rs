//! Where an entry goes: the directory that its path means.
//!
//! A path in an archive may lead through symbolic links of this layer and of lower ones, perhaps in
//! other trees. As in a flat root, those are followed, and `/` and `..` end at the root. The result
//! is a path without links, and a descriptor that the kernel has opened beneath the root
//! (`RESOLVE_BENEATH`, `RESOLVE_NO_SYMLINKS`): even a mistake here reaches nothing outside.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};

use super::{
    budget::Budget,
    entry::{Metadata, split},
    extract::{Extractor, Planned, Whiteouts},
    lower::Found,
    metadata,
    tree::{Dir, Fault, Result, join, resolve},
};

/// The most symbolic links that one path may lead through, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

/// Where one name of a path leads.
enum Step {
    Directory(OwnedFd),
    Link(Vec<u8>),
    /// Nowhere, and nothing may be made there.
    Nowhere,
}

impl Extractor<'_> {
    /// The directory at `asked`, made with all above it if it is not there.
    pub(super) fn open_dir(&mut self, asked: &[u8], budget: &mut Budget<'_>) -> Result<Rc<Dir>> {
        if let Some((cached, dir)) = &self.parent
            && cached == asked
        {
            return Ok(Rc::clone(dir));
        }
        let Some(dir) = self.find(asked, true, budget)? else {
            unreachable!("it is made if it is not there")
        };
        if self.whiteouts == Whiteouts::Apply {
            self.touch(&dir.path, dir.fd.as_fd())?;
        }
        let dir = Rc::new(dir);
        self.parent = Some((asked.to_vec(), Rc::clone(&dir)));
        Ok(dir)
    }

    /// The directory at `asked`, if this tree has it.
    pub(super) fn existing_dir(&mut self, asked: &[u8], budget: &mut Budget<'_>) -> Result<Option<Rc<Dir>>> {
        if let Some((cached, dir)) = &self.parent
            && cached == asked
        {
            return Ok(Some(Rc::clone(dir)));
        }
        Ok(self.find(asked, false, budget)?.map(Rc::new))
    }

    fn find(&mut self, asked: &[u8], make: bool, budget: &mut Budget<'_>) -> Result<Option<Dir>> {
        // Nearly always there are no links, and the archive has listed the directory before.
        match resolve(&self.root, asked, OFlags::PATH) {
            Ok(fd) => Ok(Some(Dir {
                path: asked.to_vec(),
                fd,
            })),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => self.walk(asked, make, budget),
            Err(e) => Err(e.into()),
        }
    }

    fn walk(&mut self, asked: &[u8], make: bool, budget: &mut Budget<'_>) -> Result<Option<Dir>> {
        let mut path = Vec::new();
        let mut fd = resolve(&self.root, b"", OFlags::PATH)?;
        // Names still to go, the last first, and whether a link brought them.
        let mut names: Vec<(Vec<u8>, bool)> = components(asked).map(|name| (name, false)).collect();
        let mut links = 0;
        while let Some((name, linked)) = names.pop() {
            if name == b".." {
                path.truncate(split(&path).0.len());
                fd = resolve(&self.root, &path, OFlags::PATH)?;
                continue;
            }
            let child = join(&path, &name)?;
            match self.step(fd.as_fd(), &path, &name, (make, linked), budget)? {
                Step::Directory(next) => (path, fd) = (child, next),
                Step::Link(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Fault::Refused("its path leads through too many links".into()));
                    }
                    if target.starts_with(b"/") {
                        path.clear();
                        fd = resolve(&self.root, b"", OFlags::PATH)?;
                    }
                    names.extend(components(&target).map(|name| (name, true)));
                }
                Step::Nowhere if make => {
                    let shown = String::from_utf8_lossy(&child);
                    return Err(Fault::Refused(format!(
                        "its parent leads to {shown:?}, where nothing is"
                    )));
                }
                Step::Nowhere => return Ok(None),
            }
        }
        Ok(Some(Dir { path, fd }))
    }

    /// Goes to `name` in the directory at `path`. `make`: a directory of lower layers is made here,
    /// too; a missing one also, unless a link led there.
    fn step(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &[u8],
        name: &[u8],
        (make, linked): (bool, bool),
        budget: &mut Budget<'_>,
    ) -> Result<Step> {
        let child = join(path, name)?;
        let no_directory = || {
            let shown = String::from_utf8_lossy(&child);
            Fault::Refused(format!("its parent {shown:?} is not a directory"))
        };
        let there = match fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => None,
            Err(Errno::NAMETOOLONG) => {
                return Err(Fault::Refused("its path leads to a name that is too long".into()));
            }
            there => Some(there?),
        };
        let mut below = None;
        match there.map(|there| (FileType::from_raw_mode(there.st_mode), there.st_rdev)) {
            Some((FileType::Directory, _)) => return open_child(dir, name).map(Step::Directory),
            Some((FileType::Symlink, _)) => {
                let target = fs::readlinkat(dir, name, Vec::new())?;
                return Ok(Step::Link(target.into_bytes()));
            }
            Some((FileType::CharacterDevice, 0)) => {
                if !make || linked {
                    return Ok(Step::Nowhere);
                }
                fs::unlinkat(dir, name, AtFlags::empty())?;
                self.hidden.remove(&child);
                self.opaque.insert(child.clone());
            }
            Some(_) => return Err(no_directory()),
            None if self.whiteouts == Whiteouts::Apply || self.hides_lower(path) => {
                if !make || linked {
                    return Ok(Step::Nowhere);
                }
            }
            None => match self.lower()?.look_up(&child)? {
                Found::Directory(metadata) if make => below = Some(metadata),
                Found::Symlink(target) => return Ok(Step::Link(target)),
                Found::Other => return Err(no_directory()),
                Found::Nothing if make && !linked => {}
                Found::Directory(_) | Found::Nothing => return Ok(Step::Nowhere),
            },
        }
        if self.whiteouts == Whiteouts::Apply {
            self.touch(path, dir)?;
        }
        budget.entry(child.len())?;
        fs::mkdirat(dir, name, Mode::RWXU)?;
        if below.is_none() {
            self.note_made(&child);
        }
        let planned = Planned {
            metadata: below.unwrap_or_else(Metadata::of_implied),
            existed: false,
        };
        self.directories.insert(child, planned);
        open_child(dir, name).map(Step::Directory)
    }

    /// Whether this layer hides what those below it have in the directory at `path`.
    pub(super) fn hides_lower(&self, path: &[u8]) -> bool {
        if self.opaque.is_empty() {
            return false;
        }
        let mut path = path;
        loop {
            if self.opaque.contains(path) {
                return true;
            }
            if path.is_empty() {
                return false;
            }
            path = split(path).0;
        }
    }

    /// Flat form: the directory at `path` changes; one from before this layer will look the same.
    pub(super) fn touch(&mut self, path: &[u8], dir: BorrowedFd<'_>) -> Result<()> {
        if self.directories.contains_key(path) {
            return Ok(());
        }
        let dir = fs::openat(
            dir,
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let metadata = metadata::of_open(dir.as_fd())?;
        metadata::suspend_inheritance(dir.as_fd(), &metadata, self.identity)?;
        let planned = Planned {
            metadata,
            existed: true,
        };
        self.directories.insert(path.to_vec(), planned);
        Ok(())
    }
}

fn open_child(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?)
}

/// The names of a path, the last first.
fn components(path: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    path.rsplit(|b| *b == b'/')
        .filter(|name| !matches!(*name, b"" | b"."))
        .map(<[u8]>::to_vec)
}
