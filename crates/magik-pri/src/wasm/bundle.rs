//! The bundle of a WebAssembly container.

use std::collections::BTreeSet;

use magik_image::bundle::UserSpec;
use magik_infra::plan::{ContainerPlan, MessageFile, RootfsPlan, UpperPlan};
use oci_wasm::annotations::LISTEN;

use super::{
    check::annotations_for,
    isolation::{Isolation, Kind},
};
use crate::{
    ContainerSpec, Protocol,
    pods::{ContainerImage, Failure, PodFiles},
};

pub(super) fn write(
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    image: &ContainerImage,
    isolation: &Isolation,
) -> Result<ContainerPlan, Failure> {
    let kind = isolation.kind();
    let bundle = pod.bundle(&container.name);
    let rw = pod.rw(&container.name);
    pod.make_dirs(&[(&bundle, 0o700), (&rw, 0o700)])?;
    let mut settings = pod.settings(container)?;
    let rootfs = if kind == Kind::Root {
        let (upper, work) = (rw.join("upper"), rw.join("work"));
        pod.make_dirs(&[(&bundle.join("rootfs"), 0o755), (&upper, 0o755), (&work, 0o700)])?;
        RootfsPlan::Overlay {
            lower: image.layers.clone(),
            upper: Some(UpperPlan { upper, work }),
        }
    } else {
        // An overlay in a user namespace is not for every kernel; modules are small.
        let path = rw.join("rootfs");
        pod.copy_image(&image.image, &path)?;
        settings.rootfs_path.clone_from(&path);
        RootfsPlan::Directory { path }
    };
    let root = match &rootfs {
        RootfsPlan::Overlay { .. } => bundle.join("rootfs"),
        RootfsPlan::Directory { path } => path.clone(),
    };
    // Who cannot write there can say nothing but in its log.
    let file = if container.security.read_only_root_filesystem {
        MessageFile::Nowhere
    } else {
        let path = container.termination_message.path.clone();
        MessageFile::InRoot { root, path }
    };
    let message = Some(pod.message(container, file));
    // There are no users: what image and pod say of them does not matter, and is not looked up.
    settings.user = Some(UserSpec::numeric(Some(0), Some(0)));
    settings.annotations = annotations_for(pod.spec, &container.name);
    settings
        .annotations
        .insert(LISTEN.to_owned(), listen(pod, container, kind));
    pod.write_bundle(container, &image.image, &settings)?;
    Ok(ContainerPlan {
        name: container.name.clone(),
        image: container.image.to_string(),
        image_id: Some(image.image.config_digest.to_string()),
        rootfs,
        log: pod.log(&container.name),
        attach: None,
        lifecycle: pod.lifecycle(container, &image.image),
        message,
        console: container.console,
        ephemeral: None,
        bundle,
    })
}

/// The container's ports. Where the pod has no network of its own and did not ask for the host's, nobody but this host
/// reaches them.
fn listen(pod: &PodFiles<'_>, container: &ContainerSpec, kind: Kind) -> String {
    let address = if kind == Kind::None && !pod.spec.host_network {
        "127.0.0.1:"
    } else {
        ""
    };
    let ports = container.ports.iter().map(|port| {
        let protocol = if port.protocol == Protocol::Udp {
            "udp"
        } else {
            "tcp"
        };
        format!("{protocol}:{address}{}", port.container_port)
    });
    // A port of the container may be several of the host's.
    let ports: BTreeSet<String> = ports.collect();
    ports.into_iter().collect::<Vec<_>>().join(",")
}
