//! The control groups of pods: `/magikrun/<pod-id>/{_init, <container>}` in each hierarchy.
//!
//! Those of containers are made by the container runtime; here is the init's, and the removal of all of them.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use magik_sys::{
    cgroup::{MOUNT_ROOT, children, remove_tree},
    mountinfo,
};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::process::Process;
use crate::{PodSpec, limits::MAX_PIDS_PER_POD};

/// The cgroup below which those of all pods lie.
const PARENT: &str = "magikrun";
/// The init's cgroup: no container is called that.
const INIT: &str = "_init";
/// How long killed processes may take to leave a cgroup.
const SETTLE: Duration = Duration::from_secs(10);
/// How long is waited for a cgroup to be still; who is stuck in the kernel is not.
const FREEZE: Duration = Duration::from_millis(200);
/// The kernel lets go of a cgroup a moment after its last process has ended, without saying when.
const RETRY: Duration = Duration::from_micros(500);

/// How this host arranges its cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// The mount of cgroup v2 where it is the only hierarchy.
    unified: Option<PathBuf>,
    /// The mounts of all hierarchies.
    mounts: Vec<PathBuf>,
    /// The mount whose cgroups count processes.
    pids: Option<PathBuf>,
    /// The mount whose cgroups share processor time.
    cpu: Option<PathBuf>,
    /// The mount whose cgroups count memory.
    memory: Option<PathBuf>,
    /// The mount whose cgroups hold processes still.
    freezer: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads them off the mounts.
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(parse(&mountinfo::read()?))
    }

    /// A container's `cgroupsPath`.
    pub(crate) fn container_path(id: &str, container: &str) -> PathBuf {
        Path::new("/").join(PARENT).join(id).join(container)
    }

    /// The init's cgroup, relative to a mount.
    pub(crate) fn init_path(id: &str) -> PathBuf {
        Path::new(PARENT).join(id).join(INIT)
    }

    /// The mounts of all hierarchies.
    #[cfg(feature = "krun")]
    pub(crate) fn mounts(&self) -> &[PathBuf] {
        &self.mounts
    }

    /// The mount of cgroup v2 where it is the only hierarchy.
    #[cfg(feature = "krun")]
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Makes the init's cgroup and opens it for `CLONE_INTO_CGROUP`; `None` where there are v1 hierarchies: joining one
    /// costs an RCU grace period each, and what it would be good for, the launcher's own cgroups do.
    pub(crate) fn make_init(&self, id: &str) -> io::Result<Option<OwnedFd>> {
        let Some(mount) = &self.unified else {
            return Ok(None);
        };
        let dir = mount.join(Self::init_path(id));
        fs::create_dir_all(&dir)?;
        Ok(Some(rustix::fs::open(
            &dir,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?))
    }

    /// Limits the processes and threads of a pod, all containers together ([`MAX_PIDS_PER_POD`]). The limit is the pod's
    /// cgroup's, which no container sees. Where nothing counts processes there is none.
    pub(crate) fn limit_pids(&self, id: &str) -> io::Result<()> {
        let Some(mount) = &self.pids else {
            return Ok(());
        };
        self.set(mount, id, "pids", &[("pids.max", MAX_PIDS_PER_POD.to_string())])
    }

    /// Gives a pod its weight against others, and the limits of its containers together, if it has
    /// some. Where nothing shares time or counts memory, a limit is an error and a weight is none.
    pub(crate) fn limit(&self, id: &str, pod: &PodSpec) -> io::Result<()> {
        let unified = self.unified.is_some();
        let shares = pod.cpu_shares();
        let quota = pod.limits.cpu_millis.map(|millis| (millis * 100).max(1000));
        let mut cpu = Vec::new();
        let mut memory = Vec::new();
        if unified {
            // As kubelet and runc convert it.
            cpu.push(("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()));
            cpu.extend(quota.map(|quota| ("cpu.max", format!("{quota} 100000"))));
            memory.extend(pod.limits.memory.map(|limit| ("memory.max", limit.to_string())));
        } else {
            cpu.push(("cpu.shares", shares.to_string()));
            cpu.extend(quota.map(|quota| ("cpu.cfs_quota_us", quota.to_string())));
            memory.extend(
                pod.limits
                    .memory
                    .map(|limit| ("memory.limit_in_bytes", limit.to_string())),
            );
        }
        let lists = [
            ("cpu", &self.cpu, cpu, quota.is_some()),
            ("memory", &self.memory, memory, pod.limits.memory.is_some()),
        ];
        for (controller, mount, values, needed) in
            lists.into_iter().filter(|(_, _, values, _)| !values.is_empty())
        {
            let Some(mount) = mount else {
                if needed {
                    let why = format!(
                        "spec.resources.limits.{controller}: this host's cgroups have no {controller} controller"
                    );
                    return Err(io::Error::new(io::ErrorKind::Unsupported, why));
                }
                continue;
            };
            match self.set(mount, id, controller, &values) {
                Err(_) if !needed => {}
                set => set?,
            }
        }
        Ok(())
    }

    /// Sets values of a controller in a pod's cgroup.
    fn set(&self, mount: &Path, id: &str, controller: &str, values: &[(&str, String)]) -> io::Result<()> {
        let (parent, dir) = (mount.join(PARENT), mount.join(PARENT).join(id));
        fs::create_dir_all(&dir)?;
        if self.unified.is_some() {
            // A cgroup has a controller once its parent passes it on (cgroup-v2.rst, "Enabling and Disabling").
            for above in [mount, &parent] {
                let file = above.join("cgroup.subtree_control");
                fs::write(&file, format!("+{controller}")).map_err(|e| in_file(&file, &e))?;
            }
        }
        values.iter().try_for_each(|(file, value)| {
            let file = dir.join(file);
            fs::write(&file, value).map_err(|e| in_file(&file, &e))
        })
    }

    /// The ids that have cgroups.
    pub(crate) fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = Vec::new();
        for mount in &self.mounts {
            let entries = fs::read_dir(mount.join(PARENT)).into_iter().flatten().flatten();
            let dirs = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
            ids.extend(dirs.filter_map(|e| e.file_name().into_string().ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Thaws what a v1 freezer holds: even SIGKILL waits for that.
    pub(crate) fn thaw(&self, id: &str) {
        for mount in &self.mounts {
            thaw_tree(&mount.join(PARENT).join(id));
        }
    }

    /// Kills what is left in the cgroups of a pod's containers, for an init that is not the first
    /// process of a pid namespace: its own end would not.
    #[cfg(feature = "native")]
    pub(crate) fn kill_containers(&self, id: &str) -> io::Result<()> {
        self.thaw(id);
        let until = Instant::now() + SETTLE;
        // First where they can be held still: who forks is ahead of whoever kills one after the other.
        for mount in self.freezer.iter().chain(&self.mounts) {
            let all = children(&mount.join(PARENT).join(id)).unwrap_or_default();
            for dir in all.iter().filter(|dir| !dir.ends_with(INIT)) {
                while kill_all(dir, until)? > 0 && Instant::now() < until {}
            }
        }
        Ok(())
    }

    /// Kills what is left in a pod's cgroups and removes them.
    pub(crate) fn remove(&self, id: &str) -> io::Result<()> {
        let until = Instant::now() + SETTLE;
        for mount in &self.mounts {
            let dir = mount.join(PARENT).join(id);
            while let Err(e) = remove_tree(&dir) {
                let busy = matches!(Errno::from_io_error(&e), Some(Errno::BUSY | Errno::NOTEMPTY));
                if !busy || Instant::now() > until {
                    return Err(io::Error::new(e.kind(), format!("{}: {e}", dir.display())));
                }
                if kill_all(&dir, until)? == 0 {
                    std::thread::sleep(RETRY);
                }
            }
        }
        Ok(())
    }
}

fn in_file(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("write {}: {error}", file.display()))
}

/// From the top: what is below a frozen cgroup stays frozen with it.
fn thaw_tree(dir: &Path) {
    let state = dir.join("freezer.state");
    if fs::read_to_string(&state).is_ok_and(|text| text.trim() != "THAWED") {
        let _ = fs::write(state, "THAWED");
    }
    for child in children(dir).unwrap_or_default() {
        thaw_tree(&child);
    }
}

fn parse(table: &[u8]) -> Hierarchies {
    let mut hierarchies = Hierarchies {
        unified: None,
        mounts: Vec::new(),
        pids: None,
        cpu: None,
        memory: None,
        freezer: None,
    };
    for mount in mountinfo::parse(table).filter(mountinfo::Mount::is_cgroup_hierarchy) {
        let unified = mount.kind == "cgroup2" && mount.point == Path::new(MOUNT_ROOT);
        for (controller, found) in [
            ("pids", &mut hierarchies.pids),
            ("cpu", &mut hierarchies.cpu),
            ("memory", &mut hierarchies.memory),
            ("freezer", &mut hierarchies.freezer),
        ] {
            if unified || (mount.kind == "cgroup" && mount.has_super_option(controller)) {
                *found = Some(mount.point.clone());
            }
        }
        if unified {
            hierarchies.unified = Some(mount.point.clone());
        }
        hierarchies.mounts.push(mount.point);
    }
    hierarchies
}

/// Kills every process in a cgroup and below, and waits for each; how many there were. None of them forks
/// meanwhile, but where the cgroup is one of a v1 hierarchy that cannot hold them still.
fn kill_all(dir: &Path, until: Instant) -> io::Result<usize> {
    if !has_processes(dir) {
        return Ok(0);
    }
    // On v2 the kernel kills them all at once (since Linux 5.14).
    let at_once = fs::write(dir.join("cgroup.kill"), "1").is_ok();
    if !at_once {
        freeze(dir);
    }
    let mut killed = Vec::new();
    let sent = send_kill(dir, &mut killed);
    if !at_once {
        thaw_tree(dir);
    }
    sent?;
    for process in &killed {
        process.wait(until.saturating_duration_since(Instant::now()))?;
    }
    Ok(killed.len())
}

fn has_processes(dir: &Path) -> bool {
    let own = fs::read(dir.join("cgroup.procs")).is_ok_and(|text| !text.is_empty());
    let below = || children(dir).unwrap_or_default();
    own || below().iter().any(|child| has_processes(child))
}

/// Holds a cgroup of a v1 freezer and what is below it still, or gives up where something cannot be.
fn freeze(dir: &Path) {
    let state = dir.join("freezer.state");
    if fs::write(&state, "FROZEN").is_err() {
        return;
    }
    let until = Instant::now() + FREEZE;
    // Reading it makes the kernel look again.
    while fs::read_to_string(&state).is_ok_and(|text| text.trim() == "FREEZING") && Instant::now() < until {
        std::thread::sleep(RETRY);
    }
}

/// Sends SIGKILL to every process in a cgroup and below.
fn send_kill(dir: &Path, killed: &mut Vec<Process>) -> io::Result<()> {
    for child in children(dir)? {
        send_kill(&child, killed)?;
    }
    let Ok(procs) = fs::read_to_string(dir.join("cgroup.procs")) else {
        return Ok(());
    };
    for pid in procs
        .lines()
        .filter_map(|line| line.parse().ok())
        .filter_map(Pid::from_raw)
    {
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // A pid may have been reused between reading and opening: only kill what is in the cgroup still.
        if !is_in(dir, pid) {
            continue;
        }
        let process = Process::new(pid, pidfd);
        process.kill()?;
        killed.push(process);
    }
    Ok(())
}

fn is_in(dir: &Path, pid: Pid) -> bool {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines()
        .any(|line| line.parse() == Ok(pid.as_raw_nonzero().get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_unified_from_hybrid_mounts() {
        let hybrid = b"31 23 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                      33 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      34 31 0:29 / /elsewhere rw - cgroup cgroup rw,memory\n\
                      35 31 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n";
        let parsed = parse(hybrid);
        assert_eq!(parsed.unified, None);
        assert_eq!(
            parsed.mounts,
            [
                Path::new("/sys/fs/cgroup/unified"),
                Path::new("/sys/fs/cgroup/memory"),
                Path::new("/sys/fs/cgroup/pids")
            ]
        );
        assert_eq!(parsed.pids.as_deref(), Some(Path::new("/sys/fs/cgroup/pids")));
        let unified = parse(b"30 23 0:26 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(unified.unified.as_deref(), Some(Path::new("/sys/fs/cgroup")));
        assert_eq!(unified.mounts.len(), 1);
        assert_eq!(unified.pids, unified.unified);
    }

    #[test]
    #[allow(clippy::print_stderr)]
    fn removes_cgroups_with_the_processes_in_them() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED removes_cgroups_with_the_processes_in_them: needs root");
            return;
        }
        let hierarchies = Hierarchies::detect().unwrap();
        let id = format!("test-{}", std::process::id());
        let inner = hierarchies.mounts[0].join(PARENT).join(&id).join("c").join("d");
        fs::create_dir_all(&inner).unwrap();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(inner.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert!(hierarchies.ids().contains(&id));
        hierarchies.remove(&id).unwrap();
        assert!(!hierarchies.ids().contains(&id));
        child.wait().unwrap();
        hierarchies.remove(&id).unwrap();
    }

    #[test]
    #[cfg(feature = "native")]
    #[allow(clippy::print_stderr)]
    fn kills_who_forks_while_it_is_killed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED kills_who_forks_while_it_is_killed: needs root");
            return;
        }
        let hierarchies = Hierarchies::detect().unwrap();
        let id = format!("test-forks-{}", std::process::id());
        let inner = hierarchies
            .mounts
            .iter()
            .map(|mount| mount.join(PARENT).join(&id).join("c"));
        let inner: Vec<_> = inner.collect();
        inner.iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        // Each of forty forks on, and its parent ends.
        let script = "read line; f() { f & }; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39 40; do f; done";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // Not where a cgroup takes nobody before it was given something (cpuset).
        let has_it = |dir: &&PathBuf| fs::write(dir.join("cgroup.procs"), child.id().to_string()).is_ok();
        let procs = inner.iter().rfind(has_it).unwrap().join("cgroup.procs");
        drop(child.stdin.take());
        child.wait().unwrap();
        let procs = || fs::read_to_string(&procs).unwrap();
        assert!(procs().lines().count() > 1, "{}", procs());
        hierarchies.kill_containers(&id).unwrap();
        assert_eq!(procs(), "");
        hierarchies.remove(&id).unwrap();
    }
}
