//! A container's control group, read and written directly.
//!
//! libcgroups only applies limits on v2. The rest is here: its v1 manager reads mountinfo once per
//! controller, and its `remove` kills whatever is below its path.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Component, Path, PathBuf},
    time::{Duration, Instant},
};

mod devices;
mod enter;
mod join;
mod limits;
mod stats;

pub use devices::restrict as restrict_devices;
pub(crate) use enter::{Entry, directory};

use magik_sys::{
    cgroup::{MOUNT_ROOT, children, is_v2, missing_is_none, remove_tree},
    mountinfo,
    process::Process,
};
use serde::{Deserialize, Serialize};

/// The v1 controllers that hold a container; a hierarchy's mount point has its controller's name.
const V1_CONTROLLERS: [&str; 12] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "hugetlb",
    "memory",
    "pids",
    "perf_event",
    "blkio",
    "net_prio",
    "net_cls",
    "freezer",
];
/// How long the kernel may take to freeze a container, or to remove killed processes.
const SETTLE: Duration = Duration::from_secs(10);

/// How this host arranges its cgroups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Layout {
    /// One hierarchy, mounted here.
    V2(PathBuf),
    /// One hierarchy per controller or set of controllers (legacy and hybrid).
    V1(Vec<Hierarchy>),
}

/// A mounted v1 hierarchy.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

impl Layout {
    /// Finds it in the table of mounts, as libcgroups does.
    pub(crate) fn detect() -> io::Result<Self> {
        if is_v2(MOUNT_ROOT)? {
            return Ok(Self::V2(MOUNT_ROOT.into()));
        }
        let hierarchies = parse_v1_mounts(&mountinfo::read()?);
        if hierarchies.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "no cgroup hierarchy is mounted below /sys/fs/cgroup",
            ));
        }
        Ok(Self::V1(hierarchies))
    }

    /// Where the v1 hierarchies are mounted; none on v2.
    pub(crate) fn v1_mounts(&self) -> impl Iterator<Item = &Path> {
        let hierarchies = match self {
            Self::V1(hierarchies) => hierarchies.as_slice(),
            Self::V2(_) => &[],
        };
        hierarchies.iter().map(|h| h.mount.as_path())
    }
}

fn parse_v1_mounts(table: &[u8]) -> Vec<Hierarchy> {
    let hierarchy = |mount: mountinfo::Mount<'_>| {
        let mut controllers = mount
            .super_options
            .split(',')
            .map(str::to_owned)
            .collect::<Vec<_>>();
        controllers.retain(|o| V1_CONTROLLERS.contains(&o.as_str()));
        // As in libcgroups, the last component of a mount point names the hierarchy.
        let name = mount.point.file_name()?.to_str()?;
        let known = name.split(',').any(|n| controllers.iter().any(|c| c == n));
        // A hierarchy may be mounted many times: for a chroot with a `/sys` of its own, say.
        let used = mount.kind == "cgroup" && mount.is_cgroup_hierarchy() && known;
        used.then_some(Hierarchy {
            controllers,
            mount: mount.point,
        })
    };
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo::parse(table).filter_map(hierarchy) {
        if found.iter().all(|other| other.mount != hierarchy.mount) {
            found.push(hierarchy);
        }
    }
    found
}

/// Why a cgroup path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("is empty or the root of the hierarchy")]
    Root,
    #[error("has a component \"..\"")]
    Parent,
    #[error("is this process's own cgroup, or one above it")]
    Own,
    #[error("has processes in it that are not this container's")]
    Occupied,
}

/// Makes a cgroup path absolute and canonical. Refused are the root, anything with `..`, and the
/// cgroup of this process or one above it: what is below them must not be killed.
///
/// `slice:prefix:name` is an ordinary name here, as in runc and crun without systemd's cgroups.
/// containerd gives such a path for every pod whose parent is called `….slice`.
///
/// `own` holds the paths of `/proc/self/cgroup`.
pub(crate) fn check_path(path: &Path, own: &[PathBuf]) -> Result<PathBuf, PathError> {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err(PathError::Parent),
        }
    }
    if clean.as_os_str() == "/" {
        return Err(PathError::Root);
    }
    if own.iter().any(|o| o.starts_with(&clean)) {
        return Err(PathError::Own);
    }
    Ok(clean)
}

/// One cgroup, in every hierarchy that has it.
#[derive(Debug)]
pub(crate) struct Cgroup<'a> {
    layout: &'a Layout,
    path: &'a Path,
}

impl<'a> Cgroup<'a> {
    /// `path` is one that [`check_path`] returned.
    pub(crate) fn new(layout: &'a Layout, path: &'a Path) -> Self {
        Self { layout, path }
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(self.path.strip_prefix("/").unwrap_or(self.path))
    }

    /// Its directories, one per hierarchy; each may not exist.
    fn dirs(&self) -> Vec<PathBuf> {
        match self.layout {
            Layout::V2(root) => vec![self.below(root)],
            Layout::V1(all) => all.iter().map(|h| self.below(&h.mount)).collect(),
        }
    }

    /// Its directories in v1's hierarchies, each with the name that is mounted under.
    pub(crate) fn v1_dirs(&self) -> impl Iterator<Item = (String, PathBuf)> {
        self.layout.v1_mounts().filter_map(|mount| {
            let name = mount.file_name()?.to_str()?.to_owned();
            Some((name, self.below(mount)))
        })
    }

    fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        match self.layout {
            Layout::V2(_) => None,
            Layout::V1(all) => all
                .iter()
                .find(|h| h.controllers.iter().any(|c| c == controller))
                .map(|h| self.below(&h.mount)),
        }
    }

    /// Whether any hierarchy has a process in it or below.
    pub(crate) fn is_occupied(&self) -> io::Result<bool> {
        self.pids_everywhere().map(|pids| !pids.is_empty())
    }

    /// The pids in it and below. In v1 a container's processes are in the same cgroup of every
    /// hierarchy, so the first hierarchy that has it is enough.
    pub(crate) fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = BTreeSet::new();
        if let Some(dir) = self.dirs().into_iter().find(|d| d.is_dir()) {
            collect_pids(&dir, &mut pids)?;
        }
        Ok(pids.into_iter().collect())
    }

    fn pids_everywhere(&self) -> io::Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for dir in self.dirs() {
            collect_pids(&dir, &mut pids)?;
        }
        Ok(pids)
    }

    /// Whether its processes are frozen, or being frozen.
    pub(crate) fn is_frozen(&self) -> io::Result<bool> {
        if let Layout::V2(root) = self.layout {
            return missing_is_none(fs::read_to_string(self.below(root).join("cgroup.freeze")))
                .map(|text| text.is_some_and(|t| t.trim() == "1"));
        }
        let Some(dir) = self.v1_dir("freezer") else {
            return Ok(false);
        };
        missing_is_none(fs::read_to_string(dir.join("freezer.state")))
            .map(|text| text.is_some_and(|t| t.trim() != "THAWED"))
    }

    /// Freezes or thaws every process and returns once that is so.
    pub(crate) async fn freeze(&self, frozen: bool) -> io::Result<()> {
        let (file, words) = match self.layout {
            Layout::V2(root) => (self.below(root).join("cgroup.freeze"), ["0", "1"]),
            Layout::V1(_) => {
                let dir = self.v1_dir("freezer");
                let dir = dir.ok_or_else(|| io::Error::other("no freezer hierarchy is mounted"))?;
                (dir.join("freezer.state"), ["THAWED", "FROZEN"])
            }
        };
        let word = words[usize::from(frozen)];
        let until = Instant::now() + SETTLE;
        loop {
            // In v1 a process that forks during freezing can leave the state FREEZING for good.
            // Writing again helps (kernel documentation, freezer-subsystem).
            fs::write(&file, word)?;
            let settled = match self.layout {
                Layout::V2(root) => {
                    let events = fs::read_to_string(self.below(root).join("cgroup.events"))?;
                    field(&events, "frozen") == Some(u64::from(frozen))
                }
                Layout::V1(_) => fs::read_to_string(&file)?.trim() == word,
            };
            if settled {
                return Ok(());
            }
            if Instant::now() > until {
                if frozen {
                    fs::write(&file, words[0])?;
                }
                let why = "the freezer did not settle";
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Sends a signal to every process. SIGKILL also reaches processes that are forked meanwhile;
    /// any other signal is sent once to each.
    pub(crate) fn signal_all(&self, signal: i32) -> io::Result<()> {
        if let (Layout::V2(root), libc::SIGKILL) = (self.layout, signal) {
            match fs::write(self.below(root).join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // Before Linux 5.14, or gone.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        let pids = if signal == libc::SIGKILL {
            self.pids_everywhere()?.into_iter().collect()
        } else {
            self.pids()?
        };
        for pid in pids {
            // 0 stands for a process of another pid namespace that this one cannot name.
            if let (true, Ok(process)) = (pid > 0, Process::of(pid)) {
                process.signal(signal)?;
            }
        }
        Ok(())
    }

    /// Kills every process in it and waits until all have ended.
    pub(crate) async fn kill(&self) -> io::Result<()> {
        let until = Instant::now() + SETTLE;
        let mut pause = Duration::from_micros(200);
        while self.is_occupied()? {
            self.signal_all(libc::SIGKILL)?;
            // A v1 freezer holds even killed processes.
            if matches!(self.layout, Layout::V1(_)) && self.is_frozen()? {
                self.freeze(false).await?;
            }
            if Instant::now() > until {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "processes survive SIGKILL",
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Removes it if nothing is in it; `false` when something was.
    pub(crate) fn try_remove(&self) -> bool {
        self.dirs().iter().all(|dir| remove_tree(dir).is_ok())
    }

    /// Kills and removes, and blocks until done: for undoing a failed creation.
    pub(crate) fn destroy(&self) -> io::Result<()> {
        for _ in 0..1000 {
            if self.try_remove() {
                return Ok(());
            }
            self.signal_all(libc::SIGKILL)?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "processes survive SIGKILL",
        ))
    }

    /// Removes its directories, deepest first. Nothing is killed: what is still in use is an error.
    pub(crate) async fn remove(&self) -> io::Result<()> {
        let until = Instant::now() + SETTLE;
        for dir in self.dirs() {
            loop {
                match remove_tree(&dir) {
                    Ok(()) => break,
                    // The cgroup loses a process a moment after its end.
                    Err(e) if e.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display()))),
                }
            }
        }
        Ok(())
    }
}

/// The number after `name ` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn collect_pids(dir: &Path, pids: &mut BTreeSet<i32>) -> io::Result<()> {
    let Some(text) = missing_is_none(fs::read_to_string(dir.join("cgroup.procs")))? else {
        return Ok(());
    };
    pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    children(dir)?.iter().try_for_each(|d| collect_pids(d, pids))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_cgroups_below_which_others_live() {
        let own = [PathBuf::from("/"), PathBuf::from("/user.slice/session-1.scope")];
        let check = |p: &str| check_path(Path::new(p), &own);
        for root in ["", "/", "//", ".", "/./"] {
            assert_eq!(check(root), Err(PathError::Root), "{root:?}");
        }
        for parent in ["..", "/magikrun/..", "/a/../../b", "/../a"] {
            assert_eq!(check(parent), Err(PathError::Parent), "{parent:?}");
        }
        for above in ["/user.slice", "/user.slice/", "user.slice/session-1.scope"] {
            assert_eq!(check(above), Err(PathError::Own), "{above:?}");
        }
        assert_eq!(
            check("system.slice:libpod:x"),
            Ok("/system.slice:libpod:x".into())
        );
        assert_eq!(
            check("/user.slice/session-1.scope/ctr"),
            Ok("/user.slice/session-1.scope/ctr".into())
        );
        assert_eq!(check("libpod_parent//x/"), Ok("/libpod_parent/x".into()));
    }

    #[test]
    fn finds_the_v1_hierarchies_libcgroups_uses() {
        let mountinfo = b"31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            42 31 0:39 / /mnt/elsewhere rw - cgroup cgroup rw,pids\n\
            43 31 0:32 / /chroot/sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            44 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found: Vec<_> = parse_v1_mounts(mountinfo)
            .into_iter()
            .map(|h| (h.controllers, h.mount))
            .collect();
        let path = |p: &str| PathBuf::from(p);
        assert_eq!(
            found,
            [
                (
                    vec!["cpu".to_owned(), "cpuacct".to_owned()],
                    path("/sys/fs/cgroup/cpu,cpuacct")
                ),
                (vec!["memory".to_owned()], path("/sys/fs/cgroup/memory"))
            ]
        );
    }

    #[test]
    fn reads_fields_by_their_whole_name() {
        assert_eq!(
            field("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n", "oom_kill"),
            Some(3)
        );
        assert_eq!(field("low 0\n", "high"), None);
    }
}
