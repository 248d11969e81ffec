//! A bundle taken apart: what its container is in the guest, and what it is on the host.
//!
//! On the host it is a native container, too: that of the machine's supervisor, with the bundle's
//! cgroup, namespaces, hooks and terminal. So everything that engines do with a container's first
//! process, they do with the machine.

use std::path::{Path, PathBuf};

use magik_vm::{DriverKind, HostLimits, HostShare, MAX_VM_MEMORY_MIB, OVERHEAD_MIB, vcpus};
use oci_spec::runtime::{
    Hook, Linux, LinuxCpu, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxResources, Spec,
};
use serde_json::{Value, json};

use super::{
    HOST,
    mounts::{self, Shares},
};

/// The memory of a container whose bundle limits none, in MiB.
const UNSAID_MIB: u64 = 512;
/// The devices that every container has.
const COMMON_DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/console",
    "/dev/ptmx",
];

/// A container for a machine.
#[derive(Debug)]
pub(super) struct Parts {
    /// In the guest, but for where its root is.
    pub(super) guest: Spec,
    pub(super) shares: Vec<HostShare>,
    /// Its root on the host.
    pub(super) rootfs: PathBuf,
    /// Where its root is in the guest, if that is the host's; else it is read-only.
    pub(super) writable: Option<PathBuf>,
    pub(super) terminal: bool,
    pub(super) hostname: Option<String>,
    pub(super) memory_mib: u32,
    pub(super) vcpus: u32,
}

impl Parts {
    /// Takes a bundle apart.
    ///
    /// # Errors
    /// It asks for what no machine has; the field is named.
    pub(super) fn of(bundle: &Path, spec: &Spec) -> Result<Self, String> {
        let process = spec.process().as_ref().ok_or("process: missing")?;
        let program = process.args().as_ref().and_then(|args| args.first());
        if program.is_none_or(String::is_empty) {
            return Err("process.args: names no program".to_owned());
        }
        let root = spec.root().as_ref().ok_or("root: missing")?;
        let path = bundle.join(root.path());
        let rootfs = path
            .canonicalize()
            .map_err(|e| format!("root.path: {}: {e}", path.display()))?;
        if !rootfs.is_dir() {
            return Err("root.path: is no directory".to_owned());
        }
        check(spec)?;
        let (memory_mib, vcpus) = size(spec)?;
        let mut guest = spec.clone();
        let mut shares = Shares::default();
        let writable = (!root.readonly().unwrap_or(false)).then(|| shares.root(rootfs.clone()));
        let mut all = guest.mounts().clone().unwrap_or_default();
        for (index, mount) in all.iter_mut().enumerate() {
            mounts::in_guest(mount, index, bundle, &mut shares)?;
        }
        guest.set_mounts(Some(all)).set_hooks(None).set_annotations(None);
        if let Some(process) = guest.process_mut() {
            // The machine is what keeps it in.
            process.set_apparmor_profile(None).set_selinux_label(None);
        }
        if let Some(linux) = guest.linux_mut() {
            let namespaces = linux.namespaces().iter().flatten().map(|n| {
                let mut own = LinuxNamespace::default();
                own.set_typ(n.typ());
                own
            });
            let resources = linux.resources().as_ref().map(in_guest);
            linux
                .set_namespaces(Some(namespaces.collect()))
                .set_resources(resources)
                .set_cgroups_path(None)
                .set_mount_label(None);
        }
        Ok(Self {
            terminal: process.terminal().unwrap_or(false),
            hostname: spec.hostname().clone(),
            shares: shares.done()?,
            guest,
            rootfs,
            writable,
            memory_mib,
            vcpus,
        })
    }
}

/// Whether it asks for nothing that is the host's.
fn check(spec: &Spec) -> Result<(), String> {
    let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|h| !h.is_empty());
    if let Some(hooks) = spec.hooks() {
        for (name, hooks) in [
            ("createContainer", hooks.create_container()),
            ("startContainer", hooks.start_container()),
        ] {
            if some(hooks) {
                return Err(format!("hooks.{name}: nothing of the host's runs in a machine"));
            }
        }
    }
    let linux = spec.linux().as_ref().ok_or("linux: missing")?;
    let namespaces = || linux.namespaces().iter().flatten();
    for (kind, name) in [
        (LinuxNamespaceType::Pid, "pid"),
        (LinuxNamespaceType::Network, "network"),
        (LinuxNamespaceType::Ipc, "ipc"),
        (LinuxNamespaceType::Uts, "uts"),
        (LinuxNamespaceType::Mount, "mount"),
    ] {
        if !namespaces().any(|n| n.typ() == kind) {
            return Err(format!(
                "linux.namespaces: without {name}: a machine has none of the host's"
            ));
        }
    }
    // An engine makes a network for every container: nothing but the machine's own processes is in
    // it.
    if let Some(other) = namespaces().find(|n| n.path().is_some() && n.typ() != LinuxNamespaceType::Network) {
        return Err(format!(
            "linux.namespaces: {} of another container: a machine has its own",
            other.typ()
        ));
    }
    let common = |path: &Path| COMMON_DEVICES.iter().any(|device| path == Path::new(device));
    let mut devices = linux.devices().iter().flatten();
    if let Some(device) = devices.find(|device| !common(device.path())) {
        return Err(format!(
            "linux.devices: {}: a machine has none of the host's devices",
            device.path().display()
        ));
    }
    if linux.intel_rdt().is_some() {
        return Err("linux.intelRdt: a machine has none".to_owned());
    }
    Ok(())
}

/// Memory in MiB and processors of the machine.
fn size(spec: &Spec) -> Result<(u32, u32), String> {
    let resources = spec.linux().as_ref().and_then(|l| l.resources().as_ref());
    let limit = resources
        .and_then(|r| r.memory().as_ref()?.limit())
        .and_then(|n| u64::try_from(n).ok());
    let memory = limit
        .filter(|n| *n > 0)
        .map_or(UNSAID_MIB, |n| n.div_ceil(1 << 20))
        + OVERHEAD_MIB;
    let narrow = u32::try_from(memory).unwrap_or(u32::MAX);
    if narrow > MAX_VM_MEMORY_MIB {
        return Err(format!(
            "linux.resources.memory.limit: the machine would need {memory} MiB ({OVERHEAD_MIB} of them for the guest), and the most is {MAX_VM_MEMORY_MIB}"
        ));
    }
    let quota = resources.and_then(|r| {
        let cpu = r.cpu().as_ref()?;
        let quota = u64::try_from(cpu.quota()?).ok().filter(|q| *q > 0)?;
        Some(quota.div_ceil(cpu.period().filter(|p| *p > 0).unwrap_or(100_000)))
    });
    Ok((narrow, vcpus(quota.unwrap_or(u64::MAX))))
}

/// The limits that the guest keeps: those that are about the container, and not about the host.
fn in_guest(host: &LinuxResources) -> LinuxResources {
    let mut guest = LinuxResources::default();
    guest.set_devices(host.devices().clone());
    guest.set_pids(*host.pids());
    guest.set_memory(host.memory().as_ref().map(|memory| {
        let mut own = LinuxMemory::default();
        own.set_limit(memory.limit())
            .set_reservation(memory.reservation());
        own
    }));
    guest.set_cpu(host.cpu().as_ref().map(|cpu| {
        let mut own = LinuxCpu::default();
        own.set_quota(cpu.quota()).set_period(cpu.period());
        own
    }));
    guest
}

/// The container on the host: `program` runs the machine, on a root where [`HOST`] is the host's.
///
/// # Errors
/// The bundle's values do not fit together.
pub(super) fn on_host(
    spec: &Spec,
    parts: &Parts,
    root: &Path,
    program: &[&Path],
    environment: &[String],
    driver: DriverKind,
) -> Result<Spec, String> {
    let capabilities = capabilities();
    let value = |value: Result<Value, serde_json::Error>| value.map_err(|e| e.to_string());
    let process = spec.process().as_ref().ok_or("process: missing")?;
    let linux = spec.linux().as_ref().ok_or("linux: missing")?;
    let namespaces: Vec<&LinuxNamespace> = linux
        .namespaces()
        .iter()
        .flatten()
        .filter(|n| {
            !matches!(
                n.typ(),
                LinuxNamespaceType::User | LinuxNamespaceType::Cgroup | LinuxNamespaceType::Time
            )
        })
        .collect();
    let limits = HostLimits::new(parts.memory_mib, parts.vcpus, driver).resources();
    let resources = value(serde_json::to_value(with_cpu_of(linux, limits)))?;
    let mut args: Vec<String> = program.iter().map(|p| p.display().to_string()).collect();
    if let Some(first) = args.first_mut() {
        first.insert_str(0, HOST);
    }
    let mut host = json!({
        "ociVersion": spec.version(),
        "process": {
            "terminal": parts.terminal,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": environment,
            "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": root},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
            {"destination": HOST, "type": "bind", "source": "/", "options": ["rbind", "rslave"]},
        ],
        "linux": {
            "namespaces": value(serde_json::to_value(namespaces))?,
            "resources": resources,
        },
    });
    if let Some(size) = process.console_size() {
        host["process"]["consoleSize"] = value(serde_json::to_value(size))?;
    }
    if let Some(adjustment) = process.oom_score_adj() {
        host["process"]["oomScoreAdj"] = json!(adjustment);
    }
    if let Some(hostname) = spec.hostname() {
        host["hostname"] = json!(hostname);
    }
    if let Some(hooks) = spec.hooks() {
        host["hooks"] = value(serde_json::to_value(hooks))?;
    }
    if let Some(annotations) = spec.annotations() {
        host["annotations"] = json!(annotations);
    }
    if let Some(path) = linux.cgroups_path() {
        host["linux"]["cgroupsPath"] = json!(path);
    }
    serde_json::from_value(host).map_err(|e| e.to_string())
}

/// The machine's limits, with what the bundle says of processors beside the quota.
fn with_cpu_of(linux: &Linux, mut limits: LinuxResources) -> LinuxResources {
    let own = linux.resources().as_ref().and_then(|r| r.cpu().as_ref());
    if let (Some(own), Some(mut cpu)) = (own, limits.cpu().clone()) {
        cpu.set_shares(own.shares())
            .set_cpus(own.cpus().clone())
            .set_mems(own.mems().clone());
        limits.set_cpu(Some(cpu));
    }
    limits
}

/// The capabilities that a process of this host can have: what is not in our bounding set, no child
/// of ours gets.
fn capabilities() -> Vec<String> {
    let has = |capability| rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false);
    let all = rustix::thread::CapabilitySet::all();
    all.iter_names()
        .filter(|(_, capability)| has(*capability))
        .map(|(name, _)| format!("CAP_{name}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(change: impl FnOnce(&mut Value)) -> (tempfile::TempDir, Spec) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rootfs")).unwrap();
        let namespaces = ["pid", "network", "ipc", "uts", "mount", "cgroup"].map(|n| json!({"type": n}));
        let mut config = json!({
            "ociVersion": "1.0.2",
            "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 5, "gid": 5}, "oomScoreAdj": 7},
            "root": {"path": "rootfs"},
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "annotations": {"a": "b"},
            "linux": {"namespaces": namespaces, "cgroupsPath": "/x/y", "resources": {
                "memory": {"limit": 100 << 20, "swap": 200 << 20}, "cpu": {"quota": 50_000, "period": 100_000, "cpus": "0"}, "pids": {"limit": 9},
            }},
        });
        change(&mut config);
        let spec = serde_json::from_value(config).unwrap();
        (dir, spec)
    }

    fn refused(change: impl FnOnce(&mut Value)) -> String {
        let (dir, spec) = bundle(change);
        Parts::of(dir.path(), &spec).unwrap_err()
    }

    #[test]
    fn the_guest_has_the_container_and_the_host_its_machine() {
        let (dir, spec) = bundle(|c| c["linux"]["namespaces"][1]["path"] = json!("/run/netns/x"));
        let parts = Parts::of(dir.path(), &spec).unwrap();
        assert_eq!((parts.memory_mib, parts.vcpus), (228, 1));
        assert_eq!(parts.writable.as_deref(), Some(Path::new("/run/shares/0")));
        let guest = serde_json::to_value(&parts.guest).unwrap();
        let linux = &guest["linux"];
        assert_eq!(linux["resources"]["memory"], json!({"limit": 100 << 20}));
        assert_eq!(
            linux["resources"]["cpu"],
            json!({"quota": 50_000, "period": 100_000})
        );
        assert_eq!(linux["resources"]["pids"]["limit"], 9);
        assert!(linux["cgroupsPath"].is_null() && guest["annotations"].is_null());
        assert!(!linux["namespaces"].to_string().contains("path"), "{linux}");

        let program = [
            Path::new("/usr/bin/vm"),
            Path::new("container"),
            Path::new("/dir"),
        ];
        let host = on_host(
            &spec,
            &parts,
            Path::new("/dir/root"),
            &program,
            &[],
            DriverKind::QemuTcg,
        )
        .unwrap();
        let host = serde_json::to_value(&host).unwrap();
        assert_eq!(
            host["process"]["args"],
            json!(["/host/usr/bin/vm", "container", "/dir"])
        );
        assert_eq!(
            (&host["process"]["user"]["uid"], &host["process"]["oomScoreAdj"]),
            (&json!(0), &json!(7))
        );
        assert_eq!(host["annotations"], json!({"a": "b"}));
        let linux = &host["linux"];
        assert_eq!(linux["cgroupsPath"], "/x/y");
        assert_eq!(linux["resources"]["memory"]["limit"], (228 + 256) << 20);
        assert_eq!(linux["resources"]["cpu"]["cpus"], "0");
        let devices = linux["resources"]["devices"].as_array().unwrap();
        assert_eq!(
            devices[0],
            json!({"allow": false, "access": "rwm"}),
            "first of all"
        );
        assert!(
            devices[1..].iter().all(|d| d["type"] == "c" && d["major"] == 1),
            "{devices:?}"
        );
        assert_eq!(linux["namespaces"][1]["path"], "/run/netns/x");
        assert!(!linux["namespaces"].to_string().contains("cgroup"));
    }

    #[test]
    fn a_root_that_is_read_only_is_no_share() {
        let (dir, spec) = bundle(|c| c["root"]["readonly"] = json!(true));
        let parts = Parts::of(dir.path(), &spec).unwrap();
        assert!(parts.writable.is_none() && parts.shares.is_empty());
        assert_eq!(parts.rootfs, dir.path().join("rootfs").canonicalize().unwrap());
    }

    #[test]
    fn what_no_machine_has_is_named() {
        let hook = || json!([{"path": "/bin/true"}]);
        assert!(refused(|c| c["hooks"] = json!({"startContainer": hook()})).contains("hooks.startContainer"));
        assert!(
            refused(|c| c["hooks"] = json!({"createContainer": hook()})).contains("hooks.createContainer")
        );
        let network = refused(|c| c["linux"]["namespaces"] = json!([{"type": "pid"}]));
        assert!(network.contains("without network"), "{network}");
        let ipc = refused(|c| c["linux"]["namespaces"][2]["path"] = json!("/proc/1/ns/ipc"));
        assert!(ipc.contains("ipc of another container"), "{ipc}");
        let device = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        assert!(refused(|c| c["linux"]["devices"] = device).contains("/dev/fuse"));
        let memory = refused(|c| c["linux"]["resources"]["memory"]["limit"] = json!(4_u64 << 30));
        assert!(memory.contains("4224 MiB"), "{memory}");
        assert!(refused(|c| c["root"]["path"] = json!("none")).contains("root.path"));
        assert!(refused(|c| c["process"]["args"] = json!([])).contains("process.args"));
    }
}
