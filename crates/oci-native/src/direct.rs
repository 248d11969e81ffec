//! What is done here rather than by libcontainer, where that is safe: cgroup, limits, most mounts, masked paths.
//!
//! libcontainer 0.7 spends most of a container's creation on them. They are taken out of the spec it is given.

use std::{io, path::Path};

use oci_spec::runtime::{Hook, LinuxNamespaceType, Mount, MountBuilder, Spec};

use crate::{
    cgroup::{Layout, MOUNT_ROOT},
    exec::home,
    masks::Masks,
    premounts::Premounts,
    spec::Prepared,
    worker::Placement,
};

/// Where the directories of a container's cgroup are gathered, in its own directory.
const CGROUPS: &str = "cgroups";

/// Whether a container can do without libcontainer's own way.
///
/// It needs mounts of its own. Hooks that run before its program must see it complete, and the host as it is, and so must
/// mounts of the host's cgroups. What is mounted in the container can only arrive on the host if the host's own mount is
/// bound: the worker's are slaves of those. In a user namespace mounts made from outside belong to somebody else, and whoever is root
/// in one only may not mount cgroups.
pub(crate) fn can_take(spec: &Spec, layout: &Layout) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let has = |kind, path: bool| {
        let mut namespaces = linux.namespaces().iter().flatten();
        namespaces.any(|n| n.typ() == kind && n.path().is_some() == path)
    };
    let none = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_none_or(Vec::is_empty);
    #[allow(deprecated, reason = "containers that still use it are still served")]
    let no_hooks = spec
        .hooks()
        .as_ref()
        .is_none_or(|h| none(h.prestart()) && none(h.create_runtime()) && none(h.create_container()));
    no_hooks
        && has(LinuxNamespaceType::Mount, false)
        && !has(LinuxNamespaceType::User, false)
        && !has(LinuxNamespaceType::User, true)
        && linux.mount_label().is_none()
        && !is_shared(spec)
        && (matches!(layout, Layout::V2(_)) || !shows_cgroups(spec))
        && in_first_user_namespace()
}

/// Says where the user is at home: libcontainer would ask getpwuid(3) from inside the container, with the container's
/// libraries. A passwd that is mounted over the image's is left to it.
fn add_home(spec: &mut Spec) {
    let mut mounts = spec.mounts().iter().flatten();
    if mounts.any(|m| Path::new("/etc/passwd").starts_with(m.destination())) {
        return;
    }
    let Some(root) = spec.root().as_ref().map(|r| r.path().clone()) else {
        return;
    };
    if let Some(process) = spec.process_mut() {
        let mut environment = process.env().clone().unwrap_or_default();
        home::add(&mut environment, process.user().uid(), &root);
        process.set_env(Some(environment));
    }
}

/// Whether what is mounted in the container is to arrive on the host.
fn is_shared(spec: &Spec) -> bool {
    let shared = |option: &String| option == "shared" || option == "rshared";
    let mut options = spec
        .mounts()
        .iter()
        .flatten()
        .flat_map(|mount| mount.options().iter().flatten());
    let root = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_ref());
    options.any(shared) || root.is_some_and(shared)
}

/// Whether a mount shows something of the host's own cgroups: the worker hides them from libcontainer.
fn shows_cgroups(spec: &Spec) -> bool {
    let root = Path::new(MOUNT_ROOT);
    spec.mounts().iter().flatten().any(|mount| {
        let bind = mount.typ().as_deref() == Some("bind")
            || mount
                .options()
                .iter()
                .flatten()
                .any(|o| o == "bind" || o == "rbind");
        let source = mount.source().as_ref().filter(|_| bind);
        source
            .and_then(|s| s.canonicalize().ok())
            .is_some_and(|s| s.starts_with(root) || root.starts_with(&s))
    })
}

/// Where all ids there are are mapped to themselves.
pub(crate) fn in_first_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// Takes it all out of a spec that [`can_take`] allows, and tells the worker; `dir` is the container's directory. The limits
/// are to be set once the container is there, so that nothing that makes it is held back by them.
pub(crate) fn take(prepared: &mut Prepared, layout: &Layout, dir: &Path) -> io::Result<Placement> {
    let spec = &mut prepared.spec;
    let mut placement = Placement::new(layout, &prepared.cgroup);
    let is_cgroup = |mount: &Mount| mount.typ().as_deref() == Some("cgroup");
    let mounts = spec.mounts().clone().unwrap_or_default();
    if matches!(layout, Layout::V1(_)) && mounts.iter().any(is_cgroup) {
        let gathered = dir.join(CGROUPS);
        placement.gather(gathered.clone())?;
        let bind = |destination: &Path| {
            MountBuilder::default()
                .destination(destination)
                .typ("bind")
                .source(&gathered)
                .options(["rbind", "nosuid", "nodev", "noexec"].map(str::to_owned))
                .build()
                .map_err(io::Error::other)
        };
        let replaced = mounts.into_iter().map(|mount| {
            if is_cgroup(&mount) {
                bind(mount.destination())
            } else {
                Ok(mount)
            }
        });
        spec.set_mounts(Some(replaced.collect::<io::Result<_>>()?));
    }
    placement.premounts = Premounts::take(spec, &prepared.surroundings);
    add_home(spec);
    if let Some(linux) = spec.linux_mut() {
        prepared.surroundings.masks = Masks::take(linux);
        linux.set_resources(None);
        linux.set_cgroups_path(Some(placement.make_decoy(dir)?));
    }
    prepared.adapted = true;
    Ok(placement)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(linux: &serde_json::Value, hooks: &serde_json::Value) -> Spec {
        serde_json::from_value(serde_json::json!({
            "ociVersion": "1.0.2", "root": {"path": "/r"}, "linux": linux, "hooks": hooks,
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc"},
                {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn leaves_to_libcontainer_what_cannot_be_done_from_outside() {
        let none = serde_json::json!({});
        let own = serde_json::json!({"namespaces": [{"type": "mount"}]});
        let v1 = Layout::V1(Vec::new());
        let can_take = |spec: &Spec| can_take(spec, &v1);
        assert_eq!(can_take(&spec(&own, &none)), in_first_user_namespace());
        let hook = serde_json::json!([{"path": "/bin/true"}]);
        assert!(can_take(&spec(&own, &serde_json::json!({"poststop": hook}))) == in_first_user_namespace());
        for hooks in ["prestart", "createRuntime", "createContainer"] {
            assert!(
                !can_take(&spec(&own, &serde_json::json!({hooks: hook}))),
                "{hooks}"
            );
        }
        for namespaces in [
            serde_json::json!([]),
            serde_json::json!([{"type": "mount", "path": "/proc/1/ns/mnt"}]),
            serde_json::json!([{"type": "mount"}, {"type": "user"}]),
        ] {
            let linux = serde_json::json!({"namespaces": namespaces});
            assert!(!can_take(&spec(&linux, &none)), "{linux}");
        }
        for (source, shown) in [
            ("/sys", true),
            ("/sys/fs/cgroup", true),
            ("/", true),
            ("/dev", false),
        ] {
            let mut spec = spec(&own, &none);
            let bind = MountBuilder::default()
                .typ("bind")
                .destination("/x")
                .source(source);
            spec.set_mounts(Some(vec![bind.build().unwrap()]));
            assert_eq!(shows_cgroups(&spec), shown, "{source}");
        }
    }

    #[test]
    fn libcontainer_finds_nothing_of_it() {
        let linux = serde_json::json!({
            "namespaces": [{"type": "mount"}], "cgroupsPath": "/a/b", "maskedPaths": ["/proc/keys"],
            "resources": {"pids": {"limit": 3}},
        });
        let dir = tempfile::tempdir().unwrap();
        let mut prepared = Prepared {
            spec: spec(&linux, &serde_json::json!({})),
            adapted: false,
            direct: true,
            cgroup: "/a/b".into(),
            surroundings: crate::surroundings::Surroundings::default(),
        };
        let layout = Layout::V1(Vec::new());
        take(&mut prepared, &layout, dir.path()).unwrap();
        assert!(prepared.adapted && !prepared.surroundings.masks.is_empty());
        let linux = prepared.spec.linux().as_ref().unwrap();
        assert!(linux.resources().is_none() && linux.masked_paths().is_none());
        assert_ne!(linux.cgroups_path().as_deref(), Some(Path::new("/a/b")));
        let mounts = prepared.spec.mounts().as_ref().unwrap();
        assert_eq!(
            mounts[1].source().as_deref(),
            Some(dir.path().join(CGROUPS).as_path())
        );
        assert_eq!(mounts[1].destination(), Path::new("/sys/fs/cgroup"));
    }
}
