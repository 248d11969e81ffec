//! ConfigMaps, Secrets and what a pod knows of itself, as its programs see them.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, pod, without_place};
use serde_json::{Value, json};

const PASSWORD: &str = "correct-horse-battery-staple";

fn settings() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
        "data": {"app.conf": "mode = fast\n", "MODE": "fast", "empty": ""},
        "binaryData": {"blob": "AAH/"},
    })
}

fn login() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
        "stringData": {"password": PASSWORD, "user": "admin"},
    })
}

/// Several documents in one text.
fn documents(all: &[Value]) -> String {
    all.iter().map(|document| format!("---\n{document}\n")).collect()
}

/// A pod of one container `c` that sleeps, changed.
fn sleeping(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut pod = pod(
        name,
        &[container("c", BUSYBOX, "trap exit TERM; sleep 1000 & wait")],
    );
    change(&mut pod);
    pod
}

/// What a script in the pod's container writes.
#[track_caller]
fn inside(magikrun: &Magikrun, pod: &str, script: &str) -> String {
    magikrun.ok(&["pod", "exec", pod, "--", "/bin/sh", "-c", script])
}

/// The files below these directories that hold a text.
fn files_with(dirs: &[&Path], text: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = dirs.iter().map(|dir| dir.to_path_buf()).collect();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let kind = entry.file_type().expect("a type");
            // What the program itself writes is no matter of ours.
            if entry.file_name() == "logs" {
                continue;
            }
            if kind.is_dir() {
                left.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap_or_default();
                if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                    found.push(entry.path());
                }
            }
        }
    }
    found
}

isolated!(
    fn variables_come_from_objects_from_the_pod_and_from_the_host(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let manifest = sleeping("env", |pod| {
            pod["metadata"]["labels"] = json!({"tier": "web"});
            pod["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "64Mi", "cpu": "250m"}});
            pod["spec"]["containers"][0]["envFrom"] = json!([
                {"prefix": "S_", "configMapRef": {"name": "settings"}},
                {"secretRef": {"name": "none", "optional": true}},
            ]);
            pod["spec"]["containers"][0]["env"] = json!([
                {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                {"name": "URL", "value": "http://$(USER_NAME):$(PASSWORD)@host/$$(PASSWORD)"},
                {"name": "USER_NAME", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user"}}},
                {"name": "URL2", "value": "$(USER_NAME)/$(S_MODE)/$(POD)"},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "URL3", "value": "$(POD)"},
                {"name": "NS", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
                {"name": "POD_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
                {"name": "ACCOUNT", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                {"name": "NOT", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "none", "optional": true}}},
            ]);
            let script = "echo \"$(URL3) $(POD_ID)\" > /tmp-args; trap exit TERM; sleep 1000 & wait";
            pod["spec"]["containers"][0]["command"] = json!(["/bin/sh", "-c", script]);
        });
        let file = magikrun.manifest(documents(&[manifest, settings(), login()]));
        let id = magikrun.ok(&["pod", "run", "-q", "-f", &file]).trim().to_owned();
        let environment = magikrun.ok(&["pod", "exec", "env", "--", "env"]);
        let value = |name: &str| {
            let lines = environment.lines().filter_map(|line| line.split_once('='));
            let mut found = lines.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned());
            found.next().unwrap_or_else(|| "none".to_owned())
        };
        assert_eq!(value("PASSWORD"), PASSWORD, "{environment}");
        // What stands below is not known yet.
        assert_eq!(value("URL"), format!("http://$(USER_NAME):{PASSWORD}@host/$(PASSWORD)"));
        assert_eq!(value("URL2"), "admin/fast/$(POD)");
        assert_eq!(value("URL3"), "env");
        assert_eq!(value("NS"), "default");
        assert_eq!(value("POD_ID"), id);
        assert_eq!(value("TIER"), "web");
        assert_eq!(value("ACCOUNT"), "default");
        assert_eq!(value("POD_IP"), "127.0.0.1");
        assert_eq!((value("MEM"), value("CPU")), ("64".to_owned(), "250".to_owned()));
        assert_eq!(value("NOT"), "none");
        assert_eq!(value("S_MODE"), "fast");
        assert_eq!(value("S_app.conf"), "mode = fast");
        assert_eq!(value("S_blob"), "none", "no variable is made of binaryData");
        let node = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        assert_eq!(value("NODE"), node);
        assert_eq!(inside(&magikrun, "env", "cat /tmp-args"), format!("env {id}\n"));
        // What the pod was run with has no values.
        let spec = fs::read_to_string(magikrun.state.join("pods").join(&id).join("spec.json")).expect("spec.json");
        assert!(!spec.contains(PASSWORD) && spec.contains("login"), "{spec}");
        magikrun.ok(&["pod", "delete", "--force", "env"]);
        before.assert_same("after the pod");
    }
);

/// A pod with volumes of all kinds at `/c`, `/s`, `/d` and `/p`.
fn with_volumes(name: &str, change: impl FnOnce(&mut Value)) -> Value {
    sleeping(name, |pod| {
        pod["metadata"]["labels"] = json!({"app": "x", "tier": "web"});
        pod["spec"]["volumes"] = json!([
            {"name": "c", "configMap": {"name": "settings"}},
            {"name": "s", "secret": {"secretName": "login", "defaultMode": 0o400}},
            {"name": "d", "downwardAPI": {"items": [
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                {"path": "id/of/pod", "mode": 0o440, "fieldRef": {"fieldPath": "metadata.uid"}},
            ]}},
            {"name": "p", "projected": {"defaultMode": 0o444, "sources": [
                {"configMap": {"name": "settings", "items": [{"key": "app.conf", "path": "etc/app.conf"}]}},
                {"secret": {"name": "login", "items": [{"key": "user", "path": "etc/user", "mode": 0o644}]}},
                {"secret": {"name": "none", "optional": true}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
        ]);
        let mounts = ["c", "s", "d", "p"].map(|v| json!({"name": v, "mountPath": format!("/{v}")}));
        pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
        change(pod);
    })
}

fn volumes_are_as_kubelet_makes_them(magikrun: &Magikrun, pod: &str, id: &str) {
    let see = |script: &str| inside(magikrun, pod, script);
    assert_eq!(see("cat /c/app.conf /c/MODE"), "mode = fast\nfast");
    assert_eq!(see("wc -c < /c/blob").trim(), "3");
    assert_eq!(see("cat /s/password /s/user"), format!("{PASSWORD}admin"));
    assert_eq!(see("cat /d/labels"), "app=\"x\"\ntier=\"web\"");
    assert_eq!(see("cat /d/id/of/pod"), id);
    assert_eq!(
        see("cat /p/etc/app.conf /p/etc/user /p/name"),
        format!("mode = fast\nadmin{pod}")
    );
    // Permissions and owners, as the pod's users see them.
    let stat = |path: &str| see(&format!("stat -L -c '%a %u %g' {path}")).trim().to_owned();
    assert_eq!(stat("/c/MODE"), "644 0 0");
    assert_eq!(stat("/s/password"), "400 0 0");
    assert_eq!(stat("/d/id/of/pod"), "440 0 0");
    assert_eq!(
        (stat("/p/etc/app.conf"), stat("/p/etc/user")),
        ("444 0 0".to_owned(), "644 0 0".to_owned())
    );
    // Links through ..data, which can be replaced at once.
    assert_eq!(see("readlink /c/MODE").trim(), "..data/MODE");
    assert!(
        see("readlink /c/..data").starts_with("..2"),
        "{}",
        see("ls -la /c")
    );
    assert_eq!(see("ls /c"), "MODE\napp.conf\nblob\nempty\n");
    // In memory, and nobody writes there.
    assert_eq!(see("stat -f -c %T /s").trim(), "tmpfs");
    for file in ["/c/MODE", "/s/new", "/d/labels"] {
        let said = magikrun.run(&[
            "pod",
            "exec",
            pod,
            "--",
            "/bin/sh",
            "-c",
            &format!("echo x > {file}"),
        ]);
        assert!(
            said.code != 0 && said.stderr.contains("Read-only file system"),
            "{file}: {said:?}"
        );
    }
}

isolated!(
    fn volumes_hold_what_objects_and_the_pod_have(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        // With users of the pod's own, where the host can, and with the host's.
        for users in [json!(null), json!(true)] {
            let manifest = with_volumes("volumes", |pod| pod["spec"]["hostUsers"] = users.clone());
            let file = magikrun.manifest(documents(&[manifest, settings(), login()]));
            let id = magikrun.ok(&["pod", "run", "-q", "-f", &file]).trim().to_owned();
            volumes_are_as_kubelet_makes_them(&magikrun, "volumes", &id);
            // A secret that is only in a volume is in no file of ours.
            let found = files_with(&[&magikrun.root.join("pods"), &magikrun.state], PASSWORD);
            assert_eq!(found, Vec::<PathBuf>::new());
            magikrun.ok(&["pod", "delete", "--force", "volumes"]);
            before.assert_same("after the pod");
        }
    }
);

isolated!(
    fn who_may_not_read_a_secret_does_not(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let manifest = with_volumes("volumes", |pod| {
            pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000});
        });
        let file = magikrun.manifest(documents(&[manifest, settings(), login()]));
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(inside(&magikrun, "volumes", "cat /c/MODE"), "fast");
        let said = magikrun.run(&["pod", "exec", "volumes", "--", "cat", "/s/password"]);
        assert!(said.code != 0 && said.stderr.contains("Permission denied"), "{said:?}");
        magikrun.ok(&["pod", "delete", "--force", "volumes"]);
    }
);

isolated!(
    fn a_container_that_is_run_again_finds_its_data(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let manifest = with_volumes("again", |pod| {
            pod["spec"]["initContainers"] = json!([{
                "name": "i", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["/bin/sh", "-c", "test \"$(cat /s/user)\" = admin"],
                "volumeMounts": [{"name": "s", "mountPath": "/s"}],
            }]);
        });
        // The shell's own $( ) is not a reference to a variable of that name.
        let file = magikrun.manifest(documents(&[manifest, settings(), login()]));
        let id = magikrun.ok(&["pod", "run", "-q", "-f", &file]).trim().to_owned();
        magikrun.ok(&["pod", "restart", "-t", "1", "again"]);
        volumes_are_as_kubelet_makes_them(&magikrun, "again", &id);
        magikrun.ok(&["pod", "delete", "--force", "again"]);
    }
);

isolated!(
    fn manifests_are_files_directories_and_standard_input(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let dir = scene.dir().join("app");
        fs::create_dir_all(dir.join("nested")).unwrap();
        fs::write(dir.join("1.yaml"), with_volumes("dir", |_| {}).to_string()).unwrap();
        fs::write(dir.join("2.json"), settings().to_string()).unwrap();
        fs::write(dir.join("notes.txt"), "not a manifest").unwrap();
        fs::write(dir.join("nested/3.yaml"), "not looked at: [").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            dir.join("pipe.yaml"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let dir = dir.display().to_string();
        let said = magikrun.run(&["pod", "run", "-f", &dir]);
        let said_of = without_place(&said.stderr);
        let lines: Vec<&str> = said_of.lines().collect();
        assert_eq!((said.code, lines.len()), (1, 2), "{said:?}");
        for (line, place) in lines.iter().zip(["spec.volumes[1].secret.secretName", "spec.volumes[3].projected.sources[1].secret.name"]) {
            assert!(line.contains(&format!("1.yaml: {place}: no Secret is called \"login\"")), "{line}");
        }
        before.assert_same("after an object that is not there");

        let mut run = magikrun.command(&["pod", "run", "-q", "-f", &dir, "-f", "-"]);
        let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [login()]});
        child.stdin.take().unwrap().write_all(list.to_string().as_bytes()).unwrap();
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success());
        let id = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        volumes_are_as_kubelet_makes_them(&magikrun, "dir", &id);
        // The pod alone is enough to find it again.
        let only = format!("{dir}/1.yaml");
        assert_eq!(magikrun.ok(&["pod", "delete", "--force", "-f", &only]), "default/dir\n");
        before.assert_same("after the pod");
    }
);

isolated!(
    fn large_objects_and_many_files_arrive(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let large = "0123456789abcdef".repeat(1 << 16);
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"}, "data": {"k": large},
        });
        let items: Vec<Value> = (0..2000).map(|n| json!({"key": "small", "path": format!("d{}/f{n}", n % 7)})).collect();
        let small = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "small"}, "data": {"small": "x"},
        });
        let manifest = sleeping("large", |pod| {
            pod["spec"]["volumes"] = json!([
                {"name": "a", "configMap": {"name": "large"}},
                {"name": "b", "configMap": {"name": "large", "items": [{"key": "k", "path": "again"}]}},
                {"name": "many", "configMap": {"name": "small", "items": items}},
            ]);
            let mounts = ["a", "b", "many"].map(|v| json!({"name": v, "mountPath": format!("/{v}")}));
            pod["spec"]["containers"][0]["volumeMounts"] = json!(mounts);
        });
        let file = magikrun.manifest(documents(&[manifest, map, small]));
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(inside(&magikrun, "large", "wc -c < /a/k").trim(), "1048576");
        assert_eq!(inside(&magikrun, "large", "cmp /a/k /b/again && tail -c 16 /b/again"), "0123456789abcdef");
        assert_eq!(inside(&magikrun, "large", "find /many/ -follow -type f | grep -vc '/\\.\\.'").trim(), "2000");
        magikrun.ok(&["pod", "delete", "--force", "large"]);
    }
);

isolated!(
    fn another_version_takes_the_place_of_the_first_at_once(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let manifest = with_volumes("volumes", |pod| {
            pod["spec"]["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
        });
        let file = magikrun.manifest(documents(&[manifest.clone(), settings(), login()]));
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        let version = |volume: &str| inside(&magikrun, "volumes", &format!("readlink /{volume}/..data"));
        let volumes = ["c", "s", "d", "p"];
        let first = volumes.map(version);
        let mut other = settings();
        other["data"] = json!({"app.conf": "mode = slow\n", "new": "1"});
        let file = magikrun.manifest(documents(&[manifest.clone(), other.clone(), login()]));
        assert_eq!(magikrun.ok(&["pod", "update", "volumes", "-f", &file]), "default/volumes\n");
        assert_eq!(inside(&magikrun, "volumes", "ls /c; cat /c/app.conf /p/etc/app.conf"), "app.conf\nblob\nnew\nmode = slow\nmode = slow\n");
        assert_eq!(inside(&magikrun, "volumes", "cat /s/password"), PASSWORD);
        // Volumes that hold what they held are left alone.
        let changed: Vec<bool> = volumes.map(version).iter().zip(&first).map(|(now, before)| now != before).collect();
        assert_eq!(changed, [true, false, false, true]);
        // A program that was started keeps its variables.
        assert_eq!(magikrun.ok(&["pod", "exec", "volumes", "--", "/bin/sh", "-c", "echo $MODE"]), "fast\n");

        // Nothing but data, of objects that can change.
        let mut different = manifest.clone();
        different["spec"]["containers"][0]["workingDir"] = json!("/tmp");
        let file = magikrun.manifest(documents(&[different, settings(), login()]));
        let said = magikrun.error(&["pod", "update", "volumes", "-f", &file]);
        assert!(said.contains(": spec.containers[0].workingDir: is not what the pod was run with"), "{said}");
        let mut immutable = settings();
        immutable["immutable"] = json!(true);
        let file = magikrun.manifest(documents(&[manifest.clone(), immutable, login()]));
        magikrun.ok(&["pod", "update", "volumes", "-f", &file]);
        assert_eq!(inside(&magikrun, "volumes", "cat /c/app.conf"), "mode = slow\n");
        let other = magikrun.manifest(documents(&[with_volumes("other", |_| {}), settings(), login()]));
        let said = magikrun.error(&["pod", "update", "volumes", "-f", &other]);
        assert!(said.contains("pod default/volumes: is not in these manifests"), "{said}");
        magikrun.ok(&["pod", "stop", "volumes"]);
        let said = magikrun.error(&["pod", "update", "volumes", "-f", &file]);
        assert!(said.contains("volumes"), "{said}");
        magikrun.ok(&["pod", "delete", "volumes"]);
        before.assert_same("after the pod");
    }
);

isolated!(
    fn what_a_container_puts_into_its_volume_leads_no_write_out_cve_2025_9566(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let outside = scene.dir().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("MODE"), "precious").unwrap();
        let manifest = with_volumes("volumes", |pod| {
            pod["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        });
        let file = magikrun.manifest(documents(&[manifest.clone(), settings(), login()]));
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        // A privileged container can make the mount writable: it is root on the host.
        let outside_path = outside.display().to_string();
        let links = format!(
            "mount -o remount,bind,rw /c && cd /c && rm -rf ..data MODE new && for name in ..data ..data_tmp MODE new; do ln -s {outside_path} $name; done && mkdir -p deep/er && ls -la /c"
        );
        let listed = inside(&magikrun, "volumes", &links);
        assert!(listed.contains(&format!("..data -> {outside_path}")), "{listed}");
        let mut other = settings();
        other["data"] = json!({"MODE": "slow", "app.conf": "", "new": "1"});
        let file = magikrun.manifest(documents(&[manifest, other, login()]));
        magikrun.ok(&["pod", "update", "volumes", "-f", &file]);
        assert_eq!(inside(&magikrun, "volumes", "ls /c; cat /c/MODE /c/new"), "MODE\napp.conf\nblob\nnew\nslow1");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["MODE"]);
        assert_eq!(fs::read_to_string(outside.join("MODE")).unwrap(), "precious");
        magikrun.ok(&["pod", "delete", "--force", "volumes"]);
    }
);

/// A pod of one WebAssembly container, `c`, that runs a script.
fn wasm_pod(magikrun: &Magikrun, script: &str) -> Value {
    let module = magikrun_test_images::shell_wasm().expect("a shell for WebAssembly");
    let image = "localhost/sh:1";
    magikrun.ok(&[
        "image",
        "load",
        "-q",
        "-i",
        module.to_str().expect("UTF-8"),
        "-t",
        image,
    ]);
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wasm"},
        "spec": {
            "restartPolicy": "Never", "runtimeClassName": "wasm", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": image, "imagePullPolicy": "Never", "args": ["-c", script]}],
        },
    })
}

isolated!(
    fn a_webassembly_program_sees_another_version(scene) {
        let magikrun = Magikrun::new(scene);
        let script = "while true; do cat /c/app.conf; sleep 0.1; done";
        let mut manifest = wasm_pod(&magikrun, script);
        let spec = &mut manifest["spec"];
        spec["containers"][0]["volumeMounts"] = json!([{"name": "c", "mountPath": "/c"}]);
        spec["volumes"] = json!([{"name": "c", "configMap": {"name": "settings"}}]);
        let file = magikrun.manifest(documents(&[manifest.clone(), settings()]));
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        let mut other = settings();
        other["data"] = json!({"app.conf": "mode = slow\n"});
        let file = magikrun.manifest(documents(&[manifest, other]));
        magikrun.ok(&["pod", "update", "wasm", "-f", &file]);
        magikrun_tests::wait_for("the other version", || magikrun.ok(&["pod", "logs", "wasm"]).contains("mode = slow"));
        magikrun.ok(&["pod", "delete", "--force", "wasm"]);
    }
);

isolated!(
    fn a_webassembly_program_reads_them_too(scene) {
        let magikrun = Magikrun::new(scene);
        let script = "cat /c/MODE; cat /s/password; echo $(MODE) $(NAME); echo x > /c/new";
        let mut manifest = wasm_pod(&magikrun, script);
        let spec = &mut manifest["spec"];
        let container = &mut spec["containers"][0];
        container["env"] = json!([{"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
        container["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
        container["volumeMounts"] = json!([{"name": "c", "mountPath": "/c"}, {"name": "s", "mountPath": "/s"}]);
        spec["volumes"] = json!([
            {"name": "c", "configMap": {"name": "settings"}},
            {"name": "s", "secret": {"secretName": "login", "defaultMode": 0o400}},
        ]);
        let file = magikrun.manifest(documents(&[manifest, settings(), login()]));
        let ran = magikrun.run(&["pod", "run", "-q", "--wait", "-f", &file]);
        let log = magikrun.run(&["pod", "logs", "wasm"]);
        assert_eq!(log.stdout, format!("fast{PASSWORD}fast wasm\n"), "{ran:?} {log:?}");
        assert!(log.stderr.contains("/c/new"), "it cannot write there: {log:?}");
        let found = files_with(&[&magikrun.root.join("pods"), &magikrun.state], PASSWORD);
        assert_eq!(found, Vec::<PathBuf>::new());
        magikrun.ok(&["pod", "delete", "wasm"]);
    }
);
