//! What runs as PID 1 of a pod.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use magik_infra::{InitOptions, PodInit, StateDir, pause};
use oci_native::NativeRuntime;
use rustix::fs::Mode;

use super::users;
use crate::pods::{
    Hierarchies,
    init::{self, Descriptors, is_id},
};

/// The first argument of a pod init: `main` looks for it before anything else.
pub const POD_INIT: &str = "pod-init";
/// The third one of a pod that uses the host's network.
pub(super) const HOST_NETWORK: &str = "host-network";
/// The third one of a pod with a network of its own.
pub(super) const OWN_NETWORK: &str = "own-network";
/// The fourth one of a pod whose containers share a process namespace.
pub(super) const SHARED_PROCESSES: &str = "shared-processes";
/// The fourth one of a pod whose containers have one each.
pub(super) const OWN_PROCESSES: &str = "own-processes";
/// The fifth one of a pod whose users are the host's; else it is the host's id of the pod's root.
pub(super) const USERS_OF_HOST: &str = "-";

/// Runs this process as the init of a pod, and returns how it ended.
///
/// The `main` of the program that starts pods calls it when its first argument is [`POD_INIT`], before it has made a
/// thread or opened anything. Descriptors from 3 on are those that the launcher gave it.
#[must_use]
pub fn pod_init_main() -> ExitCode {
    if pause::is_asked_for(std::env::args_os()) {
        return pause::main();
    }
    init::report(run())
}

/// What the launcher says on the command line.
struct Arguments {
    pod_id: String,
    host_network: bool,
    shared_processes: bool,
    /// The host's id of the pod's root, if it has users of its own.
    users: Option<u32>,
    data_root: PathBuf,
    /// The container runtime's root.
    runtime_root: PathBuf,
    hostname: OsString,
}

fn run() -> io::Result<ExitCode> {
    let arguments = arguments()?;
    oci_native::seal_self_exe().map_err(io::Error::other)?;
    let descriptors = Descriptors::take()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let own_network = !arguments.host_network && arguments.users.is_none();
    init::enter_namespaces(&arguments.hostname, own_network, true)?;

    // <state root>/sandboxes/<id>/oci: pods share compiled seccomp filters.
    let mut above = arguments.runtime_root.ancestors().skip(1);
    let (Some(sandbox), Some(state_root)) = (above.next(), above.nth(1)) else {
        return Err(io::Error::other("the runtime's root is no sandbox's"));
    };
    if let Some(first) = arguments.users {
        users::enter(sandbox, &arguments.data_root, first, &arguments.hostname)?;
        magik_sys::raise_loopback()
            .map_err(|e| io::Error::new(e.kind(), format!("bring loopback up: {e}")))?;
    }
    let shared_processes = arguments.shared_processes.then(|| shared_processes(sandbox));
    let filters = state_root.join("filters");
    let runtime = NativeRuntime::builder(arguments.runtime_root)
        .filters(filters)
        .cgroup_root(Hierarchies::container_path(&arguments.pod_id, ""))
        .reap_orphans(true)
        .new_keyrings(true)
        .build();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio.block_on(async {
        let state = StateDir::new(descriptors.state);
        let control = state.bind_control()?;
        let options = InitOptions {
            runtime_class: "native".into(),
            ..InitOptions::default()
        };
        descriptors.launch.set_nonblocking(true)?;
        let launch = tokio::net::UnixStream::from_std(descriptors.launch)?;
        PodInit::new(Arc::new(runtime), state, options)
            .publish(descriptors.listeners)
            .shared_processes(shared_processes)
            .extension(Box::new(super::trim::Trim))
            .run(launch, control)
            .await
    })?;
    Ok(init::ended(&outcome, descriptors.lock))
}

/// The directory of the process namespace that the containers share.
pub(super) fn shared_processes(sandbox: &Path) -> PathBuf {
    sandbox.join("processes")
}

fn arguments() -> io::Result<Arguments> {
    let wrong = || io::Error::other("pod-init is started by magikrun itself, not by hand");
    let all: Vec<OsString> = std::env::args_os().collect();
    let [_, init, id, network, processes, users, data, root, hostname] = all.as_slice() else {
        return Err(wrong());
    };
    if init != POD_INIT || !rustix::process::getpid().is_init() {
        return Err(wrong());
    }
    let pod_id = id.to_str().filter(|id| is_id(id)).ok_or_else(wrong)?.to_owned();
    Ok(Arguments {
        pod_id,
        host_network: network == HOST_NETWORK,
        shared_processes: processes == SHARED_PROCESSES,
        users: match users.to_str() {
            Some(USERS_OF_HOST) => None,
            Some(first) => Some(first.parse().map_err(|_| wrong())?),
            None => return Err(wrong()),
        },
        data_root: data.into(),
        runtime_root: root.into(),
        hostname: hostname.clone(),
    })
}
