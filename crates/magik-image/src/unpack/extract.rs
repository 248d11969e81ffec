//! Writing a layer's entries below a directory.
//!
//! Nothing here joins paths as text. The directory an entry goes into is opened by `openat2(2)` with `RESOLVE_IN_ROOT`, so the
//! kernel itself takes `/`, `..` and every symbolic link to be below the root; the entry is then made by name in that
//! directory, exclusively. (CVE-2019-14271, CVE-2021-41091 and their kin came from doing it by hand.)

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::{self, Read},
    ops::Bound,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};

use super::{
    budget::Budget,
    entry::{Entry, Kind, Metadata, split},
    metadata::{self, Identity},
    remove::remove_at,
    stream::BUFFER,
};
use crate::Error;

/// What becomes of whiteouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whiteouts {
    /// They are kept, in overlayfs form.
    Overlay,
    /// They are carried out on what is there already.
    Apply,
}

/// Why an entry could not be written.
#[derive(Debug)]
pub(super) enum Fault {
    Refused(String),
    Io(io::Error),
    Limit(Box<Error>),
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
        Self::Limit(Box::new(error))
    }
}

type Result<T, E = Fault> = std::result::Result<T, E>;

/// A directory that one layer is being written into.
#[derive(Debug)]
pub(super) struct Extractor {
    root: OwnedFd,
    whiteouts: Whiteouts,
    identity: Identity,
    /// The directory of the last entry: archives list a directory's entries one after the other.
    parent: Option<(Vec<u8>, OwnedFd)>,
    /// What the archive says of directories; set at the end, because every entry made in one changes its times, and its
    /// mode may forbid making any.
    directories: BTreeMap<Vec<u8>, Metadata>,
    /// Directories that were made because something lies in them.
    implied: BTreeSet<Vec<u8>>,
    /// Directories that hide what lower layers have in them.
    opaque: BTreeSet<Vec<u8>>,
    /// Whiteouts made, for an entry of that name may still come.
    hidden: HashSet<Vec<u8>>,
    /// With [`Whiteouts::Apply`]: what this layer has made, which its own whiteouts do not mean.
    made: BTreeSet<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Extractor {
    /// `fresh`: nothing but this layer has been written there.
    pub(super) fn new(root: OwnedFd, whiteouts: Whiteouts, fresh: bool) -> Self {
        Self {
            root,
            whiteouts,
            identity: Identity::current(),
            parent: None,
            directories: BTreeMap::new(),
            // Overlayfs takes the merged root's own attributes from the topmost layer.
            implied: if fresh {
                BTreeSet::from([Vec::new()])
            } else {
                BTreeSet::new()
            },
            opaque: BTreeSet::new(),
            hidden: HashSet::new(),
            made: BTreeSet::new(),
            buffer: vec![0; BUFFER],
        }
    }

    /// Writes one entry, with its content if it is a file.
    pub(super) fn add(
        &mut self,
        entry: Entry,
        content: &mut impl Read,
        budget: &mut Budget<'_>,
    ) -> Result<()> {
        let Entry { path, kind, metadata } = entry;
        if kind == Kind::Nothing {
            return Ok(());
        }
        budget.file()?;
        match (kind, self.whiteouts) {
            (Kind::Whiteout, Whiteouts::Overlay) => self.hide(path, budget),
            (Kind::Whiteout, Whiteouts::Apply) => self.remove_lower(&path),
            (Kind::Opaque, Whiteouts::Overlay) => {
                self.parent(&path, budget)?;
                self.opaque.insert(path);
                Ok(())
            }
            (Kind::Opaque, Whiteouts::Apply) => self.clear_lower(&path),
            (Kind::Directory, _) => self.directory(path, metadata, budget),
            (kind, _) => self.leaf(&path, &kind, &metadata, content, budget),
        }
    }

    /// Whether [`finish`](Self::finish) has to look into the layers below.
    pub(super) fn needs_lower(&self) -> bool {
        !self.implied.is_empty() || self.opaque.contains(&b""[..])
    }

    /// Sets what was left for the end. `lower` are the trees of the layers below, the uppermost first. Says whether attributes
    /// of overlayfs had to be written in their `user.` form.
    pub(super) fn finish(mut self, lower: &[PathBuf]) -> Result<bool, (Vec<u8>, io::Error)> {
        if self.opaque.remove(&b""[..]) {
            self.hide_all(lower).map_err(|e| (Vec::new(), e))?;
        }
        for path in std::mem::take(&mut self.implied) {
            let found = metadata::of_lower_directory(lower, &path);
            let found = found.map_err(|e| (path.clone(), e))?;
            // Only a fresh directory gets here in the flat form: an existing one would not have been implied.
            self.directories.insert(
                path,
                found.unwrap_or_else(|| Metadata {
                    mode: 0o755,
                    ..Metadata::default()
                }),
            );
        }
        let mut user_xattr = false;
        // The deepest first: setting one's times must come after those below it, and its mode may forbid going there.
        for (path, metadata) in std::mem::take(&mut self.directories).into_iter().rev() {
            let opaque = self.opaque.contains(&path);
            let set = || -> io::Result<bool> {
                // Something else may have taken its place: then it has no directory's metadata.
                let fd = match self.resolve(&path, OFlags::RDONLY | OFlags::NOFOLLOW) {
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(false),
                    fd => fd?,
                };
                let user = opaque && metadata::set_opaque(fd.as_fd())?;
                metadata::set(fd.as_fd(), &metadata, self.identity)?;
                Ok(user)
            };
            user_xattr |= set().map_err(|e| (path.clone(), e))?;
        }
        Ok(user_xattr)
    }

    /// Opens a directory below the root.
    fn resolve(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        loop {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match fs::openat2(&self.root, path, flags, Mode::empty(), resolve) {
                // openat2(2): EAGAIN when a rename elsewhere made the kernel unsure about "..".
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    /// The directory at `path`, made with all above it if it is not there.
    fn parent(&mut self, path: &[u8], budget: &mut Budget<'_>) -> Result<BorrowedFd<'_>> {
        if self.parent.as_ref().is_none_or(|(cached, _)| cached != path) {
            let fd = match self.resolve(path, OFlags::PATH) {
                Ok(fd) => fd,
                Err(Errno::NOENT | Errno::NOTDIR) => self.make_directories(path, budget)?,
                Err(e) => return Err(e.into()),
            };
            self.parent = Some((path.to_vec(), fd));
        }
        match &self.parent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => unreachable!("it was just set"),
        }
    }

    fn make_directories(&mut self, path: &[u8], budget: &mut Budget<'_>) -> Result<OwnedFd> {
        let ends = path
            .iter()
            .enumerate()
            .filter(|(_, b)| **b == b'/')
            .map(|(i, _)| i)
            .chain([path.len()]);
        let mut above = self.resolve(b"", OFlags::PATH)?;
        for end in ends {
            let prefix = &path[..end];
            above = match self.resolve(prefix, OFlags::PATH) {
                Ok(fd) => fd,
                Err(e @ (Errno::NOENT | Errno::NOTDIR)) => {
                    let (_, name) = split(prefix);
                    if e == Errno::NOTDIR && self.hidden.remove(prefix) {
                        fs::unlinkat(&above, name, AtFlags::empty())?;
                        self.opaque.insert(prefix.to_vec());
                    }
                    budget.file()?;
                    match fs::mkdirat(&above, name, Mode::RWXU) {
                        Ok(()) => {}
                        Err(Errno::EXIST) => {
                            let shown = String::from_utf8_lossy(prefix);
                            return Err(Fault::Refused(format!("its parent {shown:?} is not a directory")));
                        }
                        Err(e) => return Err(e.into()),
                    }
                    self.implied.insert(prefix.to_vec());
                    self.note_made(prefix);
                    self.resolve(prefix, OFlags::PATH)?
                }
                Err(e) => return Err(e.into()),
            };
        }
        Ok(above)
    }

    fn directory(&mut self, path: Vec<u8>, metadata: Metadata, budget: &mut Budget<'_>) -> Result<()> {
        if !path.is_empty() {
            let (parent, name) = split(&path);
            let fd = self.parent(parent, budget)?;
            if let Err(e) = fs::mkdirat(fd, name, Mode::RWXU) {
                if e != Errno::EXIST {
                    return Err(e.into());
                }
                let there = fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    let was_hidden = self.hidden.contains(&path);
                    self.clear(&path, budget)?;
                    fs::mkdirat(self.parent(parent, budget)?, name, Mode::RWXU)?;
                    if was_hidden {
                        self.opaque.insert(path.clone());
                    }
                }
            }
            self.note_made(&path);
        }
        self.implied.remove(&path);
        self.directories.insert(path, metadata);
        Ok(())
    }

    /// Writes what is no directory, replacing what an earlier entry or layer put there.
    fn leaf(
        &mut self,
        path: &[u8],
        kind: &Kind,
        metadata: &Metadata,
        content: &mut impl Read,
        budget: &mut Budget<'_>,
    ) -> Result<()> {
        if matches!(kind, Kind::Hardlink(target) if target == path) {
            return Err(Fault::Refused("hard link to itself".to_owned()));
        }
        let made = match self.make(path, kind, budget) {
            Err(Fault::Io(e)) if e.kind() == io::ErrorKind::AlreadyExists => {
                self.clear(path, budget)?;
                self.make(path, kind, budget)?
            }
            other => other?,
        };
        match made {
            Made::File(fd) => {
                self.copy(fd.as_fd(), content, budget)?;
                metadata::set(fd.as_fd(), metadata, self.identity)?;
            }
            Made::Special => {
                let (parent, name) = split(path);
                let identity = self.identity;
                metadata::set_at(self.parent(parent, budget)?, name, kind, metadata, identity)?;
            }
            Made::Done => {}
        }
        self.note_made(path);
        Ok(())
    }

    fn make(&mut self, path: &[u8], kind: &Kind, budget: &mut Budget<'_>) -> Result<Made> {
        // The link's target is looked up first: both may be in the same directory.
        let target = match kind {
            Kind::Hardlink(target) => {
                let (parent, name) = split(target);
                match self.resolve(parent, OFlags::PATH) {
                    Ok(fd) if !name.is_empty() => Some((fd, name)),
                    Ok(_) => return Err(Fault::Refused("hard link to a directory".to_owned())),
                    Err(Errno::NOENT | Errno::NOTDIR) => return Err(no_target(target)),
                    Err(e) => return Err(e.into()),
                }
            }
            _ => None,
        };
        let privileged = self.identity.is_root();
        let (parent, name) = split(path);
        let fd = self.parent(parent, budget)?;
        let node = |file_type, device| match fs::mknodat(fd, name, file_type, Mode::RUSR | Mode::WUSR, device)
        {
            Ok(()) => Ok(Made::Special),
            Err(Errno::PERM) if !privileged => {
                tracing::warn!(path = %String::from_utf8_lossy(path), "device left out: making it needs root");
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
            Kind::Hardlink(to) => {
                let Some((target_parent, target_name)) = target else {
                    unreachable!("looked up above")
                };
                match fs::linkat(&target_parent, target_name, fd, name, AtFlags::empty()) {
                    Ok(()) => Ok(Made::Done),
                    Err(Errno::NOENT) => Err(no_target(to)),
                    Err(Errno::PERM) => Err(Fault::Refused("hard link to a directory".to_owned())),
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

    fn copy(&mut self, fd: BorrowedFd<'_>, content: &mut impl Read, budget: &mut Budget<'_>) -> Result<()> {
        loop {
            let n = match content.read(&mut self.buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            budget.content(n as u64)?;
            let mut rest = &self.buffer[..n];
            while !rest.is_empty() {
                match rustix::io::write(fd, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
    }

    /// Removes whatever is at `path`, and forgets it.
    fn clear(&mut self, path: &[u8], budget: &mut Budget<'_>) -> Result<()> {
        let (parent, name) = split(path);
        remove_at(self.parent(parent, budget)?, name)?;
        self.forget(path);
        Ok(())
    }

    fn forget(&mut self, path: &[u8]) {
        // The cached directory may have been it, or be reached through it.
        self.parent = None;
        let keep = |p: &[u8]| p != path && !is_below(p, path);
        self.directories.retain(|p, _| keep(p));
        self.implied.retain(|p| keep(p));
        self.opaque.retain(|p| keep(p));
        self.hidden.retain(|p| keep(p));
        self.made.retain(|p| keep(p));
    }

    /// Overlay form: hides what lower layers have at `path`.
    fn hide(&mut self, path: Vec<u8>, budget: &mut Budget<'_>) -> Result<()> {
        let (parent, name) = split(&path);
        let fd = self.parent(parent, budget)?;
        match fs::mknodat(fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.hidden.insert(path);
            }
            // A whiteout means lower layers only. What this layer has there hides theirs, but a directory would show theirs, too.
            Err(Errno::EXIST) => {
                let there = fs::statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    self.opaque.insert(path);
                }
            }
            Err(e) => return Err(e.into()),
        }
        Ok(())
    }

    /// Overlayfs does not look at the opaque attribute of a layer's root, so each lower name gets a whiteout of its own.
    fn hide_all(&self, lower: &[PathBuf]) -> io::Result<()> {
        for tree in lower {
            for name in std::fs::read_dir(tree)? {
                let name = name?.file_name();
                match fs::mknodat(&self.root, &name, FileType::CharacterDevice, Mode::empty(), 0) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Flat form: removes what lower layers have at `path`.
    fn remove_lower(&mut self, path: &[u8]) -> Result<()> {
        if self.made.contains(path) || self.made_below(path) {
            return self.clear_lower(path);
        }
        let (parent, name) = split(path);
        let fd = match self.resolve(parent, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            fd => fd?,
        };
        match remove_at(fd.as_fd(), name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        self.forget(path);
        Ok(())
    }

    /// Flat form: removes what lower layers have in the directory at `path`.
    fn clear_lower(&mut self, path: &[u8]) -> Result<()> {
        let mut pending = vec![path.to_vec()];
        while let Some(path) = pending.pop() {
            let fd = match self.resolve(&path, OFlags::RDONLY | OFlags::NOFOLLOW) {
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                fd => fd?,
            };
            for name in super::remove::names(fd.as_fd())? {
                let mut child = path.clone();
                if !child.is_empty() {
                    child.push(b'/');
                }
                child.extend_from_slice(name.to_bytes());
                if self.made.contains(&child) || self.made_below(&child) {
                    pending.push(child);
                } else {
                    remove_at(fd.as_fd(), name.to_bytes())?;
                    self.parent = None;
                }
            }
        }
        Ok(())
    }

    fn note_made(&mut self, path: &[u8]) {
        if self.whiteouts == Whiteouts::Apply {
            self.made.insert(path.to_vec());
        }
    }

    fn made_below(&self, path: &[u8]) -> bool {
        let after = (Bound::Excluded(path), Bound::Unbounded);
        // Names such as "a-b" sort between "a" and "a/b".
        let mut after = self
            .made
            .range::<[u8], _>(after)
            .take_while(|p| p.starts_with(path));
        after.any(|p| is_below(p, path))
    }
}

/// What `make` left to be done.
enum Made {
    File(OwnedFd),
    Special,
    Done,
}

fn no_target(target: &[u8]) -> Fault {
    let shown = String::from_utf8_lossy(target);
    Fault::Refused(format!("hard link to {shown:?}, which is not in this layer"))
}

fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty()
        || path
            .strip_prefix(directory)
            .is_some_and(|rest| rest.starts_with(b"/"))
}

/// Opens the directory that a layer is to be written into.
pub(super) fn open_root(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::open(dir, flags, Mode::empty())?)
}
