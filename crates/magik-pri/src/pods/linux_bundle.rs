//! The bundle of a container that Linux namespaces isolate, on the host or in a guest.

use std::path::{Path, PathBuf};

use magik_image::bundle::{ContainerSettings, MountSetting, Namespaces, ProcessNamespace, UserSpec};
use magik_infra::{
    pause,
    plan::{ContainerPlan, MESSAGE_DIR, RootfsPlan, TARGET_PROCESSES, UpperPlan},
};

use super::{
    cgroup::Hierarchies,
    failure::Failure,
    files::{ContainerImage, PodFiles},
    security,
};
use crate::{ContainerSpec, Mount, MountPropagation, PodSpec, spec::facts};

/// Makes the directories of a container's writable layer over these layers, the uppermost first.
pub(crate) fn overlay(
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    lower: Vec<PathBuf>,
) -> Result<RootfsPlan, Failure> {
    let rw = pod.rw(&container.name);
    let (upper, work) = (rw.join("upper"), rw.join("work"));
    // The upper directory's mode is that of the container's `/`.
    pod.make_dirs(&[(&rw, 0o700), (&upper, 0o755), (&work, 0o700)])?;
    pod.give_to_root(&upper)?;
    let upper = Some(UpperPlan { upper, work });
    Ok(RootfsPlan::Overlay { lower, upper })
}

/// Writes it, with the settings as `adapt` returns them.
pub(crate) fn write(
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    image: &ContainerImage,
    rootfs: RootfsPlan,
    adapt: impl FnOnce(ContainerSettings) -> ContainerSettings,
) -> Result<ContainerPlan, Failure> {
    let bundle = pod.bundle(&container.name);
    let message = bundle.join(MESSAGE_DIR);
    pod.make_dirs(&[
        (&bundle, 0o700),
        (&bundle.join("rootfs"), 0o755),
        (&message, 0o700),
    ])?;
    let (file, message_mount) = pod.message_mount(container);
    let mut settings = adapt(settings(pod, container, image, message_mount)?);
    let ephemeral = pod.ephemeral().cloned();
    if ephemeral.is_some() {
        pod.make_target_processes(&bundle)?;
    }
    if let RootfsPlan::Directory { path } = &rootfs {
        settings.rootfs_path.clone_from(path);
    }
    pod.write_bundle(container, &image.image, &settings)?;
    Ok(ContainerPlan {
        name: container.name.clone(),
        image: container.image.to_string(),
        image_id: Some(image.image.config_digest.to_string()),
        rootfs,
        log: pod.log(&container.name),
        attach: None,
        lifecycle: pod.lifecycle(container, &image.image),
        message: Some(pod.message(container, file)),
        console: container.console,
        ephemeral,
        bundle,
    })
}

/// Whether a container can be added to a pod that runs.
pub(crate) fn check_added(
    pod: &PodSpec,
    container: &ContainerSpec,
    is_ephemeral: bool,
) -> Result<(), &'static str> {
    if pod.share_process_namespace && !is_ephemeral {
        return Err("the containers that share its process namespace are known from its start");
    }
    let propagates = |mount: &Mount| mount.propagation != MountPropagation::None;
    if container.mounts.iter().any(propagates) {
        return Err("the volumes in which mounts go from one container to another are known from its start");
    }
    if container.ports.iter().any(|port| port.host.is_some()) {
        return Err("the ports that the host listens for are known from the pod's start");
    }
    Ok(())
}

/// The process namespace that a pod's init makes in this directory, for a container.
fn process_namespace(dir: &Path, container: &ContainerSpec) -> ProcessNamespace {
    ProcessNamespace {
        path: pause::namespace(dir),
        procfs: Some(pause::procfs(dir, &container.name)),
    }
}

/// The process namespace that a container joins, of a pod whose init makes one in this directory if
/// its containers share it. An ephemeral one joins that, too, or its target's.
pub(crate) fn processes(
    pod: &PodFiles<'_>,
    shared: &Path,
    container: &ContainerSpec,
) -> Option<ProcessNamespace> {
    if pod.spec.host_pid {
        return None;
    }
    let Some(ephemeral) = pod.ephemeral() else {
        let shares = pod.spec.share_process_namespace;
        return shares.then(|| process_namespace(shared, container));
    };
    let path = if pod.spec.share_process_namespace {
        pause::namespace(shared)
    } else {
        ephemeral.target.as_ref()?;
        pod.bundle(&container.name).join(TARGET_PROCESSES)
    };
    Some(ProcessNamespace { path, procfs: None })
}

fn settings(
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    image: &ContainerImage,
    message: Option<MountSetting>,
) -> Result<ContainerSettings, Failure> {
    let security = &container.security;
    let mut own = pod.settings(container)?;
    let joins = pod.spec.share_process_namespace || pod.ephemeral().is_some_and(|own| own.target.is_some());
    own.mounts.extend(message);
    Ok(ContainerSettings {
        terminal: container.console.tty,
        user: security.run_as_user.map(|uid| UserSpec {
            user: Some(uid.to_string()),
            group: security.run_as_group.map(|gid| gid.to_string()),
        }),
        rootfs_layers: image.layers.clone(),
        namespaces: Namespaces {
            pid: !pod.spec.host_pid && !joins,
            ..Namespaces::IN_POD
        },
        oom_score_adj: Some(oom_score_adj(pod.spec, container)),
        cgroups_path: Some(Hierarchies::container_path(pod.id, &container.name)),
        ..security::settings(security, own).map_err(Failure::new)?
    })
}

/// What a kubelet gives it, and never less than the pod's init has, whose end would be the pod's.
fn oom_score_adj(pod: &PodSpec, container: &ContainerSpec) -> i32 {
    let memory = facts::host_memory();
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own = own.trim().parse().unwrap_or(0);
    pod.oom_score_adj(container, memory).max(own)
}
