//! Parts of volumes: `subPath` and `subPathExpr`.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, symlink},
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated};
use serde_json::json;

use crate::kit::{delete, documents, fails, inside, run, sleeping, succeeds};

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
