//! What is looked up of this host, by trying where that is possible.

use std::{
    fs, io,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::Result;
use magik_oci::{Capability, KVM, Platform};
use magik_pri::RuntimeClass;
use rustix::{
    fs::{Access, StatVfsMountFlags},
    io::Errno,
};

use super::distribution::Family;
use crate::{pod::backend, roots::GlobalArgs};

/// What the findings are made of.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    /// Whether root asks.
    pub(super) root: bool,
    pub(super) family: Family,
    pub(super) platform: Platform,
    /// Whether pods of each class of this build run.
    pub(super) classes: Vec<(RuntimeClass, Capability)>,
    pub(super) sysctls: Sysctls,
    pub(super) kernel: (u32, u32),
    /// The lines of user `magikrun`, of `/etc/subuid` and of `/etc/subgid`.
    pub(super) subordinate: [String; 2],
    pub(super) kvm: Result<(), Errno>,
    /// Whether the user is told to be of the group kvm; false: there is no such group.
    pub(super) kvm_group: bool,
    pub(super) qemu: bool,
    /// What a machine is made of and is not here.
    pub(super) vm_files: Vec<String>,
    pub(super) data: Place,
    pub(super) state: Place,
    pub(super) cgroup_writable: bool,
    pub(super) loopback: bool,
    /// How far the clock is behind the newest thing that is known to have happened.
    pub(super) clock_behind: Option<Duration>,
    pub(super) certificates: bool,
}

/// What the kernel was told about user namespaces; `None`: it has no such knob.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sysctls {
    /// `user.max_user_namespaces`.
    pub(super) max_user_namespaces: Option<u64>,
    /// `kernel.unprivileged_userns_clone`, of Debian and Arch.
    pub(super) unprivileged_userns_clone: Option<u64>,
    /// `kernel.apparmor_restrict_unprivileged_userns`, of Ubuntu.
    pub(super) apparmor_restrict: Option<u64>,
}

/// The place of a root.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The root.
    pub(super) path: PathBuf,
    /// It, or the directory above it that exists.
    pub(super) existing: PathBuf,
    /// Why nothing can be made there.
    pub(super) refused: Option<io::ErrorKind>,
    /// Whether the file system can be written at all.
    pub(super) read_only: bool,
    pub(super) noexec: bool,
    pub(super) nosuid: bool,
    /// Bytes that are free for this user.
    pub(super) free: u64,
    /// Whether there are no inodes left.
    pub(super) no_inodes: bool,
    /// That it cannot be said where it is, and why.
    pub(super) unknown: Option<String>,
}

impl Facts {
    pub(super) async fn gather(global: &GlobalArgs) -> Result<Self> {
        let (data, state) = (Place::of(global.data_root()), Place::of(global.state_root()));
        let classes = if data.unknown.is_none() && state.unknown.is_none() {
            let pods = backend::pods(global)?;
            let mut classes = Vec::new();
            for class in pods.runtime_classes() {
                classes.push((class, pods.availability(class).await?));
            }
            classes
        } else {
            Vec::new()
        };
        let kvm = rustix::fs::open(
            KVM,
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        Ok(Self {
            root: rustix::process::geteuid().is_root(),
            family: Family::of_host(),
            platform: Platform::detect(),
            classes,
            sysctls: Sysctls {
                max_user_namespaces: sysctl("user/max_user_namespaces"),
                unprivileged_userns_clone: sysctl("kernel/unprivileged_userns_clone"),
                apparmor_restrict: sysctl("kernel/apparmor_restrict_unprivileged_userns"),
            },
            kernel: kernel(&rustix::system::uname().release().to_string_lossy()),
            subordinate: ["/etc/subuid", "/etc/subgid"].map(subordinate),
            kvm: kvm.map(drop),
            kvm_group: fs::read_to_string("/etc/group")
                .is_ok_and(|groups| groups.lines().any(|line| line.starts_with("kvm:"))),
            qemu: in_path("qemu-system-x86_64"),
            vm_files: missing_vm_files(),
            data,
            state,
            cgroup_writable: {
                let mount = Path::new("/sys/fs/cgroup");
                rustix::fs::statvfs(mount).is_ok_and(|fs| !fs.f_flag.contains(StatVfsMountFlags::RDONLY))
                    && rustix::fs::access(mount, Access::WRITE_OK).is_ok()
            },
            loopback: loopback(),
            clock_behind: clock_behind(),
            certificates: CERTIFICATES.iter().any(|path| Path::new(path).exists()),
        })
    }

    /// Whether pods of a class run here; `None`: this build cannot.
    pub(super) fn class(&self, class: RuntimeClass) -> Option<&Capability> {
        let found = self.classes.iter().find(|(known, _)| *known == class);
        found.map(|(_, capability)| capability)
    }
}

/// Where distributions keep the certificates of authorities.
const CERTIFICATES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

impl Place {
    pub(super) fn of(path: Result<PathBuf>) -> Self {
        let (path, unknown) = match path {
            Ok(path) => (path, None),
            Err(why) => (PathBuf::from("/"), Some(format!("{why:#}"))),
        };
        let existing = path.ancestors().find(|above| above.is_dir());
        let existing = existing.unwrap_or(Path::new("/")).to_owned();
        // Removed again at once.
        let made = tempfile::Builder::new()
            .prefix(".magikrun-check-")
            .tempdir_in(&existing);
        let fs = rustix::fs::statvfs(&existing).ok();
        let has = |flag| fs.as_ref().is_some_and(|fs| fs.f_flag.contains(flag));
        Self {
            refused: made.err().map(|e| e.kind()),
            read_only: has(StatVfsMountFlags::RDONLY),
            noexec: has(StatVfsMountFlags::NOEXEC),
            nosuid: has(StatVfsMountFlags::NOSUID),
            free: fs
                .as_ref()
                .map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize)),
            // File systems without a fixed number of inodes say that they have none at all.
            no_inodes: fs.as_ref().is_some_and(|fs| fs.f_files > 0 && fs.f_favail == 0),
            path,
            existing,
            unknown,
        }
    }
}

fn sysctl(name: &str) -> Option<u64> {
    let text = fs::read_to_string(Path::new("/proc/sys").join(name)).ok()?;
    text.trim().parse().ok()
}

/// The first two numbers of a kernel's release.
pub(super) fn kernel(release: &str) -> (u32, u32) {
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn subordinate(file: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let own = text.lines().filter(|line| line.starts_with("magikrun:"));
    own.collect::<Vec<_>>().join(" ")
}

fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn missing_vm_files() -> Vec<String> {
    #[cfg(all(feature = "krun", target_os = "linux"))]
    {
        let files = magik_pri::microvm::VmFiles::find();
        let missing = [files.kernel().err(), files.vminit().err()];
        missing
            .into_iter()
            .flatten()
            .map(|error| error.to_string())
            .collect()
    }
    #[cfg(not(all(feature = "krun", target_os = "linux")))]
    Vec::new()
}

/// Whether this host reaches itself.
fn loopback() -> bool {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.as_ref().ok().and_then(|l| l.local_addr().ok());
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok())
}

/// This program was built before it runs, whatever the clock says.
fn clock_behind() -> Option<Duration> {
    let built = fs::metadata(std::env::current_exe().ok()?)
        .ok()?
        .modified()
        .ok()?;
    built.duration_since(SystemTime::now()).ok()
}
