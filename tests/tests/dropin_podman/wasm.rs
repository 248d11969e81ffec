//! WebAssembly programs, which podman asks for by an annotation. runc has nothing like it, nor has Debian's crun.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};
use magikrun_test_images::tool_wasm;
use magikrun_tests::dropin::{Check, Client, eventually};

use crate::support::{Sleeper, contains, equal};

/// crun's annotation.
const WASM: &str = "--annotation run.oci.handler=wasm";
/// An image's own.
const SMART: &str = "--annotation module.wasm.image/variant=compat-smart";

/// Gives podman an ordinary image whose entrypoint is a module.
pub(crate) fn import(podman: &Client) -> Result<()> {
    let root = podman.dir.join("wasm-root");
    for dir in ["etc", "data"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(tool_wasm()?, root.join("tool.wasm"))?;
    fs::write(root.join("etc/text"), "from image\n")?;
    let tar = podman.dir.join("wasm.tar");
    let status = Command::new("tar")
        .arg("-C")
        .args([&root, Path::new("-cf"), &tar, Path::new(".")])
        .status()?;
    ensure!(status.success(), "tar: {status}");
    let change = "--change 'ENTRYPOINT [\"/tool.wasm\"]' --change ENV=FROM=image";
    podman
        .ok(&format!("import {change} {} localhost/wasm", tar.display()))
        .map(drop)
}

/// A program that sleeps, and has said so.
fn sleeper(podman: &Client) -> Result<Sleeper<'_>> {
    let sleeper = Sleeper::of(podman, &format!("{WASM} wasm sleep 100"))?;
    eventually("its output", || {
        sleeper.ok("logs", "").is_ok_and(|o| o.contains("sleeping"))
    })?;
    Ok(sleeper)
}

pub(crate) const CHECKS: &[Check<Client>] = &[
    ("wasm: arguments, environment, output, exit code", |p| {
        let out = p.ok(&format!("run --rm -e GIVEN=here {WASM} wasm hello 'x y'"))?;
        for part in [
            "arg /tool.wasm\n",
            "arg x y\n",
            "env FROM=image\n",
            "env GIVEN=here\n",
        ] {
            contains(&out, part)?;
        }
        p.exits(&format!("run --rm {WASM} wasm exit 7"), 7).map(drop)
    }),
    ("wasm: files, volumes, a read-only root", |p| {
        equal(
            &p.ok(&format!("run --rm --read-only {WASM} wasm read /etc/text"))?,
            "from image",
        )?;
        p.exits(&format!("run --rm --read-only {WASM} wasm write /etc/new x"), 1)?;
        let dir = p.directory()?;
        p.ok(&format!(
            "run --rm -v {dir}:/data {WASM} wasm write /data/file written"
        ))?;
        equal(
            &p.ok(&format!("run --rm -v {dir}:/data:ro {WASM} wasm read /data/file"))?,
            "written",
        )?;
        p.exits(
            &format!("run --rm -v {dir}:/data:ro {WASM} wasm write /data/file x"),
            1,
        )
        .map(drop)
    }),
    ("wasm: another user, no capabilities, no new privileges", |p| {
        for options in [
            "--user 33:34",
            "--cap-drop all",
            "--security-opt no-new-privileges",
        ] {
            let out = p.ok(&format!("run --rm {options} {WASM} wasm read /etc/text"));
            equal(&out.context(options)?, "from image")?;
        }
        Ok(())
    }),
    ("wasm: stop", |p| {
        let c = sleeper(p)?;
        c.ok("stop", "")?;
        equal(&c.inspect("State.ExitCode")?, "143")
    }),
    ("wasm: kill, exec, pause", |p| {
        let c = sleeper(p)?;
        ensure!(c.ok("exec", "sh").is_err(), "there is no shell");
        c.ok("pause", "")?;
        equal(&c.inspect("State.Status")?, "paused")?;
        c.ok("unpause", "")?;
        c.ok("kill", "")?;
        equal(&c.ok("wait", "")?, "137")
    }),
    ("wasm: a limit on memory", |p| {
        let fuel = "--annotation magikrun.dev/wasm.fuel=off";
        p.exits(&format!("run --rm --memory 64m {WASM} {fuel} wasm hog"), 137)
            .map(drop)
    }),
    ("wasm: variant compat-smart runs modules and others", |p| {
        equal(
            &p.ok(&format!("run --rm {SMART} wasm read /etc/text"))?,
            "from image",
        )?;
        equal(&p.ok(&format!("run --rm {SMART} box echo native"))?, "native")
    }),
    ("wasm: a program that is none", |p| {
        p.run(&format!("run --rm {WASM} box sh"))?
            .failed()?
            .complains("precompiled")
            .map(drop)
    }),
];
