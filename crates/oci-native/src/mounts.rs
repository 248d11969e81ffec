//! The mount system calls by descriptor: nothing is looked up twice, so nothing can be exchanged in between.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// What mount_setattr(2) sets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    /// `MOUNT_ATTR_*`.
    pub(crate) set: u64,
    /// Those taken away.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, … or 0.
    pub(crate) propagation: u64,
    /// Also of every mount below.
    pub(crate) recursive: bool,
}

impl Attributes {
    /// `MS_PRIVATE`, …; `recursive`: also of every mount below.
    pub(crate) fn propagating(propagation: u64, recursive: bool) -> Self {
        Self {
            propagation,
            recursive,
            ..Self::default()
        }
    }
}

/// Sets attributes of the mount a descriptor is in, of whose root it must be.
pub(crate) fn set_attributes(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let request = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    change(mount, request, attributes.recursive)
}

/// Has a mount that is mounted nowhere yet show its files' owners as the user namespace maps them.
pub(crate) fn map_ids(mount: impl AsFd, namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    let userns_fd = u64::try_from(namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    let request = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd,
    };
    change(mount, request, recursive)
}

/// A copy of what is at `dir`, mounted nowhere yet, without what is mounted below it: its files' owners are as the user namespace
/// maps them, its device files lead nowhere, and mounts neither arrive nor leave.
///
/// # Errors
/// There is no such directory, or its file system cannot map owners.
pub fn mapped_copy(dir: &Path, users: impl AsFd) -> io::Result<OwnedFd> {
    let copy = clone_mount(CWD, dir)?;
    let request = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: u64::try_from(users.as_fd().as_raw_fd()).map_err(io::Error::other)?,
    };
    change(&copy, request, false)?;
    Ok(copy)
}

#[allow(unsafe_code, reason = "rustix has no mount_setattr")]
fn change(mount: impl AsFd, request: libc::mount_attr, recursive: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the descriptor is open, the path is an empty C string, and the size is the structure's.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const request,
            size_of::<libc::mount_attr>(),
        )
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// An option of a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FsOption {
    Flag(String),
    Value(String, String),
}

/// A new file system of its own, mounted nowhere yet.
pub(crate) fn new_mount(kind: &str, options: &[FsOption], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    finish(&begin(kind, options)?, attributes)
}

/// A file system in the making (fsopen(2)).
pub(crate) fn begin(kind: &str, options: &[FsOption]) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options {
        let set = match option {
            FsOption::Flag(name) => fsconfig_set_flag(context.as_fd(), name),
            FsOption::Value(name, value) => fsconfig_set_string(context.as_fd(), name, value),
        };
        set.map_err(|e| explained(&context, e.into()))?;
    }
    Ok(context)
}

/// Makes it, mounted nowhere yet.
pub(crate) fn finish(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd()).map_err(|e| explained(context, e.into()))?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// An error with what the kernel says about it, which can be read from the file system in the making: `e message`.
fn explained(context: &OwnedFd, e: io::Error) -> io::Error {
    let mut text = [0_u8; 256];
    match rustix::io::read(context, &mut text) {
        Ok(read) if read > 2 => {
            let text = String::from_utf8_lossy(&text[2..read]);
            io::Error::new(e.kind(), format!("{}: {e}", text.trim()))
        }
        _ => e,
    }
}

/// A copy of what is at a place, mounted nowhere yet: a bind mount in the making.
pub(crate) fn clone_mount(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(dir, path, CLONE)?)
}

/// The same with everything that is mounted below.
pub(crate) fn clone_tree(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(dir, path, CLONE | OpenTreeFlags::AT_RECURSIVE)?)
}

/// Mounts what [`new_mount`] or [`clone_mount`] made over `target`.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// A directory that things are looked up in, or done to: not to be read.
pub(crate) fn look_at_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Opens what a container names: nothing leads out of `root`.
pub(crate) fn open_inside(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}
