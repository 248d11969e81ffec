//! Volumes with names, which stay when pods go.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use magikrun_tests::{BUSYBOX, Census, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

use crate::kit::{delete, documents, fails, inside, run, sleeping, succeeds};

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
        // A path of the host is nobody's but the host's to give to a group.
        fs::set_permissions(&host, fs::Permissions::from_mode(0o777)).unwrap();
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
