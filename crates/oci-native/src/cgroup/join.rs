//! Making a container's cgroup and moving this process into it.
//!
//! libcgroups reads the mounts a dozen times for the same, in every container and every exec.

use std::{fs, io, path::Path};

use super::{Cgroup, Entry, Layout};

/// The file a process with one thread writes itself to. `cgroup.procs` moves all threads: the
/// kernel then blocks every fork, and waits for an RCU grace period of some milliseconds.
const TASKS: &str = "tasks";
/// What a new cpuset needs before a process may enter it.
const CPUSET: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

impl Cgroup<'_> {
    /// Makes the cgroup in every hierarchy. On v1 it moves this process, which has one thread, and
    /// so its later children. On v2 the container's process is born there.
    pub(crate) fn make_and_enter(&self) -> io::Result<Entry> {
        let named = |dir: &Path, e: &io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
        match self.layout {
            Layout::V2(root) => {
                let dir = self.below(root);
                self.make_v2(root, &dir).map_err(|e| named(&dir, &e))
            }
            Layout::V1(hierarchies) => hierarchies.iter().try_for_each(|hierarchy| {
                let dir = self.below(&hierarchy.mount);
                fs::create_dir_all(&dir).map_err(|e| named(&dir, &e))?;
                if hierarchy.controllers.iter().any(|c| c == "cpuset") {
                    CPUSET
                        .iter()
                        .try_for_each(|file| inherit(&hierarchy.mount, &dir, file))
                        .map_err(|e| named(&dir, &e))?;
                }
                join(&dir, TASKS).map_err(|e| named(&dir, &e))
            }),
        }?;
        Ok(self.entry())
    }

    /// Makes it and its parents. A v2 cgroup only has the controllers that its parent hands down.
    fn make_v2(&self, root: &Path, dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let controllers = fs::read_to_string(root.join("cgroup.controllers"))?;
        let mut above = root.to_owned();
        for component in dir.strip_prefix(root).map_err(io::Error::other)?.components() {
            for controller in controllers.split_whitespace() {
                // If this fails, the limit that needs the controller reports it.
                let _ = fs::write(above.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            above.push(component);
            match fs::create_dir(&above) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        Ok(())
    }
}

fn join(dir: &Path, file: &str) -> io::Result<()> {
    // 0 is the process that writes.
    fs::OpenOptions::new()
        .write(true)
        .open(dir.join(file))
        .and_then(|mut file| io::Write::write_all(&mut file, b"0"))
}

/// Gives a cpuset what its parent has, where it has nothing.
fn inherit(mount: &Path, dir: &Path, file: &str) -> io::Result<()> {
    let own = dir.join(file);
    if !fs::read_to_string(&own)?.trim().is_empty() {
        return Ok(());
    }
    let (false, Some(parent)) = (dir == mount, dir.parent()) else {
        return Err(io::Error::other(format!("{file} is empty")));
    };
    inherit(mount, parent, file)?;
    fs::write(own, fs::read_to_string(parent.join(file))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpuset_gets_what_those_above_have() {
        let root = tempfile::tempdir().unwrap();
        let leaf = root.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        for (dir, text) in [("", "0-3\n"), ("a", "\n"), ("a/b", "\n")] {
            fs::write(root.path().join(dir).join("cpuset.cpus"), text).unwrap();
        }
        inherit(root.path(), &leaf, "cpuset.cpus").unwrap();
        for dir in ["a", "a/b"] {
            let text = fs::read_to_string(root.path().join(dir).join("cpuset.cpus")).unwrap();
            assert_eq!(text.trim(), "0-3");
        }
        fs::write(root.path().join("cpuset.cpus"), "\n").unwrap();
        fs::write(leaf.join("cpuset.cpus"), "1").unwrap();
        inherit(root.path(), &leaf, "cpuset.cpus").unwrap();
        assert!(inherit(root.path(), root.path(), "cpuset.cpus").is_err());
    }
}
