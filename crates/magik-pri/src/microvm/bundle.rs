//! The bundle of a container in a guest: a native one, but for where its hostPath volumes come from.

use magik_image::bundle::ContainerSettings;
use magik_infra::{guest::PROCESSES, plan::ContainerPlan};
use magik_vm::layers;

use super::machine;
use crate::{
    ContainerSpec,
    pods::{ContainerImage, Failure, PodFiles, linux_bundle},
};

pub(super) fn write(
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    image: &ContainerImage,
) -> Result<ContainerPlan, Failure> {
    let shares = machine::shares(pod.spec);
    let in_guest = |settings: ContainerSettings| {
        let mut settings = settings;
        settings.host_security_modules = false;
        settings.process_namespace = linux_bundle::processes(pod, PROCESSES.as_ref(), container);
        for mount in &mut settings.mounts {
            if let Some(share) = shares.iter().find(|share| share.host_path == mount.source) {
                mount.source = share.in_guest();
            }
        }
        settings
    };
    // The layers of those that it begins with are its supervisor's to show it.
    let added = pod.added(&container.name);
    let layers = added.map(|name| vec![layers::in_guest(&name)]);
    let rootfs = linux_bundle::overlay(pod, container, layers.unwrap_or_else(|| image.layers.clone()))?;
    linux_bundle::write(pod, container, image, rootfs, in_guest)
}
