//! A cgroup tree of its own, on v1, v2 and hybrid hosts.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// The cgroup the world's first processes are in: on v2 only leaves may hold processes.
const RUNNER: &str = "runner";

/// A mounted hierarchy.
struct Hierarchy {
    mount_point: PathBuf,
    v2: bool,
    /// v1: its controllers or its name, as mount options.
    options: String,
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let parse = |line: &str| {
        let (mount, fs) = line.split_once(" - ")?;
        let mount_point = PathBuf::from(mount.split(' ').nth(4)?);
        let mut fs = fs.split(' ');
        let v2 = match fs.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = fs
            .nth(1)?
            .split(',')
            .filter(|o| !["rw", "ro", "xattr", "clone_children"].contains(o));
        let options = options
            .filter(|o| !o.starts_with("release_agent"))
            .collect::<Vec<_>>()
            .join(",");
        Some(Hierarchy {
            mount_point,
            v2,
            options,
        })
    };
    Ok(mounts.lines().filter_map(parse).collect())
}

/// One directory in every hierarchy; removed on drop.
#[derive(Debug)]
pub(crate) struct Cgroups(Vec<PathBuf>);

/// `PREFIX<pid>-<name>`: the pid is that of the process that made it and will remove it.
const PREFIX: &str = "magikrun-world-";

impl Cgroups {
    pub(crate) fn create(name: &str) -> Result<Self> {
        let name = format!("{PREFIX}{}-{name}", std::process::id());
        let mut dirs = Self(vec![]);
        for h in hierarchies()? {
            remove_stale(&h.mount_point);
            if h.v2 {
                // What the root does not hand down, the world has not: it is not ours to insist.
                let controllers =
                    fs::read_to_string(h.mount_point.join("cgroup.controllers")).unwrap_or_default();
                for controller in controllers.split_whitespace() {
                    let _ = fs::write(
                        h.mount_point.join("cgroup.subtree_control"),
                        format!("+{controller}"),
                    );
                }
            }
            let dir = h.mount_point.join(&name);
            fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
            // v1's cpuset takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (false, Ok(inherited)) = (h.v2, fs::read(h.mount_point.join(file))) {
                    fs::write(dir.join(file), inherited)
                        .unwrap_or_else(|e| panic!("{}/{file}: {e}", dir.display()));
                }
            }
            dirs.0.push(dir);
        }
        Ok(dirs)
    }

    /// All of them in one argument, separated by colons.
    pub(crate) fn argument(&self) -> String {
        self.0
            .iter()
            .map(|d| d.display().to_string())
            .collect::<Vec<_>>()
            .join(":")
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        // The kernel takes a moment to let go of the processes that died with the namespace.
        for _ in 0..100 {
            self.0.retain(|dir| !remove_tree(dir));
            if self.0.is_empty() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}

/// What others left that were killed before they could clean up.
fn remove_stale(mount_point: &Path) {
    for dir in directories(mount_point) {
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            remove_tree(&dir);
        }
    }
}

fn remove_tree(dir: &Path) -> bool {
    for below in directories(dir) {
        remove_tree(&below);
    }
    fs::remove_dir(dir).is_ok() || !dir.exists()
}

fn directories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

/// In the new cgroup namespace: mounts the hierarchies again, so that the world's own cgroup is their root.
pub(crate) fn enter_namespace() -> Result<()> {
    for h in hierarchies()? {
        unmount(&h.mount_point, UnmountFlags::DETACH)
            .with_context(|| format!("umount {}", h.mount_point.display()))?;
        let options = std::ffi::CString::new(if h.v2 { String::new() } else { h.options })?;
        let kind = if h.v2 { "cgroup2" } else { "cgroup" };
        mount(
            kind,
            &h.mount_point,
            kind,
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            options.as_c_str(),
        )
        .with_context(|| format!("mount {kind} {options:?} on {}", h.mount_point.display()))?;
        if h.v2 {
            let runner = h.mount_point.join(RUNNER);
            fs::create_dir(&runner).context("runner cgroup")?;
            for pid in fs::read_to_string(h.mount_point.join("cgroup.procs"))
                .expect("cgroup.procs")
                .lines()
            {
                fs::write(runner.join("cgroup.procs"), pid).context("move to the runner cgroup")?;
            }
        }
    }
    Ok(())
}

/// Every cgroup of this world but the runner's and `magikrun` itself, the one that all pods are below and that stays.
///
/// # Errors
/// If the mounts cannot be read.
pub fn all_cgroups() -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for h in hierarchies()? {
        let mut todo = directories(&h.mount_point);
        todo.retain(|d| !d.ends_with(RUNNER));
        while let Some(dir) = todo.pop() {
            todo.extend(directories(&dir));
            if dir != h.mount_point.join("magikrun") {
                found.insert(dir.display().to_string());
            }
        }
    }
    Ok(found)
}

/// The directory of the cgroup that a process is in, of the hierarchy that has `controller`, and whether that is v2's.
///
/// # Errors
/// If there is no such process or hierarchy.
pub fn cgroup_of(pid: u64, controller: &str) -> Result<(PathBuf, bool)> {
    let cgroups =
        fs::read_to_string(format!("/proc/{pid}/cgroup")).with_context(|| format!("process {pid}"))?;
    // "4:cpu,cpuacct:/path", or "0::/path" on v2.
    let membership = |wanted: &dyn Fn(&str) -> bool| {
        let mut lines = cgroups
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'));
        lines
            .find(|(controllers, _)| wanted(controllers))
            .map(|(_, path)| path.trim_start_matches('/'))
    };
    let (path, v2) = match membership(&|all| all.split(',').any(|c| c == controller)) {
        Some(path) => (path, false),
        None => (
            membership(&str::is_empty).with_context(|| format!("no {controller} in {cgroups}"))?,
            true,
        ),
    };
    let hierarchy = hierarchies()?
        .into_iter()
        .find(|h| h.v2 == v2 && (v2 || h.options.split(',').any(|option| option == controller)));
    let hierarchy = hierarchy.with_context(|| format!("no hierarchy has {controller}"))?;
    Ok((hierarchy.mount_point.join(path), v2))
}

/// A file of the cgroup that a process is in, without the whitespace around it: `v1` where `controller` has a hierarchy of
/// its own, `v2` in the one of all.
///
/// # Errors
/// If there is no such process, cgroup or file.
pub fn cgroup_file(pid: u64, controller: &str, v1: &str, v2: &str) -> Result<String> {
    let (dir, is_v2) = cgroup_of(pid, controller)?;
    let file = dir.join(if is_v2 { v2 } else { v1 });
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    Ok(text.trim().to_owned())
}

/// The directories of the cgroup `path`, in every hierarchy that has it.
///
/// # Errors
/// If the mounts cannot be read.
pub fn cgroups_named(path: &str) -> Result<Vec<PathBuf>> {
    let below = |h: Hierarchy| h.mount_point.join(path.trim_start_matches('/'));
    Ok(hierarchies()?
        .into_iter()
        .map(below)
        .filter(|d| d.is_dir())
        .collect())
}
