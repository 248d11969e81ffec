//! No mount may cover parts of the container's `/proc` (CVE-2019-16884, CVE-2025-52881).
//!
//! The runtime writes there (labels, sysctls, masks), and a mount of the bundle's over it would
//! redirect those writes. libcontainer 0.7 checks mounts of type proc and sysfs only.

use std::{
    fs,
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};

use oci_spec::runtime::{Mount, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

/// What lxcfs emulates: the list is runc's.
pub(crate) const ALLOWED: [&str; 10] = [
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];
/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: i128 = 0x9fa0;

/// The first mount over or in `/proc` that is not allowed; `root.path` is absolute.
pub(crate) fn forbidden(spec: &Spec) -> Option<&Path> {
    let rootfs = spec.root().as_ref()?.path();
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    mounts
        .iter()
        .find(|mount| !is_allowed(mount, rootfs))
        .map(|mount| mount.destination().as_path())
}

fn is_allowed(mount: &Mount, rootfs: &Path) -> bool {
    let destination = resolve(rootfs, mount.destination());
    let Ok(below) = destination.strip_prefix("/proc") else {
        return true;
    };
    if below.as_os_str().is_empty() {
        return mount.typ().as_deref() == Some("proc") || is_bind_of_proc(mount);
    }
    ALLOWED.iter().any(|allowed| below == Path::new(allowed))
}

fn is_bind_of_proc(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    let bind = mount.typ().as_deref() == Some("bind") || options.iter().any(|o| o == "bind" || o == "rbind");
    let source = mount.source().as_deref();
    bind && source.is_some_and(|s| rustix::fs::statfs(s).is_ok_and(|f| i128::from(f.f_type) == PROC_MAGIC))
}

/// Where a destination is once the image's symbolic links are followed, as far as the image has it.
fn resolve(rootfs: &Path, destination: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in destination.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => drop(clean.pop()),
            _ => {}
        }
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::openat(CWD, rootfs, flags | OFlags::DIRECTORY, Mode::empty()) else {
        return clean;
    };
    let real = |fd: &std::os::fd::OwnedFd| fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok();
    let Some(base) = real(&root) else { return clean };
    // The longest part that exists; the rest is made by the runtime, without links.
    for existing in clean.ancestors() {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let inside = existing.strip_prefix("/").unwrap_or(existing);
        let inside = if inside.as_os_str().is_empty() {
            Path::new(".")
        } else {
            inside
        };
        let Ok(fd) = openat2(&root, inside, flags, Mode::empty(), resolve) else {
            continue;
        };
        let rest = clean.strip_prefix(existing).unwrap_or(Path::new(""));
        let Some(found) = real(&fd).and_then(|p| p.strip_prefix(&base).map(Path::to_owned).ok()) else {
            return clean;
        };
        return Path::new("/").join(found).join(rest);
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runc_allows_may_cover_proc() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc")).unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("link")).unwrap();
        let spec = |mount: serde_json::Value| -> Spec {
            let root = serde_json::json!({"path": dir.path()});
            serde_json::from_value(
                serde_json::json!({"ociVersion": "1.0.2", "root": root, "mounts": [mount]}),
            )
            .unwrap()
        };
        let mount = |destination: &str, kind: &str, source: &str| serde_json::json!({"destination": destination, "type": kind, "source": source});
        for good in [
            mount("/proc", "proc", "proc"),
            mount("/proc/meminfo", "bind", "/etc/hostname"),
            mount("/proc", "bind", "/proc"),
            mount("/processes", "tmpfs", "tmpfs"),
            mount("/proc/../etc", "tmpfs", "tmpfs"),
        ] {
            assert_eq!(forbidden(&spec(good.clone())), None, "{good}");
        }
        for bad in [
            mount("/proc/self", "tmpfs", "tmpfs"),
            mount("/proc", "tmpfs", "tmpfs"),
            mount("/proc", "bind", "/tmp"),
            mount("/proc/self/attr", "bind", "/tmp"),
            mount("/etc/../proc/sys", "tmpfs", "tmpfs"),
            mount("/link/sys", "tmpfs", "tmpfs"),
            mount("/link", "tmpfs", "tmpfs"),
        ] {
            assert!(forbidden(&spec(bad.clone())).is_some(), "{bad}");
        }
    }
}
