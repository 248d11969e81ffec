//! The container's mounts, in the order of the spec, made before the change of root.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use magik_sys::{
    cgroup::MOUNT_ROOT,
    mount::{Attributes, FsOption, attach, begin, clone_mount, finish, new_mount, set_attributes},
};
use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount, Spec};
use rustix::{
    fs::{CWD, FileType, Gid, Mode, OFlags, RawMode, Stat, Uid, fstat, mkdirat, symlinkat},
    mount::{MountAttrFlags, fsconfig_set_fd},
};

use super::{
    namespaces::Namespaces,
    options::Options,
    sources::Sources,
    target::{Want, find, is, leads_elsewhere, open_or_make},
};
use crate::{
    failure::Failure,
    proc_mounts,
    process::{attributes::selinux_is_enabled, birth},
};

/// The longest value that fsconfig(2) takes, in bytes.
const MAX_VALUE: usize = 255;

/// Makes a container's mounts.
pub(super) struct Maker<'a> {
    pub(super) root: BorrowedFd<'a>,
    pub(super) namespaces: &'a Namespaces,
    /// `linux.mountLabel`, where SELinux is enabled.
    label: Option<String>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(root: BorrowedFd<'a>, namespaces: &'a Namespaces, spec: &Spec) -> Self {
        let label = spec.linux().as_ref().and_then(|l| l.mount_label().clone());
        Self {
            root,
            namespaces,
            label: label.filter(|l| !l.is_empty() && selinux_is_enabled()),
        }
    }

    /// Makes all mounts of the spec.
    pub(super) fn make_all(&self, spec: &Spec, sources: &mut Sources) -> Result<(), Failure> {
        for (index, mount) in spec.mounts().iter().flatten().enumerate() {
            self.make(index, mount, sources)
                .map_err(|e| Failure::Other(format!("mount {}: {e}", mount.destination().display())))?;
        }
        Ok(())
    }

    fn make(&self, index: usize, mount: &Mount, sources: &mut Sources) -> io::Result<()> {
        let options = Options::of(mount);
        let destination = mount.destination();
        if options.remount {
            return self.change(destination, &options);
        }
        match (options.bind, mount.typ().as_deref()) {
            (Some(_), _) => {
                let source = sources.take_bind(index, mount, &options)?;
                change(&source, &options.keeping_readonly())?;
                let want = if is(&source, FileType::Directory)? {
                    Want::Directory
                } else {
                    Want::File
                };
                let target = self.target(destination, want, is_proc(&source)?)?;
                attach(&source, target)
            }
            (None, Some("cgroup")) => self.make_cgroups(destination, &options, sources),
            (None, Some(kind)) => self.make_new(mount, kind, options),
            (None, None) => Err(io::Error::new(io::ErrorKind::InvalidInput, "has no type")),
        }
    }

    /// Where something is mounted; made if it is missing. Not the root, which a later process would
    /// leave; nothing in `/proc`, which the runtime and the kernel's users trust (CVE-2019-16884).
    fn target(&self, destination: &Path, want: Want, proc: bool) -> io::Result<OwnedFd> {
        let target = open_or_make(self.root, destination, want)?;
        let same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
        let stat = fstat(&target)?;
        if same(&stat, &fstat(self.root)?) {
            return Err(io::Error::other("leads to the root itself"));
        }
        if !is_proc(&target)? || proc && stat.st_ino == PROC_ROOT_INODE {
            return Ok(target);
        }
        for allowed in proc_mounts::ALLOWED {
            let place = find(self.root, &Path::new("/proc").join(allowed))?;
            if place.is_some_and(|place| fstat(place).is_ok_and(|place| same(&stat, &place))) {
                return Ok(target);
            }
        }
        Err(io::Error::other("may not cover the container's /proc"))
    }

    fn change(&self, destination: &Path, options: &Options) -> io::Result<()> {
        let there = find(self.root, destination)?.ok_or(io::ErrorKind::NotFound)?;
        change(&there, options)
    }

    /// A file system of the container's own.
    fn make_new(&self, mount: &Mount, kind: &str, mut options: Options) -> io::Result<()> {
        let there = find(self.root, mount.destination())?;
        let fixed = matches!(kind, "proc" | "sysfs") || mount.destination().starts_with("/dev");
        if fixed && leads_elsewhere(self.root, mount.destination())? {
            return Err(io::Error::other(format!(
                "{kind} must be mounted on an ordinary directory"
            )));
        }
        if kind == "tmpfs"
            && !options.has_data("mode")
            && let Some(there) = &there
        {
            let mode = fstat(there)?.st_mode & 0o7777;
            options
                .data
                .push(FsOption::Value("mode".into(), format!("{mode:o}")));
        }
        let covered = there.filter(|_| options.copy_up);
        let target = self.target(mount.destination(), Want::Directory, kind == "proc")?;
        let set = options
            .attributes()
            .filter(|a| a.propagation == 0 && !a.recursive);
        let attributes =
            MountAttrFlags::from_bits_retain(set.map(|a| low_bits(a.set)).fold(0, |all, a| all | a));
        let long = |o: &FsOption| matches!(o, FsOption::Value(_, value) if value.len() > MAX_VALUE);
        if options.data.iter().any(long) {
            return self.make_by_name(mount, kind, &options, &target);
        }
        let made = match kind {
            "proc" => self.new_proc(&options.data, attributes)?,
            _ => finish(&begin(kind, &self.told(mount, kind, &options))?, attributes)?,
        };
        attach(&made, &target)?;
        for attributes in options.attributes().filter(|a| a.propagation != 0 || a.recursive) {
            set_attributes(&made, attributes)?;
        }
        match covered {
            Some(covered) if is(&covered, FileType::Directory)? => copy(&covered, &made, mount, &options),
            _ => Ok(()),
        }
    }

    /// The file system's options, its source, and its SELinux label.
    fn told(&self, mount: &Mount, kind: &str, options: &Options) -> Vec<FsOption> {
        let value = |name: &str, value: &str| FsOption::Value(name.into(), value.into());
        let source = mount.source().as_ref().and_then(|s| s.to_str());
        let label = self
            .label
            .as_ref()
            .filter(|_| !matches!(kind, "sysfs" | "cgroup2"));
        let source = source.filter(|s| !s.is_empty() && s.len() <= MAX_VALUE);
        let source = source.map(|source| value("source", source));
        let label = label.map(|label| value("context", label));
        options.data.iter().cloned().chain(source).chain(label).collect()
    }

    /// mount(2), for an option that is too long for fsconfig(2), as overlay's can be.
    fn make_by_name(&self, mount: &Mount, kind: &str, options: &Options, target: &OwnedFd) -> io::Result<()> {
        let text = |option: &FsOption| match option {
            FsOption::Flag(name) => name.clone(),
            FsOption::Value(name, value) => format!("{name}={value}"),
        };
        let data: Vec<String> = options.data.iter().map(text).collect();
        let data = std::ffi::CString::new(data.join(","))?;
        let none = Path::new("none");
        let source = mount.source().as_deref().unwrap_or(none);
        // By descriptor in the host's /proc: this process has not changed its root yet.
        let place = format!("/proc/self/fd/{}", target.as_raw_fd());
        rustix::mount::mount(source, place, kind, rustix::mount::MountFlags::empty(), &*data)?;
        self.change(mount.destination(), options)
    }

    /// A procfs shows the pid namespace of its maker, or since Linux 6.17 one that is named. To
    /// show a namespace that is to be joined, it is made by name. Older kernels: a short-lived
    /// child in the namespace makes it, only where no process there could look into the child.
    fn new_proc(&self, data: &[FsOption], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
        let make = || new_mount("proc", data, attributes);
        let Some(pids) = self.namespaces.joined(Kind::Pid) else {
            return make();
        };
        let context = begin("proc", data)?;
        match fsconfig_set_fd(context.as_fd(), "pidns", pids.as_fd()) {
            Ok(()) => finish(&context, attributes),
            Err(_) if self.namespaces.pids_are_traced()? => Err(io::Error::other(
                "where a container with CAP_SYS_PTRACE is in the pid namespace, joining it needs Linux 6.17",
            )),
            Err(_) => self.namespaces.with_pid_for_children(|| birth::made_inside(make)),
        }
    }

    /// The container's own cgroups. v1 as in all runtimes: a tmpfs with a directory per hierarchy,
    /// and links for controllers that share one.
    fn make_cgroups(&self, destination: &Path, options: &Options, sources: &mut Sources) -> io::Result<()> {
        let target = self.target(destination, Want::Directory, false)?;
        if sources.cgroups.is_empty() {
            // A new mount in the host's cgroup namespace would set the options of the host's own
            // mount (such as nsdelegate) back to their defaults.
            let made = if self.namespaces.has(Kind::Cgroup) {
                new_mount("cgroup2", &[], MountAttrFlags::empty())
            } else {
                sources
                    .unified
                    .take()
                    .map_or_else(|| clone_mount(CWD, Path::new(MOUNT_ROOT)), Ok)
            }?;
            change(&made, options)?;
            return attach(&made, &target);
        }
        let tmpfs = new_mount(
            "tmpfs",
            &[FsOption::Value("mode".into(), "755".into())],
            MountAttrFlags::MOUNT_ATTR_NOSUID
                | MountAttrFlags::MOUNT_ATTR_NODEV
                | MountAttrFlags::MOUNT_ATTR_NOEXEC,
        )?;
        attach(&tmpfs, &target)?;
        for (name, clone) in std::mem::take(&mut sources.cgroups) {
            mkdirat(&tmpfs, &name, Mode::from_raw_mode(0o755))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let point = rustix::fs::openat(&tmpfs, &name, flags, Mode::empty())?;
            change(&clone, options)?;
            attach(&clone, &point)?;
            if name.contains(',') {
                for controller in name.split(',') {
                    symlinkat(&name, &tmpfs, controller)?;
                }
            }
        }
        change(&tmpfs, options)
    }
}

/// Copies what a tmpfs covers into it; by descriptor, since others could exchange the path.
fn copy(covered: &OwnedFd, made: &OwnedFd, mount: &Mount, options: &Options) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::openat(covered, ".", flags, Mode::empty())?;
    let readonly = Attributes {
        clear: libc::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    set_attributes(made, readonly)?;
    let to = rustix::fs::openat(made, ".", flags, Mode::empty())?;
    magik_sys::tree::copy(&from, &to)?;
    let stat = fstat(&from)?;
    rustix::fs::fchown(
        &to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    if mount.options().iter().flatten().all(|o| !o.starts_with("mode=")) {
        rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode as RawMode))?;
    }
    change(made, options)
}

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: i128 = 0x9fa0;
/// `PROC_ROOT_INO` of linux/proc_fs.h.
const PROC_ROOT_INODE: u64 = 1;

fn is_proc(file: &OwnedFd) -> io::Result<bool> {
    Ok(i128::from(rustix::fs::fstatfs(file)?.f_type) == PROC_MAGIC)
}

fn low_bits(attributes: u64) -> u32 {
    u32::try_from(attributes).unwrap_or(0)
}

fn change(mount: &OwnedFd, options: &Options) -> io::Result<()> {
    options
        .attributes()
        .try_for_each(|attributes| match set_attributes(mount, attributes) {
            // A user namespace cannot clear flags that its parent has set.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && attributes.clear != 0 => {
                let clear = attributes.clear & libc::MOUNT_ATTR__ATIME;
                set_attributes(mount, Attributes { clear, ..attributes })
            }
            other => other,
        })
}
