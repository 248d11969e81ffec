//! The limits of a new container.
//!
//! On v2 libcgroups writes all but the device rules. Its v1 manager reads the mounts a dozen times
//! to find the hierarchies, so v1's part is here, with the same order and defaults.

use std::{
    fs,
    io::{self, Write as _},
    path::Path,
};

use libcgroups::common::{CgroupManager, ControllerOpt};
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceCgroup, LinuxMemory, LinuxResources};

use super::{Cgroup, Layout, devices};

/// The most `memory.swappiness` may be.
const MAX_SWAPPINESS: u64 = 100;
/// The devices that every container may use, whatever its spec says (runtime-spec, "Default
/// Devices"). It may also make nodes of devices that it cannot use.
const DEFAULT_DEVICES: [&str; 12] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 5:0 rwm",
    "c 1:9 rwm",
    "c 1:8 rwm",
    "c *:* m",
    "b *:* m",
    // The console, pseudo terminals, and /dev/net/tun.
    "c 5:1 rwm",
    "c 136:* rwm",
    "c 5:2 rwm",
    "c 10:200 rwm",
];

/// One write to a file of a controller.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    controller: &'static str,
    file: String,
    value: String,
}

impl Cgroup<'_> {
    /// Sets the limits of a container that has none yet.
    pub(crate) fn limit(&self, resources: &LinuxResources) -> Result<(), String> {
        let root = match self.layout {
            Layout::V2(root) => root,
            Layout::V1(_) => return self.limit_v1(resources),
        };
        let manager = libcgroups::v2::manager::Manager::new(root.clone(), self.path.to_owned())
            .map_err(|e| e.to_string())?;
        manager
            .apply(&ControllerOpt {
                resources,
                freezer_state: None,
                oom_score_adj: None,
                disable_oom_killer: false,
            })
            .map_err(|e| e.to_string())?;
        self.restrict_devices(resources)
    }

    /// The part of the limits that libcgroups leaves out on v2; nothing on v1.
    pub(crate) fn restrict_devices(&self, resources: &LinuxResources) -> Result<(), String> {
        let (Layout::V2(root), Some(rules)) = (self.layout, resources.devices()) else {
            return Ok(());
        };
        devices::restrict(&self.below(root), rules)
            .map_err(|e| format!("linux.resources.devices: the kernel refuses the BPF program: {e}"))
    }

    fn limit_v1(&self, resources: &LinuxResources) -> Result<(), String> {
        let writes = v1(resources)?;
        // Many device rules go into one file, each with a write of its own.
        let mut open: Option<(&str, &str, fs::File)> = None;
        for write in &writes {
            let (controller, name) = (write.controller, write.file.as_str());
            let failed = |e: io::Error| format!("setting {name} to {:?}: {e}", write.value);
            let file = match &mut open {
                Some((c, f, file)) if (*c, *f) == (controller, name) => file,
                other => {
                    let dir = self
                        .v1_dir(controller)
                        .ok_or_else(|| format!("{name}: this host has no {controller} controller"))?;
                    let file = open_for_writing(&dir, controller, name).map_err(failed)?;
                    &mut other.insert((controller, name, file)).2
                }
            };
            file.write_all(write.value.as_bytes()).map_err(failed)?;
        }
        Ok(())
    }
}

fn open_for_writing(dir: &Path, controller: &str, name: &str) -> io::Result<fs::File> {
    let open = |name: &str| fs::OpenOptions::new().write(true).open(dir.join(name));
    match open(name) {
        // The file's name is the scheduler's.
        Err(e) if e.kind() == io::ErrorKind::NotFound && (controller, name) == ("blkio", "blkio.weight") => {
            open("blkio.bfq.weight")
        }
        // Reservations of huge pages are newer than limits.
        other => other,
    }
}

/// The writes to v1's controllers.
fn v1(resources: &LinuxResources) -> Result<Vec<Write>, String> {
    let mut writes = Writes::default();
    if let Some(cpu) = resources.cpu() {
        writes.cpu(cpu);
    }
    if let Some(memory) = resources.memory() {
        writes.memory(memory)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let limit = if limit > 0 {
            limit.to_string()
        } else {
            "max".into()
        };
        writes.add("pids", "pids.max", &limit);
    }
    if let Some(block_io) = resources.block_io() {
        writes.block_io(block_io);
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = huge.page_size();
        // Part of a file's name.
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!(
                "linux.resources.hugepageLimits: {size:?} is no page size"
            ));
        }
        writes.add(
            "hugetlb",
            &format!("hugetlb.{size}.limit_in_bytes"),
            &huge.limit(),
        );
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id() {
            writes.add("net_cls", "net_cls.classid", &class);
        }
        for priority in network.priorities().iter().flatten() {
            let value = format!("{} {}", priority.name(), priority.priority());
            writes.add("net_prio", "net_prio.ifpriomap", &value);
        }
    }
    writes.devices(resources.devices().as_deref().unwrap_or_default());
    Ok(writes.0)
}

#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn add(&mut self, controller: &'static str, file: &str, value: &dyn std::fmt::Display) {
        self.0.push(Write {
            controller,
            file: file.to_owned(),
            value: value.to_string(),
        });
    }

    /// Writes a value that is given and not 0: 0 means "unchanged".
    fn set<T: std::fmt::Display + Default + PartialEq>(
        &mut self,
        controller: &'static str,
        file: &str,
        value: Option<T>,
    ) {
        if let Some(value) = value.filter(|v| *v != T::default()) {
            self.add(controller, file, &value);
        }
    }

    fn cpu(&mut self, cpu: &LinuxCpu) {
        self.set("cpu", "cpu.shares", cpu.shares());
        // A period first: the quota, or the time in real time, must fit into it.
        self.set("cpu", "cpu.cfs_period_us", cpu.period());
        self.set("cpu", "cpu.cfs_quota_us", cpu.quota());
        if let Some(burst) = cpu.burst() {
            self.add("cpu", "cpu.cfs_burst_us", &burst);
        }
        self.set("cpu", "cpu.rt_period_us", cpu.realtime_period());
        self.set("cpu", "cpu.rt_runtime_us", cpu.realtime_runtime());
        if let Some(idle) = cpu.idle() {
            self.add("cpu", "cpu.idle", &idle);
        }
        if let Some(cpus) = cpu.cpus() {
            self.add("cpuset", "cpuset.cpus", cpus);
        }
        if let Some(mems) = cpu.mems() {
            self.add("cpuset", "cpuset.mems", mems);
        }
    }

    fn memory(&mut self, memory: &LinuxMemory) -> Result<(), String> {
        // The limit of memory and swap together cannot be below that of memory, which is set first.
        // Kernel memory has no limit of its own since Linux 5.4.
        self.set("memory", "memory.limit_in_bytes", memory.limit());
        self.set("memory", "memory.memsw.limit_in_bytes", memory.swap());
        self.set("memory", "memory.soft_limit_in_bytes", memory.reservation());
        self.set("memory", "memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp());
        if memory.disable_oom_killer() == Some(true) {
            self.add("memory", "memory.oom_control", &1);
        }
        if let Some(swappiness) = memory.swappiness() {
            if swappiness > MAX_SWAPPINESS {
                return Err(format!(
                    "linux.resources.memory.swappiness: {swappiness} is more than {MAX_SWAPPINESS}"
                ));
            }
            self.add("memory", "memory.swappiness", &swappiness);
        }
        Ok(())
    }

    fn block_io(&mut self, block_io: &LinuxBlockIo) {
        self.set("blkio", "blkio.weight", block_io.weight());
        let throttles = [
            ("read_bps", block_io.throttle_read_bps_device()),
            ("write_bps", block_io.throttle_write_bps_device()),
            ("read_iops", block_io.throttle_read_iops_device()),
            ("write_iops", block_io.throttle_write_iops_device()),
        ];
        for (limit, devices) in throttles {
            for device in devices.iter().flatten() {
                let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
                self.add("blkio", &format!("blkio.throttle.{limit}_device"), &value);
            }
        }
    }

    /// Without a rule nothing is written: allowing what is allowed can only fail.
    fn devices(&mut self, rules: &[LinuxDeviceCgroup]) {
        for rule in rules {
            let file = if rule.allow() {
                "devices.allow"
            } else {
                "devices.deny"
            };
            self.add("devices", file, rule);
        }
        if !rules.is_empty() {
            for rule in DEFAULT_DEVICES {
                self.add("devices", "devices.allow", &rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writes(resources: serde_json::Value) -> Result<Vec<String>, String> {
        let writes = v1(&serde_json::from_value(resources).unwrap())?;
        Ok(writes
            .into_iter()
            .map(|w| format!("{} {}={}", w.controller, w.file, w.value))
            .collect())
    }

    #[test]
    fn nothing_is_written_for_nothing() {
        assert_eq!(writes(serde_json::json!({})), Ok(vec![]));
        let zeros = serde_json::json!({"cpu": {"shares": 0, "quota": 0, "period": 0}, "memory": {"limit": 0, "swap": 0}});
        assert_eq!(writes(zeros), Ok(vec![]));
    }

    #[test]
    fn what_depends_on_another_limit_comes_after_it() {
        let resources = serde_json::json!({
            "cpu": {"quota": 5000, "period": 10000, "realtimeRuntime": 1, "realtimePeriod": 2, "cpus": "0-1", "mems": "0"},
            "memory": {"swap": 200, "limit": 100, "reservation": 50, "kernelTCP": 7, "swappiness": 0, "disableOOMKiller": true},
            "pids": {"limit": 12},
        });
        let expected = [
            "cpu cpu.cfs_period_us=10000",
            "cpu cpu.cfs_quota_us=5000",
            "cpu cpu.rt_period_us=2",
            "cpu cpu.rt_runtime_us=1",
            "cpuset cpuset.cpus=0-1",
            "cpuset cpuset.mems=0",
            "memory memory.limit_in_bytes=100",
            "memory memory.memsw.limit_in_bytes=200",
            "memory memory.soft_limit_in_bytes=50",
            "memory memory.kmem.tcp.limit_in_bytes=7",
            "memory memory.oom_control=1",
            "memory memory.swappiness=0",
            "pids pids.max=12",
        ];
        assert_eq!(writes(resources).unwrap(), expected);
        assert_eq!(
            writes(serde_json::json!({"pids": {"limit": -1}})).unwrap(),
            ["pids pids.max=max"]
        );
    }

    #[test]
    fn block_devices_huge_pages_and_networks() {
        let resources = serde_json::json!({
            "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}]},
            "hugepageLimits": [{"pageSize": "2MB", "limit": 9}],
            "network": {"classID": 3, "priorities": [{"name": "eth0", "priority": 4}]},
        });
        let expected = [
            "blkio blkio.weight=100",
            "blkio blkio.throttle.read_bps_device=8:0 5",
            "hugetlb hugetlb.2MB.limit_in_bytes=9",
            "net_cls net_cls.classid=3",
            "net_prio net_prio.ifpriomap=eth0 4",
        ];
        assert_eq!(writes(resources).unwrap(), expected);
    }

    #[test]
    fn devices_are_denied_then_allowed_then_the_defaults() {
        let resources = serde_json::json!({"devices": [
            {"allow": false, "access": "rwm"}, {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]});
        let all = writes(resources).unwrap();
        assert_eq!(all[0], "devices devices.deny=a *:* rwm");
        assert_eq!(all[1], "devices devices.allow=c 10:229 rw");
        assert_eq!(all.len(), 2 + DEFAULT_DEVICES.len());
    }

    #[test]
    fn what_no_controller_can_mean_is_refused() {
        for size in ["", "2MB/../../x", "2 MB"] {
            let limit = serde_json::json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]});
            assert!(writes(limit).unwrap_err().contains("page size"), "{size}");
        }
        let swappy = serde_json::json!({"memory": {"swappiness": 101}});
        assert!(writes(swappy).unwrap_err().contains("swappiness"));
    }
}
