//! Which ids of the host's a pod's users have.
//!
//! Each pod that has a user namespace gets a range of its own, so that no two pods are the same user on the host. A range is
//! a symbolic link, `/run/magikrun-users/<number>`, that leads to the pod's state; the pod's directory says which it is, so
//! that whoever removes the pod gives it back.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use magik_infra::PENDING_SUFFIX;
use magik_oci::Platform;

use super::{
    lock,
    paths::{Paths, remove_link},
};
use crate::{PodSpec, VolumeSource, limits::MAX_PODS, spec::capability};

/// Whose users those of a pod are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// The host's.
    OfHost,
    /// Its own if a range is left, else the host's.
    OwnIfLeft,
    /// Its own.
    Own,
}

/// How many ids a pod has: as many as Kubernetes gives one.
pub(crate) const SIZE: u32 = 65_536;
/// The first id of the first range, where `/etc/subuid` and `/etc/subgid` give none to [`OWNER`]: above what distributions
/// give to people, and below 2³¹, which some file systems and programs take for a sign.
const FIRST: u32 = 0x7800_0000;
/// Whose ranges of `/etc/subuid` and `/etc/subgid` are used.
const OWNER: &str = "magikrun";
/// Where all ranges that are taken are, whatever state root the pods are in.
pub(crate) const DIRECTORY: &str = "/run/magikrun-users";
/// In it: held while a range is taken.
const LOCK: &str = "lock";
/// In a pod's directory: the number of its range.
const FILE: &str = "users";

/// Capabilities that only the first user namespace honours: a pod that asks for one means the host's.
const OF_HOST: [&str; 23] = [
    "ALL",
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "AUDIT_WRITE",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "LEASE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "MKNOD",
    "PERFMON",
    "SYSLOG",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "WAKE_ALARM",
];

/// Whether a pod asks for nothing that is the host's, so that its users need not be.
pub(crate) fn asks_nothing_of_the_host(spec: &PodSpec) -> bool {
    let of_host = |name: &String| OF_HOST.contains(&capability(name).as_str());
    let mut containers = spec.all_containers();
    let mut volumes = spec.volumes.iter();
    !spec.host_network
        && !spec.host_pid
        && !spec.host_ipc
        && !spec.share_process_namespace
        && containers.all(|c| !c.security.privileged && !c.security.add_capabilities.iter().any(of_host))
        && volumes.all(|v| match v.source {
            VolumeSource::EmptyDir(_)
            | VolumeSource::Data(_)
            | VolumeSource::Claim(_)
            | VolumeSource::Image(_) => true,
            // Those with names are the data root's, like the others.
            VolumeSource::HostPath(_) => spec.claims.iter().any(|claim| claim.volume == v.name),
        })
        && ids_fit(spec)
}

/// Whether the users and groups that the pod names are among those of a range.
fn ids_fit(spec: &PodSpec) -> bool {
    let fits = |id: &u32| *id < SIZE;
    spec.all_containers().all(|container| {
        let security = &container.security;
        let own = [security.run_as_user, security.run_as_group];
        own.iter()
            .flatten()
            .chain(&security.supplemental_groups)
            .all(fits)
    })
}

/// Why a pod cannot have users of its own here.
pub(crate) fn impossible(paths: &Paths, spec: &PodSpec) -> Option<&'static str> {
    if spec.share_process_namespace {
        return Some("not together with shareProcessNamespace yet");
    }
    if spec.host_network {
        return Some("not together with hostNetwork");
    }
    if !ids_fit(spec) {
        return Some("a pod's own users and groups are those below 65536, and it names others");
    }
    if Ranges::of_host().is_none() {
        return Some(
            "/etc/subuid and /etc/subgid give user magikrun different ranges, or none that is large enough",
        );
    }
    let first = "0 0 4294967295";
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !map.split_whitespace().eq(first.split(' ')) {
        return Some("magikrun itself is in a user namespace");
    }
    if root_may_be_changed() && !Platform::user_namespaces().available {
        return Some("magikrun is in a chroot, where the kernel makes no user namespaces");
    }
    if !fs::read_to_string("/proc/sys/user/max_user_namespaces").is_ok_and(|max| max.trim() != "0") {
        return Some("the host allows no user namespaces (user.max_user_namespaces)");
    }
    if !kernel_is_new_enough() {
        return Some("needs Linux 6.3, whose overlays and memory file systems map owners");
    }
    let maps = |path: &Path| rustix::fs::statfs(path).is_ok_and(|f| MAPPABLE.contains(&i128::from(f.f_type)));
    if !maps(paths.data_root()) || !maps(&paths.sandboxes()) {
        return Some("the file system of the data root or the state root cannot map owners");
    }
    None
}

/// Whether the root directory is perhaps not that of the mount namespace, as in a chroot. The kernel
/// tells nobody; to try what it refuses there takes a process.
fn root_may_be_changed() -> bool {
    let identity = |path| rustix::fs::stat(path).map(|stat| (stat.st_dev, stat.st_ino));
    match (identity("/"), identity("/proc/1/root/")) {
        (Ok(ours), Ok(of_first)) => ours != of_first,
        _ => true,
    }
}

/// File systems that can be mounted with other owners (`FS_ALLOW_IDMAP`), by their numbers of linux/magic.h: ext4, xfs, btrfs,
/// tmpfs.
const MAPPABLE: [i128; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

fn kernel_is_new_enough() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 3)
}

/// The ranges of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ranges {
    first: u32,
    count: u32,
}

impl Ranges {
    /// Those that the host gives us; where the two files do not agree, none can be used.
    fn of_host() -> Option<Self> {
        let read = |file: &str| parse(&fs::read_to_string(file).unwrap_or_default());
        match (read("/etc/subuid"), read("/etc/subgid")) {
            (None, None) => Some(Self {
                first: FIRST,
                count: u32::try_from(MAX_PODS).unwrap_or(u32::MAX),
            }),
            (users, groups) if users == groups => users,
            _ => None,
        }
    }
}

/// The first range of subuid(5) that has room for a pod: `name:first:count`.
fn parse(text: &str) -> Option<Ranges> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        first.checked_add(count)?;
        let count = count / SIZE;
        (owner == OWNER && count > 0 && first > 0).then_some(Ranges { first, count })
    })
}

/// Takes a range for a pod; `pod` is where the pod will be, `dir` is its directory now, `users` that of all ranges. Returns
/// the host's id of its root.
pub(crate) fn take(users: &Path, pod: &Path, dir: &Path) -> io::Result<Option<u32>> {
    let Some(ranges) = Ranges::of_host() else {
        return Ok(None);
    };
    magik_cas::private::directory(users).map_err(io::Error::other)?;
    // Pods of all state roots take turns: whose range is nobody's is seen and taken in one.
    let _turn = lock::open(&users.join(LOCK), true).and_then(|lock| lock::exclusive(&lock).map(|()| lock))?;
    for number in 0..ranges.count {
        let link = users.join(number.to_string());
        match fs::read_link(&link) {
            Ok(other) if is_there(&other) => continue,
            // Whoever removes that pod may be faster.
            Ok(_) => remove_link(&link)?,
            Err(_) => {}
        }
        // Noted before it is taken, so that whoever finds the directory knows what to give back.
        symlink(number.to_string(), dir.join(FILE))?;
        symlink(pod, &link)?;
        return Ok(Some(ranges.first + number * SIZE));
    }
    Ok(None)
}

/// Whether a pod is there, be it pending.
fn is_there(pod: &Path) -> bool {
    let mut pending = pod.as_os_str().to_owned();
    pending.push(PENDING_SUFFIX);
    pod.exists() || Path::new(&pending).exists()
}

/// Gives a pod's range back, if it has one.
pub(crate) fn give_back(users: &Path, pod: &Path, dir: &Path) {
    let number = fs::read_link(dir.join(FILE)).ok();
    let Some(number) = number.as_deref().and_then(Path::file_name) else {
        return;
    };
    let link = users.join(number);
    if fs::read_link(&link).is_ok_and(|target| target == pod) {
        let _ = fs::remove_file(link);
    }
}

/// In a sandbox's directory: the user namespace, and what is seen through its map.
const NAMESPACE: &str = "users";
pub(crate) const DATA: &str = "mapped-data";
pub(crate) const SANDBOX: &str = "mapped-sandbox";

/// Where a pod's init has what its user namespace sees.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    sandbox: PathBuf,
}

impl Places {
    pub(crate) fn of(sandbox: &Path) -> Self {
        Self {
            sandbox: sandbox.to_owned(),
        }
    }

    /// The file of the namespace.
    pub(crate) fn namespace(&self) -> PathBuf {
        self.sandbox.join(NAMESPACE)
    }

    /// Where a path of the data root's, or of the sandbox's, is with its owners mapped; any other is as it is.
    pub(crate) fn mapped(&self, data_root: &Path, path: &Path) -> PathBuf {
        let places = [(data_root, DATA), (self.sandbox.as_path(), SANDBOX)];
        let mapped = places.into_iter().find_map(|(root, name)| {
            let below = path.strip_prefix(root).ok()?;
            Some(self.sandbox.join(name).join(below))
        });
        mapped.unwrap_or_else(|| path.to_owned())
    }

    /// Makes what is mounted over: a file and two directories.
    pub(crate) fn make(&self) -> io::Result<()> {
        fs::write(self.namespace(), "")?;
        fs::create_dir(self.sandbox.join(DATA))?;
        fs::create_dir(self.sandbox.join(SANDBOX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_pods_or_an_images_is_mapped() {
        let places = Places::of(Path::new("/run/m/sandboxes/a"));
        let mapped = |path: &str| places.mapped(Path::new("/var/lib/m"), Path::new(path));
        assert_eq!(
            mapped("/var/lib/m/layers/x"),
            Path::new("/run/m/sandboxes/a/mapped-data/layers/x")
        );
        assert_eq!(
            mapped("/run/m/sandboxes/a/mount-points"),
            Path::new("/run/m/sandboxes/a/mapped-sandbox/mount-points")
        );
        assert_eq!(mapped("/srv/x"), Path::new("/srv/x"));
    }

    #[test]
    fn a_range_is_taken_once_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir(&path).unwrap();
            path
        };
        let users = dir.path().join("users");
        let (one, two, three) = (make("one"), make("two.pending"), make("three"));
        let pod = |name: &str| dir.path().join(name);
        let first = take(&users, &one, &one).unwrap().unwrap();
        let second = take(&users, &pod("two"), &two).unwrap().unwrap();
        assert_eq!(second, first + SIZE);
        give_back(&users, &one, &one);
        give_back(&users, &three, &three);
        assert_eq!(take(&users, &three, &three).unwrap(), Some(first));
        // A pod that is no more has none.
        fs::remove_dir_all(two).unwrap();
        let four = make("four");
        assert_eq!(take(&users, &four, &four).unwrap(), Some(second));
    }

    #[test]
    fn one_is_taken_while_another_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let users = dir.path().join("users");
        let pods = |one: &str| {
            for round in 0..500 {
                let pod = dir.path().join(format!("{one}{round}"));
                fs::create_dir(&pod).unwrap();
                assert!(take(&users, &pod, &pod).unwrap().is_some());
                give_back(&users, &pod, &pod);
                fs::remove_dir_all(pod).unwrap();
            }
        };
        std::thread::scope(|threads| {
            for one in ["a", "b", "c"] {
                threads.spawn(|| pods(one));
            }
        });
    }

    #[test]
    fn ranges_are_those_of_the_files() {
        let text = "root:1:2\nmagikrun:5:100\nmagikrun:100000:196608\n";
        let ranges = Ranges {
            first: 100_000,
            count: 3,
        };
        assert_eq!(parse(text), Some(ranges));
        assert_eq!(parse("magikrun:0:65536\nmagikrun:4294967290:65536"), None);
    }
}
