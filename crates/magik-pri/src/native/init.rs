//! What runs as PID 1 of a native pod.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use magik_infra::{ExtensionRegistry, InitOptions, PodInit};
use magik_sys::mount::{attach, clone_tree, look_at_dir};
use oci_native::NativeRuntime;
use rustix::fs::CWD;
use serde::{Deserialize, Serialize};

use super::users;
use crate::pods::{
    Hierarchies,
    init::{self, Init},
    volumes::shared_with_host,
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
    /// Directories of the host that mounts of containers go to, by volume.
    #[serde(default)]
    pub(super) shared: Vec<(String, PathBuf)>,
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
    let shared = open_shared(&told.shared)?;
    init::enter_namespaces(&config.hostname, own_network, true)?;
    attach_shared(&sandbox, shared)?;
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
        .own_domains(told.host_processes)
        .build();
    // Among the host's processes nothing ends with this one. What is left ends before the pod's status says that it is
    // over, and of a pod that did not start, after all.
    let kill_rest = {
        let (id, host_processes) = (config.id.clone(), told.host_processes);
        move || match host_processes {
            true => Hierarchies::detect()?.kill_containers(&id),
            false => Ok(()),
        }
    };
    let before_status = kill_rest.clone();
    let ended = init::serve(descriptors, async |serving| {
        PodInit::new(Arc::new(runtime), serving.state, InitOptions::default())
            .registry(extensions)
            .publish(serving.listeners)
            .shared_processes(shared_processes)
            .when_ready(super::trim::trim)
            .when_over(move || {
                if let Err(error) = before_status() {
                    tracing::warn!(%error, "cannot end all processes of the pod");
                }
            })
            .run(serving.launch, serving.control)
            .await
    });
    kill_rest()?;
    ended
}

/// Opens what stays the host's, before this process's mounts are its own.
fn open_shared(directories: &[(String, PathBuf)]) -> io::Result<Vec<(&str, OwnedFd)>> {
    let opened = directories.iter().map(|(volume, path)| {
        let opened = clone_tree(CWD, path).map_err(|e| of_volume(volume, &e));
        Ok((volume.as_str(), opened?))
    });
    opened.collect()
}

/// Mounts it where the bundles of containers name it.
fn attach_shared(sandbox: &Path, opened: Vec<(&str, OwnedFd)>) -> io::Result<()> {
    for (volume, tree) in opened {
        let place = shared_with_host(sandbox, volume);
        let mount = || {
            std::fs::create_dir_all(&place)?;
            attach(&tree, look_at_dir(&place)?)
        };
        mount().map_err(|e| of_volume(volume, &e))?;
    }
    Ok(())
}

fn of_volume(volume: &str, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("volume {volume}: {e}"))
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
