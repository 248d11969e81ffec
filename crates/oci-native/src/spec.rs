//! The bundle's runtime spec: read and checked.

use std::{
    fmt::Display,
    fs,
    io::Read,
    path::{Component, Path, PathBuf},
};

use libcontainer::validator::Validator;
use magik_oci::{ContainerId, Error, Result};
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimit, Process, Spec};

use crate::{
    cgroup::{self, PathError},
    container::propagation,
    proc_mounts,
};

/// The largest `config.json` that is read, in bytes.
const MAX_SPEC_SIZE: u64 = 4 << 20;

/// Reads `config.json` of a directory.
pub(crate) fn load(bundle: &Path) -> Result<Spec> {
    let bad = |e: &dyn Display| Error::invalid_bundle(bundle, format!("config.json: {e}"));
    let file = fs::File::open(bundle.join("config.json")).map_err(|e| bad(&e))?;
    let mut bytes = Vec::new();
    file.take(MAX_SPEC_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| bad(&e))?;
    if bytes.len() as u64 > MAX_SPEC_SIZE {
        return Err(bad(&format!("has more than {MAX_SPEC_SIZE} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|e| bad(&e))
}

/// Adds variables and mounts to a spec.
pub(crate) fn add(spec: &mut Spec, env: &[String], mounts: &[Mount]) {
    if let (Some(process), false) = (spec.process_mut(), env.is_empty()) {
        let mut all = process.env().clone().unwrap_or_default();
        all.extend_from_slice(env);
        process.set_env(Some(all));
    }
    if !mounts.is_empty() {
        let mut all = spec.mounts().clone().unwrap_or_default();
        all.extend_from_slice(mounts);
        spec.set_mounts(Some(all));
    }
}

/// A spec that was checked.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// With an absolute `root.path`, and the cgroup that is meant.
    pub(crate) spec: Spec,
    /// Absolute and canonical, as recorded and removed.
    pub(crate) cgroup: PathBuf,
}

fn doubled<T: PartialEq>(mut all: impl Iterator<Item = T> + Clone) -> bool {
    let mut rest = all.clone();
    all.any(|one| {
        rest.next();
        rest.clone().any(|other| other == one)
    })
}

/// Checks a bundle's spec. `cgroup_root`: default cgroup's parent; `own`: this process's cgroups.
pub(crate) fn prepare(
    id: &ContainerId,
    bundle: &Path,
    mut spec: Spec,
    cgroup_root: &Path,
    own: &[PathBuf],
) -> Result<Prepared> {
    let bad = |reason: &str| Error::invalid_bundle(bundle, reason);
    if !spec.version().starts_with("1.") {
        return Err(bad("ociVersion: only 1.x is supported"));
    }
    let process = spec.process().as_ref().ok_or_else(|| bad("process: missing"))?;
    if process
        .args()
        .as_ref()
        .and_then(|a| a.first())
        .is_none_or(String::is_empty)
    {
        return Err(bad("process.args: names no program"));
    }
    if !process.cwd().is_absolute() {
        return Err(bad("process.cwd: must be an absolute path"));
    }
    let root = spec.root().as_ref().ok_or_else(|| bad("root: missing"))?;
    let rootfs = bundle.join(root.path());
    if !rootfs.is_dir() {
        return Err(bad("root.path: is no directory"));
    }
    let linux = spec.linux().as_ref().ok_or_else(|| bad("linux: missing"))?;
    let on_root = |mount: &Mount| {
        !mount
            .destination()
            .components()
            .any(|c| matches!(c, Component::Normal(_)))
    };
    if let Some(index) = spec.mounts().iter().flatten().position(on_root) {
        return Err(bad(&format!("mounts[{index}].destination: is the root itself")));
    }

    // The runtime-spec demands an error for both.
    if doubled(linux.namespaces().iter().flatten().map(LinuxNamespace::typ)) {
        return Err(bad("linux.namespaces: has one type twice"));
    }
    if doubled(process.rlimits().iter().flatten().map(PosixRlimit::typ)) {
        return Err(bad("process.rlimits: has one type twice"));
    }

    if let Some(asked) = linux.rootfs_propagation().as_deref().filter(|p| !p.is_empty())
        && propagation(asked).is_none()
    {
        return Err(bad(&format!("linux.rootfsPropagation: {asked:?} is none")));
    }
    let mut namespaces = linux.namespaces().iter().flatten();
    if namespaces.any(|n| n.typ() == LinuxNamespaceType::Mount && n.path().is_some()) {
        // What is looked up there, hooks and all, would be another container's.
        return Err(bad("linux.namespaces: a mount namespace cannot be joined"));
    }
    if linux.intel_rdt().is_some() {
        return Err(bad("linux.intelRdt: is not supported"));
    }
    Validator::validate_spec(&spec).map_err(|e| bad(&e.to_string()))?;

    let given = linux.cgroups_path().clone();
    let asked = given.unwrap_or_else(|| cgroup_root.join(id));
    let cgroup = cgroup::check_path(&asked, own).map_err(|e| cgroup_refused(bundle, &asked, &e))?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_cgroups_path(Some(cgroup.clone()));
    }
    if let Some(root) = spec.root_mut() {
        root.set_path(rootfs);
    }
    if let Some(destination) = proc_mounts::forbidden(&spec) {
        return Err(bad(&format!(
            "mounts: {} may not cover the container's /proc",
            destination.display()
        )));
    }
    Ok(Prepared { spec, cgroup })
}

pub(crate) fn cgroup_refused(bundle: &Path, path: &Path, why: &PathError) -> Error {
    Error::invalid_bundle(
        bundle,
        format!("linux.cgroupsPath {:?} {why}", path.display().to_string()),
    )
}

/// Takes what an exec'd process does not say from the container's own process, as runc does: exec
/// keeps the whole sandbox.
pub(crate) fn inherit(process: &Process, container: &Process) -> Process {
    let mut process = process.clone();
    if process.capabilities().is_none() {
        process.set_capabilities(container.capabilities().clone());
    }
    if process.rlimits().as_ref().is_none_or(Vec::is_empty) {
        process.set_rlimits(container.rlimits().clone());
    }
    if process.no_new_privileges().is_none() {
        process.set_no_new_privileges(container.no_new_privileges());
    }
    if process.apparmor_profile().as_ref().is_none_or(String::is_empty) {
        process.set_apparmor_profile(container.apparmor_profile().clone());
    }
    if process.selinux_label().as_ref().is_none_or(String::is_empty) {
        process.set_selinux_label(container.selinux_label().clone());
    }
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(container.oom_score_adj());
    }
    if process.io_priority().is_none() {
        process.set_io_priority(*container.io_priority());
    }
    if process.scheduler().is_none() {
        process.set_scheduler(container.scheduler().clone());
    }
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd("/".into());
    }
    process
}
