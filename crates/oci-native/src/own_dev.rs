//! A `/dev` that the bundle brings along as a bind mount: `podman run -v /dev:/dev`, a Kubernetes hostPath.
//!
//! libcontainer 0.7 makes its devices and links in whatever lies at `/dev`: it fails where they exist, and would write to
//! the host's directory where they do not. So it is given a tmpfs to do that in, and the mount that was asked for takes
//! its place before anything of the container's runs. As with runc, what else the spec mounts below `/dev` stays in sight, and
//! its devices are not made.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Mount, MountBuilder};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{UnmountFlags, unmount},
};
use serde::{Deserialize, Serialize};

use crate::{
    mounts::{Attributes, attach, clone_mount, clone_tree, open_inside, set_attributes},
    surroundings::root,
};

const DEV: &str = "/dev";

/// The mount that was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OwnDev {
    source: PathBuf,
    recursive: bool,
    /// `MOUNT_ATTR_*`.
    attributes: u64,
    /// What is mounted below it, in order.
    below: Vec<PathBuf>,
}

impl OwnDev {
    /// If `mount` is one over `/dev`: it, and what libcontainer is given instead.
    pub(crate) fn of(mount: &Mount) -> Option<(Self, Mount)> {
        let options = mount.options().as_deref().unwrap_or_default();
        let has = |name: &str| options.iter().any(|o| o == name);
        let bind = mount.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
        let source = mount.source().clone().filter(|s| s.is_absolute())?;
        if !bind || mount.destination() != Path::new(DEV) {
            return None;
        }
        let attributes = [
            ("ro", libc::MOUNT_ATTR_RDONLY),
            ("nosuid", libc::MOUNT_ATTR_NOSUID),
            ("nodev", libc::MOUNT_ATTR_NODEV),
            ("noexec", libc::MOUNT_ATTR_NOEXEC),
        ];
        let scaffold = MountBuilder::default()
            .destination(DEV)
            .typ("tmpfs")
            .source("tmpfs")
            .options(["nosuid", "mode=755", "size=1m"].map(str::to_owned))
            .build()
            .ok()?;
        let this = Self {
            source,
            recursive: has("rbind"),
            attributes: attributes
                .iter()
                .filter(|(name, _)| has(name))
                .fold(0, |all, (_, attribute)| all | attribute),
            below: Vec::new(),
        };
        Some((this, scaffold))
    }

    /// Something is mounted at `destination` after it.
    pub(crate) fn note(&mut self, destination: &Path) {
        if destination.starts_with(DEV) && destination != Path::new(DEV) {
            self.below.push(destination.to_owned());
        }
    }

    /// The source, from the namespace that names it.
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        let tree = if self.recursive {
            clone_tree(CWD, &self.source)?
        } else {
            clone_mount(CWD, &self.source)?
        };
        // What is mounted there later arrives, nothing goes the other way: as with every other bind mount.
        let attributes = Attributes {
            set: self.attributes,
            propagation: libc::MS_SLAVE,
            recursive: self.recursive,
        };
        set_attributes(&tree, attributes)?;
        Ok(tree)
    }

    /// Puts `tree` in the place of what libcontainer made, from inside the container's mount namespace.
    pub(crate) fn cover(&self, tree: &OwnedFd) -> io::Result<()> {
        let root = root()?;
        let mut below = Vec::new();
        for path in &self.below {
            match open_inside(root.as_fd(), path, OFlags::PATH) {
                Ok(old) => below.push((path, clone_tree(&old, Path::new(""))?)),
                // No terminal, no console.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let dev = || open_inside(root.as_fd(), Path::new(DEV), OFlags::PATH | OFlags::DIRECTORY);
        // There is no unmounting by descriptor: from inside it is the current directory.
        rustix::process::fchdir(dev()?)?;
        unmount(".", UnmountFlags::DETACH)?;
        attach(tree, &dev()?)?;
        for (path, mount) in below {
            let point = mount_point(&root, path, &mount)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            attach(&mount, &point)?;
        }
        Ok(())
    }
}

/// Where `mount` goes, made if it is missing. A link is refused: the directory may be shared with somebody who would like
/// the mount to be elsewhere (CVE-2025-52565).
fn mount_point(root: &OwnedFd, path: &Path, mount: &OwnedFd) -> io::Result<OwnedFd> {
    match open_plain(root, path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        done => return done,
    }
    let (parent, name) = path
        .parent()
        .zip(path.file_name())
        .ok_or(io::ErrorKind::InvalidInput)?;
    let parent = open_inside(root.as_fd(), parent, OFlags::PATH | OFlags::DIRECTORY)?;
    if file_type(mount)? == FileType::Directory {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))?;
    }
    open_plain(&parent, Path::new(name))
}

fn open_plain(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let point = open_inside(root.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW)?;
    if file_type(&point)? == FileType::Symlink {
        return Err(io::Error::other("a symbolic link where a mount goes"));
    }
    Ok(point)
}

fn file_type(file: &OwnedFd) -> io::Result<FileType> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(destination: &str, typ: &str, options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination(destination)
            .typ(typ)
            .source("/src")
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    #[test]
    fn only_a_bind_mount_over_dev_itself_is_one() {
        assert!(OwnDev::of(&mount("/dev", "tmpfs", &[])).is_none());
        assert!(OwnDev::of(&mount("/dev/x", "bind", &["bind"])).is_none());
        let (mut dev, scaffold) = OwnDev::of(&mount("/dev", "none", &["rbind", "ro"])).unwrap();
        assert!(dev.recursive && dev.attributes == libc::MOUNT_ATTR_RDONLY);
        assert_eq!(scaffold.typ().as_deref(), Some("tmpfs"));
        for path in ["/dev", "/device", "/dev/pts"] {
            dev.note(Path::new(path));
        }
        assert_eq!(dev.below, [Path::new("/dev/pts")]);
    }
}
