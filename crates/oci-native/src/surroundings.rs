//! What libcontainer 0.7 leaves undone of a container's surroundings: loopback, the propagation and copying of single
//! mounts, read-only cgroups, and who owns the standard streams.
//!
//! [`Surroundings::take`] reads it off the spec (and takes out what libcontainer would stumble over); the worker applies
//! it between creation and start, in the namespaces of an init that runs nothing of the container's yet.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Linux, LinuxNamespaceType, Mount, MountBuilder, Spec};
use rustix::{
    fs::{CWD, Gid, Mode, OFlags, Uid},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use crate::{
    cgroup::Layout,
    copy_up::copy_tree,
    masks::Masks,
    mounts::{Attributes, open_inside, set_attributes},
    own_dev::OwnDev,
};

/// What is to be done to a container's surroundings.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Surroundings {
    /// A new network namespace starts with loopback down.
    loopback: bool,
    mounts: Vec<MountChange>,
    copies: Vec<CopyUp>,
    dev: Option<OwnDev>,
    /// What libcontainer finds no longer in the spec.
    pub(crate) masks: Masks,
}

/// Attributes of a mount that libcontainer does not set.
#[derive(Debug, Serialize, Deserialize)]
struct MountChange {
    /// As the container names it.
    destination: PathBuf,
    /// `MS_PRIVATE`, … or 0.
    propagation: u64,
    recursive: bool,
    readonly: bool,
}

/// A tmpfs that starts with what it covers (`tmpcopyup`).
#[derive(Debug, Serialize, Deserialize)]
struct CopyUp {
    rootfs: PathBuf,
    destination: PathBuf,
    /// Whether the tmpfs gets the mode of what it covers: no `mode=` says otherwise.
    mode: bool,
}

impl Surroundings {
    /// Reads what is to be done off a spec whose `root.path` is absolute; says whether it changed the spec. `direct`: its
    /// cgroup mounts are not libcontainer's business.
    pub(crate) fn take(spec: &mut Spec, layout: &Layout, direct: bool) -> (Self, bool) {
        let mut changed = false;
        let mut this = Self::default();
        let Some(linux) = spec.linux_mut() else {
            return (this, false);
        };
        this.loopback = has_new(linux, LinuxNamespaceType::Network);
        // runc takes the recursive forms here, libcontainer only the others (to the same effect).
        if let Some(propagation) = linux.rootfs_propagation().clone()
            && let Some(plain @ ("shared" | "private" | "slave" | "unbindable")) =
                propagation.strip_prefix('r')
        {
            linux.set_rootfs_propagation(Some(plain.to_owned()));
            changed = true;
        }
        let emulated = !direct && cgroups_must_be_bound(linux, layout);
        // A mount that the container's own user namespace could take the attributes off again is left to libcontainer.
        let shares_users = !linux
            .namespaces()
            .iter()
            .flatten()
            .any(|n| n.typ() == LinuxNamespaceType::User);
        let rootfs = spec.root().as_ref().map(|r| r.path().clone()).unwrap_or_default();
        let mut mounts = Vec::new();
        for mut mount in spec.mounts().clone().unwrap_or_default() {
            this.note(&mut mount, &rootfs, &mut changed);
            if let Some((dev, scaffold)) = OwnDev::of(&mount).filter(|_| shares_users) {
                this.dev = Some(dev);
                mounts.push(scaffold);
                changed = true;
                continue;
            }
            if let Some(dev) = &mut this.dev {
                dev.note(mount.destination());
            }
            if emulated && mount.typ().as_deref() == Some("cgroup") {
                mounts.extend(bound_cgroups(spec, &mount, layout));
                changed = true;
            } else {
                mounts.push(mount);
            }
        }
        if let Some(dev) = &mut this.dev {
            // libcontainer mounts the terminal there.
            dev.note(Path::new("/dev/console"));
        }
        if changed {
            spec.set_mounts(Some(mounts));
        }
        (this, changed)
    }

    fn note(&mut self, mount: &mut Mount, rootfs: &Path, changed: &mut bool) {
        let options = mount.options().clone().unwrap_or_default();
        let has = |name: &str| options.iter().any(|o| o == name);
        let mut propagation = 0;
        let mut recursive = false;
        for option in &options {
            if let Some((flag, rec)) = propagation_flag(option) {
                (propagation, recursive) = (flag, rec);
            }
        }
        // On v1 libcontainer mounts each hierarchy writable, whatever the options say.
        let readonly = mount.typ().as_deref() == Some("cgroup") && has("ro");
        if propagation != 0 || readonly {
            self.mounts.push(MountChange {
                destination: mount.destination().clone(),
                propagation,
                recursive: recursive || readonly,
                readonly,
            });
        }
        if has("tmpcopyup") {
            *changed = true;
            self.copies.push(CopyUp {
                rootfs: rootfs.to_owned(),
                destination: mount.destination().clone(),
                mode: !options.iter().any(|o| o.starts_with("mode=")),
            });
            mount.set_options(Some(options.into_iter().filter(|o| o != "tmpcopyup").collect()));
        }
    }

    /// Whether what is mounted there starts with what it covers.
    pub(crate) fn copies_up(&self, destination: &Path) -> bool {
        self.copies.iter().any(|copy| copy.destination == destination)
    }

    /// Does it all, from a worker of one thread that does nothing else afterwards: it ends in the init's namespaces.
    pub(crate) fn apply(&self, init: i32) -> io::Result<()> {
        let context = |what: &str| {
            let what = what.to_owned();
            move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"))
        };
        if self.loopback {
            enter(init, "net", LinkNameSpaceType::Network)
                .and_then(|()| loopback_up())
                .map_err(context("loopback"))?;
        }
        if self.mounts.is_empty() && self.copies.is_empty() && self.dev.is_none() && self.masks.is_empty() {
            return Ok(());
        }
        // Opened before the mount namespace changes: there the mount lies over it.
        let sources = self
            .copies
            .iter()
            .map(CopyUp::source)
            .collect::<io::Result<Vec<_>>>()?;
        let dev = self.dev.as_ref().map(|dev| Ok((dev, dev.open()?)));
        let dev = dev.transpose().map_err(context("mount /dev"))?;
        enter(init, "mnt", LinkNameSpaceType::Mount).map_err(context("mount namespace"))?;
        if let Some((dev, tree)) = dev {
            dev.cover(&tree).map_err(context("mount /dev"))?;
        }
        for (copy, source) in self.copies.iter().zip(sources) {
            let named = context(&format!("mount {}", copy.destination.display()));
            if let Some(source) = source {
                copy.run(&source).map_err(named)?;
            }
        }
        for change in &self.mounts {
            change
                .apply()
                .map_err(context(&format!("mount {}", change.destination.display())))?;
        }
        self.masks.apply(root()?.as_fd())
    }
}

fn has_new(linux: &Linux, kind: LinuxNamespaceType) -> bool {
    linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == kind && n.path().is_none())
}

/// mount(8)'s propagation options.
fn propagation_flag(option: &str) -> Option<(u64, bool)> {
    let (name, recursive) = match option.strip_prefix('r') {
        Some(rest) if matches!(rest, "private" | "slave" | "shared" | "unbindable") => (rest, true),
        _ => (option, false),
    };
    let flag = match name {
        "private" => libc::MS_PRIVATE,
        "slave" => libc::MS_SLAVE,
        "shared" => libc::MS_SHARED,
        "unbindable" => libc::MS_UNBINDABLE,
        _ => return None,
    };
    Some((flag, recursive))
}

/// Without a cgroup namespace libcontainer looks its own cgroup up by a pid that, in a joined pid namespace, is not the
/// one /proc shows.
fn cgroups_must_be_bound(linux: &Linux, layout: &Layout) -> bool {
    let joins_pids = linux
        .namespaces()
        .iter()
        .flatten()
        .any(|n| n.typ() == LinuxNamespaceType::Pid && n.path().is_some());
    matches!(layout, Layout::V1(_)) && joins_pids && !has_new(linux, LinuxNamespaceType::Cgroup)
}

/// A v1 cgroup mount spelt out: a tmpfs, and in it the container's own directory of each hierarchy.
fn bound_cgroups(spec: &Spec, mount: &Mount, layout: &Layout) -> Vec<Mount> {
    let cgroup = spec
        .linux()
        .as_ref()
        .and_then(|l| l.cgroups_path().clone())
        .unwrap_or_default();
    let relative = cgroup.strip_prefix("/").unwrap_or(&cgroup).to_owned();
    let options = |list: &[&str]| list.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>();
    let tmpfs = MountBuilder::default()
        .destination(mount.destination())
        .typ("tmpfs")
        .source("tmpfs")
        .options(options(&["noexec", "nosuid", "nodev", "mode=755"]))
        .build();
    let bind = |point: &Path| {
        MountBuilder::default()
            .destination(mount.destination().join(point.file_name()?))
            .typ("bind")
            .source(point.join(&relative))
            .options(options(&["bind", "noexec", "nosuid", "nodev"]))
            .build()
            .ok()
    };
    tmpfs
        .into_iter()
        .chain(layout.v1_mounts().filter_map(bind))
        .collect()
}

fn enter(init: i32, name: &str, kind: LinkNameSpaceType) -> io::Result<()> {
    let path = format!("/proc/{init}/ns/{name}");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(move_into_link_name_space(namespace.as_fd(), Some(kind))?)
}

/// netdevice(7): `SIOCSIFFLAGS`.
#[allow(unsafe_code, reason = "rustix has no ioctl for interface flags")]
fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all zero is a valid `ifreq`; its name is NUL-terminated and its flags are the member this ioctl reads. The kind of
    // request is an int in musl, a long elsewhere.
    let answer = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(*b"lo") {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).unwrap_or(0);
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    if answer == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The root of the mount namespace this process is in.
pub(crate) fn root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

impl MountChange {
    fn apply(&self) -> io::Result<()> {
        let mount = open_inside(root()?.as_fd(), &self.destination, OFlags::PATH)?;
        let attributes = Attributes {
            set: if self.readonly { libc::MOUNT_ATTR_RDONLY } else { 0 },
            propagation: self.propagation,
            recursive: self.recursive,
        };
        set_attributes(&mount, attributes)
    }
}

impl CopyUp {
    /// The directory the tmpfs covers, if the image has one.
    fn source(&self) -> io::Result<Option<OwnedFd>> {
        let root = rustix::fs::openat(
            CWD,
            &self.rootfs,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        match open_inside(
            root.as_fd(),
            &self.destination,
            OFlags::RDONLY | OFlags::DIRECTORY,
        ) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn run(&self, source: &OwnedFd) -> io::Result<()> {
        let target = open_inside(
            root()?.as_fd(),
            &self.destination,
            OFlags::RDONLY | OFlags::DIRECTORY,
        )?;
        copy_tree(source, &target)?;
        if self.mode {
            let stat = rustix::fs::fstat(source)?;
            rustix::fs::fchown(
                &target,
                Some(Uid::from_raw(stat.st_uid)),
                Some(Gid::from_raw(stat.st_gid)),
            )?;
            rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode))?;
        }
        Ok(())
    }
}

/// The host's id of the user that the container's process runs as.
pub(crate) fn host_uid(spec: &Spec, uid: u32) -> Option<u32> {
    let mappings = spec.linux().as_ref().and_then(|l| l.uid_mappings().as_ref());
    let Some(mappings) = mappings.filter(|m| !m.is_empty()) else {
        return Some(uid);
    };
    let within = |m: &oci_spec::runtime::LinuxIdMapping| {
        uid.checked_sub(m.container_id())
            .filter(|offset| *offset < m.size())
            .and_then(|o| m.host_id().checked_add(o))
    };
    mappings.iter().find_map(within)
}

/// Gives a standard stream to the container's user, as runc does: it may want to open `/dev/stdout`, or its terminal.
pub(crate) fn give(stream: &impl AsFd, uid: Option<u32>) {
    let Some(uid) = uid else { return };
    let Ok(stat) = rustix::fs::fstat(stream) else {
        return;
    };
    // Not the host's /dev/null.
    let null = rustix::fs::makedev(1, 3);
    if stat.st_uid != uid && stat.st_rdev != null {
        // A socket or a read-only file system may refuse; the stream is usable all the same.
        let _ = rustix::fs::fchown(stream, Some(Uid::from_raw(uid)), None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &serde_json::Value, mounts: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "/r"}, "linux": linux, "mounts": mounts,
        }))
        .unwrap()
    }

    #[test]
    fn reads_what_is_to_be_done_and_leaves_a_plain_spec_alone() {
        let mut plain = spec(
            &serde_json::json!({"namespaces": [{"type": "network", "path": "/n"}]}),
            &serde_json::json!([]),
        );
        let (done, changed) = Surroundings::take(&mut plain, &Layout::V2("/".into()), true);
        assert!(!changed && !done.loopback && done.mounts.is_empty() && done.copies.is_empty());

        let mut spec = spec(
            &serde_json::json!({"namespaces": [{"type": "network"}], "rootfsPropagation": "rslave"}),
            &serde_json::json!([
                {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["nosuid", "tmpcopyup", "rprivate"]},
                {"destination": "/c", "type": "cgroup", "source": "c", "options": ["ro"]},
            ]),
        );
        let (done, changed) = Surroundings::take(&mut spec, &Layout::V2("/".into()), true);
        assert!(changed && done.loopback);
        assert_eq!(
            spec.linux().as_ref().unwrap().rootfs_propagation().as_deref(),
            Some("slave")
        );
        assert_eq!(
            spec.mounts().as_ref().unwrap()[0].options().as_deref().unwrap(),
            ["nosuid", "rprivate"]
        );
        assert_eq!(done.copies[0].destination, Path::new("/t"));
        assert!(
            done.mounts[0].recursive
                && done.mounts[0].propagation == libc::MS_PRIVATE
                && !done.mounts[0].readonly
        );
        assert!(done.mounts[1].readonly && done.mounts[1].propagation == 0);
    }

    #[test]
    fn users_are_mapped_to_the_hosts() {
        let mapping = serde_json::json!([{"containerID": 0, "hostID": 1000, "size": 10}]);
        let mapped = spec(
            &serde_json::json!({"uidMappings": mapping}),
            &serde_json::json!([]),
        );
        assert_eq!(host_uid(&mapped, 9), Some(1009));
        assert_eq!(host_uid(&mapped, 10), None);
        assert_eq!(
            host_uid(&spec(&serde_json::json!({}), &serde_json::json!([])), 7),
            Some(7)
        );
    }
}
