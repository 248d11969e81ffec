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
    /// Whether its processes are among the host's, and this init, too.
    #[serde(default)]
    pub(super) host_processes: bool,
    /// What is set in the pod's own network and IPC namespaces.
    #[serde(default)]
    pub(super) sysctls: Vec<(String, String)>,
    /// The host's id of the pod's root, if it has users of its own.
    pub(super) users: Option<u32>,
}

pub(crate) fn run(sandbox: PathBuf, extensions: ExtensionRegistry) -> io::Result<ExitCode> {
    oci_native::seal_self_exe().map_err(io::Error::other)?;
    let Init {
        config,
        sandbox,
        descriptors,
    } = Init::<Told>::begin(sandbox, |told| !told.host_processes)?;
    let told = config.backend;
    if told.host_processes {
        live_among_the_hosts()?;
    }
    let own_network = !config.host_network && told.users.is_none();
    init::enter_namespaces(&config.hostname, own_network, true)?;
    if let Some(first) = told.users {
        users::enter(&sandbox, &config.data, first, config.hostname.as_ref())?;
        magik_sys::raise_loopback()
            .map_err(|e| io::Error::new(e.kind(), format!("bring loopback up: {e}")))?;
    }
    set_sysctls(&told.sysctls, told.users)?;
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
    let ended = init::serve(descriptors, async |serving| {
        PodInit::new(Arc::new(runtime), serving.state, InitOptions::default())
            .registry(extensions)
            .publish(serving.listeners)
            .shared_processes(shared_processes)
            .when_ready(super::trim::trim)
            .run(serving.launch, serving.control)
            .await
    });
    if told.host_processes {
        Hierarchies::detect()?.kill_containers(&config.id)?;
    }
    ended
}

/// Sets the pod's sysctls, in the namespaces that its containers will have. Those of an IPC namespace
/// are for the user who is root in it.
fn set_sysctls(sysctls: &[(String, String)], root: Option<u32>) -> io::Result<()> {
    use rustix::{
        fs::Uid,
        process::{DumpableBehavior, set_dumpable_behavior},
        thread::set_thread_res_uid,
    };
    let become_user = |uid| set_thread_res_uid(None::<Uid>, uid, None::<Uid>);
    for (name, value) in sysctls {
        let set = || magik_sys::sysctl::set(&magik_sys::sysctl::path(name), value);
        let done = match root.filter(|_| !name.starts_with("net.")) {
            None => set(),
            Some(root) => {
                become_user(Uid::from_raw(root))?;
                let done = set();
                become_user(Uid::ROOT)?;
                set_dumpable_behavior(DumpableBehavior::Dumpable)?;
                done
            }
        };
        done.map_err(|e| io::Error::new(e.kind(), format!("sysctl {name}: {e}")))?;
    }
    Ok(())
}

/// Among the host's processes nothing ends with this one but what it holds, and its containers see
/// it. What they leave behind comes to it all the same, and its memory, root and descriptors are
/// only for who may trace any process: it has capabilities that a container lacks, which the kernel
/// takes for a reason already, and is not dumpable.
fn live_among_the_hosts() -> io::Result<()> {
    use rustix::process::{DumpableBehavior, set_child_subreaper, set_dumpable_behavior};
    set_child_subreaper(Some(rustix::process::getpid()))?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// The directory of the process namespace that the containers share.
pub(super) fn shared_processes(sandbox: &Path) -> PathBuf {
    sandbox.join("processes")
}
