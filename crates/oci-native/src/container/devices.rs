//! The container's `/dev` (runtime-spec, "Default Devices" and "Default Filesystems").

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
};

use magik_sys::mount::{attach, clone_mount, open_inside};
use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Spec};
use rustix::{
    fs::{
        AtFlags, Dev, FileType, Gid, Mode, OFlags, Uid, chownat, makedev, mknodat, statat, symlinkat,
        unlinkat,
    },
    io::Errno,
    process::umask,
};

use super::target::{Want, find, is, leads_elsewhere, open_or_make};
use crate::{
    failure::{Failure, step},
    process::terminal::Terminal,
};

/// The devices of every container: name, major and minor number.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];
const LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];
const DEV: &str = "/dev";

/// A device that the container is to have.
#[derive(Debug)]
pub(super) struct Device {
    /// Its path in the container.
    path: std::path::PathBuf,
    kind: FileType,
    number: Dev,
    mode: u32,
    owner: (u32, u32),
    /// The host's device, if none can be made.
    host: Option<OwnedFd>,
}

/// The devices of a spec. As in runc, none if the bundle mounts its own `/dev`.
pub(super) fn of(spec: &Spec, linux: &Linux) -> Vec<Device> {
    let binds = |m: &oci_spec::runtime::Mount| super::options::Options::of(m).bind.is_some();
    let mut mounts = spec.mounts().iter().flatten();
    if mounts.any(|m| m.destination() == Path::new(DEV) && binds(m)) {
        return Vec::new();
    }
    let asked: Vec<Device> = linux.devices().iter().flatten().map(Device::of).collect();
    let default = DEFAULT.map(|(name, major, minor)| Device {
        path: Path::new(DEV).join(name),
        kind: FileType::CharacterDevice,
        number: makedev(major, minor),
        mode: 0o666,
        owner: (0, 0),
        host: None,
    });
    let missing = default
        .into_iter()
        .filter(|d| asked.iter().all(|a| a.path != d.path));
    let mut devices: Vec<Device> = missing.collect();
    devices.extend(asked);
    devices
}

impl Device {
    fn of(device: &LinuxDevice) -> Self {
        let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        Self {
            path: device.path().clone(),
            kind: match device.typ() {
                LinuxDeviceType::B => FileType::BlockDevice,
                LinuxDeviceType::P => FileType::Fifo,
                _ => FileType::CharacterDevice,
            },
            number: makedev(number(device.major()), number(device.minor())),
            mode: device.file_mode().unwrap_or(0o666),
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
            host: None,
        }
    }

    /// Opens the host's device of that name, where the user namespace may make none.
    pub(super) fn open_host(&mut self) {
        self.host = clone_mount(rustix::fs::CWD, &self.path).ok();
    }

    pub(super) fn descriptor(&self) -> Option<&OwnedFd> {
        self.host.as_ref()
    }

    fn make(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let (parent, name) = self
            .path
            .parent()
            .zip(self.path.file_name())
            .ok_or(io::ErrorKind::InvalidInput)?;
        if let Some(host) = &self.host {
            return attach(host, open_or_make(root, &self.path, Want::File)?);
        }
        let parent = open_or_make(root, parent, Want::Directory)?;
        let mode = Mode::from_raw_mode(self.mode & 0o7777);
        let make = || mknodat(&parent, name, self.kind, mode, self.number);
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) if self.is_at(&parent, name) => return Ok(()),
            // The image has a file of that name.
            Err(Errno::EXIST) => {
                unlinkat(&parent, name, AtFlags::empty())?;
                make()?;
            }
            // A process that may make none binds the host's, if it exists.
            Err(Errno::PERM) => {
                let host = clone_mount(rustix::fs::CWD, &self.path)?;
                return attach(host, open_or_make(root, &self.path, Want::File)?);
            }
            Err(e) => return Err(e.into()),
        }
        let (uid, gid) = self.owner;
        if (uid, gid) != (0, 0) {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    fn is_at(&self, parent: &OwnedFd, name: &std::ffi::OsStr) -> bool {
        statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == self.kind
                && (self.kind == FileType::Fifo || stat.st_rdev == self.number)
        })
    }
}

/// Makes the devices, and the links that go with them.
pub(super) fn make(root: BorrowedFd<'_>, devices: &[Device]) -> Result<(), Failure> {
    if devices.is_empty() {
        return Ok(());
    }
    if leads_elsewhere(root, DEV.as_ref()).map_err(step("/dev"))? {
        // The link's target may be another's mount by now (CVE-2026-41579).
        return Err(Failure::Other("the root's /dev is a symbolic link".into()));
    }
    let before = umask(Mode::empty());
    let made = devices.iter().try_for_each(|device| {
        device
            .make(root)
            .map_err(|e| Failure::Other(format!("device {}: {e}", device.path.display())))
    });
    umask(before);
    made?;
    links(root).map_err(|e| Failure::Other(format!("links in /dev: {e}")))
}

fn links(root: BorrowedFd<'_>) -> io::Result<()> {
    let dev = open_or_make(root, DEV.as_ref(), Want::Directory)?;
    // A ptmx of the image, or of an old devpts, belongs to another devpts.
    match unlinkat(&dev, "ptmx", AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let core = Path::new("/proc/kcore")
        .exists()
        .then_some(("/proc/kcore", "core"));
    for (target, name) in LINKS.into_iter().chain(core) {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Shows the terminal at `/dev/console`.
pub(super) fn show_console(root: BorrowedFd<'_>, terminal: &Terminal) -> io::Result<()> {
    let console = Path::new("/dev/console");
    let lookup = OFlags::PATH | OFlags::NOFOLLOW;
    // A link is refused: another user of the directory could redirect the mount with it
    // (CVE-2025-52565).
    let there = match open_inside(root, console, lookup) {
        Ok(there) => there,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let Some(dev) = find(root, DEV.as_ref())? else {
                return Ok(());
            };
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            rustix::fs::openat(&dev, "console", flags, Mode::from_raw_mode(0o600))?;
            open_inside(root, console, lookup)?
        }
        Err(e) => return Err(e),
    };
    if is(&there, FileType::Symlink)? {
        return Err(io::Error::other(
            "/dev/console: a symbolic link where a mount goes",
        ));
    }
    attach(clone_mount(&terminal.slave, Path::new(""))?, there)
}
