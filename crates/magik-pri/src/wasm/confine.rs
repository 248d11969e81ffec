//! What a pod's process gives up before it runs the first program: should one ever break out of wasmtime, it is still in a
//! process that has no capabilities, sees no file but its pod's, starts no program and may not ask the kernel for much.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, Scope,
};
use magik_infra::plan::PodPlan;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

use super::{init::Arguments, isolation::Kind};

/// The newest Landlock whose rights are asked for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;
/// The first port that anybody may listen on.
const FIRST_FREE_PORT: u16 = 1024;

/// Gives everything up. This thread must be the only one: others would keep what they have.
pub(super) fn confine(arguments: &Arguments, plan: &PodPlan, state: &OwnedFd) -> io::Result<()> {
    let failed =
        |what: &'static str| move |e: &dyn std::fmt::Display| io::Error::other(format!("{what}: {e}"));
    alone()?;
    let ports = ports(plan)?;
    rustix::thread::set_no_new_privs(true).map_err(|e| failed("no_new_privs")(&e))?;
    if arguments.isolation != Kind::None {
        drop_capabilities(&ports).map_err(|e| failed("drop capabilities")(&e))?;
    }
    restrict_files(arguments, state, &ports).map_err(|e| failed("landlock")(&e))?;
    restrict_calls().map_err(|e| failed("seccomp")(&e))
}

/// Waits until this is the only thread: one that was joined is still seen for a moment.
fn alone() -> io::Result<()> {
    for _ in 0..1000 {
        if std::fs::read_dir("/proc/self/task")?.count() == 1 {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    Err(io::Error::other(
        "there are several threads, and only one can give its rights up",
    ))
}

/// The TCP ports that containers listen on.
fn ports(plan: &PodPlan) -> io::Result<Vec<u16>> {
    let mut ports = Vec::new();
    for container in plan.init_containers.iter().chain(&plan.containers) {
        let path = container.bundle.join("config.json");
        let config: oci_spec::runtime::Spec = serde_json::from_slice(&std::fs::read(&path)?)?;
        let annotations = config.annotations().as_ref();
        let listen = annotations.and_then(|a| a.get(oci_wasm::annotations::LISTEN));
        let listed = listen.map(String::as_str).unwrap_or_default().split(',');
        ports.extend(listed.filter_map(|address| address.rsplit(':').next()?.parse::<u16>().ok()));
    }
    Ok(ports)
}

/// All capabilities, but for that of listening on a port below 1024 where a container has one.
fn drop_capabilities(ports: &[u16]) -> rustix::io::Result<()> {
    let kept = if ports.iter().any(|port| *port < FIRST_FREE_PORT) {
        CapabilitySet::NET_BIND_SERVICE
    } else {
        CapabilitySet::empty()
    };
    rustix::thread::clear_ambient_capability_set()?;
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // One that this kernel does not have.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(e) => return Err(e),
        }
    }
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept & now.permitted,
            permitted: kept & now.permitted,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// The files of the pod, and the ports of its containers.
fn restrict_files(
    arguments: &Arguments,
    state: &OwnedFd,
    ports: &[u16],
) -> Result<(), Box<dyn std::error::Error>> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = AccessFs::from_all(LANDLOCK) & !AccessFs::Execute & !AccessFs::IoctlDev;
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(state, write))?;
    let mut readable: Vec<PathBuf> = ["/proc/self", "/dev/urandom", "/dev/null"]
        .map(PathBuf::from)
        .to_vec();
    readable.push(arguments.sandbox.clone());
    if arguments.host_network {
        // Names are looked up by the C library.
        readable.extend(["/etc", "/lib", "/lib64", "/usr/lib", "/run/systemd/resolve"].map(PathBuf::from));
    }
    let mut writable = vec![arguments.pod_data.clone(), PathBuf::from("/dev/null")];
    let containers = std::fs::read_dir(arguments.sandbox.join("containers"))?;
    for bundle in containers {
        writable.push(bundle?.path().join("rootfs"));
    }
    for (path, writes) in &arguments.shared {
        if *writes { &mut writable } else { &mut readable }.push(path.clone());
    }
    for (paths, access) in [(readable, read), (writable, write)] {
        for path in paths.iter().filter(|path| path.exists()) {
            let allowed = if path.is_dir() {
                access
            } else {
                access & AccessFs::from_file(LANDLOCK)
            };
            ruleset = ruleset.add_rule(PathBeneath::new(open(path)?, allowed))?;
        }
    }
    // Port 0 is whichever is free: what a program connects from.
    for port in ports.iter().chain([&0]) {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

fn open(path: &Path) -> Result<PathFd, landlock::PathFdError> {
    PathFd::new(path)
}

/// What no WASI call comes to, and what breaks out of sandboxes have been made of.
const REFUSED: &[libc::c_long] = &[
    // Other programs, other processes.
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Namespaces, mounts, roots.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    // Parts of the kernel with a history.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_memfd_secret,
    libc::SYS_vmsplice,
    libc::SYS_personality,
    // The machine's.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_reboot,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_mknodat,
    // Who it is.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    // Rights to files, which no WASI call changes.
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
];

fn restrict_calls() -> Result<(), Box<dyn std::error::Error>> {
    let arch: TargetArch = std::env::consts::ARCH.try_into()?;
    let rules = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM)?);
    let program: BpfProgram = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
