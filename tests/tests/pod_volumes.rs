//! Parts of volumes, what is mounted in them while containers run, and who may write to them: as a
//! container's program sees it.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
    path::{Path, PathBuf},
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, pod, wait_for};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};
use serde_json::{Value, json};

const FOREVER: &str = "trap exit TERM; sleep 1000 & wait";

/// A pod of one container `c` that sleeps, with these volumes and mounts.
fn sleeping(name: &str, volumes: Value, mounts: Value) -> Value {
    let mut pod = pod(name, &[container("c", BUSYBOX, FOREVER)]);
    pod["spec"]["volumes"] = volumes;
    pod["spec"]["containers"][0]["volumeMounts"] = mounts;
    pod
}

/// Several documents in one text.
fn documents(all: &[Value]) -> String {
    all.iter().map(|document| format!("---\n{document}\n")).collect()
}

#[track_caller]
fn run(magikrun: &Magikrun, pod: &Value) -> String {
    let file = magikrun.manifest(pod.to_string());
    magikrun
        .ok(&["pod", "run", "-q", "--max-restart-delay", "1", "-f", &file])
        .trim()
        .to_owned()
}

/// Why a pod does not run; nothing of it is left.
#[track_caller]
fn fails(magikrun: &Magikrun, pod: &Value) -> String {
    let before = Census::take(&magikrun.roots());
    let file = magikrun.manifest(pod.to_string());
    let said = magikrun.error(&["pod", "run", "-q", "-f", &file]);
    before.assert_same("after a pod that did not start");
    said
}

/// What a script in a container of the pod writes.
#[track_caller]
fn inside(magikrun: &Magikrun, pod: &str, name: &str, script: &str) -> String {
    magikrun.ok(&["pod", "exec", "-c", name, pod, "--", "/bin/sh", "-c", script])
}

/// Whether a script in a container of the pod succeeds.
fn succeeds(magikrun: &Magikrun, pod: &str, name: &str, script: &str) -> bool {
    let out = magikrun.run(&["pod", "exec", "-c", name, pod, "--", "/bin/sh", "-c", script]);
    out.code == 0
}

fn delete(magikrun: &Magikrun, pod: &str) {
    magikrun.ok(&["pod", "delete", "--force", pod]);
}

/// A directory of the scene's on a mount of its own, which is shared.
fn shared_dir(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).expect("a directory");
    mount_bind(dir, dir).expect("mount");
    mount_change(dir, MountPropagationFlags::SHARED).expect("make it shared");
    dir.to_owned()
}

fn mount_tmpfs_on(dir: &Path) {
    mount("tmpfs", dir, "tmpfs", MountFlags::empty(), None).expect("mount");
}

isolated!(
    fn a_part_of_a_volume_is_mounted_whatever_kind_it_is(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir_all(host.join("deep/er")).unwrap();
        fs::write(host.join("deep/er/file"), "of the host").unwrap();
        symlink("deep/er", host.join("link")).unwrap();
        let before = Census::take(&magikrun.roots());
        let mut web = sleeping(
            "web",
            json!([
                {"name": "disk", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "host", "hostPath": {"path": host}},
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "login", "secret": {"secretName": "login"}},
                {"name": "all", "projected": {"sources": [
                    {"configMap": {"name": "settings", "items": [{"key": "app.conf", "path": "conf.d/app.conf"}]}},
                ]}},
            ]),
            json!([
                {"name": "disk", "mountPath": "/data/inner", "subPath": "a/inner"},
                {"name": "disk", "mountPath": "/data", "subPath": "a"},
                {"name": "memory", "mountPath": "/memory", "subPathExpr": "$(POD)-$(KIND)/x"},
                {"name": "host", "mountPath": "/host", "subPath": "link"},
                {"name": "host", "mountPath": "/file", "subPath": "./deep//er/file", "readOnly": true},
                {"name": "settings", "mountPath": "/etc/app.conf", "subPath": "app.conf"},
                {"name": "login", "mountPath": "/password", "subPath": "password"},
                {"name": "all", "mountPath": "/conf.d", "subPath": "conf.d"},
            ]),
        );
        web["spec"]["containers"][0]["env"] = json!([
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KIND", "value": "main"},
        ]);
        let settings = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"},
            "data": {"app.conf": "mode = fast"}});
        let login = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"},
            "stringData": {"password": "hunter2"}});
        let file = magikrun.manifest(documents(&[web, settings, login]));
        let id = magikrun.ok(&["pod", "run", "-q", "-f", &file]).trim().to_owned();
        let volumes = magikrun.root.join("pods").join(id).join("volumes");
        let said = inside(
            &magikrun, "web", "c",
            "cat /file /host/file /etc/app.conf /password /conf.d/app.conf; echo x > /data/new; echo y > /data/inner/new; echo z > /memory/new; stat -c %a /data /memory; echo w > /host/new",
        );
        assert_eq!(said, "of the hostof the hostmode = fasthunter2mode = fast777\n777\n");
        for read_only in ["/file", "/etc/app.conf", "/password", "/conf.d/new"] {
            assert!(!succeeds(&magikrun, "web", "c", &format!("echo no > {read_only}")), "{read_only}");
        }
        assert_eq!(fs::read_to_string(volumes.join("disk/a/new")).unwrap(), "x\n");
        assert_eq!(fs::read_to_string(volumes.join("disk/a/inner/new")).unwrap(), "y\n");
        assert_eq!(fs::read_to_string(host.join("deep/er/new")).unwrap(), "w\n");
        // A pod's own users, where it has them, own what was made for them.
        assert_eq!(inside(&magikrun, "web", "c", "stat -c %u /data /data/inner"), "0\n0\n");
        delete(&magikrun, "web");
        before.assert_same("after the pod");
    }
);

isolated!(
    fn a_directory_that_is_missing_is_made_with_the_group_of_the_volume(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir(&host).unwrap();
        let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": host}}]);
        let mounts = json!([
            {"name": "v", "mountPath": "/v", "subPath": "x/y"},
            {"name": "h", "mountPath": "/h", "subPath": "new"},
        ]);
        let mut pod = sleeping("p", volumes, mounts);
        pod["spec"]["securityContext"] = json!({"fsGroup": 2345, "runAsUser": 1000});
        run(&magikrun, &pod);
        let said = inside(&magikrun, "p", "c", "stat -c '%u %g %a' /v; echo x > /v/file && stat -c '%u %g' /v/file");
        assert_eq!(said, "0 2345 2777\n1000 2345\n");
        // As kubelet has it: what was made of a hostPath is as the directory above it.
        let made = fs::metadata(host.join("new")).unwrap();
        assert_eq!((made.uid(), made.mode() & 0o7777), (0, fs::metadata(&host).unwrap().mode() & 0o7777));
        delete(&magikrun, "p");
    }
);

isolated!(
    fn no_part_of_a_volume_lies_outside_of_it(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let (host, secret) = (scene.dir().join("host"), scene.dir().join("secret"));
        for dir in [&host, &secret] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(secret.join("key"), "").unwrap();
        symlink("../secret", host.join("out")).unwrap();
        symlink(&secret, host.join("absolute")).unwrap();
        symlink("/proc/self/root", host.join("root")).unwrap();
        symlink("nowhere", host.join("dangling")).unwrap();
        fs::write(host.join("file"), "").unwrap();
        for (path, why) in [
            ("out", "leads out of the directory"),
            ("out/key", "leads out of the directory"),
            ("out/new", "leads out of the directory"),
            ("absolute", "leads out of the directory"),
            ("absolute/new/dir", "leads out of the directory"),
            ("root/etc", "leads out of the directory"),
            ("dangling", "Not a directory"),
            ("dangling/new", "Not a directory"),
            ("file/new", "Not a directory"),
        ] {
            let volumes = json!([{"name": "v", "hostPath": {"path": host}}]);
            let mounts = json!([{"name": "v", "mountPath": "/v", "subPath": path}]);
            let said = fails(&magikrun, &sleeping("p", volumes, mounts));
            assert!(said.contains(&format!("subPath {path}: {why}")), "{path}: {said}");
        }
        assert_eq!(fs::read_dir(&secret).unwrap().count(), 1);
        assert!(!host.join("nowhere").exists());
    }
);

isolated!(
    fn no_container_leads_the_part_of_another_out_of_the_volume_cve_2021_25741(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        let secret = scene.dir().join("secret");
        fs::create_dir(&host).unwrap();
        fs::create_dir_all(secret.join("part")).unwrap();
        fs::write(secret.join("part/key"), "").unwrap();
        // One exchanges the directory for links that lead out, all the time; the other one is run
        // again and again.
        let swaps = format!(
            "cd /v; mkdir -p d/part; ln -s ../secret up; ln -s {} absolute; \
             while :; do for l in up absolute; do mv -T d t; mv -T $l d; mv -T d $l; mv -T t d; done; done",
            secret.display()
        );
        let looks = "[ ! -e /part/key ] || echo OUT; [ ! -e /new/part ] || echo OUT; echo looked";
        let mut all = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "volumes": [{"name": "v", "hostPath": {"path": host}}],
            "containers": [container("attacker", BUSYBOX, &swaps), container("victim", BUSYBOX, looks)],
        }});
        all["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        all["spec"]["containers"][1]["volumeMounts"] = json!([
            {"name": "v", "mountPath": "/part", "subPath": "d/part"},
            {"name": "v", "mountPath": "/new", "subPath": "d/made"},
        ]);
        fs::create_dir_all(host.join("d/part")).unwrap();
        run(&magikrun, &all);
        let mut made = 0;
        for _ in 0..60 {
            // Where it cannot be made, because the path leads out just then, that is said.
            let out = magikrun.run(&["pod", "restart", "-c", "victim", "p"]);
            made += usize::from(out.code == 0);
            assert!(
                out.code == 0 || out.stderr.contains("subPath d/"),
                "{out:?}"
            );
        }
        let log = magikrun.ok(&["pod", "logs", "-c", "victim", "p"]);
        assert!(made > 0 && log.contains("looked") && !log.contains("OUT"), "{made}: {log}");
        let kept: Vec<_> = fs::read_dir(&secret).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(kept, ["part"], "nothing was made outside");
        delete(&magikrun, "p");
    }
);

isolated!(
    fn a_container_that_is_run_again_finds_the_part_that_is_there_now(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir_all(host.join("current")).unwrap();
        fs::write(host.join("current/version"), "one").unwrap();
        let volumes = json!([{"name": "v", "hostPath": {"path": host}}]);
        let mounts = json!([{"name": "v", "mountPath": "/v", "subPath": "current"}]);
        let before = Census::take(&magikrun.roots());
        run(&magikrun, &sleeping("p", volumes, mounts));
        fs::rename(host.join("current"), host.join("old")).unwrap();
        fs::create_dir(host.join("current")).unwrap();
        fs::write(host.join("current/version"), "two").unwrap();
        assert_eq!(inside(&magikrun, "p", "c", "cat /v/version"), "one");
        magikrun.ok(&["pod", "restart", "-c", "c", "p"]);
        assert_eq!(inside(&magikrun, "p", "c", "cat /v/version"), "two");
        delete(&magikrun, "p");
        before.assert_same("after the pod");
    }
);

isolated!(
    fn mounts_go_from_container_to_container_as_mount_propagation_says(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut all = pod("p", &["from", "to", "none"].map(|name| container(name, BUSYBOX, FOREVER)));
        all["spec"]["volumes"] = json!([{"name": "disk", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}]);
        all["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        for (place, propagation) in ["Bidirectional", "HostToContainer", "None"].iter().enumerate() {
            all["spec"]["containers"][place]["volumeMounts"] = json!([
                {"name": "disk", "mountPath": "/disk", "mountPropagation": propagation},
                {"name": "memory", "mountPath": "/memory", "mountPropagation": propagation},
            ]);
        }
        let before = Census::take(&magikrun.roots());
        let id = run(&magikrun, &all);
        for dir in ["disk", "memory"] {
            let script = format!("mkdir /{dir}/m && mount -t tmpfs none /{dir}/m && echo hello > /{dir}/m/file");
            inside(&magikrun, "p", "from", &script);
            assert_eq!(inside(&magikrun, "p", "to", &format!("cat /{dir}/m/file")), "hello\n");
            assert!(!succeeds(&magikrun, "p", "none", &format!("cat /{dir}/m/file")), "{dir}");
            let on_host = magikrun.root.join("pods").join(&id).join("volumes").join(dir).join("m/file");
            assert!(!on_host.exists(), "the host has no part in it");
            inside(&magikrun, "p", "from", &format!("umount /{dir}/m"));
            assert!(!succeeds(&magikrun, "p", "to", &format!("cat /{dir}/m/file")), "{dir}");
        }
        // A container that is run again takes part anew.
        magikrun.ok(&["pod", "restart", "-c", "to", "p"]);
        inside(&magikrun, "p", "from", "mount -t tmpfs none /disk/m && echo again > /disk/m/file");
        assert_eq!(inside(&magikrun, "p", "to", "cat /disk/m/file"), "again\n");
        delete(&magikrun, "p");
        before.assert_same("after the pod");
    }
);

isolated!(
    fn mounts_go_to_and_from_the_host_as_mount_propagation_says(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = shared_dir(&scene.dir().join("host"));
        for dir in ["early", "late", "theirs", "part/deep"] {
            fs::create_dir_all(host.join(dir)).unwrap();
        }
        let mut all = pod("p", &["both", "slave", "none"].map(|name| container(name, BUSYBOX, FOREVER)));
        all["spec"]["volumes"] = json!([{"name": "h", "hostPath": {"path": host}}]);
        all["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        for (place, propagation) in ["Bidirectional", "HostToContainer", "None"].iter().enumerate() {
            all["spec"]["containers"][place]["volumeMounts"] = json!([
                {"name": "h", "mountPath": "/h", "mountPropagation": propagation},
                {"name": "h", "mountPath": "/part", "subPath": "part", "mountPropagation": propagation},
            ]);
        }
        let before = Census::take(&magikrun.roots());
        run(&magikrun, &all);
        mount_tmpfs_on(&host.join("late"));
        mount_tmpfs_on(&host.join("part/deep"));
        fs::write(host.join("late/file"), "").unwrap();
        fs::write(host.join("part/deep/file"), "").unwrap();
        for (name, sees) in [("both", true), ("slave", true), ("none", false)] {
            for file in ["/h/late/file", "/part/deep/file"] {
                assert_eq!(succeeds(&magikrun, "p", name, &format!("[ -e {file} ]")), sees, "{name} {file}");
            }
        }
        inside(&magikrun, "p", "both", "mount -t tmpfs none /h/theirs && echo x > /h/theirs/file");
        assert!(host.join("theirs/file").exists(), "it is the host's, too");
        for (name, sees) in [("both", true), ("slave", true), ("none", false)] {
            assert_eq!(succeeds(&magikrun, "p", name, "[ -e /h/theirs/file ]"), sees, "{name}");
        }
        for dir in ["late", "part/deep", "theirs"] {
            rustix::mount::unmount(host.join(dir), rustix::mount::UnmountFlags::empty()).expect("nobody holds it");
        }
        assert!(!succeeds(&magikrun, "p", "both", "[ -e /h/theirs/file ]"));
        delete(&magikrun, "p");
        before.assert_same("after the pod");

        // What cannot propagate is said, as containerd does.
        mount_change(&host, MountPropagationFlags::PRIVATE).unwrap();
        let said = fails(&magikrun, &all);
        assert!(said.contains("volume h: hostPath") && said.contains("which is not shared"), "{said}");
    }
);

isolated!(
    fn what_is_mounted_below_a_volume_is_read_only_if_that_is_asked_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir_all(host.join("below")).unwrap();
        mount_tmpfs_on(&host.join("below"));
        let volumes = json!([{"name": "h", "hostPath": {"path": host}}]);
        let mounts = json!([
            {"name": "h", "mountPath": "/plain", "readOnly": true},
            {"name": "h", "mountPath": "/disabled", "readOnly": true, "recursiveReadOnly": "Disabled"},
            {"name": "h", "mountPath": "/enabled", "readOnly": true, "recursiveReadOnly": "Enabled"},
            {"name": "h", "mountPath": "/possible", "readOnly": true, "recursiveReadOnly": "IfPossible", "mountPropagation": "None"},
            {"name": "h", "mountPath": "/part", "subPath": "below", "readOnly": true, "recursiveReadOnly": "Enabled"},
        ]);
        run(&magikrun, &sleeping("p", volumes, mounts));
        for (path, writable) in [
            ("/plain", false), ("/plain/below", true), ("/disabled/below", true),
            ("/enabled", false), ("/enabled/below", false), ("/possible/below", false), ("/part", false),
        ] {
            assert_eq!(succeeds(&magikrun, "p", "c", &format!("touch {path}/x")), writable, "{path}");
        }
        delete(&magikrun, "p");
    }
);

isolated!(
    fn wasm_is_given_a_part_of_a_volume_or_says_that_it_is_not(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let volumes = json!([
            {"name": "d", "downwardAPI": {"items": [{"path": "a/name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]);
        let refused = |mount: Value| {
            let mut pod = sleeping("p", volumes.clone(), json!([mount]));
            pod["spec"]["runtimeClassName"] = json!("wasm");
            fails(&magikrun, &pod)
        };
        let said = refused(json!({"name": "d", "mountPath": "/v", "mountPropagation": "HostToContainer"}));
        assert!(said.contains("spec.containers[0].volumeMounts[0].mountPropagation: not supported: WebAssembly"), "{said}");
        let said = refused(json!({"name": "d", "mountPath": "/v", "subPath": "a/name"}));
        assert!(said.contains("spec.containers[0].volumeMounts[0].subPath: not supported: WebAssembly"), "{said}");

        let module = magikrun_test_images::shell_wasm().expect("a shell for WebAssembly");
        magikrun.ok(&["image", "load", "-q", "-i", module.to_str().expect("UTF-8"), "-t", "localhost/sh:1"]);
        let host = scene.dir().join("host");
        fs::create_dir(&host).unwrap();
        fs::create_dir(scene.dir().join("secret")).unwrap();
        symlink("../secret", host.join("out")).unwrap();
        let wasm = |part: &str| json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wasm"},
            "spec": {
                "restartPolicy": "Never", "runtimeClassName": "wasm", "terminationGracePeriodSeconds": 0,
                "volumes": [
                    {"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": host}},
                    {"name": "d", "downwardAPI": {"items": [{"path": "a/name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
                ],
                "containers": [{
                    "name": "c", "image": "localhost/sh:1", "imagePullPolicy": "Never",
                    "args": ["-c", "cat /d/name; echo x > /v/file; cat /all/a/b/file; echo y > /h/file"],
                    "env": [{"name": "A", "value": "a"}],
                    "volumeMounts": [
                        {"name": "v", "mountPath": "/v", "subPathExpr": "$(A)/b"}, {"name": "v", "mountPath": "/all"},
                        {"name": "d", "mountPath": "/d", "subPath": "a"}, {"name": "h", "mountPath": "/h", "subPath": part},
                    ],
                }],
            },
        });
        let file = magikrun.manifest(wasm("new/dir").to_string());
        let ran = magikrun.run(&["pod", "run", "-q", "--wait", "-f", &file]);
        let log = magikrun.run(&["pod", "logs", "wasm"]);
        assert_eq!((log.stdout.as_str(), ran.code), ("wasmx\n", 0), "{ran:?} {log:?}");
        assert_eq!(fs::read_to_string(host.join("new/dir/file")).unwrap(), "y\n");
        delete(&magikrun, "wasm");
        let said = fails(&magikrun, &wasm("out"));
        assert!(said.contains("leads out of the directory"), "{said}");
    }
);

isolated!(
    fn a_pod_with_more_on_disk_than_it_may_have_is_evicted(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let volumes = json!([{"name": "cache", "emptyDir": {"sizeLimit": "10Mi"}}]);
        let mounts = json!([{"name": "cache", "mountPath": "/cache"}]);
        let mut all = sleeping("p", volumes, mounts);
        all["spec"]["restartPolicy"] = json!("Always");
        run(&magikrun, &all);
        inside(&magikrun, "p", "c", "dd if=/dev/zero of=/cache/a bs=1M count=8; ln /cache/a /cache/b");
        let status = || magikrun.json(&["pod", "status", "p"]);
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!(status()["phase"], "Running", "a file with two names counts once");
        inside(&magikrun, "p", "c", "mkdir -p /cache/d/e; dd if=/dev/zero of=/cache/d/e/f bs=1M count=4");
        wait_for("its end", || status()["phase"] == "Failed");
        let status = status();
        assert_eq!(status["reason"], "Evicted", "{status}");
        assert_eq!(status["message"], "Usage of EmptyDir volume \"cache\" exceeds the limit \"10Mi\".");
        assert_eq!(status["containers"][0]["state"]["exit"]["code"], 137, "{status}");
        let v1 = magikrun.ok(&["pod", "status", "-o", "json", "p"]);
        let v1: Value = serde_json::from_str(&v1).expect("JSON");
        assert_eq!((&v1["status"]["phase"], &v1["status"]["reason"]), (&json!("Failed"), &json!("Evicted")));
        delete(&magikrun, "p");

        // An init container that does it keeps the pod from starting.
        let fill = "dd if=/dev/zero of=/cache/a bs=1M count=12; sleep 1000";
        let mut init = container("fill", BUSYBOX, fill);
        init["volumeMounts"] = json!([{"name": "cache", "mountPath": "/cache"}]);
        all["spec"]["initContainers"] = json!([init]);
        let file = magikrun.manifest(all.to_string());
        let said = magikrun.error(&["pod", "run", "-q", "-f", &file]);
        assert!(said.contains("Usage of EmptyDir volume \"cache\" exceeds the limit \"10Mi\"."), "{said}");
        before.assert_same("after the pods");
    }
);

/// A pod that claims volumes, each mounted at `/NAME`.
fn claiming(pod: &str, names: &[&str]) -> Value {
    let volumes = names
        .iter()
        .map(|name| json!({"name": name, "persistentVolumeClaim": {"claimName": name}}));
    let mounts = names
        .iter()
        .map(|name| json!({"name": name, "mountPath": format!("/{name}")}));
    sleeping(pod, volumes.collect(), mounts.collect())
}

isolated!(
    fn a_volume_with_a_name_stays_when_pods_go(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let said = fails(&magikrun, &claiming("p", &["db"]));
        assert!(
            said.contains("spec.volumes[0].persistentVolumeClaim.claimName: there is no volume \"db\" in the namespace default: 'magikrun volume create db' makes it"),
            "{said}"
        );
        assert_eq!(magikrun.ok(&["volume", "create", "db"]), "db\n");
        let said = magikrun.error(&["volume", "create", "db"]);
        assert!(said.contains("volume default/db exists already"), "{said}");
        let before = Census::take(&magikrun.roots());
        let id = run(&magikrun, &claiming("one", &["db"]));
        run(&magikrun, &claiming("two", &["db"]));
        inside(&magikrun, "one", "c", "echo kept > /db/file; ln -s / /db/link; stat -c %u:%a /db /db/file");
        // Each pod has users of its own, where they can be had, and sees the same owners.
        assert_eq!(inside(&magikrun, "two", "c", "cat /db/file; stat -c %u:%a /db /db/file"), "kept\n0:777\n0:644\n");
        let said = magikrun.error(&["volume", "rm", "db"]);
        assert!(said.contains("volume default/db is in use: delete pods ") && said.contains(&id), "{said}");
        magikrun.ok(&["volume", "prune", "--force"]);
        let shown = magikrun.json(&["volume", "inspect", "db"]);
        assert_eq!(shown["usedBy"].as_array().unwrap().len(), 2, "{shown}");
        let data = PathBuf::from(shown["path"].as_str().unwrap());
        for pod in ["one", "two"] {
            delete(&magikrun, pod);
        }
        assert_eq!(fs::read_to_string(data.join("file")).unwrap(), "kept\n");
        fs::remove_file(data.join("file")).unwrap();
        fs::remove_file(data.join("link")).unwrap();
        before.assert_same("after the pods: the volume is as it was");

        // Of another namespace it is another one.
        magikrun.ok(&["volume", "create", "-n", "shop", "db", "spare"]);
        let listed = magikrun.ok(&["volume", "ls", "-q"]);
        assert_eq!(listed, "db\ndb\nspare\n");
        assert_eq!(magikrun.ok(&["volume", "ls", "-q", "-n", "shop"]), "db\nspare\n");
        assert_eq!(magikrun.ok(&["volume", "rm", "-n", "shop", "spare"]), "spare\n");
        assert_eq!(magikrun.ok(&["volume", "prune", "--force"]), "default/db\nshop/db\n");
        let said = magikrun.error(&["volume", "rm", "db"]);
        assert!(said.contains("volume default/db does not exist"), "{said}");
        let said = magikrun.error(&["volume", "prune"]);
        assert!(said.contains("--force"), "{said}");
    }
);

isolated!(
    fn a_claim_beside_the_pod_makes_its_volume(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir(&host).unwrap();
        let claim = |name: &str, volume: Value| json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "volumeName": volume},
        });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": host}},
        });
        let mut all = claiming("p", &["db", "on-host", "read"]);
        all["spec"]["volumes"][2]["persistentVolumeClaim"]["readOnly"] = json!(true);
        all["spec"]["volumes"].as_array_mut().unwrap().push(json!({"name": "scratch", "ephemeral": {
            "volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
        }}));
        all["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().extend([
            json!({"name": "scratch", "mountPath": "/scratch"}),
            json!({"name": "db", "mountPath": "/part", "subPath": "a/b"}),
        ]);
        all["spec"]["securityContext"] = json!({"fsGroup": 3000, "runAsUser": 1000});
        let file = magikrun.manifest(documents(&[
            claim("db", Value::Null), claim("on-host", json!("disk")), claim("read", Value::Null), all.clone(), volume,
        ]));
        let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(out.code, 0, "{out:?}");
        assert!(out.stderr.contains("PersistentVolumeClaim db: spec.resources.requests.storage changes nothing: is noted"), "{out:?}");
        let script = "echo x > /db/file; echo y > /on-host/file; echo z > /scratch/file; echo w > /part/file; stat -c %g:%a /db /part";
        assert_eq!(inside(&magikrun, "p", "c", script), "3000:2777\n3000:2777\n");
        assert!(!succeeds(&magikrun, "p", "c", "echo no > /read/file"));
        assert_eq!(fs::read_to_string(host.join("file")).unwrap(), "y\n");
        let listed = magikrun.json(&["volume", "ls"]);
        let names: Vec<_> = listed.as_array().unwrap().iter().map(|v| (v["name"].as_str().unwrap(), v["requested"].as_u64())).collect();
        assert_eq!(names, [("db", Some(1 << 30)), ("read", Some(1 << 30))]);
        delete(&magikrun, "p");

        // It is there the next time, and what is in it has the group that the pod asks for then.
        all["spec"]["securityContext"] = json!({"fsGroup": 4000, "runAsUser": 1000});
        all["spec"]["volumes"].as_array_mut().unwrap().remove(1);
        all["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().remove(1);
        run(&magikrun, &all);
        assert_eq!(inside(&magikrun, "p", "c", "stat -c %g:%a /db/file; cat /part/file"), "4000:664\nw\n");
        assert!(!succeeds(&magikrun, "p", "c", "[ -e /scratch/file ]"));
        delete(&magikrun, "p");

        for (document, says) in [
            (claim("x", json!("none")), "PersistentVolumeClaim x: spec.volumeName: no PersistentVolume is called \"none\""),
            (
                json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "x"}, "spec": {"nfs": {"server": "a", "path": "/"}}}),
                "PersistentVolume x: spec.nfs: not supported: mount it on the host, and use a hostPath",
            ),
        ] {
            let file = magikrun.manifest(documents(&[all.clone(), document]));
            let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
            assert!(out.code != 0 && out.stderr.contains(says), "{out:?}");
        }
        assert_eq!(magikrun.pods(), [""; 0]);
    }
);

isolated!(
    fn a_name_in_the_place_of_a_path_is_a_volume_that_is_made(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let run = |script: &str| magikrun.ok(&["pod", "run", "--attach", "--rm", "-v", "cache:/c", BUSYBOX, "busybox", "sh", "-c", script]);
        run("echo kept > /c/file");
        assert_eq!(run("cat /c/file"), "kept\n");
        assert_eq!(magikrun.ok(&["volume", "ls", "-q"]), "cache\n");
        let said = magikrun.error(&["pod", "run", "-v", "no_name:/c", BUSYBOX, "true"]);
        assert!(said.contains("claimName: \"no_name\" may hold only"), "{said}");
    }
);

isolated!(
    fn a_pod_that_did_not_start_uses_no_volume_and_what_was_left_of_one_is_removed(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        magikrun.ok(&["volume", "create", "db"]);
        let mut all = claiming("p", &["db"]);
        all["spec"]["containers"][0]["command"] = json!(["/no/such/program"]);
        fails(&magikrun, &all);
        assert_eq!(magikrun.json(&["volume", "inspect", "db"])["usedBy"], json!([]));
        // A caller that is killed leaks no use: what it has left is swept.
        let pause = scene.dir().join("pause");
        let env = [("MAGIKRUN_TEST_PAUSE", "launch"), ("MAGIKRUN_TEST_PAUSE_FILE", pause.to_str().unwrap())];
        let mut run = magikrun.spawn_pod_run(&claiming("p", &["db"]), &env);
        wait_for("the pause", || pause.exists());
        let used = magikrun.json(&["volume", "inspect", "db"])["usedBy"].as_array().unwrap().len();
        assert_eq!(used, 1, "it is noted before anything can write there");
        run.kill().expect("kill");
        run.wait().expect("wait");
        let is_free = || {
            magikrun.ok(&["pod", "ls"]);
            magikrun.json(&["volume", "inspect", "db"])["usedBy"] == json!([])
        };
        wait_for("the sweep", is_free);
        // What a removal that was cut short has left is gone after the next one.
        let left = magikrun.root.join("volumes/.removed/data");
        fs::create_dir_all(&left).unwrap();
        magikrun.ok(&["volume", "rm", "db"]);
        assert!(!left.exists());
        assert_eq!(magikrun.ok(&["volume", "ls", "-q"]), "");
    }
);

isolated!(
    fn an_image_is_a_volume_that_can_be_read(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut layout = magikrun_test_images::Layout::create(scene.dir().join("data-layout")).expect("layout");
        let layers = ["lower", "upper"].map(|name| {
            let mut layer = magikrun_test_images::LayerBuilder::new();
            layer.file("/models/which", 0o644, name.as_bytes()).expect("file");
            layer.file(&format!("/models/{name}"), 0o755, b"#!/bin/sh\necho ran\n").expect("file");
            layer.finish().expect("layer")
        });
        let config = magikrun_test_images::ImageConfig::command(&["/none"]);
        layout.add("localhost/data:1", &[&layers[0], &layers[1]], &config).expect("image");
        layout.add("localhost/one:1", &[&layers[0]], &config).expect("image");
        for name in ["localhost/data:1", "localhost/one:1"] {
            magikrun.ok(&["image", "pull", "-q", &layout.reference(name)]);
        }
        let volumes = json!([
            {"name": "data", "image": {"reference": "localhost/data:1", "pullPolicy": "Never"}},
            {"name": "one", "image": {"reference": "localhost/one:1", "pullPolicy": "IfNotPresent"}},
        ]);
        let mounts = json!([
            {"name": "data", "mountPath": "/data"}, {"name": "one", "mountPath": "/one"},
            {"name": "data", "mountPath": "/part", "subPath": "models"},
            {"name": "data", "mountPath": "/file", "subPath": "models/lower"},
        ]);
        for host_users in [None, Some(true)] {
            let mut all = sleeping("p", volumes.clone(), mounts.clone());
            if let Some(host_users) = host_users {
                all["spec"]["hostUsers"] = json!(host_users);
            }
            run(&magikrun, &all);
            // The images stay as long as the pod.
            magikrun.ok(&["image", "rm", "localhost/data:1", "localhost/one:1"]);
            magikrun.ok(&["image", "prune"]);
            let script = "cat /data/models/which /one/models/which /part/upper /file; stat -c %u:%a /data/models/which /one/models/which";
            let said = inside(&magikrun, "p", "c", script);
            assert_eq!(said, "upperlower#!/bin/sh\necho ran\n#!/bin/sh\necho ran\n0:644\n0:644\n", "{host_users:?}");
            for wrong in ["touch /data/x", "touch /one/models/which", "/data/models/upper", "/part/upper", "/one/models/lower"] {
                assert!(!succeeds(&magikrun, "p", "c", wrong), "{wrong}");
            }
            magikrun.ok(&["pod", "restart", "p"]);
            assert_eq!(inside(&magikrun, "p", "c", "cat /data/models/which"), "upper");
            delete(&magikrun, "p");
            for name in ["localhost/data:1", "localhost/one:1"] {
                magikrun.ok(&["image", "pull", "-q", &layout.reference(name)]);
            }
        }
        let none = json!([{"name": "data", "image": {"reference": "localhost/none:1", "pullPolicy": "Never"}}]);
        let before = Census::take(&magikrun.roots());
        let mut all = sleeping("p", none, json!([{"name": "data", "mountPath": "/data"}]));
        let file = magikrun.manifest(all.to_string());
        let said = magikrun.error(&["pod", "run", "-q", "-f", &file]);
        assert!(said.contains("volume data: image localhost/none:1"), "{said}");
        all["spec"]["runtimeClassName"] = json!("microvm");
        let file = magikrun.manifest(all.to_string());
        let said = magikrun.error(&["pod", "run", "-q", "-f", &file]);
        assert!(said.contains("spec.volumes[0].image: not supported: a machine"), "{said}");
        before.assert_same("after pods that did not start");
    }
);

isolated!(
    fn a_webassembly_program_reads_an_image_and_writes_to_a_volume_with_a_name(scene) {
        let magikrun = Magikrun::new(scene);
        let module = magikrun_test_images::shell_wasm().expect("a shell for WebAssembly");
        magikrun.ok(&["image", "load", "-q", "-i", module.to_str().expect("UTF-8"), "-t", "localhost/sh:1"]);
        let mut layout = magikrun_test_images::Layout::create(scene.dir().join("data-layout")).expect("layout");
        let mut layer = magikrun_test_images::LayerBuilder::new();
        layer.file("/models/which", 0o644, b"model").expect("file");
        let layer = layer.finish().expect("layer");
        let config = magikrun_test_images::ImageConfig::command(&["/none"]);
        layout.add("localhost/data:1", &[&layer], &config).expect("image");
        magikrun.ok(&["image", "pull", "-q", &layout.reference("localhost/data:1")]);
        magikrun.ok(&["volume", "create", "db"]);
        let file = magikrun.manifest(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "wasm"},
            "spec": {
                "restartPolicy": "Never", "runtimeClassName": "wasm", "terminationGracePeriodSeconds": 0,
                "volumes": [
                    {"name": "db", "persistentVolumeClaim": {"claimName": "db"}},
                    {"name": "image", "image": {"reference": "localhost/data:1", "pullPolicy": "Never"}},
                ],
                "containers": [{
                    "name": "c", "image": "localhost/sh:1", "imagePullPolicy": "Never",
                    "args": ["-c", "cat /part/which; echo kept > /db/file; echo no > /part/which"],
                    "volumeMounts": [
                        {"name": "db", "mountPath": "/db"}, {"name": "image", "mountPath": "/part", "subPath": "models"},
                    ],
                }],
            },
        }).to_string());
        magikrun.run(&["pod", "run", "-q", "--wait", "-f", &file]);
        let log = magikrun.run(&["pod", "logs", "wasm"]);
        assert_eq!(log.stdout, "model", "{log:?}");
        assert!(log.stderr.contains("/part/which"), "it cannot write there: {log:?}");
        let path = magikrun.json(&["volume", "inspect", "db"])["path"].as_str().unwrap().to_owned();
        assert_eq!(fs::read_to_string(Path::new(&path).join("file")).unwrap(), "kept\n");
        delete(&magikrun, "wasm");
        magikrun.ok(&["volume", "rm", "db"]);
    }
);
