//! What a machine's processes may use of the host: the guest's limits are kept by the guest, which nobody has to believe.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use rustix::process::Pid;

use crate::pods::Hierarchies;

/// What QEMU and its devices need beside the guest's memory, in MiB: translated code, queues, heaps, page tables.
const MONITOR_MIB: u64 = 256;
/// Threads of QEMU and its devices: virtiofsd has up to 64 per share.
const THREADS: u64 = 1024;
/// The period of a quota of processor time, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The limits of a machine with so much memory in MiB and so many processors; one more is for its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HostLimits {
    memory: u64,
    quota: u64,
}

impl HostLimits {
    pub(super) fn new(memory_mib: u32, vcpus: u32) -> Self {
        Self {
            memory: (u64::from(memory_mib) + MONITOR_MIB) << 20,
            quota: (u64::from(vcpus) + 1) * PERIOD,
        }
    }

    /// The same as resources of the runtime-spec.
    pub(super) fn resources(self) -> LinuxResources {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(signed(self.memory)));
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(signed(self.quota))).set_period(Some(PERIOD));
        let mut pids = LinuxPids::default();
        pids.set_limit(signed(THREADS));
        let mut resources = LinuxResources::default();
        resources
            .set_memory(Some(memory))
            .set_cpu(Some(cpu))
            .set_pids(Some(pids));
        resources
    }

    /// Puts a process, which has no children yet, under these limits, in the cgroups of its pod's init.
    ///
    /// # Errors
    /// A limit cannot be set. What was made is removed with the pod.
    pub(super) fn apply(self, hierarchies: &Hierarchies, id: &str, pid: Pid) -> io::Result<()> {
        for mount in hierarchies.mounts() {
            let unified = hierarchies.unified() == Some(mount.as_path());
            let values = self.values(mount, unified);
            if values.is_empty() {
                continue;
            }
            let dir = mount.join(Hierarchies::init_path(id));
            fs::create_dir_all(&dir).map_err(at(&dir))?;
            if unified {
                enable(mount, &dir);
            }
            for (file, value) in values {
                let path = dir.join(file);
                // A controller that the host does not have limits nothing.
                if path.exists() {
                    fs::write(&path, value).map_err(at(&path))?;
                }
            }
            let path = dir.join("cgroup.procs");
            fs::write(&path, pid.as_raw_nonzero().to_string()).map_err(at(&path))?;
        }
        Ok(())
    }

    /// Files and their values, in the hierarchy that is mounted there.
    fn values(self, mount: &Path, unified: bool) -> Vec<(&'static str, String)> {
        let Self { memory, quota } = self;
        let (memory, threads) = (memory.to_string(), THREADS.to_string());
        if unified {
            return vec![
                ("memory.max", memory),
                ("memory.swap.max", "0".to_owned()),
                ("cpu.max", format!("{quota} {PERIOD}")),
                ("pids.max", threads),
            ];
        }
        let name = mount.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let has = |controller| name.split(',').any(|part| part == controller);
        let mut values = vec![];
        if has("memory") {
            values.push(("memory.limit_in_bytes", memory));
        }
        if has("cpu") {
            values.push(("cpu.cfs_quota_us", quota.to_string()));
        }
        if has("pids") {
            values.push(("pids.max", threads));
        }
        values
    }
}

/// Makes cgroup v2's controllers work below the mount, down to the directory's parent: each alone, for one that is missing
/// must not keep the others away.
fn enable(mount: &Path, dir: &Path) {
    let below: Vec<PathBuf> = dir
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(mount))
        .map(Path::to_owned)
        .collect();
    for parent in below.iter().rev() {
        for controller in ["+memory", "+cpu", "+pids"] {
            let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |e| io::Error::new(e.kind(), format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_gets_the_limits_it_knows() {
        let limits = HostLimits::new(256, 2);
        let named = |mount: &str, unified| limits.values(Path::new(mount), unified);
        let memory = (512_u64 << 20).to_string();
        assert_eq!(
            named("/sys/fs/cgroup/memory", false),
            [("memory.limit_in_bytes", memory.clone())]
        );
        assert_eq!(
            named("/sys/fs/cgroup/cpu,cpuacct", false),
            [("cpu.cfs_quota_us", "300000".to_owned())]
        );
        assert!(named("/sys/fs/cgroup/cpuset", false).is_empty());
        let unified = named("/sys/fs/cgroup", true);
        assert!(
            unified.contains(&("memory.max", memory))
                && unified.contains(&("cpu.max", "300000 100000".to_owned()))
        );
    }
}
