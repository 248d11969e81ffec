//! Debian's containerd with its CRI plugin and magikrun as the runtime of a RuntimeClass: what a kubelet does to a node.
//!
//! Debian 12 has neither kubelet nor `crictl`, so the calls are made by a client of this test's own.
#![cfg(target_os = "linux")]

mod containers;
mod node;
mod pods;
mod resources;
mod restart;
mod security;
mod streams;

use magikrun_test_world::mount_tmpfs;
use magikrun_tests::dropin::{Stage, on_stage, run_checks};

const PROGRAMS: [&str; 5] = ["containerd", "ctr", "unshare", "busybox", "/usr/lib/cni/bridge"];

#[test]
fn cri_runs_on_it() {
    on_stage("cri_runs_on_it", &PROGRAMS, all_checks);
}

fn all_checks(stage: &Stage) {
    // libcni keeps results there, whatever it is told.
    mount_tmpfs(std::path::Path::new("/var/lib/cni"), 1 << 24).expect("mount");
    let node = node::Node::start(stage).expect("a node");
    let checks = [
        pods::CHECKS,
        containers::CHECKS,
        streams::CHECKS,
        security::CHECKS,
        resources::CHECKS,
    ]
    .concat();
    run_checks("cri", &node, 2, &checks);
    // Alone, because everybody else needs the daemon.
    run_checks("cri", &node, 1, restart::CHECKS);
}
