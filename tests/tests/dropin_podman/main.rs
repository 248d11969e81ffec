//! Debian's podman with magikrun as its runtime.
#![cfg(target_os = "linux")]

mod exec;
mod krun;
mod life;
mod mounts;
mod namespaces;
mod pods;
mod resources;
mod running;
mod security;
mod support;
mod wasm;

use std::{fs, path::Path};

use anyhow::Result;
use magikrun_test_world::mount_tmpfs;
use magikrun_tests::dropin::{Client, Stage, busybox_tar, documented, on_stage, run_checks};

const PROGRAMS: [&str; 5] = ["podman", "conmon", "unshare", "busybox", "catatonit"];

#[test]
fn podman_runs_on_it() {
    on_stage("podman_runs_on_it", &PROGRAMS, all_checks);
}

fn all_checks(stage: &Stage) {
    let path = |name: &str| stage.dir.join(name).display().to_string();
    // More open files than the machines here allow make podman's own default fail.
    let engine = documented("runtime_supports_json", &stage.runtime);
    let events = format!(
        "[engine]\nevents_logger = \"file\"\nevents_logfile_path = {:?}\n",
        path("events.log")
    );
    let conf = format!(
        "[containers]\ndefault_ulimits = [\"nofile=20000:20000\", \"nproc=32768:32768\"]\nnetns = \"none\"\nlog_driver = \"k8s-file\"\n{}",
        engine.replace("[engine]\n", &events),
    );
    fs::write(path("containers.conf"), conf).expect("containers.conf");
    let globals = [
        "--root",
        &path("root"),
        "--runroot",
        &path("runroot"),
        "--tmpdir",
        &path("tmp"),
        "--cgroup-manager",
        "cgroupfs",
        "--storage-driver",
        "overlay",
        "--hooks-dir",
        &path("hooks"),
    ]
    .map(str::to_owned);
    fs::create_dir(path("hooks")).expect("hooks");
    let environment = [
        ("CONTAINERS_CONF", path("containers.conf")),
        ("TMPDIR", path("")),
        ("MAGIKRUN_VM_DRIVER", "qemu-tcg".to_owned()),
    ];
    let podman = Client::new("podman", &globals, &environment, stage.dir.clone());
    write_hooks(&podman).expect("hooks");
    let tar = busybox_tar(&stage.dir).expect("image");
    let change = "--change ENV=PATH=/bin --change CMD=sh";
    podman
        .ok(&format!("import {change} {} localhost/box", tar.display()))
        .expect("import");
    // Where machine code is kept.
    mount_tmpfs(Path::new("/var/lib"), 1 << 30).expect("mount");
    wasm::import(&podman).expect("import");
    let ours = stage.runtime == magikrun_tests::binary();
    let checks = [
        if ours { wasm::CHECKS } else { &[] },
        if ours && magikrun_tests::has_machines(&podman.dir) {
            krun::CHECKS
        } else {
            &[]
        },
        running::CHECKS,
        namespaces::CHECKS,
        mounts::CHECKS,
        security::CHECKS,
        resources::CHECKS,
        exec::CHECKS,
        life::CHECKS,
        pods::CHECKS,
    ]
    .concat();
    run_checks("podman", &podman, 2, &checks);
}

/// Hooks of every kind that runs outside of the container, for containers with an annotation.
fn write_hooks(podman: &Client) -> Result<()> {
    let dir = podman.dir.display();
    for stage in ["prestart", "createRuntime", "poststart", "poststop"] {
        let script = format!("read state; echo \"$state\" >>{dir}/hook-{stage}");
        let hook = serde_json::json!({
            "version": "1.0.0", "stages": [stage], "when": {"annotations": {"^magikrun.test$": "^hooks$"}},
            "hook": {"path": "/bin/sh", "args": ["sh", "-c", script]},
        });
        fs::write(format!("{dir}/hooks/{stage}.json"), hook.to_string())?;
    }
    Ok(())
}
