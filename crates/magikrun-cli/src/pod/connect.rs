//! How a pod's images are had from registries.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use magik_image::{Reference, connect::ConnectOptions, pull::IMAGE_PULL_TIMEOUT};
use magik_pri::PodSpec;

use crate::{image::RegistryArgs, roots::GlobalArgs};

/// How registries are reached. Who writes a manifest may not choose which registry sees a password.
pub(super) async fn options(
    spec: &PodSpec,
    args: &RegistryArgs,
    global: &GlobalArgs,
) -> Result<ConnectOptions> {
    if args.has_credentials() {
        let images = spec.all_containers().filter_map(|c| c.image.reference());
        let registries: BTreeSet<&str> = images.map(Reference::registry).collect();
        if registries.len() > 1 {
            let registries: Vec<&str> = registries.into_iter().collect();
            bail!(
                "pod {}: --creds is for one registry, and its images are of several ({}): 'magikrun login' to each",
                spec.full_name(),
                registries.join(", ")
            );
        }
    }
    let mut connect = ConnectOptions::within(IMAGE_PULL_TIMEOUT);
    args.apply(&mut connect, global).await?;
    Ok(connect)
}
