//! What a pod's process gives up before it runs the first program: should one ever break out of wasmtime, it is still in a
//! process that has no capabilities, sees no file but its pod's, starts no program and may not ask the kernel for much.
//!
//! What the host reads of the pod later is not the process's to change, but its status, its logs and its socket: by the record
//! of the init, whoever deletes the pod kills a process.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
};
use magik_infra::{CONTROL_SOCKET, STATUS_FILE, plan::PodPlan};
use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, mount_bind},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{arguments::Arguments, calls, isolation::Kind};
use crate::pods::BUNDLES;

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
        restrict_mounts(state).map_err(|e| failed("mounts")(&e))?;
        drop_capabilities(&ports).map_err(|e| failed("drop capabilities")(&e))?;
    }
    restrict_files(arguments, state, &ports).map_err(|e| failed("landlock")(&e))?;
    calls::restrict().map_err(|e| failed("seccomp")(&e))
}

/// The pod's state directory as this process's own mount namespace has it: the launcher's descriptor is on a mount of the host's,
/// over which nothing can be mounted.
pub(super) fn own_view(state: OwnedFd) -> io::Result<OwnedFd> {
    let path = path_of(&state)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let own = rustix::fs::open(&path, flags, Mode::empty())?;
    let same = |a: rustix::fs::Stat, b: rustix::fs::Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    if same(rustix::fs::fstat(&state)?, rustix::fs::fstat(&own)?) {
        // Whoever comes to hold this process is not to find the launcher's.
        drop(state);
        Ok(own)
    } else {
        Err(io::Error::other(format!(
            "{}: is another directory",
            path.display()
        )))
    }
}

fn path_of(directory: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()))
}

/// No file is a device or gives its owner's rights, whatever an image or a volume has; and the host's records of the pod, which lie
/// where this process keeps its status, are read-only.
fn restrict_mounts(state: &OwnedFd) -> io::Result<()> {
    magik_sys::mount::restrict(Path::new("/"), MountFlags::NODEV | MountFlags::NOSUID)?;
    let state = path_of(state)?;
    for entry in std::fs::read_dir(&state)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == STATUS_FILE || name == CONTROL_SOCKET || !entry.file_type()?.is_file() {
            continue;
        }
        // A mount point can be neither renamed nor removed nor replaced by who has it in its namespace (mount_namespaces(7)).
        mount_bind(entry.path(), entry.path())?;
        magik_sys::mount::restrict(&entry.path(), MountFlags::RDONLY)?;
    }
    Ok(())
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
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(LANDLOCK))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(LANDLOCK))?
        .create()?
        .add_rule(PathBeneath::new(state, keep_files()))?;
    for (path, access) in paths(arguments)?.iter().filter(|(path, _)| path.exists()) {
        let allowed = if path.is_dir() {
            *access
        } else {
            *access & AccessFs::from_file(LANDLOCK)
        };
        ruleset = ruleset.add_rule(PathBeneath::new(open(path)?, allowed))?;
    }
    // Port 0 is whichever is free: what a program connects from.
    for port in ports.iter().chain([&0]) {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::BindTcp))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

/// What is open to the process, and how.
fn paths(arguments: &Arguments) -> io::Result<Vec<(PathBuf, BitFlags<AccessFs>)>> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let mut paths = vec![
        (PathBuf::from("/proc/self"), read),
        (arguments.sandbox.clone(), read),
        (arguments.pod_data.join("logs"), keep_files()),
        (arguments.pod_data.join("volumes"), write()),
    ];
    if arguments.host_network {
        // Names are looked up by the C library.
        let libraries = ["/etc", "/lib", "/lib64", "/usr/lib", "/run/systemd/resolve"];
        paths.extend(libraries.map(|path| (PathBuf::from(path), read)));
    }
    if arguments.isolation == Kind::Root {
        // The layer that is written to is the kernel's to reach, through the overlay.
        for bundle in std::fs::read_dir(arguments.sandbox.join(BUNDLES))? {
            paths.push((bundle?.path().join("rootfs"), write()));
        }
    } else {
        paths.push((arguments.pod_data.join("rw"), write()));
    }
    for (path, writes) in &arguments.shared {
        paths.push((path.clone(), if *writes { write() } else { read }));
    }
    Ok(paths)
}

/// Whatever a WASI call does: there are none for programs, devices, pipes and sockets.
fn write() -> BitFlags<AccessFs> {
    let nothing_of_wasis = AccessFs::Execute
        | AccessFs::IoctlDev
        | AccessFs::MakeBlock
        | AccessFs::MakeChar
        | AccessFs::MakeFifo
        | AccessFs::MakeSock;
    AccessFs::from_all(LANDLOCK) & !nothing_of_wasis
}

/// Files that are written anew and renamed, and no links to anything else: others read them.
fn keep_files() -> BitFlags<AccessFs> {
    AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::MakeReg
        | AccessFs::RemoveFile
        | AccessFs::Truncate
}

fn open(path: &Path) -> Result<PathFd, landlock::PathFdError> {
    PathFd::new(path)
}

#[cfg(test)]
mod tests;
