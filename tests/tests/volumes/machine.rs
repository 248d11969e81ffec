//! Volumes in a machine are as on the host.

use std::{fs, os::unix::fs::symlink, path::PathBuf};

use magikrun_tests::{BUSYBOX, Magikrun, container, has_machines, isolated, pod, wait_for};
use serde_json::json;

use crate::kit::{FOREVER, delete, fails, inside};

isolated!(
    // One boot for all of it: machines are slow where they are emulated.
    fn volumes_in_a_machine_are_as_on_the_host(scene) {
        if !has_machines(scene.dir()) {
            return;
        }
        let magikrun = Magikrun::with_busybox(scene);
        let host = scene.dir().join("host");
        fs::create_dir_all(host.join("deep/er")).unwrap();
        fs::write(host.join("deep/er/file"), "of the host").unwrap();
        symlink("deep/er", host.join("link")).unwrap();
        magikrun.ok(&["volume", "create", "db"]);
        let mut all = pod("p", &["from", "to"].map(|name| container(name, BUSYBOX, FOREVER)));
        all["spec"]["runtimeClassName"] = json!("microvm");
        all["spec"]["securityContext"] = json!({"fsGroup": 2345});
        all["spec"]["volumes"] = json!([
            {"name": "disk", "emptyDir": {"sizeLimit": "4Mi"}}, {"name": "host", "hostPath": {"path": host}},
            {"name": "db", "persistentVolumeClaim": {"claimName": "db"}},
            {"name": "pod", "downwardAPI": {"items": [{"path": "a/name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
        ]);
        for (place, propagation) in ["Bidirectional", "HostToContainer"].iter().enumerate() {
            all["spec"]["containers"][place]["volumeMounts"] = json!([
                {"name": "disk", "mountPath": "/disk", "mountPropagation": propagation},
                {"name": "disk", "mountPath": "/part", "subPath": "x/y"},
                {"name": "host", "mountPath": "/host", "subPath": "link"},
                {"name": "host", "mountPath": "/new", "subPath": "made/here"},
                {"name": "pod", "mountPath": "/name", "subPath": "a/name"},
                {"name": "db", "mountPath": "/db"},
            ]);
        }
        all["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
        let mut wrong = all.clone();
        wrong["spec"]["containers"][0]["volumeMounts"][2]["mountPropagation"] = json!("HostToContainer");
        let said = fails(&magikrun, &wrong);
        assert!(said.contains("volumeMounts[2].mountPropagation: not supported: no mount of the host's reaches a machine"), "{said}");
        let file = magikrun.manifest(all.to_string());
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        let script = "cat /host/file /name; stat -c %g:%a /part; echo w > /host/new; echo n > /new/file; echo kept > /db/file";
        assert_eq!(inside(&magikrun, "p", "to", script), "of the hostp2345:2777\n");
        assert_eq!(fs::read_to_string(host.join("deep/er/new")).unwrap(), "w\n");
        assert_eq!(fs::read_to_string(host.join("made/here/file")).unwrap(), "n\n");
        let path = magikrun.json(&["volume", "inspect", "db"])["path"].as_str().unwrap().to_owned();
        assert_eq!(fs::read_to_string(PathBuf::from(path).join("file")).unwrap(), "kept\n");
        inside(&magikrun, "p", "from", "mkdir /disk/m && mount -t tmpfs none /disk/m && echo hello > /disk/m/file");
        assert_eq!(inside(&magikrun, "p", "to", "cat /disk/m/file"), "hello\n");
        inside(&magikrun, "p", "to", "dd if=/dev/zero of=/part/large bs=1M count=6");
        wait_for("its end", || magikrun.json(&["pod", "status", "p"])["phase"] == "Failed");
        let status = magikrun.json(&["pod", "status", "p"]);
        assert_eq!(status["reason"], "Evicted", "{status}");
        assert_eq!(status["message"], "Usage of EmptyDir volume \"disk\" exceeds the limit \"4Mi\".");
        delete(&magikrun, "p");
    }
);
