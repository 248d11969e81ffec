//! The mount system calls by descriptor: nothing is looked up twice, so nothing can be exchanged in between.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
    },
};
use serde::{Deserialize, Serialize};

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// What mount_setattr(2) sets.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Attributes {
    /// `MOUNT_ATTR_*`.
    pub(crate) set: u64,
    /// `MS_PRIVATE`, … or 0.
    pub(crate) propagation: u64,
    /// Also of every mount below.
    pub(crate) recursive: bool,
}

/// Sets attributes of the mount a descriptor is in, of whose root it must be.
#[allow(unsafe_code, reason = "rustix has no mount_setattr")]
pub(crate) fn set_attributes(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    let request = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: 0,
        propagation: attributes.propagation,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH
        | if attributes.recursive {
            libc::AT_RECURSIVE
        } else {
            0
        };
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
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FsOption {
    Flag(String),
    Value(String, String),
}

/// A new file system of its own, mounted nowhere yet.
pub(crate) fn new_mount(kind: &str, options: &[FsOption], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in options {
        match option {
            FsOption::Flag(name) => fsconfig_set_flag(context.as_fd(), name)?,
            FsOption::Value(name, value) => fsconfig_set_string(context.as_fd(), name, value)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
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
