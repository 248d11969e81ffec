//! Restarts, sidecars, probes and hooks of a pod in a virtual machine: all of them in one boot.

use magikrun_tests::{BUSYBOX, Magikrun, busybox_layout, has_machines, isolated, wait_for};
use serde_json::{Value, json};

isolated!(
    fn a_pod_in_a_machine_lives_as_a_native_one(scene) {
        if !has_machines(scene.dir()) {
            return;
        }
        let magikrun = Magikrun::new(scene);
        let layout = busybox_layout(&scene.dir().join("layout"));
        magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
        let container = |name: &str, script: &str, more: Value| {
            let mut container = json!({
                "name": name, "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["busybox", "sh", "-c", script],
                "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
            });
            container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            container
        };
        let test = |file: &str| json!({
            "exec": {"command": ["busybox", "test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 20,
        });
        let ends = "trap 'echo ended; exit 0' TERM; while :; do busybox sleep 0.1; done";
        let serve = "busybox mkdir /w; echo hi > /w/index.html; busybox touch /alive; busybox httpd -p 8080 -h /w; trap 'exit 0' TERM; while :; do busybox sleep 0.1; done";
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {
                "runtimeClassName": "microvm", "terminationGracePeriodSeconds": 20,
                "volumes": [{"name": "shared", "emptyDir": {}}],
                "initContainers": [container("side", ends, json!({"restartPolicy": "Always"}))],
                "containers": [
                    container("server", serve, json!({
                        "startupProbe": {"httpGet": {"port": 8080, "path": "/index.html"}, "timeoutSeconds": 20},
                        "readinessProbe": test("/ready"),
                        "livenessProbe": test("/alive"),
                    })),
                    container("fails", "echo run; exit 3", json!({})),
                    container("hooked", ends, json!({"lifecycle": {
                        "postStart": {"exec": {"command": ["busybox", "touch", "/shared/hooked"]}},
                        "preStop": {"exec": {"command": ["busybox", "sh", "-c", "echo before > /proc/1/fd/1"]}},
                    }})),
                ],
            },
        });
        let file = magikrun.manifest(manifest.to_string());
        magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
        let of = |name: &str| {
            let status = magikrun.json(&["pod", "status", "p"]);
            let lists = ["initContainers", "containers"].map(|list| status[list].as_array().unwrap().clone());
            lists.into_iter().flatten().find(|container| container["name"] == name).unwrap()
        };
        let in_server = |words: &[&str]| {
            magikrun.ok(&[&["pod", "exec", "-c", "server", "p", "--", "busybox"], words].concat())
        };
        assert_eq!(of("server")["started"], true);
        assert_eq!(of("server")["ready"], false);
        in_server(&["test", "-e", "/shared/hooked"]);
        in_server(&["touch", "/ready"]);
        wait_for("it to be ready", || of("server")["ready"] == true);
        wait_for("two restarts", || of("fails")["restartCount"].as_u64().unwrap() >= 2);
        in_server(&["rm", "/alive"]);
        wait_for("its next run", || of("server")["restartCount"] == 1);
        magikrun.ok(&["pod", "stop", "p"]);
        assert_eq!(magikrun.ok(&["pod", "logs", "-c", "hooked", "p"]), "before\nended\n");
        assert_eq!(magikrun.ok(&["pod", "logs", "-c", "side", "p"]), "ended\n");
        assert!(magikrun.ok(&["pod", "logs", "-c", "fails", "p"]).starts_with("run\nrun\n"));
        magikrun.ok(&["pod", "delete", "p"]);
    }
);
