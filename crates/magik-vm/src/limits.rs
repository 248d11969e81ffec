//! What a machine's processes may use of the host: the guest's limits are kept by the guest, which nobody has to believe.

use std::path::Path;

use oci_spec::runtime::{
    LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids, LinuxResources,
};

use crate::DriverKind;

/// What QEMU and its devices need beside the guest's memory, in MiB: translated code, queues, heaps, page tables.
const MONITOR_MIB: u64 = 256;
/// Threads of QEMU and its devices: virtiofsd has up to 64 per share.
const THREADS: u64 = 1024;
/// The devices that a machine's processes may use, as (path, major, minor): what every program may want, and nothing to be made anew.
pub(crate) const DEVICES: [(&str, i64, i64); 4] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
];
/// The numbers of [`KVM`](crate::KVM) (Documentation/admin-guide/devices.txt).
const KVM_NUMBERS: (i64, i64) = (10, 232);
/// The period of a quota of processor time, in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

/// The limits of a machine with so much memory in MiB and so many processors; one more is for its devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostLimits {
    memory: u64,
    quota: u64,
    /// Its driver opens [`KVM`](crate::KVM), and its supervisor makes that file in a root of its own.
    kvm: bool,
}

impl HostLimits {
    /// Those of a machine that this driver starts.
    #[must_use]
    pub fn new(memory_mib: u32, vcpus: u32, driver: DriverKind) -> Self {
        Self {
            kvm: !driver.is_emulated(),
            memory: (u64::from(memory_mib) + MONITOR_MIB) << 20,
            quota: (u64::from(vcpus) + 1) * PERIOD,
        }
    }

    /// The same as resources of the runtime-spec.
    #[must_use]
    pub fn resources(self) -> LinuxResources {
        let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let mut memory = LinuxMemory::default();
        memory.set_limit(Some(signed(self.memory)));
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(Some(signed(self.quota))).set_period(Some(PERIOD));
        let mut pids = LinuxPids::default();
        pids.set_limit(signed(THREADS));
        let mut resources = LinuxResources::default();
        resources
            .set_devices(Some(self.devices()))
            .set_memory(Some(memory))
            .set_cpu(Some(cpu))
            .set_pids(Some(pids));
        resources
    }

    /// The rules for devices: none but these.
    #[must_use]
    pub fn devices(self) -> Vec<LinuxDeviceCgroup> {
        let mut none = LinuxDeviceCgroup::default();
        none.set_allow(false).set_access(Some("rwm".to_owned()));
        let rule = |(major, minor): (i64, i64), access: &str| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(LinuxDeviceType::C))
                .set_major(Some(major))
                .set_minor(Some(minor))
                .set_access(Some(access.to_owned()));
            rule
        };
        let allowed = DEVICES
            .iter()
            .map(|(_, major, minor)| rule((*major, *minor), "rw"));
        let kvm = self.kvm.then(|| rule(KVM_NUMBERS, "rwm"));
        std::iter::once(none).chain(allowed).chain(kvm).collect()
    }

    /// Files of a cgroup and their values, in the hierarchy that is mounted there.
    #[must_use]
    pub fn values(self, mount: &Path, unified: bool) -> Vec<(&'static str, String)> {
        let Self { memory, quota, .. } = self;
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
        if has("devices") {
            // As the kernel reads them (Documentation/admin-guide/cgroup-v1/devices.rst): first everything is taken away.
            values.push(("devices.deny", "a".to_owned()));
            values.extend(self.devices().iter().filter_map(|rule| {
                let (major, minor) = (rule.major()?, rule.minor()?);
                let access = rule.access().as_deref()?;
                Some(("devices.allow", format!("c {major}:{minor} {access}")))
            }));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_hierarchy_gets_the_limits_it_knows() {
        let limits = HostLimits::new(256, 2, DriverKind::QemuTcg);
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

    #[test]
    fn a_machine_has_no_device_of_the_hosts_but_kvm_where_it_runs_on_that() {
        let devices =
            |driver| HostLimits::new(256, 1, driver).values(Path::new("/sys/fs/cgroup/devices"), false);
        let emulated = devices(DriverKind::QemuTcg);
        assert_eq!(emulated[0], ("devices.deny", "a".to_owned()), "first of all");
        let allowed: Vec<_> = emulated[1..].iter().map(|(_, rule)| rule.as_str()).collect();
        assert_eq!(allowed, ["c 1:3 rw", "c 1:5 rw", "c 1:8 rw", "c 1:9 rw"]);
        let by_hardware = devices(DriverKind::Krun);
        assert_eq!(by_hardware.last().unwrap().1, "c 10:232 rwm");
        assert_eq!(by_hardware.len(), emulated.len() + 1);
        for (path, major, minor) in DEVICES {
            let device = rustix::fs::stat(path).unwrap().st_rdev;
            assert_eq!(
                device,
                rustix::fs::makedev(u32::try_from(major).unwrap(), u32::try_from(minor).unwrap()),
                "{path}"
            );
        }
    }
}
