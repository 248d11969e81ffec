//! Directories and lock files that no other user can open.
//!
//! A process that can open a lock file can hold its lock for ever. One that can write to a
//! directory of the store can forge its files. So a store's directories are for their owner only,
//! whether this process makes them or finds them:
//!
//! - They are opened without following a link in the last component, and judged by descriptor.
//! - They belong to this process's user, or to root. Those of other users are refused.
//! - Group and others have no access: what is ours and open to them is closed (`chmod 0700`). A
//!   [`root`] that holds what is not ours is refused instead: a data root `/tmp` must not close `/tmp`.
//! - A lock file that others could have opened before it was closed is replaced by a new one.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{Error, Result};

/// Mode bits of a directory that others may write to, or are meant to.
const WRITABLE_OR_STICKY: u32 = 0o1022;

/// Why a directory or lock file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotPrivate {
    /// Its last component is a symbolic link.
    #[error("is a symbolic link, which is not followed; give what it leads to")]
    Link,
    /// It is a file or the like where a directory is needed, or the reverse.
    #[error("is not {0}")]
    Kind(&'static str),
    /// It belongs to another user, who could change it at any time.
    #[error(
        "belongs to user {owner}, not to user {user}, who runs this, or to root; use a directory of your own"
    )]
    Owner {
        /// Its owner.
        owner: u32,
        /// This process's user.
        user: u32,
    },
    /// Others may enter it, and it is not known to be this store's alone.
    #[error(
        "is open to other users (mode {mode:o}) and is not magikrun's alone; use a directory below it, or close it (chmod 700)"
    )]
    Shared {
        /// Its permission bits.
        mode: u32,
    },
}

/// The names that belong into a root.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The names of everything that is in a root.
    pub all: &'a [&'a str],
    /// Those of them that are there before anything is kept in it.
    pub first: &'a [&'a str],
}

/// Makes the directory that everything else lies below, and those above it, or checks and closes
/// the one that is there.
///
/// One that is open to others is closed only if it is certainly ours: it has nothing that is not of
/// its own, and if others may write to it, nothing but what is there first. A new file system, mode
/// 1777, is such a one; `/tmp` is not.
///
/// # Errors
/// [`Error::NotPrivate`], or [`Error::Io`].
pub fn root(dir: &Path, contents: Contents<'_>) -> Result<()> {
    make(dir)?;
    unix::close(dir, |mode| {
        let is_writable = mode & WRITABLE_OR_STICKY != 0;
        holds_only(dir, if is_writable { contents.first } else { contents.all })
    })
}

/// Makes a directory below a [`root`], or checks and closes the one that is there.
///
/// # Errors
/// As [`root`].
pub fn directory(dir: &Path) -> Result<()> {
    make(dir)?;
    unix::close(dir, |_| Ok(true))
}

/// Opens a lock file in a [`directory`], making it if need be; it is not locked yet.
///
/// # Errors
/// As [`root`].
pub fn lock_file(path: &Path) -> Result<File> {
    unix::lock_file(path)
}

fn make(dir: &Path) -> Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(dir) {
        // A dangling link, or a file: opening it gives a clearer error.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(Error::io(format!("create {}", dir.display()))),
    }
}

/// Whether it holds nothing but these, and what a new file system has.
fn holds_only(dir: &Path, names: &[&str]) -> Result<bool> {
    let context = || format!("list {}", dir.display());
    for entry in fs::read_dir(dir).map_err(Error::io(context()))? {
        let name = entry.map_err(Error::io(context()))?.file_name();
        if name != "lost+found" && !names.iter().any(|ours| name == *ours) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn refused(path: &Path, reason: NotPrivate) -> Error {
    Error::NotPrivate {
        path: PathBuf::from(path),
        reason,
    }
}

#[cfg(unix)]
mod unix {
    use std::os::fd::OwnedFd;

    use rustix::{
        fs::{FileType, Mode, OFlags, Stat, fchmod, fstat, open},
        io::Errno,
    };

    use super::{Error, File, NotPrivate, Path, Result, WRITABLE_OR_STICKY, refused};

    /// Permission bits of a mode.
    const BITS: u32 = 0o7777;
    /// Those of group and others.
    const OTHERS: u32 = 0o077;
    /// Held while a lock file is replaced; beside it, never removed.
    const GUARD: &str = ".lock.guard";

    /// Checks a directory and takes it from others; `may_close` says by its mode whether it may be.
    pub(super) fn close(dir: &Path, may_close: impl FnOnce(u32) -> Result<bool>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match open(dir, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(not_a_directory(dir)),
            Err(e) => return Err(failed("open", dir, e)),
        };
        let stat = fstat(&fd).map_err(|e| failed("look at", dir, e))?;
        check_owner(&stat, dir)?;
        let mode = bits(&stat);
        let is_ours = stat.st_uid == user();
        // Root's directory, which we may read: its mode decides.
        if mode & OTHERS == 0 || (!is_ours && mode & WRITABLE_OR_STICKY == 0) {
            return Ok(());
        }
        let shared = || refused(dir, NotPrivate::Shared { mode });
        if !is_ours || !may_close(mode)? {
            return Err(shared());
        }
        take_from_others(&fd, mode).map_err(|e| failed("chmod 700", dir, e))?;
        // Some file systems have no modes and say that it was done.
        let stat = fstat(&fd).map_err(|e| failed("look at", dir, e))?;
        if bits(&stat) & OTHERS == 0 {
            Ok(())
        } else {
            Err(shared())
        }
    }

    pub(super) fn lock_file(path: &Path) -> Result<File> {
        let file = open_lock(path)?;
        if !was_open_to_others(&file, path)? {
            return Ok(file);
        }
        // Another user may have it open and hold its lock for ever. One process at a time replaces
        // it; the guard has always been ours alone.
        let guard = open_lock(&path.with_file_name(GUARD))?;
        let context = || format!("lock {}", path.display());
        guard.lock().map_err(Error::io(context()))?;
        let file = open_lock(path)?;
        if !was_open_to_others(&file, path)? {
            return Ok(file);
        }
        let directory = path.parent().unwrap_or(Path::new("."));
        // Its mode is 0600.
        let new = tempfile::NamedTempFile::new_in(directory).map_err(Error::io(context()))?;
        let new = new.persist(path).map_err(|e| Error::io(context())(e.error))?;
        tracing::debug!(path = %path.display(), "replaced a lock file that others could open");
        Ok(new)
    }

    fn open_lock(path: &Path) -> Result<File> {
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        match open(path, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::LOOP) => Err(refused(path, NotPrivate::Link)),
            Err(Errno::ISDIR) => Err(refused(path, NotPrivate::Kind("a file"))),
            Err(e) => Err(failed("open", path, e)),
        }
    }

    fn was_open_to_others(file: &File, path: &Path) -> Result<bool> {
        let stat = fstat(file).map_err(|e| failed("look at", path, e))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(refused(path, NotPrivate::Kind("a file")));
        }
        check_owner(&stat, path)?;
        Ok(bits(&stat) & OTHERS != 0 && stat.st_uid == user())
    }

    fn check_owner(stat: &Stat, path: &Path) -> Result<()> {
        let (owner, user) = (stat.st_uid, user());
        if owner == user || owner == 0 {
            return Ok(());
        }
        Err(refused(path, NotPrivate::Owner { owner, user }))
    }

    fn take_from_others(fd: &OwnedFd, mode: u32) -> rustix::io::Result<()> {
        #[allow(clippy::unnecessary_cast, reason = "a mode has 16 bits on macOS")]
        let mode = ((mode | 0o700) & !OTHERS) as rustix::fs::RawMode;
        fchmod(fd, Mode::from_raw_mode(mode))
    }

    fn not_a_directory(dir: &Path) -> Error {
        let is_link = dir.symlink_metadata().is_ok_and(|m| m.is_symlink());
        let reason = if is_link {
            NotPrivate::Link
        } else {
            NotPrivate::Kind("a directory")
        };
        refused(dir, reason)
    }

    fn bits(stat: &Stat) -> u32 {
        #[allow(clippy::unnecessary_cast, reason = "a mode has 16 bits on macOS")]
        let mode = stat.st_mode as u32;
        mode & BITS
    }

    fn user() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn failed(what: &str, path: &Path, errno: Errno) -> Error {
        Error::io(format!("{what} {}", path.display()))(errno.into())
    }
}

/// Elsewhere a user's own directories are closed to others by what they inherit.
#[cfg(not(unix))]
mod unix {
    use super::{Error, File, Path, Result};

    pub(super) fn close(_: &Path, _: impl FnOnce(u32) -> Result<bool>) -> Result<()> {
        Ok(())
    }

    pub(super) fn lock_file(path: &Path) -> Result<File> {
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options
            .open(path)
            .map_err(Error::io(format!("open {}", path.display())))
    }
}
