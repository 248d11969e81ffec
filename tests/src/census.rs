//! Everything a container runtime could leave behind.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use magikrun_test_world::{all_cgroups, ending};

use crate::as_root;

/// How long the kernel may take to clean up after the last process of a namespace: it does so in the background.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is in a test's world (see [`isolated`](crate::isolated)): all of it, not only what is known to be a pod's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Census {
    roots: Vec<PathBuf>,
    /// `pid comm`, zombies included.
    processes: BTreeSet<String>,
    /// Of every mount namespace: `namespace mount-point type source`.
    mounts: BTreeSet<String>,
    /// Namespaces of every kind that a process is in.
    namespaces: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    /// Paths below the roots, and the size of files.
    files: BTreeSet<String>,
    /// What this process has open.
    descriptors: BTreeSet<String>,
}

impl Census {
    /// Takes it, with the files below `roots`, as what the world will be compared with: once every process that is
    /// ending has been waited for. A pod's init, say, is a zombie until the world's reaper, whose child it became, gets
    /// to run; whoever deleted the pod has returned by then.
    ///
    /// # Panics
    /// Naming the processes, if they are not gone within seconds.
    #[must_use]
    pub fn take(roots: &[&Path]) -> Self {
        let begun = Instant::now();
        loop {
            let ending = as_root(ending);
            if ending.is_empty() {
                return Self::now(roots);
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "ended, and nobody waits for them: {ending:?}"
            );
            sleep(Duration::from_millis(5));
        }
    }

    /// Takes it as the world is at this instant, zombies included.
    #[must_use]
    pub fn now(roots: &[&Path]) -> Self {
        as_root(|| Self::take_all(roots))
    }

    fn take_all(roots: &[&Path]) -> Self {
        let mut census = Self {
            roots: roots.iter().map(|r| (*r).to_owned()).collect(),
            processes: BTreeSet::new(),
            mounts: BTreeSet::new(),
            namespaces: BTreeSet::new(),
            cgroups: all_cgroups().expect("cgroups"),
            files: BTreeSet::new(),
            descriptors: descriptors(),
        };
        for root in roots {
            files_below(root, 0, &mut census.files);
        }
        for pid in fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
        {
            if pid.bytes().all(|b| b.is_ascii_digit()) {
                census.process(&pid);
            }
        }
        census
    }

    /// Waits until the world is as it was.
    ///
    /// # Panics
    /// Naming what is there and was not, or was there and is not, if it is not so within seconds.
    #[track_caller]
    pub fn assert_same(&self, when: &str) {
        let roots: Vec<&Path> = self.roots.iter().map(PathBuf::as_path).collect();
        let begun = Instant::now();
        loop {
            let now = Self::now(&roots);
            if now == *self {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "census differs {when}:\n{}",
                self.difference(&now)
            );
            sleep(Duration::from_millis(10));
        }
    }

    /// Adds one process; it may end while it is being read.
    fn process(&mut self, pid: &str) {
        let dir = Path::new("/proc").join(pid);
        let Ok(comm) = fs::read_to_string(dir.join("comm")) else {
            return;
        };
        self.processes.insert(format!("{pid} {}", comm.trim_end()));
        for namespace in ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"] {
            if let Ok(link) = fs::read_link(dir.join("ns").join(namespace)) {
                self.namespaces.insert(link.display().to_string());
            }
        }
        let Ok(namespace) = fs::read_link(dir.join("ns/mnt")) else {
            return;
        };
        for line in fs::read_to_string(dir.join("mountinfo"))
            .unwrap_or_default()
            .lines()
        {
            let (mount, fs) = line.split_once(" - ").unwrap_or((line, ""));
            let mount_point = mount.split(' ').nth(4).unwrap_or("?");
            let fs = fs.split(' ').take(2).collect::<Vec<_>>().join(" ");
            self.mounts
                .insert(format!("{} {mount_point} {fs}", namespace.display()));
        }
    }

    fn difference(&self, now: &Self) -> String {
        let kinds = [
            ("process", &self.processes, &now.processes),
            ("mount", &self.mounts, &now.mounts),
            ("namespace", &self.namespaces, &now.namespaces),
            ("cgroup", &self.cgroups, &now.cgroups),
            ("file", &self.files, &now.files),
            ("descriptor", &self.descriptors, &now.descriptors),
        ];
        let mut lines = vec![];
        for (kind, before, now) in kinds {
            lines.extend(now.difference(before).map(|x| format!("  + {kind} {x}")));
            lines.extend(before.difference(now).map(|x| format!("  - {kind} {x}")));
        }
        lines.join("\n")
    }
}

/// A root's own directories (`pods`, `layers`, …) are made when first needed and stay: they are no pod's. Nor is the
/// bounded cache of compiled seccomp filters.
fn files_below(dir: &Path, depth: u32, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if depth == 0 && entry.file_name() == "filters" {
            continue;
        }
        if meta.is_dir() {
            if depth > 0 {
                found.insert(format!("{}/", entry.path().display()));
            }
            files_below(&entry.path(), depth + 1, found);
        } else {
            found.insert(format!("{} {}", entry.path().display(), meta.len()));
        }
    }
}

fn descriptors() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc/self/fd").expect("/proc/self/fd").flatten() {
        let number = entry.file_name();
        if let Ok(target) = fs::read_link(entry.path()) {
            // The descriptor this very loop reads from.
            if !target.starts_with("/proc") {
                found.insert(format!("{} {}", number.display(), target.display()));
            }
        }
    }
    found
}
