//! Where a container's processes are put, by us rather than by libcontainer.
//!
//! libcontainer 0.7 makes a cgroup manager in the process it forks first, in every container and every exec, and on v1 that
//! costs it more than all else it does there: it parses the mounts once per controller. So the worker makes the cgroup and
//! enters it itself, what it forks is there from the start, and libcontainer is shown a host of cgroup v2, whose manager
//! reads nothing, with a "cgroup" that is an ordinary directory: the file `cgroup.procs` in the container's own.
//!
//! That view needs a mount namespace of the worker's own, in which it can make mounts of the container, too; hooks that run
//! before the container's program would see it, so a container that has some is left to libcontainer altogether.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MountAttrFlags, MountPropagationFlags, mount_change},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::{Cgroup, Layout, MOUNT_ROOT},
    mounts::{Attributes, FsOption, attach, clone_mount, new_mount, set_attributes},
    premounts::Premounts,
};

/// What libcontainer's manager writes a pid to.
const PROCS: &str = "cgroup.procs";
/// What it finds if it reads that again, to kill whatever is there when a creation has failed: no text, which ends the
/// attempt. What it writes is shorter.
const NO_TEXT: [u8; 16] = [0xff; 16];

/// The container's cgroup, for the worker to enter.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Placement {
    cgroup: PathBuf,
    layout: Layout,
    /// Where its directories are gathered, for the container's own mount of them (v1).
    gathered: Option<PathBuf>,
    /// Mounts of the container to be made before libcontainer begins.
    pub(crate) premounts: Premounts,
}

impl Placement {
    pub(crate) fn new(layout: &Layout, cgroup: &Path) -> Self {
        Self {
            cgroup: cgroup.to_owned(),
            layout: layout.clone(),
            gathered: None,
            premounts: Premounts::default(),
        }
    }

    /// Has the worker gather the cgroup's directories of all hierarchies in one, which is made here.
    pub(crate) fn gather(&mut self, dir: PathBuf) -> io::Result<()> {
        fs::create_dir(&dir)?;
        self.gathered = Some(dir);
        Ok(())
    }

    /// The `cgroupsPath` that libcontainer is given, for the container whose directory is `dir`; made here.
    pub(crate) fn make_decoy(&self, dir: &Path) -> io::Result<PathBuf> {
        let content = [&NO_TEXT, self.cgroup.as_os_str().as_bytes()].concat();
        fs::write(dir.join(PROCS), content)?;
        let up = Path::new(MOUNT_ROOT)
            .components()
            .skip(1)
            .map(|_| Path::new(".."));
        let inside: PathBuf = up.collect();
        Ok(Path::new("/")
            .join(inside)
            .join(dir.strip_prefix("/").unwrap_or(dir)))
    }

    /// Puts this process, and so all it forks from now on, into the cgroup, makes mounts, and hides cgroups from
    /// libcontainer.
    pub(super) fn enter(&self) -> io::Result<()> {
        let context =
            |what: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        let cgroup = Cgroup::new(&self.layout, &self.cgroup);
        cgroup.make_and_join()?;
        private_mounts().map_err(context("mount namespace"))?;
        if let Some(dir) = &self.gathered {
            gather(&cgroup, dir).map_err(context("mounting the container's cgroups"))?;
        }
        self.premounts.apply()?;
        if matches!(self.layout, Layout::V2(_)) {
            return Ok(());
        }
        let over = open_dir(Path::new(MOUNT_ROOT))?;
        let cover = v2_mount().map_err(context("mounting cgroup v2"))?;
        attach(&cover, &over).map_err(context("hiding cgroups"))
    }
}

/// The cgroup of a container whose directory is `dir`, if it was placed by us.
pub(crate) fn of_decoy(dir: &Path) -> Option<PathBuf> {
    let content = fs::read(dir.join(PROCS)).ok()?;
    let (_, path) = content.split_first_chunk::<{ NO_TEXT.len() }>()?;
    Some(PathBuf::from(OsStr::from_bytes(path)))
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Mounts of the host still arrive; ours stay here.
#[allow(unsafe_code, reason = "unshare can do more than what is asked of it here")]
fn private_mounts() -> io::Result<()> {
    // SAFETY: file descriptors stay shared with nobody; a worker has one thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS)? };
    Ok(mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?)
}

/// A mount of cgroup v2. Made anew in the host's cgroup namespace it would set the options of the host's own (such as
/// nsdelegate) back to their defaults, so it is a clone of that one, or made in a namespace of its own.
#[allow(unsafe_code, reason = "unshare can do more than what is asked of it here")]
fn v2_mount() -> io::Result<OwnedFd> {
    let unified = Path::new(MOUNT_ROOT).join("unified");
    if rustix::fs::statfs(&unified).is_ok_and(|f| crate::cgroup::is_v2(&f)) {
        return clone_mount(CWD, &unified);
    }
    let own = rustix::fs::open(
        "/proc/self/ns/cgroup",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP)? };
    let mount = new_mount("cgroup2", &[], MountAttrFlags::empty());
    move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::ControlGroup))?;
    mount
}

/// Mounts v1 as container runtimes do: a tmpfs, in it a directory per hierarchy, links for controllers that share one.
fn gather(cgroup: &Cgroup<'_>, dir: &Path) -> io::Result<()> {
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let attributes = Attributes {
        set: u64::from(flags.bits()),
        ..Attributes::default()
    };
    let tmpfs = new_mount("tmpfs", &[FsOption::Value("mode".into(), "755".into())], flags)?;
    attach(&tmpfs, open_dir(dir)?)?;
    for (name, dir) in cgroup.v1_dirs().chain(named_hierarchies()?) {
        rustix::fs::mkdirat(&tmpfs, &name, Mode::from_raw_mode(0o755))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&tmpfs, &name, flags, Mode::empty())?;
        let clone = clone_mount(CWD, &dir)?;
        set_attributes(&clone, attributes)?;
        attach(&clone, &target)?;
        if name.contains(',') {
            for controller in name.split(',') {
                rustix::fs::symlinkat(&name, &tmpfs, controller)?;
            }
        }
    }
    Ok(())
}

/// Hierarchies without controllers, such as systemd's: this process stays where it is in them, and so does the container.
fn named_hierarchies() -> io::Result<Vec<(String, PathBuf)>> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let named = |line: &str| {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        let name = names.strip_prefix("name=")?;
        let dir = Path::new(MOUNT_ROOT)
            .join(name)
            .join(path.trim_start_matches('/'));
        (!name.contains('/') && dir.is_dir()).then(|| (name.to_owned(), dir))
    };
    Ok(text.lines().filter_map(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decoy_leads_from_the_cgroup_root_to_the_containers_directory() {
        let dir = tempfile::tempdir().unwrap();
        let placement = Placement::new(&Layout::V2(MOUNT_ROOT.into()), Path::new("/a/b"));
        let decoy = placement.make_decoy(dir.path()).unwrap();
        // As libcgroups joins paths.
        let joined = Path::new("/sys/fs/cgroup").join(decoy.strip_prefix("/").unwrap());
        assert_eq!(joined.canonicalize().unwrap(), dir.path().canonicalize().unwrap());
        assert!(fs::read_to_string(joined.join(PROCS)).is_err());
        assert_eq!(of_decoy(dir.path()), Some("/a/b".into()));
        // The longest pid there is leaves it so.
        let mut file = fs::OpenOptions::new()
            .write(true)
            .open(joined.join(PROCS))
            .unwrap();
        io::Write::write_all(&mut file, b"4194304").unwrap();
        assert!(fs::read_to_string(joined.join(PROCS)).is_err());
        assert_eq!(of_decoy(dir.path()), Some("/a/b".into()));
        assert_eq!(of_decoy(Path::new("/nowhere")), None);
    }
}
