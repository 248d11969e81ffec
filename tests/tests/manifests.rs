//! The manifests of `tests/manifests`, natively and as WebAssembly: what each says is so inside of
//! its containers, or in its status.

use std::collections::BTreeSet;

use magik_pri::{FieldKind, RuntimeClass, pod_fields};
use magikrun_tests::{
    isolated,
    manifests::{directories, manifests, refuse_each, run_each},
};
use serde_json::Value;

/// A test for each directory, run as pods of a class.
macro_rules! directories {
    ($($name:ident: $class:ident),* $(,)?) => {
        const DIRECTORIES: &[&str] = &[$(stringify!($name)),*];
        $(isolated!(fn $name(scene) { run_each(scene, stringify!($name), RuntimeClass::$class); });)*
    };
}

directories! {
    ends: Native,
    env: Native,
    host: Native,
    identity: Native,
    life: Native,
    program: Native,
    resources: Native,
    volumes: Native,
    wasm: Wasm,
    workloads: Native,
}

#[test]
fn every_directory_has_a_test() {
    assert_eq!(directories(), DIRECTORIES);
}

isolated!(
    fn what_a_kind_of_pod_cannot_do_is_refused_by_name(scene) {
        refuse_each(scene, &directories());
    }
);

/// Honoured fields of which nothing is seen inside of a container, and where they are tested.
const ELSEWHERE: &[&str] = &[
    // tests/probes.rs has a server.
    "spec.containers[].probe.grpc",
    "spec.containers[].probe.grpc.mode",
    "spec.containers[].probe.grpc.port",
    "spec.containers[].probe.grpc.service",
    // tests/pod_attach.rs and tests/pod_resize.rs.
    "spec.containers[].resizePolicy",
    "spec.containers[].stdinOnce",
    // Few hosts have the profile, or such pages.
    "spec.containers[].securityContext.appArmorProfile.localhostProfile",
    "spec.containers[].resources.limits.hugepages-1Gi",
    "spec.containers[].resources.requests.hugepages-1Gi",
    "spec.containers[].securityContext.seLinuxOptions",
];

/// All fields that a value has, with their paths as `spec.containers[].image`.
fn fields(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                fields(value, &path, found);
                found.insert(alike(&path));
            }
        }
        Value::Array(list) => {
            for value in list {
                fields(value, &format!("{path}[]"), found);
            }
        }
        _ => {}
    }
}

/// Of fields that are alike, one is enough.
fn alike(path: &str) -> String {
    let mut path = path.replace("initContainers[]", "containers[]");
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        path = path.replace(probe, "probe");
    }
    path = path.replace("postStart", "hook").replace("preStop", "hook");
    for profile in ["appArmorProfile", "seccompProfile", "seLinuxOptions"] {
        let of_pod = format!("spec.securityContext.{profile}");
        path = path.replace(&of_pod, &format!("spec.containers[].securityContext.{profile}"));
    }
    path.replace(
        "projected.sources[].secret.items",
        "projected.sources[].configMap.items",
    )
}

#[test]
fn every_field_that_is_honoured_is_in_a_manifest_that_runs() {
    let mut found = BTreeSet::new();
    for manifest in directories().iter().flat_map(|directory| manifests(directory)) {
        if manifest.header.refused.is_empty() {
            for pod in manifest.pods() {
                fields(pod, "", &mut found);
            }
        }
    }
    let honoured = pod_fields().into_iter();
    let honoured = honoured.filter(|field| field.kind == Some(FieldKind::Honoured));
    let missing: BTreeSet<String> = honoured
        .map(|field| alike(&field.path))
        .filter(|path| !found.contains(path) && !ELSEWHERE.iter().any(|there| path.starts_with(there)))
        .collect();
    assert!(missing.is_empty(), "add a manifest with each of {missing:#?}");
}
