//! Pods with volumes, and what is seen in them.

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, pod};
use serde_json::Value;

pub(crate) const FOREVER: &str = "trap exit TERM; sleep 1000 & wait";

/// A pod of one container `c` that sleeps, with these volumes and mounts.
pub(crate) fn sleeping(name: &str, volumes: Value, mounts: Value) -> Value {
    let mut pod = pod(name, &[container("c", BUSYBOX, FOREVER)]);
    pod["spec"]["volumes"] = volumes;
    pod["spec"]["containers"][0]["volumeMounts"] = mounts;
    pod
}

/// Several documents in one text.
pub(crate) fn documents(all: &[Value]) -> String {
    all.iter().map(|document| format!("---\n{document}\n")).collect()
}

#[track_caller]
pub(crate) fn run(magikrun: &Magikrun, pod: &Value) -> String {
    let file = magikrun.manifest(pod.to_string());
    magikrun
        .ok(&["pod", "run", "-q", "--max-restart-delay", "1", "-f", &file])
        .trim()
        .to_owned()
}

/// Why a pod does not run; nothing of it is left.
#[track_caller]
pub(crate) fn fails(magikrun: &Magikrun, pod: &Value) -> String {
    let before = Census::take(&magikrun.roots());
    let file = magikrun.manifest(pod.to_string());
    let said = magikrun.error(&["pod", "run", "-q", "-f", &file]);
    before.assert_same("after a pod that did not start");
    said
}

/// What a script in a container of the pod writes.
#[track_caller]
pub(crate) fn inside(magikrun: &Magikrun, pod: &str, name: &str, script: &str) -> String {
    magikrun.ok(&["pod", "exec", "-c", name, pod, "--", "/bin/sh", "-c", script])
}

/// Whether a script in a container of the pod succeeds.
pub(crate) fn succeeds(magikrun: &Magikrun, pod: &str, name: &str, script: &str) -> bool {
    let out = magikrun.run(&["pod", "exec", "-c", name, pod, "--", "/bin/sh", "-c", script]);
    out.code == 0
}

pub(crate) fn delete(magikrun: &Magikrun, pod: &str) {
    magikrun.ok(&["pod", "delete", "--force", pod]);
}
