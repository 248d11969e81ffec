//! The tests' own images: complete enough to run, and a registry takes them.

use std::{fs, path::Path, process::Command};

use magikrun_test_images::Layout;
use magikrun_tests::{BUSYBOX, Magikrun, Registry, busybox_layout, isolated, redis_nginx_layout};
use serde_json::Value;

/// Unpacks an image's layers with tar(1).
fn unpack(layout: &Layout, tag: &str, rootfs: &Path) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(&layout.dir().join("index.json"));
    let manifests = index["manifests"].as_array().unwrap().iter();
    let manifest = manifests
        .clone()
        .find(|m| m["annotations"]["org.opencontainers.image.ref.name"] == tag)
        .unwrap();
    let manifest = read(&layout.blob_path(manifest["digest"].as_str().unwrap()));
    fs::create_dir_all(rootfs).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let blob = layout.blob_path(layer["digest"].as_str().unwrap());
        let tar = Command::new("tar")
            .arg("-xzf")
            .arg(blob)
            .arg("-C")
            .arg(rootfs)
            .status()
            .unwrap();
        assert!(tar.success());
    }
}

isolated!(
    fn debian_images_hold_what_their_programs_need(scene) {
        let layout = redis_nginx_layout(&scene.dir().join("layout"));
        let programs = [
            ("redis", &["redis-server", "--version"][..]),
            ("nginx", &["nginx", "-V"]),
            ("client", &["curl", "--version"]),
            ("client", &["redis-cli", "--version"]),
            ("client", &["sh", "-c", "busybox sleep 0"]),
        ];
        for (tag, program) in programs {
            let rootfs = scene.dir().join(tag);
            unpack(&layout, tag, &rootfs);
            let out = Command::new("chroot").arg(&rootfs).args(program).output().unwrap();
            assert!(out.status.success(), "{program:?}: {}", String::from_utf8_lossy(&out.stderr));
        }
    }
);

isolated!(
    fn docker_registry_serves_what_was_pushed(scene) {
        let registry = Registry::start(&scene.dir().join("registry"), 5000);
        let name = registry.push(&busybox_layout(&scene.dir().join("layout")),
            BUSYBOX, "busybox");
        let inspect = Command::new("skopeo").args(["inspect", "--tls-verify=false"]).arg(format!("docker://{name}")).output().unwrap();
        let inspect: Value = serde_json::from_slice(&inspect.stdout).unwrap();
        assert_eq!(inspect["Layers"].as_array().map(Vec::len), Some(1), "{inspect}");
    }
);

/// What a command prints to a terminal.
fn on_a_terminal(magikrun: &Magikrun, args: &[&str]) -> String {
    let line = [&["magikrun"], args].concat().join(" ");
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    // The command's own environment, and the binary by its name.
    let command = magikrun.command(args);
    script.envs(
        command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let bin = Path::new(command.get_program()).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let out = script
        .env("PATH", path)
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

isolated!(
    fn a_pull_shows_bars_on_a_terminal_only_and_answers_in_json(scene) {
        let registry = Registry::start(&scene.dir().join("registry"), 5000);
        let name = registry.push(&busybox_layout(&scene.dir().join("layout")), BUSYBOX, "busybox");
        let magikrun = Magikrun::new(scene);
        let shown = on_a_terminal(&magikrun, &["image", "pull", &name]);
        assert!(shown.contains("pulling") && shown.contains("unpacked") && shown.contains('='), "{shown}");

        let id = magikrun.json(&["image", "inspect", &name])["id"].as_str().unwrap().to_owned();
        let again = ["image", "pull", "--quiet", &name];
        assert_eq!(on_a_terminal(&magikrun, &again).trim(), id);
        magikrun.ok(&["image", "rm", &name]);
        // In a pipe there are no bars, asked for or not.
        let out = magikrun.run(&["image", "pull", &name]);
        assert_eq!((out.stdout.trim(), out.stderr.as_str()), (id.as_str(), ""));
        let pulled = magikrun.json(&["image", "pull", &name]);
        assert_eq!(pulled[0]["id"], *id, "{pulled}");
        let pushed = magikrun.json(&["image", "push", &name, "127.0.0.1:5000/test/copy:1"]);
        assert!(pushed["digest"].as_str().unwrap().starts_with("sha256:"), "{pushed}");
        assert_eq!(magikrun.json(&["image", "verify"]), Value::Array(vec![]));
        assert_eq!(magikrun.json(&["image", "prune"])["blobs"], 0);
    }
);
