//! WebAssembly pods by the command line: images of every kind, what is hostile, what a pod's process may still do.

use std::{fs, os::unix::process::CommandExt as _, path::Path, process::Command};

use magikrun_test_images::{hello_wasm, shell_wasm};
use magikrun_tests::{Census, Magikrun, Scene, binary, isolated};
use serde_json::{Value, json};

/// A pod of one container.
fn pod(name: &str, image: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never", "runtimeClassName": "wasm", "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never", "args": args}],
        },
    })
}

/// A module in a file, loaded under a name.
fn load(magikrun: &Magikrun, scene: &Scene, name: &str, module: impl AsRef<[u8]>) -> String {
    let file = scene.dir().join(format!("{name}.wasm"));
    fs::write(&file, module).expect("module");
    let image = format!("localhost/{name}:1");
    magikrun.ok(&[
        "image",
        "load",
        "-q",
        "-i",
        file.to_str().expect("UTF-8"),
        "-t",
        &image,
    ]);
    image
}

fn wait(magikrun: &Magikrun, manifest: &Value) -> magikrun_tests::Output {
    let file = magikrun.manifest(manifest.to_string());
    magikrun.run(&["pod", "run", "--wait", "-f", &file])
}

isolated!(
    fn a_bare_module_is_loaded_run_saved_and_removed(scene) {
        let magikrun = Magikrun::new(scene);
        let hello = fs::read(hello_wasm().expect("hello")).expect("module");
        let image = load(&magikrun, scene, "hello", &hello);
        let listed = magikrun.json(&["image", "ls"]);
        assert!(listed.to_string().contains(&image), "{listed}");
        assert!(magikrun.json(&["image", "inspect", &image]).to_string().contains("/main.wasm"));

        let ran = wait(&magikrun, &pod("hello", &image, &[]));
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(magikrun.ok(&["pod", "logs", "hello"]), "hello\n");
        let status = magikrun.json(&["pod", "status", "hello"]);
        assert_eq!((&status["runtimeClass"], &status["phase"]), (&json!("wasm"), &json!("Succeeded")));
        magikrun.ok(&["pod", "delete", "hello"]);

        // Out and in again: the same image.
        let archive = scene.dir().join("hello.tar");
        let archive = archive.to_str().expect("UTF-8");
        magikrun.ok(&["image", "save", "-o", archive, &image]);
        let said = magikrun.error(&["image", "save", "--type", "docker-archive", "-o", "/tmp/x.tar", &image]);
        assert!(said.contains("WebAssembly"), "{said}");
        magikrun.ok(&["image", "rm", &image]);
        magikrun.ok(&["image", "load", "-q", "-i", archive]);
        assert_eq!(wait(&magikrun, &pod("again", &image, &[])).code, 0);
        magikrun.ok(&["pod", "delete", "again"]);
    }
);

isolated!(
    fn what_is_no_program_is_one_line_and_leaves_nothing(scene) {
        let magikrun = Magikrun::new(scene);
        let tables: String = (0..10_000).map(|_| "(table 1 funcref)").collect();
        let start = r#"(memory (export "memory") 1) (func (export "_start"))"#;
        let cases: [(&str, Vec<u8>, &str); 5] = [
            ("nothing", b"(module)".to_vec(), "_start"),
            (
                "imports",
                format!(r#"(module (import "env" "magic" (func)) {start})"#).into_bytes(),
                "env",
            ),
            ("tables", format!("(module {tables} {start})").into_bytes(), "table"),
            ("truncated", b"\0asm\x01\0\0\0\x01\xff".to_vec(), "compiled"),
            (
                "version",
                br#"(component (import "wasi:cli/environment@0.3.0" (instance)))"#.to_vec(),
                "0.3",
            ),
        ];
        // What is opened once and kept is there.
        let hello = fs::read(hello_wasm().expect("hello")).expect("module");
        let image = load(&magikrun, scene, "hello", hello);
        wait(&magikrun, &pod("hello", &image, &[]));
        magikrun.ok(&["pod", "delete", "hello"]);
        for (name, module, said) in cases {
            let image = load(&magikrun, scene, name, module);
            // Unpacked, so that only what a pod leaves is new.
            wait(&magikrun, &pod(name, &image, &[]));
            let before = Census::take(&magikrun.roots());
            let file = magikrun.manifest(pod(name, &image, &[]).to_string());
            let line = magikrun.error(&["pod", "run", "-f", &file]);
            assert!(line.contains(said) && line.contains("container c"), "{name}: {line}");
            before.assert_same(name);
        }
        // Machine code, as `wasmtime compile` makes it, in an ordinary image.
        let mut layer = magikrun_test_images::LayerBuilder::new();
        layer.file("/app.wasm", 0o755, b"\x7fELF\x02\x01\x01\0 and the rest").expect("file");
        let layer = layer.finish().expect("layer");
        let mut layout = magikrun_test_images::Layout::create(scene.dir().join("layout")).expect("layout");
        let config = magikrun_test_images::ImageConfig::command(&["/app.wasm"]);
        layout.add("localhost/elf:1", &[&layer], &config).expect("image");
        magikrun.ok(&["image", "pull", "-q", &layout.reference("localhost/elf:1")]);
        let mut manifest = pod("elf", "localhost/elf:1", &[]);
        manifest["spec"]["containers"][0].as_object_mut().expect("container").remove("args");
        let file = magikrun.manifest(manifest.to_string());
        let line = magikrun.error(&["pod", "run", "-f", &file]);
        assert!(line.contains("precompiled") || line.contains("machine code"), "{line}");
    }
);

isolated!(
    fn every_limit_ends_a_program_and_says_which(scene) {
        let magikrun = Magikrun::new(scene);
        let spin = load(
            &magikrun,
            scene,
            "spin",
            r#"(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))"#,
        );
        let mut manifest = pod("fuel", &spin, &[]);
        manifest["metadata"]["annotations"] = json!({"magikrun.dev/wasm.fuel": "1000000"});
        assert_ne!(wait(&magikrun, &manifest).code, 0);
        ended_by(&magikrun, "fuel", "FuelExhausted");
        magikrun.ok(&["pod", "delete", "fuel"]);

        let mut manifest = pod("deadline", &spin, &[]);
        manifest["metadata"]["annotations"] =
            json!({"magikrun.dev/wasm.fuel": "off", "c.magikrun.dev/wasm.deadline-seconds": "1"});
        assert_ne!(wait(&magikrun, &manifest).code, 0);
        ended_by(&magikrun, "deadline", "DeadlineExceeded");
        magikrun.ok(&["pod", "delete", "deadline"]);

        let shell = fs::read(shell_wasm().expect("shell")).expect("module");
        let shell = load(&magikrun, scene, "sh", shell);
        let mut manifest = pod("memory", &shell, &["-c", "eat 100000000"]);
        manifest["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "16Mi"}});
        // What malloc(3) is refused, the program hears as a process would.
        assert_ne!(wait(&magikrun, &manifest).code, 0);
        magikrun.ok(&["pod", "delete", "memory"]);
    }
);

/// The log, the status as JSON and the status as text all name the limit.
fn ended_by(magikrun: &Magikrun, pod: &str, reason: &str) {
    let log = magikrun.run(&["pod", "logs", pod]).stderr;
    assert!(log.contains(&format!("magikrun: {reason}: ")), "{log}");
    let status = magikrun.json(&["pod", "status", pod]);
    assert_eq!(
        status["containers"][0]["state"]["exit"]["reason"],
        json!(reason),
        "{status}"
    );
    let text = magikrun.ok(&["pod", "status", pod]);
    assert!(text.contains(&format!("Exited (137, {reason})")), "{text}");
}

/// `name: value` in a process's status.
fn field(pid: &str, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status
        .lines()
        .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a field of /proc/PID/status").trim().to_owned()
}

/// The process of the only pod below a state root.
fn process_of_pod(state: &Path) -> String {
    let mut pods = fs::read_dir(state.join("pods")).expect("pods").flatten();
    let init = fs::read_to_string(pods.next().expect("a pod").path().join("init")).expect("init");
    init.split_whitespace().next().expect("a pid").to_owned()
}

fn is_confined(pid: &str) {
    for (name, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
    ] {
        assert_eq!(field(pid, name), value, "{name}");
    }
    for namespace in ["pid", "mnt", "net", "ipc", "uts"] {
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{namespace}")).expect("namespace");
        assert_ne!(of(pid), of("self"), "{namespace}");
    }
}

isolated!(
    fn a_pods_process_has_given_its_rights_up_and_obeys_every_command(scene) {
        let magikrun = Magikrun::new(scene);
        let shell = fs::read(shell_wasm().expect("shell")).expect("module");
        let shell = load(&magikrun, scene, "sh", shell);
        let manifest = pod("quiet", &shell, &["-c", "echo up; sleep 100"]);
        let ran = magikrun.pod_run(&manifest);
        assert_eq!(ran.code, 0, "{ran:?}");
        is_confined(&process_of_pod(&magikrun.state));
        assert_eq!(magikrun.pods(), ["quiet"]);
        let said = magikrun.error(&["pod", "exec", "quiet", "--", "true"]);
        assert!(said.contains("not supported"), "{said}");
        let stats = magikrun.json(&["pod", "stats", "quiet"]);
        assert!(stats.to_string().contains("memory"), "{stats}");
        magikrun.ok(&["pod", "stop", "--time", "0", "quiet"]);
        magikrun.ok(&["pod", "delete", "quiet"]);
    }
);

isolated!(
    fn anybody_runs_pods_in_a_user_namespace(scene) {
        let magikrun = Magikrun::new(scene);
        let home = scene.dir().join("home");
        fs::create_dir(&home).expect("home");
        std::os::unix::fs::chown(&home, Some(65534), Some(65534)).expect("chown");
        let shell = home.join("sh.wasm");
        fs::copy(shell_wasm().expect("shell"), &shell).expect("module");
        let manifest = home.join("pod.json");
        let mut spec = pod("mine", "localhost/sh:1", &["-c", "touch /made; echo $HOSTNAME; cat /data/none; sleep 100"]);
        spec["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory"}}]);
        spec["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "v", "mountPath": "/data"}, {"name": "m", "mountPath": "/memory", "readOnly": true}]);
        fs::write(&manifest, spec.to_string()).expect("manifest");
        // The binaries lie where only root may come by.
        for name in ["magikrun", "magikrun-engine", "magikrun-wasm"] {
            fs::copy(binary().with_file_name(name), home.join(name)).expect("binary");
        }
        let (data, state) = (home.join("data"), home.join("state"));
        let run = |args: &[&str]| {
            let mut command = Command::new(home.join("magikrun"));
            command.args(args).uid(65534).gid(65534);
            command.env("MAGIKRUN_ROOT", &data).env("MAGIKRUN_STATE_DIR", &state).env("HOME", &home).env_remove("RUST_LOG");
            let out = command.output().expect("magikrun");
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
            text
        };
        run(&["image", "load", "-q", "-i", shell.to_str().expect("UTF-8"), "-t", "localhost/sh:1"]);
        // What is unpacked and compiled once is kept.
        run(&["pod", "run", "-f", manifest.to_str().expect("UTF-8")]);
        run(&["pod", "delete", "--force", "mine"]);
        let before = Census::take(&[&data, &state]);
        run(&["pod", "run", "-f", manifest.to_str().expect("UTF-8")]);
        let pid = process_of_pod(&state);
        is_confined(&pid);
        let user = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).expect("namespace");
        assert_ne!(user(&pid), user("self"));
        assert_eq!(field(&pid, "Uid").split_whitespace().next(), Some("65534"));
        run(&["pod", "delete", "--force", "mine"]);
        before.assert_same("after a pod without root");
        drop(magikrun);
    }
);
