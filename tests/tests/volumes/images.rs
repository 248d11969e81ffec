//! Images as volumes.

use magikrun_tests::{Census, Magikrun, isolated};
use serde_json::json;

use crate::kit::{delete, inside, run, sleeping, succeeds};

isolated!(
    fn an_image_is_a_volume_that_can_be_read(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut layout = magikrun_test_images::Layout::create(scene.dir().join("data-layout")).expect("layout");
        let layers = ["lower", "upper"].map(|name| {
            let mut layer = magikrun_test_images::LayerBuilder::new();
            layer.file("/models/which", 0o644, name.as_bytes()).expect("file");
            layer.file(format!("/models/{name}"), 0o755, b"#!/bin/sh\necho ran\n").expect("file");
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
