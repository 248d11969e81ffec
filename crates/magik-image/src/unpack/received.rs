//! A tree that a stranger sends as a tar archive which is no layer: a copy out of a container.
//!
//! Whoever wrote the archive wants to write elsewhere: with `..`, with links, or with names that
//! nobody asked for (CVE-2018-1002100, CVE-2019-1002101, CVE-2019-11246, CVE-2019-11249,
//! CVE-2019-11251 of kubectl; CVE-2018-15664 of docker). So it is unpacked in an empty directory of
//! its own, beneath which the kernel resolves every path, through no link. Only what is whole and
//! was asked for is then moved, by name, to where it is to be.

use std::{
    collections::VecDeque,
    ffi::OsStr,
    io::{self, BufReader, Read},
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{self, AtFlags, FileType, OFlags, RenameFlags},
    io::Errno,
};

use super::{
    archive::Archive,
    budget::{Budget, RootfsBudget},
    entry::{Entry, Kind, split},
    extract::Extractor,
    remove::{names, remove_at},
    shown,
    stream::{BUFFER, Refusal},
    tree::{Fault, is_at_or_below, join, resolve},
};
use crate::{Error, Limits, Result, limits::MAX_TAR_HEADER_SIZE};

/// What an archive counts as in messages.
const WHAT: &str = "the archive";
/// What the name of a directory for what is on its way begins with.
const PREFIX: &str = ".magikrun-cp-";
/// How much may follow an archive's end, in bytes. Writers fill up a block of 10 KiB, or more.
const MAX_PADDING: u64 = 1 << 20;

/// What an archive may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// This name, and what is below it.
    Name(&'a OsStr),
    /// Any names.
    Contents,
}

/// A tree that somebody has sent. It is removed on drop, unless it has been moved.
///
/// The directory where it goes is opened once: who may rename things there, as a container with a
/// `hostPath` can, does not choose another one meanwhile.
#[derive(Debug)]
pub struct ReceivedTree {
    root: OwnedFd,
    name: Vec<u8>,
    skipped: u64,
    working: Working,
}

/// The directory in which it is unpacked, in that where it goes.
#[derive(Debug)]
struct Working {
    parent: OwnedFd,
    /// What messages call the parent.
    shown: PathBuf,
    /// Empty: it is not there any more.
    name: String,
}

impl Working {
    /// Makes one that is empty and the caller's own.
    fn make(parent: OwnedFd, shown: &Path) -> io::Result<(Self, OwnedFd)> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = loop {
            let mut random = [0; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = format!("{PREFIX}{:016x}", u64::from_ne_bytes(random));
            match fs::mkdirat(&parent, &name, fs::Mode::RWXU) {
                Err(Errno::EXIST) => {}
                made => break made.map(|()| name)?,
            }
        };
        let root = fs::openat(&parent, &name, flags, fs::Mode::empty())?;
        let stat = fs::fstat(&root)?;
        // Somebody else's would be in its place where others may rename.
        if stat.st_uid != rustix::process::geteuid().as_raw() || !names(root.as_fd())?.is_empty() {
            return Err(io::Error::other("somebody put another directory in its place"));
        }
        let shown = shown.to_owned();
        let working = Self { parent, shown, name };
        Ok((working, root))
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if !self.name.is_empty()
            && let Err(error) = remove_at(self.parent.as_fd(), self.name.as_bytes())
        {
            let dir = self.shown.display();
            tracing::warn!(%dir, name = self.name, %error, "cannot remove what was received");
        }
    }
}

impl ReceivedTree {
    /// Unpacks an archive, which is not trusted, in a new directory in `dir`, which is called
    /// `shown` in messages.
    ///
    /// Files belong to the caller and keep their permissions, without setuid, setgid and sticky
    /// bits; there are no extended attributes. Symbolic links are made and never followed; those
    /// that lead out of the tree are left out, as are named pipes.
    ///
    /// # Errors
    /// [`Error::InvalidTree`], [`Error::InvalidTreeEntry`]; [`Error::TooLarge`] beyond
    /// [`max_rootfs_size`](Limits::max_rootfs_size), [`Error::TooMany`] beyond
    /// [`max_files_per_layer`](Limits::max_files_per_layer); [`Error::Io`]. Nothing is left then.
    pub fn receive(
        archive: impl Read,
        dir: OwnedFd,
        shown: &Path,
        wanted: Wanted<'_>,
        limits: &Limits,
    ) -> Result<Self> {
        let failed = || Error::io(format!("make a directory in {}", shown.display()));
        let (working, root) = Working::make(dir, shown).map_err(failed())?;
        let name = match wanted {
            Wanted::Name(name) => name.as_bytes(),
            Wanted::Contents => b"",
        };
        let writable = root.try_clone().map_err(failed())?;
        let (mut skipped, has_links) = unpack(archive, writable, name, limits)?;
        if has_links {
            let outward = remove_outward_links(&root, name);
            skipped += outward.map_err(Error::io("look at what was received"))?;
        }
        Ok(Self {
            root,
            name: name.to_owned(),
            skipped,
            working,
        })
    }

    /// How many named pipes and links that lead out of the tree were left out.
    #[must_use]
    pub const fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether a directory was sent; `None`: nothing was.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn is_directory(&self) -> Result<Option<bool>> {
        if self.name.is_empty() {
            return Ok(Some(true));
        }
        let kind = kind_at(&self.root, &self.name);
        let kind = kind.map_err(Error::io(self.working.shown.display().to_string()))?;
        Ok(kind.map(|kind| kind == FileType::Directory))
    }

    /// Moves what was sent to `name` in the directory that it was received in, or, without a name,
    /// what is in it.
    ///
    /// A directory that is there already is kept, and gets what is in the one that was sent; files
    /// and links are replaced.
    ///
    /// # Errors
    /// [`Error::NotPlaced`]: something else is in the way, and nothing was moved. [`Error::Io`]:
    /// part of it may have been moved.
    pub fn place(self, name: Option<&OsStr>) -> Result<()> {
        let (target, dir) = (&self.working.parent, &self.working.shown);
        let to = name.map_or(&b""[..], OsStr::as_bytes).to_vec();
        let failed = |path: &[u8]| Error::io(format!("write {}", at(dir, path).display()));
        let mut moves = Vec::new();
        let mut todo = VecDeque::from([(self.name.clone(), to)]);
        while let Some((from, to)) = todo.pop_front() {
            match self.step(target, &from, &to).map_err(failed(&to))? {
                Step::Move => moves.push((from, to)),
                Step::Merge(names) => {
                    for name in names {
                        let long =
                            |_| Error::io(format!("write below {}", dir.display()))(Errno::NAMETOOLONG);
                        let pair = (join(&from, &name).map_err(long)?, join(&to, &name).map_err(long)?);
                        todo.push_back(pair);
                    }
                }
                Step::InTheWay(reason) => {
                    let path = at(dir, &to);
                    let reason = reason.to_owned();
                    return Err(Error::NotPlaced { path, reason });
                }
            }
        }
        for (from, to) in moves {
            self.rename(target, &from, &to).map_err(failed(&to))?;
        }
        Ok(())
    }

    /// Makes what was sent a new directory `name`, with the permissions that new ones have, in the
    /// directory that it was received in.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left then.
    pub fn place_as_new(mut self, name: &OsStr) -> Result<()> {
        let path = self.working.shown.join(name);
        let failed = || Error::io(format!("make {}", path.display()));
        // It can only be read by setting it; what others make meanwhile is private.
        let umask = rustix::process::umask(fs::Mode::RWXG | fs::Mode::RWXO);
        rustix::process::umask(umask);
        let mode = (fs::Mode::RWXU | fs::Mode::RWXG | fs::Mode::RWXO) - umask;
        fs::fchmod(&self.root, mode).map_err(failed())?;
        let parent = &self.working.parent;
        fs::renameat_with(parent, &self.working.name, parent, name, RenameFlags::NOREPLACE)
            .map_err(failed())?;
        self.working.name.clear();
        Ok(())
    }

    /// What becomes of the entry at `from` where `to` is what there may be already.
    fn step(&self, target: &OwnedFd, from: &[u8], to: &[u8]) -> io::Result<Step> {
        let sent = kind_at(&self.root, from)?.ok_or(io::ErrorKind::NotFound)?;
        let is_directory = sent == FileType::Directory;
        Ok(match kind_at(target, to)? {
            None => Step::Move,
            Some(FileType::Directory) if is_directory => {
                let dir = resolve(&self.root, from, OFlags::RDONLY)?;
                let names = names(dir.as_fd())?.into_iter();
                Step::Merge(names.map(std::ffi::CString::into_bytes).collect())
            }
            Some(FileType::Directory) => Step::InTheWay("is a directory, and what is copied is none"),
            Some(_) if is_directory => Step::InTheWay("is no directory, and what is copied is one"),
            Some(FileType::RegularFile | FileType::Symlink) => Step::Move,
            Some(_) => Step::InTheWay("is neither a file nor a directory, and is not replaced"),
        })
    }

    fn rename(&self, target: &OwnedFd, from: &[u8], to: &[u8]) -> io::Result<()> {
        let (from_parent, from_name) = split(from);
        let (to_parent, to_name) = split(to);
        let from = resolve(&self.root, from_parent, OFlags::PATH)?;
        let to = resolve(target, to_parent, OFlags::PATH)?;
        Ok(fs::renameat_with(
            &from,
            from_name,
            &to,
            to_name,
            RenameFlags::empty(),
        )?)
    }
}

/// What becomes of an entry.
enum Step {
    Move,
    /// Both are directories: what is in the one that was sent goes into the other.
    Merge(Vec<Vec<u8>>),
    InTheWay(&'static str),
}

/// What is at `path`, which is not followed if it is a link.
fn kind_at(root: &OwnedFd, path: &[u8]) -> io::Result<Option<FileType>> {
    if path.is_empty() {
        return Ok(Some(FileType::Directory));
    }
    let (parent, name) = split(path);
    let dir = resolve(root, parent, OFlags::PATH)?;
    match fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn at(dir: &Path, path: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(path))
}

/// Removes the links that lead out of the tree, whoever reads them later; says how many.
fn remove_outward_links(root: &OwnedFd, wanted: &[u8]) -> io::Result<u64> {
    let mut removed = 0;
    let mut todo = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let dir = resolve(root, &path, OFlags::RDONLY)?;
        for name in names(dir.as_fd())? {
            let below = join(&path, name.to_bytes()).map_err(|_| io::Error::from(Errno::NAMETOOLONG))?;
            let stat = fs::statat(&dir, name.as_c_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => todo.push(below),
                FileType::Symlink => {
                    let target = fs::readlinkat(&dir, name.as_c_str(), Vec::new())?;
                    if leads_out(&below, wanted, target.to_bytes()) {
                        fs::unlinkat(&dir, name.as_c_str(), AtFlags::empty())?;
                        removed += 1;
                    }
                }
                _ => {}
            }
        }
    }
    Ok(removed)
}

/// Whether a link at `path` may lead out of what was asked for. One that does not is relative, goes up
/// no further than the tree, and only at its beginning: later on, `..` could be that of another link's
/// directory.
fn leads_out(path: &[u8], wanted: &[u8], target: &[u8]) -> bool {
    let components = |path: &[u8]| path.split(|b| *b == b'/').filter(|c| !c.is_empty()).count();
    // The directory that it is in, counted from the tree's own.
    let Some(depth) = components(path).checked_sub(components(wanted) + 1) else {
        return true;
    };
    let is_up = |component: &&[u8]| *component == b"..";
    let mut rest = target
        .split(|b| *b == b'/')
        .filter(|c| !c.is_empty() && *c != b".");
    let up = rest.by_ref().take_while(is_up).count();
    target.starts_with(b"/") || up > depth || rest.any(|component| component == b"..")
}

/// Unpacks `archive` below `root`; says how many entries were left out, and whether there are links.
fn unpack(archive: impl Read, root: OwnedFd, wanted: &[u8], limits: &Limits) -> Result<(u64, bool)> {
    // One archive is all there is.
    let limits = Limits {
        max_layer_size: limits.max_rootfs_size,
        ..*limits
    };
    let whole = RootfsBudget::new(String::new(), &limits);
    let mut budget = Budget::new(&whole, &limits, WHAT.to_owned());
    let bounded = Bounded {
        inner: archive,
        left: limits.max_rootfs_size.saturating_add(overhead(&limits)),
        limit: limits.max_rootfs_size,
    };
    let stream = BufReader::with_capacity(BUFFER, bounded);
    let mut archive = Archive::new(stream, MAX_TAR_HEADER_SIZE);
    // The root stays private until all is there: its own entry is left out.
    let mut extractor = Extractor::flat(root, false);
    let (mut skipped, mut has_links) = (0, false);
    while let Some(member) = archive.next_member().map_err(|e| broken(&e))? {
        let name = shown(&member.path);
        let entry = Entry::parse_plain(member).map_err(|reason| refused(&name, reason))?;
        if entry.kind == Kind::Fifo {
            skipped += 1;
            continue;
        }
        if entry.path.is_empty() && entry.kind == Kind::Directory {
            continue;
        }
        has_links |= matches!(entry.kind, Kind::Symlink(_));
        let entry = checked(entry, wanted, &extractor.root).map_err(|fault| fault_of(fault, &name))?;
        extractor
            .add(entry, &mut archive, &mut budget)
            .map_err(|fault| fault_of(fault, &name))?;
    }
    let mut rest = archive.into_inner().take(MAX_PADDING + 1);
    let padding = io::copy(&mut rest, &mut io::sink()).map_err(|e| broken(&e))?;
    if padding > MAX_PADDING {
        return Err(broken(&io::Error::other("it goes on after its end")));
    }
    let finished = extractor.finish();
    finished.map_err(|(path, fault)| fault_of(fault, &shown(&path)))?;
    Ok((skipped, has_links))
}

/// What an archive within the limits may have beside the content of its files, in bytes.
const fn overhead(limits: &Limits) -> u64 {
    /// Header, extended header with its own, and padding.
    const OF_ENTRY: u64 = 4 << 10;
    MAX_PADDING
        .saturating_add(limits.max_names_size)
        .saturating_add(limits.max_files_per_layer.saturating_mul(OF_ENTRY))
}

/// The entry, as the caller's own, if it is one that may be written.
fn checked(mut entry: Entry, wanted: &[u8], root: &OwnedFd) -> Result<Entry, Fault> {
    let refused = |reason: &str| Err(Fault::Refused(reason.to_owned()));
    if !is_at_or_below(&entry.path, wanted) {
        return refused("nobody asked for that name");
    }
    let target = match &entry.kind {
        Kind::CharDevice(_) | Kind::BlockDevice(_) => return refused("devices are not copied"),
        Kind::Hardlink(target) => Some(target.as_slice()),
        _ => None,
    };
    for path in [Some(entry.path.as_slice()), target].into_iter().flatten() {
        // The extractor would follow it beneath the root. Honest archives have none.
        if matches!(resolve(root, split(path).0, OFlags::PATH), Err(Errno::LOOP)) {
            return refused("its path leads through a symbolic link");
        }
    }
    let metadata = &mut entry.metadata;
    metadata.uid = rustix::process::geteuid().as_raw();
    metadata.gid = rustix::process::getegid().as_raw();
    metadata.mode &= 0o777;
    metadata.xattrs.clear();
    Ok(entry)
}

fn fault_of(fault: Fault, name: &str) -> Error {
    match fault {
        Fault::Other(error) => *error,
        Fault::Refused(reason) => refused(name, reason),
        // Errors of the archive have no number, unlike the file system's.
        Fault::Io(e) if e.raw_os_error().is_none() => broken(&e),
        Fault::Io(source) => Error::io(format!("write {name:?}"))(source),
    }
}

fn refused(name: &str, reason: String) -> Error {
    let entry = name.to_owned();
    Error::InvalidTreeEntry { entry, reason }
}

fn broken(error: &io::Error) -> Error {
    let refusal = error.get_ref().and_then(|inner| inner.downcast_ref());
    match refusal {
        Some(Refusal::TooLong(limit)) => Error::too_large(WHAT, *limit),
        _ => Error::InvalidTree {
            reason: error.to_string(),
        },
    }
}

/// A stream that ends with an error where it has too many bytes.
struct Bounded<R> {
    inner: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => self.left = left,
            None => return Err(Refusal::TooLong(self.limit).into_io()),
        }
        Ok(n)
    }
}

#[cfg(test)]
#[path = "received/tests.rs"]
mod tests;
