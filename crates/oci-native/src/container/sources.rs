//! What a container needs of the host, opened by the worker before the container's process exists.
//!
//! So no process that has parts of the container looks up paths of the host, and a user namespace
//! gets what its root may not reach. A caller without the right to clone mounts opens nothing here:
//! the container's process does it in its user namespace, before it changes its root.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use magik_sys::{
    beneath,
    cgroup::MOUNT_ROOT,
    clone::Clone,
    mount::{Attributes, clone_mount, clone_tree, look_at_dir, map_ids, set_attributes},
};
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Kind, Mount, Spec};
use rustix::{
    fs::{CWD, Mode, OFlags},
    process::{Signal, WaitOptions, kill_process, umask, waitpid},
};

use super::{devices::Device, namespaces, namespaces::Namespaces, options::Options};
use crate::{cgroup::Cgroup, failure::Failure, fork::exit, process::birth};

/// Mounts that are not attached yet.
#[derive(Debug, Default)]
pub(super) struct Sources {
    root: Option<OwnedFd>,
    /// One for each bind mount of the spec.
    binds: Vec<Option<OwnedFd>>,
    /// The container's own cgroup in each hierarchy of v1, by the name of the hierarchy.
    pub(super) cgroups: Vec<(String, OwnedFd)>,
    /// The root of v2's hierarchy.
    pub(super) unified: Option<OwnedFd>,
}

impl Sources {
    pub(super) fn open(
        spec: &Spec,
        namespaces: &Namespaces,
        cgroup: &Cgroup<'_>,
        devices: &mut [Device],
    ) -> Result<Self, Failure> {
        let mut this = Self::default();
        let (Some(root), true) = (spec.root(), namespaces.has(Kind::Mount)) else {
            return Ok(this);
        };
        match open_root(root.path()) {
            Ok(tree) => this.root = Some(tree),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => return Ok(this),
            Err(e) => {
                return Err(Failure::Other(format!(
                    "root.path {}: {e}",
                    root.path().display()
                )));
            }
        }
        let container = namespaces.joined(Kind::User);
        for mount in spec.mounts().iter().flatten() {
            let options = Options::of(mount);
            let source = options.bind.map(|_| open_bind(mount, &options)).transpose();
            let source = source.and_then(|source| {
                if let (Some(source), Some((users, all))) = (&source, ids(spec, mount, &options, container)?)
                {
                    map_ids(source, users, all)?;
                }
                Ok(source)
            });
            let failed = |e| Failure::Other(format!("mount {}: {e}", mount.destination().display()));
            this.binds.push(source.map_err(failed)?);
        }
        if spec
            .mounts()
            .iter()
            .flatten()
            .any(|m| m.typ().as_deref() == Some("cgroup"))
        {
            this.open_cgroups(cgroup)
                .map_err(|e| Failure::Other(format!("opening the container's cgroups: {e}")))?;
        }
        if namespaces.has(Kind::User) {
            devices.iter_mut().for_each(Device::open_host);
        }
        Ok(this)
    }

    fn open_cgroups(&mut self, cgroup: &Cgroup<'_>) -> io::Result<()> {
        let named = named_hierarchies()?;
        for (name, dir) in cgroup.v1_dirs().chain(named) {
            if self.cgroups.iter().all(|(other, _)| *other != name) {
                self.cgroups.push((name, private(clone_mount(CWD, &dir)?)?));
            }
        }
        if self.cgroups.is_empty() {
            self.unified = Some(private(clone_mount(CWD, Path::new(MOUNT_ROOT))?)?);
        }
        Ok(())
    }

    pub(super) fn descriptors(&self) -> impl Iterator<Item = &OwnedFd> {
        let cgroups = self.cgroups.iter().map(|(_, fd)| fd);
        self.root
            .iter()
            .chain(self.binds.iter().flatten())
            .chain(cgroups)
            .chain(&self.unified)
    }

    /// The root file system with the host's mounts in it.
    pub(super) fn take_root(&mut self, path: &Path) -> io::Result<OwnedFd> {
        self.root.take().map_or_else(|| open_root(path), Ok)
    }

    /// The source of the bind mount with this index.
    pub(super) fn take_bind(
        &mut self,
        index: usize,
        mount: &Mount,
        options: &Options,
    ) -> io::Result<OwnedFd> {
        let opened = self.binds.get_mut(index).and_then(Option::take);
        opened.map_or_else(|| open_bind(mount, options), Ok)
    }
}

/// Later mounts of the host appear here; none propagate back.
fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(CWD, path)?;
    set_attributes(&tree, Attributes::propagating(libc::MS_SLAVE, true))?;
    Ok(tree)
}

fn private(mount: OwnedFd) -> io::Result<OwnedFd> {
    set_attributes(&mount, Attributes::propagating(libc::MS_PRIVATE, false))?;
    Ok(mount)
}

/// The source of a mount. Mounts propagate to the host only if the mount is shared.
fn open_bind(mount: &Mount, options: &Options) -> io::Result<OwnedFd> {
    let recursive = options.bind == Some(true);
    let source = mount.source().as_ref().filter(|s| s.is_absolute());
    let source = source
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the source is no absolute path"))?;
    let named = |e: io::Error| io::Error::new(e.kind(), format!("source {}: {e}", source.display()));
    let found = options.sub_path.as_deref().map(|path| below(source, path));
    let found = found.transpose()?;
    let (dir, path) = match &found {
        // What was found, whatever is at its path by now.
        Some(found) => (found.as_fd(), Path::new("")),
        None => (CWD, source.as_path()),
    };
    let tree = if recursive {
        clone_tree(dir, path)
    } else {
        clone_mount(dir, path)
    }
    .map_err(named)?;
    let shares = options
        .propagation
        .iter()
        .any(|(propagation, _)| *propagation == libc::MS_SHARED);
    if !shares {
        set_attributes(&tree, Attributes::propagating(libc::MS_SLAVE, recursive))?;
    }
    Ok(tree)
}

/// What is at a path below a directory that a container may be changing; made where it is missing,
/// as kubelet does it: with the permissions of the directory.
fn below(source: &Path, path: &Path) -> io::Result<OwnedFd> {
    let open = || {
        let dir = look_at_dir(source)?;
        // This process has one thread.
        let before = umask(Mode::empty());
        let found = beneath::find_or_make(&dir, path);
        umask(before);
        found
    };
    open().map_err(|e| {
        let (source, path) = (source.display(), path.display());
        io::Error::new(e.kind(), format!("source {source}, subPath {path}: {e}"))
    })
}

/// The user namespace that maps owners of files, and whether below, too; `None`: as they are.
fn ids(
    spec: &Spec,
    mount: &Mount,
    options: &Options,
    container: Option<&OwnedFd>,
) -> io::Result<Option<(OwnedFd, bool)>> {
    let given = |m: &Option<Vec<LinuxIdMapping>>| m.clone().filter(|m| !m.is_empty());
    let own = given(mount.uid_mappings()).zip(given(mount.gid_mappings()));
    let all = options.map_ids.unwrap_or(false);
    if own.is_none() && options.map_ids.is_none() {
        return Ok(None);
    }
    let of_container = || {
        let linux = spec.linux().as_ref()?;
        given(linux.uid_mappings()).zip(given(linux.gid_mappings()))
    };
    if own.is_none()
        && let Some(container) = container
    {
        return Ok(Some((container.try_clone()?, all)));
    }
    let (uids, gids) = own
        .or_else(of_container)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "idmap: there is no mapping"))?;
    Ok(Some((user_namespace(&uids, &gids)?, all)))
}

/// A user namespace without a process, for its maps.
fn user_namespace(uids: &Vec<LinuxIdMapping>, gids: &Vec<LinuxIdMapping>) -> io::Result<OwnedFd> {
    let clone = Clone {
        flags: libc::CLONE_NEWUSER,
        ..Clone::default()
    };
    let Some(pid) = birth::fork(&clone)? else {
        // Until it is killed, or its maker has ended.
        let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
        std::thread::sleep(std::time::Duration::from_secs(10));
        exit(0);
    };
    let opened = namespaces::map_ids(pid, Some(uids), Some(gids)).and_then(|()| {
        let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
        Ok(rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    });
    kill_process(pid, Signal::KILL)?;
    waitpid(Some(pid), WaitOptions::empty())?;
    opened
}

/// Hierarchies without controllers, such as systemd's: the container stays in this process's.
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
