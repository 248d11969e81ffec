//! The attacker made an image, or fills a volume, with device files and pipes: for a WebAssembly program there are none.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use magikrun_test_images::{ImageConfig, Layer, Layout, component, tool_wasm};
use magikrun_tests::{Magikrun, Scene, isolated};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use serde_json::{Value, json};

/// What an image has that is no file: name, kind, number. None of it does harm where the attack works.
const NODES: [(&str, FileType, u32, u32); 5] = [
    ("zero", FileType::CharacterDevice, 1, 5),
    ("urandom", FileType::CharacterDevice, 1, 9),
    ("full", FileType::CharacterDevice, 1, 7),
    ("loop", FileType::BlockDevice, 7, 0),
    ("pipe", FileType::Fifo, 0, 0),
];

/// Makes them, for everybody to open, beside a file.
fn plant(dir: &Path) {
    fs::create_dir_all(dir).expect("a directory");
    for (name, kind, major, minor) in NODES {
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, dir.join(name), kind, mode, makedev(major, minor)).expect("mknod");
        fs::set_permissions(
            dir.join(name),
            std::os::unix::fs::PermissionsExt::from_mode(0o666),
        )
        .expect("chmod");
    }
    fs::write(dir.join("file"), "a file").expect("a file");
    std::os::unix::fs::symlink("zero", dir.join("link")).expect("a link");
}

fn output(command: &mut Command) -> Vec<u8> {
    let output = command.output().expect("a program");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A directory as a layer, with what a [`magikrun_test_images::LayerBuilder`] does not put into one.
fn layer(dir: &Path) -> Layer {
    let tar = dir.with_extension("tar");
    output(
        Command::new("tar")
            .arg("-cf")
            .arg(&tar)
            .arg("-C")
            .arg(dir)
            .arg("."),
    );
    let sum = String::from_utf8(output(Command::new("sha256sum").arg(&tar))).expect("text");
    Layer {
        blob: output(Command::new("gzip").arg("-c").arg(&tar)),
        diff_id: format!("sha256:{}", sum.split(' ').next().expect("a sum")),
    }
}

/// The paths, in this directory, that a program tries, and the one that it may open.
fn paths(dir: &str) -> Vec<String> {
    let names = NODES.iter().map(|(name, ..)| *name).chain(["link", "file"]);
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// What was opened: the file alone, or there was an attack that worked.
#[track_caller]
fn only_the_file(said: &str, dir: &str) {
    let worked: Vec<&str> = said.lines().filter(|line| line.contains(" worked")).collect();
    assert_eq!(worked, [format!("{dir}/file worked: a file")], "{said}");
}

/// Both kinds of programs, by name.
fn programs() -> [(&'static str, PathBuf); 2] {
    let module = tool_wasm().expect("tool");
    let component = component(&module).expect("component");
    [("module", module), ("component", component)]
}

/// Runs a pod of the program to its end, and gives its log.
fn log_of(magikrun: &Magikrun, image: &str, args: &[String], volume: Option<&Path>) -> String {
    let mut manifest: Value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"restartPolicy": "Never", "runtimeClassName": "wasm", "containers": [
            {"name": "c", "image": image, "imagePullPolicy": "Never", "command": args}
        ]},
    });
    if let Some(volume) = volume {
        manifest["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": volume}}]);
        manifest["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/data"}]);
    }
    let file = magikrun.manifest(manifest.to_string());
    magikrun.run(&["pod", "run", "--wait", "-f", &file]);
    let log = magikrun.ok(&["pod", "logs", "p"]);
    magikrun.ok(&["pod", "delete", "--force", "p"]);
    log
}

isolated!(
    fn a_pod_of_webassembly_opens_no_device_of_its_image_and_none_of_a_volume(scene) {
        let magikrun = Magikrun::new(scene);
        let volume = scene.dir().join("volume");
        plant(&volume);
        for (name, program) in programs() {
            let root = scene.dir().join(name);
            plant(&root);
            fs::copy(program, root.join("app.wasm")).expect("program");
            let image = format!("localhost/{name}:1");
            let mut layout = Layout::create(scene.dir().join(format!("layout-{name}"))).expect("layout");
            layout.add(&image, &[&layer(&root)], &ImageConfig::command(&["/app.wasm"])).expect("image");
            magikrun.ok(&["image", "pull", "-q", &layout.reference(&image)]);
            for (dir, volume) in [("", None), ("/data", Some(volume.as_path()))] {
                let mut args = vec!["/app.wasm".to_owned(), "escape".to_owned()];
                args.extend(paths(dir));
                only_the_file(&log_of(&magikrun, &image, &args, volume), dir);
                let write = ["/app.wasm".to_owned(), "write".to_owned(), format!("{dir}/zero"), "x".to_owned()];
                let said = log_of(&magikrun, &image, &write, volume);
                assert!(said.starts_with("write: "), "{name} {dir}: {said}");
            }
            // Nor is one the program: it is not even opened.
            for node in ["/pipe", "/zero"] {
                let manifest = json!({
                    "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
                    "spec": {"runtimeClassName": "wasm", "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never", "command": [node]}]},
                });
                let file = magikrun.manifest(manifest.to_string());
                let said = magikrun.error(&["pod", "run", "-f", &file]);
                assert!(said.contains("is not a file"), "{said}");
            }
        }
    }
);

/// A bundle of a program, whose root has everything that an image can have.
fn bundle(magikrun: &Magikrun, scene: &Scene, name: &str, program: &Path, args: &[String]) -> PathBuf {
    let dir = scene.dir().join(name);
    let root = dir.join("rootfs");
    for sub in ["proc", "dev", "sys"] {
        fs::create_dir_all(root.join(sub)).expect("rootfs");
    }
    plant(&root);
    fs::copy(program, root.join("app.wasm")).expect("program");
    magikrun.ok(&["spec", "--bundle", dir.to_str().expect("UTF-8")]);
    let config = dir.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&config).expect("spec")).expect("JSON");
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(args);
    spec["annotations"] = json!({"run.oci.handler": "wasm"});
    fs::write(config, spec.to_string()).expect("config.json");
    dir
}

isolated!(
    fn a_container_of_webassembly_opens_no_device_of_its_root(scene) {
        let magikrun = Magikrun::new(scene);
        for (name, program) in programs() {
            let mut args = vec!["/app.wasm".to_owned(), "escape".to_owned()];
            args.extend(paths(""));
            let dir = bundle(&magikrun, scene, name, &program, &args);
            let out = magikrun.run(&["run", "--bundle", dir.to_str().expect("UTF-8"), "c"]);
            only_the_file(&out.stdout, "");
        }
    }
);
