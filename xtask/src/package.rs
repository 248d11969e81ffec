//! The crates as somebody gets them who has nothing else of this repository: from their packages.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use serde_json::{Value, json};
use xshell::{Shell, cmd};
use xtask::host;

/// What each package must hold beside its sources.
const COMPANIONS: &[&str] = &["README.md", "LICENSE"];
/// What a registry shows of a package, and finds it by.
const METADATA: &[&str] = &["description", "repository", "license", "keywords", "categories"];

/// Packs every crate that is to be published, unpacks them beside each other, and checks that they
/// build from that: a file of the repository that is in no package is missing there.
///
/// `cargo package` itself builds each package in a directory of its own, with all it depends on.
/// This shares what it depends on with the other steps.
pub(crate) fn builds_alone(sh: &Shell) -> Result<()> {
    let metadata = cmd!(
        sh,
        "cargo metadata --format-version 1 --no-deps --offline --locked"
    )
    .quiet()
    .read()?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages: Vec<&Value> = metadata["packages"]
        .as_array()
        .context("no packages")?
        .iter()
        .filter(|package| package["publish"].is_null())
        .collect();
    let mut selected = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        for field in METADATA {
            let empty = match &package[field] {
                Value::Null => true,
                Value::Array(all) => all.is_empty(),
                _ => false,
            };
            ensure!(!empty, "{name}: its Cargo.toml has no {field}");
        }
        selected.extend(["-p", name]);
    }
    cmd!(
        sh,
        "cargo package --quiet --offline --locked --no-verify --allow-dirty {selected...}"
    )
    .run()?;

    let target = host::target_dir(sh)?;
    let alone = target.join("package/alone");
    sh.remove_path(&alone)?;
    sh.create_dir(&alone)?;
    let mut members = String::new();
    let mut patches = String::new();
    for package in &packages {
        let (name, version) = (text(&package["name"]), text(&package["version"]));
        let directory = format!("{name}-{version}");
        let archive = target.join(format!("package/{directory}.crate"));
        // In packages all files are of the same old time, by which cargo would not see a change.
        cmd!(
            sh,
            "tar --extract --touch --gzip --file {archive} --directory {alone}"
        )
        .quiet()
        .run()?;
        for companion in COMPANIONS {
            let file = alone.join(&directory).join(companion);
            ensure!(file.is_file(), "{directory}: its package has no {companion}");
        }
        members += &format!("    \"{directory}\",\n");
        patches += &format!("{name} = {{ path = \"{directory}\" }}\n");
    }
    let ours = sh.read_file("Cargo.toml")?;
    let profile = section(&ours, "[profile.dev]")?;
    let manifest = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n[patch.crates-io]\n{patches}\n{profile}"
    );
    fs::write(alone.join("Cargo.toml"), manifest)?;
    // The same versions. It is not `--locked`, because the crates of the tests are not there.
    fs::copy(host::workspace().join("Cargo.lock"), alone.join("Cargo.lock"))?;
    let _there = sh.push_dir(&alone);
    cmd!(
        sh,
        "cargo check --quiet --offline --workspace --lib --bins --examples"
    )
    .env("CARGO_TARGET_DIR", &target)
    .run()?;
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The part of a manifest from this line to the first other profile, so that what is built with the
/// development profile is the same in both workspaces.
fn section<'a>(manifest: &'a str, from: &str) -> Result<&'a str> {
    let begin = manifest
        .find(from)
        .with_context(|| format!("Cargo.toml has no {from}"))?;
    let rest = &manifest[begin..];
    Ok(rest.find("[profile.release]").map_or(rest, |end| &rest[..end]))
}

/// A module with an empty `_start`, in the binary format (type, function, memory, exports, code).
const MODULE: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x04\x01\x60\0\0\
    \x03\x02\x01\0\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\0\
    \x0a\x04\x01\x02\0\x0b";

/// Builds the examples of the crates, which the tests have built already, and runs them.
pub(crate) fn examples(sh: &Shell) -> Result<()> {
    // The features of the tests, so that nothing is built twice.
    cmd!(
        sh,
        "cargo build --quiet --locked --workspace --examples --features magikrun-cli/test-hooks"
    )
    .run()?;
    let examples = Examples(host::target_dir(sh)?.join("debug/examples"));
    let directory = tempfile::tempdir()?;
    let path = |name: &str| directory.path().join(name);

    fs::write(path("file"), "hello")?;
    let hello = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824: 5 bytes";
    examples.run("put_and_get", &[&path("file"), &path("blobs")], hello)?;

    let mut layer = LayerBuilder::new();
    layer.busybox()?;
    let layer = layer.finish()?;
    let command = ["/bin/busybox", "true"];
    Layout::create(path("layout"))?.add("v1", &[&layer], &ImageConfig::command(&command))?;
    fs::create_dir(path("bundle"))?;
    let arguments = [&path("layout"), &path("images"), &path("bundle/rootfs")];
    examples.run("unpack_layout", &arguments, "[\"/bin/busybox\", \"true\"]")?;

    let spec = json!({
        "ociVersion": "1.2.0",
        "process": {"user": {"uid": 0, "gid": 0}, "args": command, "cwd": "/"},
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}]},
    });
    fs::write(path("bundle/config.json"), spec.to_string())?;
    if host::is_root() {
        examples.run("run_bundle", &[&path("bundle")], "exit code 0")?;
    } else {
        println!("run_bundle: SKIPPED, needs root");
    }

    fs::write(path("empty.wasm"), MODULE)?;
    examples.run("run_module", &[&path("empty.wasm")], "exit code 0")?;

    fs::write(
        path("log"),
        "2026-01-02T03:04:05.000000006Z stdout F what it said\n",
    )?;
    examples.run("read_log", &[&path("log")], "what it said\n")?;

    examples.run("mounts", &[], "alive: false")?;
    examples.run("platform", &[], "wasm      yes")?;
    examples.run("vm_drivers", &[], "qemu-tcg")
}

/// Where they were built.
struct Examples(PathBuf);

impl Examples {
    /// Runs one, which must end well and say this.
    fn run(&self, name: &str, arguments: &[&PathBuf], says: &str) -> Result<()> {
        let program: &Path = &self.0.join(name);
        let output = Command::new(program)
            .args(arguments)
            .output()
            .with_context(|| program.display().to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && said.contains(says),
            "example {name}: {}, said {said:?} and {complaint:?}, not {says:?}",
            output.status
        );
        println!("{name}: ok");
        Ok(())
    }
}
