//! `spec`: an example config.json to start from.

use std::{fs::OpenOptions, io::Write as _};

use anyhow::{Context as _, Result, bail};
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder,
    Spec,
};

use super::args::SpecArgs;

/// runc's example, so that what is written of `runc spec` holds here too.
const EXAMPLE: &str = include_str!("spec.json");

pub(super) fn run(args: &SpecArgs) -> Result<()> {
    let spec = if args.rootless {
        rootless(
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        )?
    } else {
        example()?
    };
    let path = args.bundle.join("config.json");
    let mut text = serde_json::to_string_pretty(&spec)?;
    text.push('\n');
    let mut file = match OpenOptions::new().write(true).create_new(true).open(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!(
                "{} exists: remove it first, or give another --bundle",
                path.display()
            )
        }
        other => other.with_context(|| path.display().to_string())?,
    };
    file.write_all(text.as_bytes())
        .with_context(|| path.display().to_string())
}

fn example() -> Result<Spec> {
    serde_json::from_str(EXAMPLE).context("the example config.json")
}

/// The example for a user without privileges: own ids mapped to root, no network or cgroup of its
/// own, and no mount that needs more ids than the one mapped.
fn rootless(uid: u32, gid: u32) -> Result<Spec> {
    let mut spec = example()?;
    let linux = spec
        .linux_mut()
        .as_mut()
        .context("the example config.json has no linux")?;
    linux.set_resources(None);
    linux
        .set_uid_mappings(Some(vec![to_root(uid)?]))
        .set_gid_mappings(Some(vec![to_root(gid)?]));
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    namespaces.retain(|ns| ns.typ() != LinuxNamespaceType::Network);
    namespaces.push(
        LinuxNamespaceBuilder::default()
            .typ(LinuxNamespaceType::User)
            .build()?,
    );
    linux.set_namespaces(Some(namespaces));

    let mounts = spec.mounts().clone().unwrap_or_default();
    let mounts = mounts
        .into_iter()
        .filter(|m| m.destination() != "/sys/fs/cgroup")
        .map(without_privilege);
    let mounts = mounts.collect::<Result<Vec<_>>>()?;
    spec.set_mounts(Some(mounts));
    Ok(spec)
}

fn to_root(id: u32) -> Result<LinuxIdMapping> {
    Ok(LinuxIdMappingBuilder::default()
        .host_id(id)
        .container_id(0u32)
        .size(1u32)
        .build()?)
}

/// sysfs needs an own network namespace; devpts cannot have a group that is not mapped.
fn without_privilege(mount: Mount) -> Result<Mount> {
    if mount.destination() == "/sys" {
        let options = ["rbind", "nosuid", "noexec", "nodev", "ro"]
            .map(String::from)
            .to_vec();
        return Ok(MountBuilder::default()
            .destination("/sys")
            .typ("none")
            .source("/sys")
            .options(options)
            .build()?);
    }
    let mut mount = mount;
    if let Some(options) = mount.options().clone() {
        mount.set_options(Some(
            options.into_iter().filter(|o| !o.starts_with("gid=")).collect(),
        ));
    }
    Ok(mount)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxNamespace;

    #[test]
    fn the_example_gives_no_capability_that_changes_the_host() {
        let spec = example().unwrap();
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["sh"]);
        assert_eq!(process.no_new_privileges(), Some(true));
        assert_eq!(
            process
                .capabilities()
                .as_ref()
                .unwrap()
                .bounding()
                .as_ref()
                .unwrap()
                .len(),
            3
        );
    }

    #[test]
    fn rootless_maps_the_caller_and_needs_no_other_id() {
        let spec = rootless(1000, 100).unwrap();
        let linux = spec.linux().as_ref().unwrap();
        assert_eq!(linux.uid_mappings().as_ref().unwrap()[0].host_id(), 1000);
        assert_eq!(linux.gid_mappings().as_ref().unwrap()[0].host_id(), 100);
        let types: Vec<_> = linux
            .namespaces()
            .as_ref()
            .unwrap()
            .iter()
            .map(LinuxNamespace::typ)
            .collect();
        assert!(types.contains(&LinuxNamespaceType::User) && !types.contains(&LinuxNamespaceType::Network));
        for mount in spec.mounts().as_ref().unwrap() {
            assert_ne!(mount.destination().to_str(), Some("/sys/fs/cgroup"));
            assert!(
                !mount.options().iter().flatten().any(|o| o.starts_with("gid=")),
                "{mount:?}"
            );
        }
    }
}
