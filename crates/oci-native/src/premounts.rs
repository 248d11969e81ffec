//! Mounts of a container that are made before libcontainer makes its own.
//!
//! Each mount costs libcontainer 0.7 several walks through the file system, with a look at /proc for every step. Those that
//! need nothing of the container's namespaces are made by the worker, in a mount namespace of its own and by descriptor,
//! on the root directory from which libcontainer then makes the container's. It finds the others in the spec, and mounts
//! them after ours: so whatever lies below or over one of those is left to it, too.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2},
    io::Errno,
    mount::MountAttrFlags,
};
use serde::{Deserialize, Serialize};

use crate::{
    mounts::{Attributes, FsOption, attach, clone_mount, clone_tree, new_mount, set_attributes},
    surroundings::Surroundings,
};

/// What libcontainer finds made.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Premounts {
    rootfs: PathBuf,
    mounts: Vec<Premount>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Premount {
    destination: PathBuf,
    what: What,
    /// `MOUNT_ATTR_*`.
    attributes: u32,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    Bind { source: PathBuf, recursive: bool },
    New { kind: String, options: Vec<FsOption> },
}

impl Premounts {
    /// Takes them out of a spec whose `root.path` is absolute. What is to start with what it covers is left: mounted early,
    /// it would cover that.
    pub(crate) fn take(spec: &mut Spec, surroundings: &Surroundings) -> Self {
        let mut this = Self::default();
        let (Some(root), Some(linux)) = (spec.root(), spec.linux()) else {
            return this;
        };
        if !matches!(
            linux.rootfs_propagation().as_deref(),
            None | Some("private" | "slave")
        ) {
            return this;
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(rootfs) = rustix::fs::open(root.path(), flags, Mode::empty()) else {
            return this;
        };
        root.path().clone_into(&mut this.rootfs);
        let inherited = |kind| linux.namespaces().iter().flatten().all(|n| n.typ() != kind);
        let kinds = Kinds {
            mqueue: inherited(LinuxNamespaceType::Ipc),
            sysfs: inherited(LinuxNamespaceType::Network),
        };
        let mut left: Vec<Mount> = Vec::new();
        // A destination that a symbolic link is part of: where it leads, libcontainer will find out.
        let mut anywhere = false;
        for mount in spec.mounts().clone().unwrap_or_default() {
            let plain = is_plain(&rootfs, mount.destination());
            let late = surroundings.copies_up(mount.destination());
            let meets = |other: &Mount| {
                let (a, b) = (mount.destination(), other.destination());
                a.starts_with(b) || b.starts_with(a)
            };
            let ours = plain && !late && !anywhere && !left.iter().any(meets);
            match ours.then(|| Premount::of(&mount, kinds)).flatten() {
                Some(premount) => this.mounts.push(premount),
                None => {
                    anywhere |= !plain;
                    left.push(mount);
                }
            }
        }
        spec.set_mounts(Some(left));
        this
    }

    /// Makes them, in a mount namespace that nobody else is in.
    pub(crate) fn apply(&self) -> io::Result<()> {
        if self.mounts.is_empty() {
            return Ok(());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let rootfs = rustix::fs::open(&self.rootfs, flags, Mode::empty())?;
        for mount in &self.mounts {
            mount.apply(&rootfs).map_err(|e| {
                io::Error::new(e.kind(), format!("mount {}: {e}", mount.destination.display()))
            })?;
        }
        Ok(())
    }
}

/// Whether a destination is canonical, and as far as it exists no step of it is a symbolic link.
fn is_plain(rootfs: &OwnedFd, destination: &Path) -> bool {
    let canonical = destination
        .components()
        .all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    canonical
        && destination.is_absolute()
        && matches!(
            open_plain(rootfs, destination),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR)
        )
}

fn open_plain(root: &impl AsFd, path: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Which kinds of file system belong to a namespace that the container shares with the worker.
#[derive(Debug, Clone, Copy)]
struct Kinds {
    mqueue: bool,
    sysfs: bool,
}

impl Premount {
    /// `None` for whatever is not plain enough.
    fn of(mount: &Mount, kinds: Kinds) -> Option<Self> {
        let mut attributes = MountAttrFlags::empty();
        let mut fs_options = Vec::new();
        let (mut bind, mut recursive) = (false, false);
        for option in mount.options().iter().flatten() {
            match option.as_str() {
                "bind" => bind = true,
                "rbind" => (bind, recursive) = (true, true),
                "ro" => attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
                "nosuid" => attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
                "nodev" => attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
                "noexec" => attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
                "strictatime" => attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
                // The default; propagation is set afterwards.
                "rw" | "relatime" | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared"
                | "unbindable" | "runbindable" => {}
                "newinstance" => fs_options.push(FsOption::Flag(option.clone())),
                other => {
                    let (name, value) = other.split_once('=')?;
                    if !["mode", "size", "uid", "gid", "nr_inodes", "ptmxmode"].contains(&name) {
                        return None;
                    }
                    fs_options.push(FsOption::Value(name.to_owned(), value.to_owned()));
                }
            }
        }
        let kind = mount.typ().as_deref();
        let what = if bind || kind == Some("bind") {
            let source = mount.source().clone().filter(|s| s.is_absolute())?;
            let strict = attributes.contains(MountAttrFlags::MOUNT_ATTR_STRICTATIME);
            if strict || !fs_options.is_empty() || mount.uid_mappings().is_some() {
                return None;
            }
            What::Bind { source, recursive }
        } else {
            let kind = kind?;
            let readonly_dev = mount.destination() == Path::new("/dev")
                && attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY);
            let known = match kind {
                "tmpfs" => !readonly_dev,
                "devpts" => true,
                "mqueue" => kinds.mqueue && fs_options.is_empty(),
                "sysfs" => kinds.sysfs && fs_options.is_empty(),
                _ => false,
            };
            if !known {
                return None;
            }
            What::New {
                kind: kind.to_owned(),
                options: fs_options,
            }
        };
        Some(Self {
            destination: mount.destination().clone(),
            what,
            attributes: attributes.bits(),
        })
    }

    fn apply(&self, rootfs: &OwnedFd) -> io::Result<()> {
        let (mount, is_dir) = match &self.what {
            What::Bind { source, recursive } => {
                let clone = if *recursive {
                    clone_tree(rustix::fs::CWD, source)?
                } else {
                    clone_mount(rustix::fs::CWD, source)?
                };
                if self.attributes != 0 {
                    set_attributes(
                        &clone,
                        Attributes {
                            set: u64::from(self.attributes),
                            ..Attributes::default()
                        },
                    )?;
                }
                let kind = FileType::from_raw_mode(fstat(&clone)?.st_mode);
                (clone, kind == FileType::Directory)
            }
            What::New { kind, options } => {
                let attributes = MountAttrFlags::from_bits_retain(self.attributes);
                (new_mount(kind, options, attributes)?, true)
            }
        };
        attach(&mount, make_target(rootfs.as_fd(), &self.destination, is_dir)?)
    }
}

/// Opens what is to be mounted over; whatever lacks of it is made, as runc does.
fn make_target(root: BorrowedFd<'_>, path: &Path, is_dir: bool) -> io::Result<OwnedFd> {
    match open_plain(&root, path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let mut dir = root.try_clone_to_owned()?;
    let mut done = PathBuf::from("/");
    let names: Vec<_> = path
        .components()
        .filter(|c| matches!(c, Component::Normal(_)))
        .collect();
    for (index, name) in names.iter().enumerate() {
        done.push(name);
        let made = if is_dir || index + 1 < names.len() {
            mkdirat(&dir, name.as_os_str(), Mode::from_raw_mode(0o755))
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&dir, name.as_os_str(), flags, Mode::from_raw_mode(0o644)).map(drop)
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        dir = open_plain(&root, &done)?;
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is taken, and what is left, of mounts in a root that has a link `/link` to `/proc`.
    fn taken(mounts: &serde_json::Value, namespaces: &serde_json::Value) -> (Vec<String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let mut spec: Spec = serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": dir.path()}, "mounts": mounts,
            "linux": {"namespaces": namespaces},
        }))
        .unwrap();
        let premounts = Premounts::take(&mut spec, &Surroundings::default());
        let names = |p: &Path| p.display().to_string();
        let ours = premounts.mounts.iter().map(|m| names(&m.destination)).collect();
        let left = spec.mounts().iter().flatten();
        (ours, left.map(|m| names(m.destination())).collect())
    }

    fn mount(destination: &str, kind: &str, options: &[&str]) -> serde_json::Value {
        serde_json::json!({"destination": destination, "type": kind, "source": "/source", "options": options})
    }

    #[test]
    fn what_needs_the_containers_namespaces_is_left() {
        let mounts = serde_json::json!([
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755"]),
            mount("/dev/pts", "devpts", &["newinstance", "gid=5"]),
            mount("/dev/mqueue", "mqueue", &["nosuid"]),
            mount("/sys", "sysfs", &["ro"]),
            mount("/sys/fs/cgroup", "bind", &["rbind", "ro"]),
            mount("/etc/hosts", "bind", &["rbind", "rprivate"]),
        ]);
        let own = serde_json::json!([{"type": "ipc"}, {"type": "network", "path": "/n"}]);
        let (ours, left) = taken(&mounts, &own);
        assert_eq!(ours, ["/dev", "/dev/pts", "/etc/hosts"]);
        assert_eq!(left, ["/proc", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]);
        let (ours, left) = taken(&mounts, &serde_json::json!([]));
        assert_eq!(left, ["/proc"]);
        assert_eq!(ours.len(), 6);
    }

    #[test]
    fn the_order_of_mounts_that_cover_each_other_stays() {
        let mounts = serde_json::json!([
            mount("/a/proc", "proc", &[]),
            mount("/a", "tmpfs", &[]),
            mount("/a/proc/x", "bind", &["bind"]),
            mount("/b", "tmpfs", &[]),
        ]);
        let (ours, left) = taken(&mounts, &serde_json::json!([]));
        assert_eq!(ours, ["/b"]);
        assert_eq!(left, ["/a/proc", "/a", "/a/proc/x"]);
        let linked = serde_json::json!([mount("/link/x", "tmpfs", &[]), mount("/b", "tmpfs", &[])]);
        assert_eq!(taken(&linked, &serde_json::json!([])).0, [""; 0]);
    }

    #[test]
    fn options_that_are_not_known_are_libcontainers_to_judge() {
        for options in [
            &["idmap"][..],
            &["dirsync"],
            &["rro"],
            &["mpol=bind"],
            &["noatime"],
        ] {
            let mounts = serde_json::json!([mount("/a", "tmpfs", options)]);
            assert_eq!(taken(&mounts, &serde_json::json!([])).1, ["/a"], "{options:?}");
        }
        for odd in [
            mount("/a", "bind", &["size=1"]),
            mount("/a/../b", "tmpfs", &[]),
            mount("a", "tmpfs", &[]),
        ] {
            assert!(
                taken(&serde_json::json!([odd]), &serde_json::json!([]))
                    .0
                    .is_empty()
            );
        }
    }

    #[test]
    fn targets_are_made_inside_the_root_and_never_through_links() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("out")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        make_target(root.as_fd(), Path::new("/a/b"), true).unwrap();
        make_target(root.as_fd(), Path::new("/a/c"), false).unwrap();
        assert!(dir.path().join("a/b").is_dir() && dir.path().join("a/c").is_file());
        assert!(make_target(root.as_fd(), Path::new("/out/x"), true).is_err());
        assert!(make_target(root.as_fd(), Path::new("/a/c/d"), true).is_err());
    }
}
