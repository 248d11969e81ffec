//! Volumes of WebAssembly programs.

use std::{fs, os::unix::fs::symlink, path::Path};

use magikrun_tests::{Magikrun, isolated};
use serde_json::{Value, json};

use crate::kit::{delete, fails, sleeping};

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
        assert_eq!(log.stdout, "model\n", "{log:?}");
        assert!(log.stderr.contains("/part/which"), "it cannot write there: {log:?}");
        let path = magikrun.json(&["volume", "inspect", "db"])["path"].as_str().unwrap().to_owned();
        assert_eq!(fs::read_to_string(Path::new(&path).join("file")).unwrap(), "kept\n");
        delete(&magikrun, "wasm");
        magikrun.ok(&["volume", "rm", "db"]);
    }
);
