//! Owner, mode, times and extended attributes.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::PathBuf,
};

use rustix::{
    fs::{self, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags},
    io::Errno,
};

use super::entry::{Kind, Metadata, is_kept};

/// overlayfs' mark of an opaque directory, for mounts by the superuser and with `userxattr`.
const OPAQUE: &str = "trusted.overlay.opaque";
const OPAQUE_USER: &str = "user.overlay.opaque";
/// The access list that a directory gives to what is made in it (acl(5)).
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The longest attribute and list of names, in bytes (Linux' `XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const MAX_ATTRIBUTE: usize = 65536;

/// Who writes: decides whether owners can be set, and which need not be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Identity {
    uid: u32,
    gid: u32,
}

impl Identity {
    pub(super) fn current() -> Self {
        Self {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }

    pub(super) const fn is_root(self) -> bool {
        self.uid == 0
    }

    /// The owner to set, if it can be set and is not the one that new files have anyway.
    fn owner(self, metadata: &Metadata) -> Option<(Uid, Gid)> {
        let needed = self.is_root() && (metadata.uid, metadata.gid) != (self.uid, self.gid);
        needed.then(|| (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid)))
    }
}

/// Sets all of an open file or directory, owner first: that clears setuid bits and capabilities.
pub(super) fn set(fd: BorrowedFd<'_>, metadata: &Metadata, identity: Identity) -> io::Result<()> {
    if let Some((uid, gid)) = identity.owner(metadata) {
        fs::fchown(fd, Some(uid), Some(gid))?;
    }
    fs::fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
    for (name, value) in &metadata.xattrs {
        tolerate(
            name,
            fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()),
        )?;
    }
    fs::futimens(fd, &times(metadata))?;
    Ok(())
}

/// The same by name in the directory, for what cannot be opened: links, pipes and devices.
pub(super) fn set_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    kind: &Kind,
    metadata: &Metadata,
    identity: Identity,
) -> io::Result<()> {
    if let Some((uid, gid)) = identity.owner(metadata) {
        fs::chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if !matches!(kind, Kind::Symlink(_)) {
        fs::chmodat(dir, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty())?;
    }
    for (attribute, value) in &metadata.xattrs {
        tolerate(
            attribute,
            fs::lsetxattr(
                path_of(dir, name),
                attribute.as_slice(),
                value,
                XattrFlags::empty(),
            ),
        )?;
    }
    fs::utimensat(dir, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

/// A path for calls on attributes, which take no directory before Linux 6.13: the directory by its
/// descriptor, and a name that `l…` calls do not follow.
fn path_of(dir: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
    path.push(OsStr::from_bytes(name));
    path
}

/// A file system, or an owner without the right, may not keep an attribute. The file is still made,
/// as in other runtimes.
fn tolerate(name: &[u8], result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(error @ (Errno::OPNOTSUPP | Errno::PERM)) => {
            tracing::debug!(name = %String::from_utf8_lossy(name), %error, "extended attribute left out");
            Ok(())
        }
        Err(error) => {
            // Without the number: ENOSPC here is the layer's fault, not the disk's.
            let name = String::from_utf8_lossy(name);
            Err(io::Error::other(format!("extended attribute {name:?}: {error}")))
        }
        Ok(()) => Ok(()),
    }
}

fn times(metadata: &Metadata) -> Timestamps {
    let (tv_sec, nanos) = metadata.mtime;
    let time = Timespec {
        tv_sec,
        tv_nsec: nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Marks a directory opaque; `true` if that needed the form for mounts with `userxattr`.
pub(super) fn set_opaque(fd: BorrowedFd<'_>) -> io::Result<bool> {
    match fs::fsetxattr(fd, OPAQUE, b"y", XattrFlags::empty()) {
        Ok(()) => Ok(false),
        Err(Errno::PERM) => {
            fs::fsetxattr(fd, OPAQUE_USER, b"y", XattrFlags::empty())?;
            Ok(true)
        }
        Err(e) => Err(e.into()),
    }
}

/// The metadata of an existing file or directory.
pub(super) fn of_open(fd: BorrowedFd<'_>) -> io::Result<Metadata> {
    let stat = fs::fstat(fd)?;
    of(
        &stat,
        |list| fs::flistxattr(fd, list),
        |name, value| fs::fgetxattr(fd, name, value),
    )
}

/// The same of what cannot be opened for it, and has this status.
pub(super) fn of_name(dir: BorrowedFd<'_>, name: &[u8], stat: &fs::Stat) -> io::Result<Metadata> {
    let path = path_of(dir, name);
    of(
        stat,
        |list| fs::llistxattr(&path, list),
        |name, value| fs::lgetxattr(&path, name, value),
    )
}

/// Asks with functions that fill what they are given.
fn of(
    stat: &fs::Stat,
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&[u8], &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Metadata> {
    let mut metadata = Metadata {
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode & 0o7777,
        mtime: (stat.st_mtime, u32::try_from(stat.st_mtime_nsec).unwrap_or(0)),
        xattrs: Vec::new(),
    };
    for name in attribute_names(list)? {
        if !is_overlays(&name) {
            let value = filled(|value| get(&name, value))?;
            metadata.xattrs.push((name, value));
        }
    }
    Ok(metadata)
}

/// [`set`] for a directory that has an owner and attributes of its own already.
pub(super) fn replace(dir: BorrowedFd<'_>, metadata: &Metadata, identity: Identity) -> io::Result<()> {
    if identity.is_root() {
        let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
        fs::fchown(dir, Some(uid), Some(gid))?;
    }
    for name in attribute_names(|list| fs::flistxattr(dir, list))? {
        let meant = metadata.xattrs.iter().any(|(kept, _)| *kept == name);
        // Labels are the host's policy, as in `is_kept`.
        if !meant && is_kept(&name) {
            tolerate(&name, fs::fremovexattr(dir, name.as_slice()))?;
        }
    }
    set(dir, metadata, identity)
}

/// Keeps an existing directory from passing its group or default access list to new entries; both
/// are set again with its other metadata.
pub(super) fn suspend_inheritance(
    dir: BorrowedFd<'_>,
    metadata: &Metadata,
    identity: Identity,
) -> io::Result<()> {
    let closed = !identity.is_root() && metadata.mode & 0o700 != 0o700;
    if closed || metadata.mode & 0o2000 != 0 {
        fs::fchmod(dir, Mode::RWXU)?;
    }
    if metadata
        .xattrs
        .iter()
        .any(|(name, _)| name == DEFAULT_ACL.as_bytes())
    {
        fs::fremovexattr(dir, DEFAULT_ACL)?;
    }
    Ok(())
}

fn is_overlays(name: &[u8]) -> bool {
    name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.")
}

/// Whether a directory hides what lower layers have in it; `user.` is what unprivileged overlays
/// use.
pub(crate) fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    [OPAQUE, OPAQUE_USER].into_iter().any(|name| {
        let mut value = [0; 1];
        fs::fgetxattr(dir, name, &mut value).is_ok_and(|_| value == *b"y")
    })
}

fn attribute_names(list: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> io::Result<Vec<Vec<u8>>> {
    let names = match filled(list) {
        Err(Errno::OPNOTSUPP) => Vec::new(),
        names => names?,
    };
    Ok(names
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// What a call writes into a buffer, nearly always a small one.
fn filled(call: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match call(&mut small) {
        Err(Errno::RANGE) => {
            let mut large = vec![0; MAX_ATTRIBUTE];
            let length = call(&mut large)?;
            large.truncate(length);
            Ok(large)
        }
        length => Ok(small[..length?].to_vec()),
    }
}
