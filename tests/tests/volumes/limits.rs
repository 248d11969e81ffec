//! How much a volume may hold.

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, wait_for};
use serde_json::{Value, json};

use crate::kit::{delete, inside, run, sleeping};

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
