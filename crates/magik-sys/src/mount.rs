//! The mount system calls by descriptor: nothing is looked up twice, so nothing can be exchanged in
//! between.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_remount, move_mount,
        open_tree,
    },
};

use crate::mountinfo;

/// What statfs(2) says of a tmpfs (linux/magic.h).
pub const TMPFS_MAGIC: i128 = 0x0102_1994;

const CLONE: OpenTreeFlags = OpenTreeFlags::OPEN_TREE_CLONE
    .union(OpenTreeFlags::OPEN_TREE_CLOEXEC)
    .union(OpenTreeFlags::AT_EMPTY_PATH);

/// What mount_setattr(2) sets.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to be set.
    pub set: u64,
    /// Those taken away.
    pub clear: u64,
    /// `MS_PRIVATE`, … or 0.
    pub propagation: u64,
    /// Also of every mount below.
    pub recursive: bool,
}

impl Attributes {
    /// `MS_PRIVATE`, …; `recursive`: also of every mount below.
    pub fn propagating(propagation: u64, recursive: bool) -> Self {
        Self {
            propagation,
            recursive,
            ..Self::default()
        }
    }
}

/// Sets attributes of the mount a descriptor is in, of whose root it must be.
///
/// # Errors
/// The kernel's.
pub fn set_attributes(mount: impl AsFd, attributes: Attributes) -> io::Result<()> {
    change(mount, attributes, None)
}

/// Has a mount that is mounted nowhere yet show its files' owners as the user namespace maps them.
///
/// # Errors
/// The kernel's.
pub fn map_ids(mount: impl AsFd, namespace: impl AsFd, recursive: bool) -> io::Result<()> {
    let attributes = Attributes {
        recursive,
        ..Attributes::default()
    };
    change(mount, attributes, Some(namespace.as_fd()))
}

/// A copy of what is at `dir`, mounted nowhere yet, without what is mounted below it: its files'
/// owners are as the user namespace maps them, its device files lead nowhere, and mounts neither
/// arrive nor leave.
///
/// # Errors
/// There is no such directory, or its file system cannot map owners.
pub fn mapped_copy(dir: &Path, users: impl AsFd) -> io::Result<OwnedFd> {
    let copy = clone_mount(CWD, dir)?;
    let attributes = Attributes {
        set: libc::MOUNT_ATTR_NODEV,
        propagation: libc::MS_PRIVATE,
        ..Attributes::default()
    };
    change(&copy, attributes, Some(users.as_fd()))?;
    Ok(copy)
}

/// With a user namespace, files' owners are as that maps them.
#[allow(unsafe_code, reason = "rustix has no mount_setattr")]
fn change(mount: impl AsFd, attributes: Attributes, users: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let recursive = if attributes.recursive {
        libc::AT_RECURSIVE
    } else {
        0
    };
    let flags = libc::AT_EMPTY_PATH | recursive;
    let users_fd = users.map_or(0, |users| users.as_raw_fd());
    let request = libc::mount_attr {
        attr_set: attributes.set | users.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd: u64::try_from(users_fd).map_err(io::Error::other)?,
    };
    // SAFETY: the descriptor is open, the path is an empty C string, and the size is the
    // structure's.
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
pub enum FsOption {
    /// Its name.
    Flag(String),
    /// Its name and its value, which may have 255 bytes.
    Value(String, String),
}

/// A new file system of its own, mounted nowhere yet.
///
/// # Errors
/// The kernel's.
pub fn new_mount(kind: &str, options: &[FsOption], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    finish(&begin(kind, options)?, attributes)
}

/// A file system that is being configured (fsopen(2)).
///
/// # Errors
/// The kernel's.
pub fn begin(kind: &str, options: &[FsOption]) -> io::Result<OwnedFd> {
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
///
/// # Errors
/// The kernel's.
pub fn finish(context: &OwnedFd, attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fsconfig_create(context.as_fd()).map_err(|e| explained(context, e.into()))?;
    Ok(fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// An error with what the kernel says about it, which can be read from the file system in the
/// making: `e message`.
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

/// A copy of the mount at a path, not attached yet: the first half of a bind mount.
///
/// # Errors
/// The kernel's.
pub fn clone_mount(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(dir, path, CLONE)?)
}

/// The same with everything that is mounted below.
///
/// # Errors
/// The kernel's.
pub fn clone_tree(dir: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(dir, path, CLONE | OpenTreeFlags::AT_RECURSIVE)?)
}

/// Mounts what [`new_mount`] or [`clone_mount`] made over `target`.
///
/// # Errors
/// The kernel's.
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", target, "", flags)?)
}

/// A directory that things are looked up in, or done to: not to be read.
///
/// # Errors
/// The kernel's.
pub fn look_at_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Opens what a container names: nothing leads out of `root`.
///
/// # Errors
/// The kernel's.
pub fn open_inside(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(
        root,
        path,
        flags | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )?)
}

/// Adds flags (`NODEV`, `NOSUID`, `NOEXEC`, `RDONLY`) to a mount and to all mounts below it.
///
/// # Errors
/// The kernel refuses, or `path` is no mount.
pub fn restrict(path: &Path, flags: MountFlags) -> io::Result<()> {
    let attributes = [
        (MountFlags::NODEV, libc::MOUNT_ATTR_NODEV),
        (MountFlags::NOSUID, libc::MOUNT_ATTR_NOSUID),
        (MountFlags::NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (MountFlags::RDONLY, libc::MOUNT_ATTR_RDONLY),
    ];
    let named = attributes.iter().filter(|(flag, _)| flags.contains(*flag));
    let attributes = Attributes {
        set: named.map(|(_, attribute)| attribute).sum(),
        recursive: true,
        ..Attributes::default()
    };
    let mount = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match set_attributes(&mount, attributes) {
        // Before Linux 5.12.
        Err(e) if Errno::from_io_error(&e) == Some(Errno::NOSYS) => restrict_each(path, flags),
        done => done,
    }
}

/// The old way. A remount sets all flags of a mount: those that it has are asked for again.
fn restrict_each(path: &Path, flags: MountFlags) -> io::Result<()> {
    let path = path.canonicalize()?;
    let table = mountinfo::read()?;
    let mut found = false;
    for mount in mountinfo::parse(&table).filter(|mount| mount.point.starts_with(&path)) {
        found |= mount.point == path;
        let own: MountFlags = mount.options.split(',').map(flag).collect();
        mount_remount(&mount.point, MountFlags::BIND | own | flags, "")?;
    }
    if found { Ok(()) } else { Err(Errno::INVAL.into()) }
}

fn flag(option: &str) -> MountFlags {
    match option {
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        _ => MountFlags::empty(),
    }
}

#[cfg(test)]
mod tests {
    use magikrun_test_world::with_own_mounts;
    use rustix::mount::{UnmountFlags, mount, mount_bind, unmount};

    use super::*;

    #[test]
    fn what_is_mounted_below_is_restricted_too_and_keeps_its_flags() {
        with_own_mounts(
            "what_is_mounted_below_is_restricted_too_and_keeps_its_flags",
            || {
                for way in [restrict, restrict_each] {
                    let dir = tempfile::tempdir().unwrap();
                    let inner = dir.path().join("a b");
                    mount_bind(dir.path(), dir.path()).unwrap();
                    std::fs::create_dir(&inner).unwrap();
                    mount("inner", &inner, "tmpfs", MountFlags::RDONLY, None).unwrap();
                    way(dir.path(), MountFlags::NODEV | MountFlags::NOSUID).unwrap();
                    let flags = |path: &Path| rustix::fs::statvfs(path).unwrap().f_flag;
                    use rustix::fs::StatVfsMountFlags as Flags;
                    assert!(flags(dir.path()).contains(Flags::NODEV | Flags::NOSUID));
                    assert!(!flags(dir.path()).intersects(Flags::RDONLY | Flags::NOEXEC));
                    assert!(flags(&inner).contains(Flags::NODEV | Flags::NOSUID | Flags::RDONLY));
                    assert!(way(&dir.path().join("none"), MountFlags::NODEV).is_err());
                    unmount(&inner, UnmountFlags::DETACH).unwrap();
                    assert!(way(&inner, MountFlags::NODEV).is_err(), "it is no mount");
                    unmount(dir.path(), UnmountFlags::DETACH).unwrap();
                }
            },
        );
    }
}
