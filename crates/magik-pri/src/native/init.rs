//! What runs as PID 1 of a native pod.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use magik_infra::{ExtensionRegistry, InitOptions, PodInit};
use oci_native::NativeRuntime;
use serde::{Deserialize, Serialize};

use super::users;
use crate::pods::{
    Hierarchies,
    init::{self, Init},
};

/// What a native pod's init is told besides.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    /// Whether its containers share a process namespace.
    pub(super) shared_processes: bool,
    /// The host's id of the pod's root, if it has users of its own.
    pub(super) users: Option<u32>,
}

pub(crate) fn run(sandbox: PathBuf, extensions: ExtensionRegistry) -> io::Result<ExitCode> {
    oci_native::seal_self_exe().map_err(io::Error::other)?;
    let Init {
        config,
        sandbox,
        descriptors,
    } = Init::<Told>::begin(sandbox, |_| true)?;
    let told = config.backend;
    let own_network = !config.host_network && told.users.is_none();
    init::enter_namespaces(&config.hostname, own_network, true)?;
    if let Some(first) = told.users {
        users::enter(&sandbox, &config.data, first, config.hostname.as_ref())?;
        magik_sys::raise_loopback()
            .map_err(|e| io::Error::new(e.kind(), format!("bring loopback up: {e}")))?;
    }
    // <state root>/sandboxes/<id>: pods share compiled seccomp filters.
    let Some(state_root) = sandbox.ancestors().nth(2) else {
        return Err(io::Error::other("the sandbox is below no state root"));
    };
    let shared_processes = told.shared_processes.then(|| shared_processes(&sandbox));
    let runtime = NativeRuntime::builder(sandbox.join("oci"))
        .filters(state_root.join("filters"))
        .cgroup_root(Hierarchies::container_path(&config.id, ""))
        .reap_orphans(true)
        .new_keyrings(true)
        .build();
    init::serve(descriptors, async |serving| {
        PodInit::new(Arc::new(runtime), serving.state, InitOptions::default())
            .registry(extensions)
            .publish(serving.listeners)
            .shared_processes(shared_processes)
            .when_ready(super::trim::trim)
            .run(serving.launch, serving.control)
            .await
    })
}

/// The directory of the process namespace that the containers share.
pub(super) fn shared_processes(sandbox: &Path) -> PathBuf {
    sandbox.join("processes")
}
