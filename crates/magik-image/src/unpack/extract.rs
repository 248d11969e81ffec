//! Writing a layer's entries below a directory.
//!
//! No path is joined as text. [`open_dir`](super::open_dir) opens the entry's directory
//! with `openat2(2)`, beneath the root and through no symbolic link. The entry is then made by name
//! in it, exclusively. (CVE-2019-14271, CVE-2021-41091 and others come from doing this by hand.)
//!
//! The result is that of unpacking all layers, in order, into one directory. There are two forms: a
//! flat tree, or a tree per layer for overlayfs. So a whiteout means lower layers only, wherever it
//! stands; an implied directory is as it was; a lower layer's symbolic link is followed.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    rc::Rc,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, SeekFrom},
    io::Errno,
};

use super::{
    archive::{Archive, Piece},
    budget::Budget,
    entry::{Entry, Kind, Metadata, split},
    lower::Lower,
    metadata::{self, Identity},
    remove::remove_at,
    tree::{Dir, Fault, Result, below, join, resolve},
};

/// What becomes of whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// They are kept, in overlayfs form.
    Overlay,
    /// They are carried out on what is there already.
    Apply,
}

/// Waits for the layers below and says where their trees are, the uppermost first.
pub(super) type LowerTrees<'a> = &'a dyn Fn() -> crate::Result<Vec<PathBuf>>;

/// What a directory will look like in the end.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) metadata: Metadata,
    /// Whether it was there before this layer, with attributes that may have to go.
    pub(super) existed: bool,
}

/// A directory that one layer is being written into.
pub(super) struct Extractor<'a> {
    pub(super) root: OwnedFd,
    pub(super) whiteouts: Whiteouts,
    pub(super) identity: Identity,
    trees: LowerTrees<'a>,
    lower: OnceCell<Lower>,
    /// The directory of the last entry: archives list a directory's entries one after the other.
    pub(super) parent: Option<(Vec<u8>, Rc<Dir>)>,
    /// The directories' metadata, set at the end: every entry made in one changes its times, and
    /// its mode may forbid new entries.
    pub(super) directories: BTreeMap<Vec<u8>, Planned>,
    /// Directories that hide lower layers' entries; the flat form has removed these.
    pub(super) opaque: BTreeSet<Vec<u8>>,
    /// Overlay form: the whiteouts made.
    pub(super) hidden: BTreeSet<Vec<u8>>,
    /// What this layer has made, which its own whiteouts do not mean.
    pub(super) made: BTreeSet<Vec<u8>>,
}

impl<'a> Extractor<'a> {
    /// Writes a layer in overlay form into the empty directory `root`.
    pub(super) fn overlay(root: OwnedFd, trees: LowerTrees<'a>) -> Self {
        Self {
            root,
            whiteouts: Whiteouts::Overlay,
            identity: Identity::current(),
            trees,
            lower: OnceCell::new(),
            parent: None,
            directories: BTreeMap::new(),
            opaque: BTreeSet::new(),
            hidden: BTreeSet::new(),
            made: BTreeSet::new(),
        }
    }

    /// Writes a layer into `root`, over the layers below it; `lowest`: no layer is below.
    pub(super) fn flat(root: OwnedFd, lowest: bool) -> Self {
        let mut extractor = Self::overlay(root, &|| Ok(Vec::new()));
        extractor.whiteouts = Whiteouts::Apply;
        if lowest {
            let root = Planned {
                metadata: Metadata::of_implied(),
                existed: false,
            };
            extractor.directories.insert(Vec::new(), root);
        }
        extractor
    }

    /// Writes one entry, with its content if it is a file.
    pub(super) fn add(
        &mut self,
        entry: Entry,
        content: &mut Archive<impl BufRead>,
        budget: &mut Budget<'_>,
    ) -> Result<()> {
        let Entry { path, kind, metadata } = entry;
        if kind == Kind::Nothing {
            return Ok(());
        }
        budget.entry(path.len())?;
        match (kind, self.whiteouts) {
            (Kind::Whiteout, Whiteouts::Overlay) => self.hide(&path, budget),
            (Kind::Whiteout, Whiteouts::Apply) => self.remove_lower(&path, budget),
            (Kind::Opaque, _) => {
                let dir = self.open_dir(&path, budget)?;
                self.hide_all_in(&dir.path)
            }
            (Kind::Directory, _) => self.directory(&path, metadata, budget),
            (kind, _) => self.leaf(&path, &kind, &metadata, content, budget),
        }
    }

    /// Does the final steps. Returns whether overlayfs' attributes needed the `user.` form.
    pub(super) fn finish(mut self) -> Result<bool, (Vec<u8>, Fault)> {
        if self.whiteouts == Whiteouts::Overlay {
            self.finish_root().map_err(|e| (Vec::new(), e))?;
            self.drop_idle_whiteouts()?;
        }
        let mut user_xattr = false;
        // The deepest first: new entries change the times, and the mode may forbid access.
        for (path, planned) in std::mem::take(&mut self.directories).into_iter().rev() {
            let opaque = self.whiteouts == Whiteouts::Overlay && self.opaque.contains(&path);
            let set = || -> io::Result<bool> {
                let fd = resolve(&self.root, &path, OFlags::RDONLY)?;
                let user = opaque && metadata::set_opaque(fd.as_fd())?;
                if planned.existed {
                    metadata::replace(fd.as_fd(), &planned.metadata, self.identity)?;
                } else {
                    metadata::set(fd.as_fd(), &planned.metadata, self.identity)?;
                }
                Ok(user)
            };
            user_xattr |= set().map_err(|e| (path.clone(), e.into()))?;
        }
        Ok(user_xattr)
    }

    /// The layers below, which may have to be waited for.
    pub(super) fn lower(&mut self) -> Result<&mut Lower> {
        if self.lower.get().is_none() {
            let lower = Lower::open(&(self.trees)()?)?;
            self.lower.get_or_init(|| lower);
        }
        match self.lower.get_mut() {
            Some(lower) => Ok(lower),
            None => unreachable!("it was just set"),
        }
    }

    fn directory(&mut self, path: &[u8], metadata: Metadata, budget: &mut Budget<'_>) -> Result<()> {
        budget.remember(
            metadata
                .xattrs
                .iter()
                .map(|(name, value)| name.len() + value.len())
                .sum(),
        )?;
        if path.is_empty() {
            let dir = self.open_dir(b"", budget)?;
            self.plan(dir.path.clone(), metadata);
            return Ok(());
        }
        let (parent, name) = split(path);
        let dir = self.open_dir(parent, budget)?;
        let path = join(&dir.path, name)?;
        match fs::mkdirat(&dir.fd, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let there = fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    if self.whiteouts == Whiteouts::Apply {
                        let fd = resolve(&self.root, &path, OFlags::PATH)?;
                        self.touch(&path, fd.as_fd())?;
                    }
                } else {
                    self.clear(&dir, &path)?;
                    fs::mkdirat(&dir.fd, name, Mode::RWXU)?;
                    if self.whiteouts == Whiteouts::Overlay {
                        // The former entry hid what lower layers have.
                        self.opaque.insert(path.clone());
                    }
                }
            }
            Err(e) => return Err(e.into()),
        }
        self.note_made(&path);
        self.plan(path, metadata);
        Ok(())
    }

    fn plan(&mut self, path: Vec<u8>, metadata: Metadata) {
        let existed = self.directories.get(&path).is_some_and(|planned| planned.existed);
        self.directories.insert(path, Planned { metadata, existed });
    }

    /// Writes what is no directory, replacing what an earlier entry or layer put there.
    fn leaf(
        &mut self,
        path: &[u8],
        kind: &Kind,
        metadata: &Metadata,
        content: &mut Archive<impl BufRead>,
        budget: &mut Budget<'_>,
    ) -> Result<()> {
        let (parent, name) = split(path);
        let target = match kind {
            Kind::Hardlink(target) => Some(self.link_target(target, budget)?),
            _ => None,
        };
        let dir = self.open_dir(parent, budget)?;
        let path = join(&dir.path, name)?;
        if target.as_ref().is_some_and(|(_, target)| *target == path) {
            return Err(Fault::Refused("hard link to itself".to_owned()));
        }
        let target = target.as_ref().map(|(dir, path)| (&**dir, split(path).1));
        let made = match self.make(&dir, name, kind, target) {
            Err(Fault::Io(e)) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(&dir, &path)?;
                self.make(&dir, name, kind, target)?
            }
            other => other?,
        };
        match made {
            Made::File(fd) => {
                copy(fd.as_fd(), content, budget)?;
                metadata::set(fd.as_fd(), metadata, self.identity)?;
            }
            Made::Special => metadata::set_at(dir.fd.as_fd(), name, kind, metadata, self.identity)?,
            Made::Done => {}
        }
        self.note_made(&path);
        Ok(())
    }

    /// The file of this layer that a hard link means: its directory and its path.
    fn link_target(&mut self, target: &[u8], budget: &mut Budget<'_>) -> Result<(Rc<Dir>, Vec<u8>)> {
        let no_target = || {
            let shown = String::from_utf8_lossy(target);
            Fault::Refused(format!("hard link to {shown:?}, which is not in this layer"))
        };
        let directory = || Fault::Refused("hard link to a directory".to_owned());
        if target.is_empty() {
            return Err(directory());
        }
        let (parent, name) = split(target);
        let dir = self.existing_dir(parent, budget)?.ok_or_else(no_target)?;
        let path = join(&dir.path, name)?;
        let there = match fs::statat(&dir.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Err(no_target()),
            there => there?,
        };
        match FileType::from_raw_mode(there.st_mode) {
            FileType::Directory => Err(directory()),
            FileType::CharacterDevice if there.st_rdev == 0 => Err(no_target()),
            _ if self.whiteouts == Whiteouts::Apply && !self.made.contains(&path) => Err(no_target()),
            _ => Ok((dir, path)),
        }
    }

    fn make(&self, dir: &Dir, name: &[u8], kind: &Kind, target: Option<(&Dir, &[u8])>) -> Result<Made> {
        let privileged = self.identity.is_root();
        let fd = &dir.fd;
        let node = |file_type, device| match fs::mknodat(fd, name, file_type, Mode::RUSR | Mode::WUSR, device)
        {
            Ok(()) => Ok(Made::Special),
            Err(Errno::PERM) if !privileged => {
                tracing::warn!(name = %String::from_utf8_lossy(name), "device left out: making it needs root");
                Ok(Made::Done)
            }
            Err(e) => Err(e.into()),
        };
        match kind {
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(Made::File(fs::openat(fd, name, flags, Mode::RUSR | Mode::WUSR)?))
            }
            Kind::Symlink(to) => {
                fs::symlinkat(to.as_slice(), fd, name)?;
                Ok(Made::Special)
            }
            Kind::Hardlink(_) => {
                let Some((target_place, target_name)) = target else {
                    unreachable!("looked up above")
                };
                match fs::linkat(&target_place.fd, target_name, fd, name, AtFlags::empty()) {
                    Ok(()) => Ok(Made::Done),
                    Err(Errno::NOENT) => Err(Fault::Refused("hard link to what it replaces".to_owned())),
                    Err(Errno::MLINK) => Err(Fault::Refused(
                        "more hard links to a file than the file system allows".to_owned(),
                    )),
                    Err(e) => Err(e.into()),
                }
            }
            Kind::Fifo => node(FileType::Fifo, 0),
            Kind::CharDevice(device) => node(FileType::CharacterDevice, *device),
            Kind::BlockDevice(device) => node(FileType::BlockDevice, *device),
            Kind::Directory | Kind::Whiteout | Kind::Opaque | Kind::Nothing => {
                unreachable!("handled by add")
            }
        }
    }

    /// Removes the entry at `path`, in `dir`, if there is one, and forgets it.
    pub(super) fn clear(&mut self, dir: &Dir, path: &[u8]) -> Result<()> {
        remove_at(dir.fd.as_fd(), split(path).1)?;
        self.forget(path);
        Ok(())
    }

    pub(super) fn forget(&mut self, path: &[u8]) {
        // The cached directory may have been it, or be reached through it.
        self.parent = None;
        for set in [&mut self.opaque, &mut self.hidden, &mut self.made] {
            set.remove(path);
            set.extract_if(below(path), |_| true).for_each(drop);
        }
        self.directories.remove(path);
        self.directories
            .extract_if(below(path), |_, _| true)
            .for_each(drop);
    }

    pub(super) fn note_made(&mut self, path: &[u8]) {
        self.made.insert(path.to_vec());
    }
}

/// What `make` left to be done.
enum Made {
    File(OwnedFd),
    Special,
    Done,
}

fn copy(fd: BorrowedFd<'_>, content: &mut Archive<impl BufRead>, budget: &mut Budget<'_>) -> Result<()> {
    let (mut size, mut ends_in_hole) = (0, false);
    while let Some(piece) = content.next_piece()? {
        match piece {
            Piece::Data(mut rest) => {
                budget.content(rest.len() as u64)?;
                size += rest.len() as u64;
                ends_in_hole = false;
                while !rest.is_empty() {
                    match rustix::io::write(fd, rest) {
                        Ok(written) => rest = &rest[written..],
                        Err(Errno::INTR) => {}
                        Err(e) => return Err(e.into()),
                    }
                }
            }
            Piece::Hole(hole) => {
                budget.content(hole)?;
                size += hole;
                ends_in_hole = true;
                fs::seek(fd, SeekFrom::Start(size))?;
            }
        }
    }
    if ends_in_hole {
        fs::ftruncate(fd, size)?;
    }
    Ok(())
}
