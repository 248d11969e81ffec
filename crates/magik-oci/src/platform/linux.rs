//! The trials, on Linux.

use std::{fs, io, os::fd::OwnedFd, path::Path};

use magik_sys::{cgroup, mountinfo};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use super::{Capability, KVM};

/// `SECCOMP_GET_ACTION_AVAIL` of linux/seccomp.h.
const SECCOMP_GET_ACTION_AVAIL: libc::c_ulong = 2;
/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;

/// The kernel's words without Rust's "(os error n)".
fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_lowercase()
}

pub(super) fn native() -> Capability {
    for namespace in ["mnt", "pid", "net", "ipc", "uts"] {
        let path = format!("/proc/self/ns/{namespace}");
        if !Path::new(&path).exists() {
            return Capability::no(format!(
                "{path} is missing: the kernel lacks the namespace, or /proc is not mounted"
            ));
        }
    }
    let wanted = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    match try_unshare(wanted) {
        Ok(()) => Capability::yes("mount, pid, net, ipc and uts namespaces"),
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            Capability::no("may not make namespaces: needs root (CAP_SYS_ADMIN)")
        }
        Err(e) => Capability::no(format!("unshare: {}", reason(&e))),
    }
}

pub(super) fn user_namespaces() -> Capability {
    match try_unshare(libc::CLONE_NEWUSER) {
        Ok(()) => Capability::yes("a user namespace was made"),
        Err(e) => Capability::no(format!("unshare: {}", reason(&e))),
    }
}

/// Unshares in a child that does nothing else.
#[allow(unsafe_code, reason = "there is no safe fork")]
fn try_unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: the child makes system calls only, allocates nothing and takes no lock, so it does
    // not matter what other threads held when it was forked; it ends with _exit.
    let pid = unsafe { libc::fork() };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: as above. An errno is below 134, so it fits an exit code.
            unsafe {
                let code = if libc::unshare(flags) == 0 {
                    0
                } else {
                    *libc::__errno_location()
                };
                libc::_exit(code)
            }
        }
        pid => {
            let Some(pid) = rustix::process::Pid::from_raw(pid) else {
                return Err(io::ErrorKind::Other.into());
            };
            let wait = || rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            let ended = rustix::io::retry_on_intr(wait)?;
            match ended.and_then(|(_, status)| status.exit_status()) {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("the trial was killed")),
            }
        }
    }
}

pub(super) fn cgroups() -> Capability {
    let is_v2 = |path: &str| cgroup::is_v2(path).unwrap_or(false);
    if is_v2(cgroup::MOUNT_ROOT) {
        let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        return Capability::yes(format!("cgroup v2: {}", controllers.trim()));
    }
    let table = mountinfo::read().unwrap_or_default();
    let controllers = v1_controllers(&table);
    if controllers.is_empty() {
        return Capability::no("no cgroup hierarchy is mounted below /sys/fs/cgroup");
    }
    let kind = if is_v2("/sys/fs/cgroup/unified") {
        "hybrid"
    } else {
        "v1"
    };
    Capability::yes(format!("cgroup {kind}: {}", controllers.join(" ")))
}

fn v1_controllers(table: &[u8]) -> Vec<&str> {
    let known = [
        "cpu",
        "cpuacct",
        "cpuset",
        "memory",
        "pids",
        "devices",
        "freezer",
        "blkio",
        "hugetlb",
        "perf_event",
        "net_cls",
        "net_prio",
        "rdma",
        "misc",
    ];
    mountinfo::parse(table)
        .filter(|mount| mount.kind == "cgroup")
        .flat_map(|mount| mount.super_options.split(','))
        .filter(|option| known.contains(option))
        .collect()
}

/// What is known of /dev/kvm; a guest that says hello is the microVM backend's own probe.
pub(super) fn hypervisor() -> String {
    match fs::File::options().read(true).write(true).open(KVM) {
        Ok(_) => format!("{KVM} opens"),
        Err(e) => format!("{KVM}: {}", reason(&e)),
    }
}

pub(super) fn overlayfs() -> Capability {
    match try_overlay() {
        Ok(()) => Capability::yes("an overlay was mounted"),
        Err((step, e)) => Capability::no(format!("{step}: {}", reason(&e))),
    }
}

/// Makes an overlay of two empty directories that is not attached; closing it removes it.
fn try_overlay() -> Result<(), (&'static str, io::Error)> {
    let base = std::env::temp_dir().join(format!(
        "magikrun-probe-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let layers = [base.join("a"), base.join("b")];
    let made = layers
        .iter()
        .try_for_each(fs::create_dir_all)
        .map_err(|e| ("a temporary directory", e));
    let mounted = made.and_then(|()| {
        let at = |step| move |e: rustix::io::Errno| (step, e.into());
        let overlay: OwnedFd =
            rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen"))?;
        let lower = format!("{}:{}", layers[0].display(), layers[1].display());
        rustix::mount::fsconfig_set_string(&overlay, "lowerdir", lower).map_err(at("lowerdir"))?;
        rustix::mount::fsconfig_create(&overlay).map_err(at("creating it"))?;
        rustix::mount::fsmount(
            &overlay,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_RDONLY,
        )
        .map(drop)
        .map_err(at("fsmount"))
    });
    let _ = fs::remove_dir_all(&base);
    mounted
}

#[allow(unsafe_code, reason = "rustix has no seccomp")]
pub(super) fn seccomp() -> Capability {
    let action = libc::SECCOMP_RET_KILL_PROCESS;
    // SAFETY: the kernel reads 32 bits from the pointer, which is to a u32 of this frame.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if answer == 0 {
        Capability::yes("seccomp filters")
    } else {
        Capability::no(reason(&io::Error::last_os_error()))
    }
}

#[allow(unsafe_code, reason = "rustix has no landlock")]
pub(super) fn landlock() -> Capability {
    // SAFETY: with this flag the kernel reads no memory and returns a version.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0_usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    match answer {
        version if version > 0 => Capability::yes(format!("ABI version {version}")),
        _ => Capability::no(reason(&io::Error::last_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_controllers_of_v1_mounts() {
        let mountinfo = b"32 31 0:29 / /sys/fs/cgroup/cpu rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(v1_controllers(mountinfo), ["cpu", "cpuacct"]);
    }

    #[test]
    fn a_failed_trial_gives_its_reason() {
        assert_eq!(
            try_unshare(libc::CLONE_PIDFD).unwrap_err().raw_os_error(),
            Some(libc::EINVAL)
        );
    }

    #[test]
    #[allow(clippy::print_stderr, reason = "a skipped test says so")]
    fn root_on_linux_can_run_native_containers() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED root_on_linux_can_run_native_containers: needs root");
            return;
        }
        assert!(native().available, "{}", native().detail);
        assert!(overlayfs().available, "{}", overlayfs().detail);
        assert!(cgroups().available, "{}", cgroups().detail);
    }
}
