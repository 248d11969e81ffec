//! Fields of a v1 Pod: what they say is so inside of the container, or it is said that it is not.

use magikrun_tests::{BUSYBOX, Magikrun, Scene, busybox_layout, isolated};
use serde_json::{Value, json};

/// A pod of one container that runs a shell script, with more of `spec` and of the container.
fn pod(script: &str, spec: Value, container: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
            }],
        },
    });
    merge(&mut pod["spec"], spec);
    merge(&mut pod["spec"]["containers"][0], container);
    pod
}

fn with_busybox(scene: &Scene) -> Magikrun {
    let magikrun = Magikrun::new(scene);
    let layout = busybox_layout(&scene.dir().join("layout"));
    magikrun.ok(&["image", "pull", &layout.reference(BUSYBOX)]);
    magikrun
}

fn merge(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else {
        panic!("objects are wanted");
    };
    into.extend(more);
}

isolated!(
    fn ignored_fields_are_told_once_and_in_the_status(scene) {
        let magikrun = with_busybox(scene);
        let mut manifest = pod("sleep 1000", json!({
            "nodeSelector": {"disk": "ssd"}, "tolerations": [], "affinity": {"any": ["thing"]},
        }), json!({}));
        manifest["metadata"]["uid"] = "x".into();
        let file = magikrun.manifest(manifest.to_string());
        let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let mut said: Vec<&str> = out.stderr.lines().collect();
        said.sort_unstable();
        let note = |field: &str, why: &str| format!("magikrun: {file}: note: {field} changes nothing: {why}");
        let scheduler = "a scheduler reads it, and there is one host";
        assert_eq!(said, [
            note("metadata.uid", "it is what a cluster reports"),
            note("spec.affinity", scheduler),
            note("spec.nodeSelector", scheduler),
        ]);
        let status = magikrun.json(&["pod", "status", "p"]);
        let ignored = status["ignored"].as_array().expect("ignored fields");
        assert_eq!(ignored.len(), 3, "{ignored:?}");
        assert!(ignored.contains(&json!({"field": "spec.nodeSelector", "why": scheduler})), "{ignored:?}");
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);

isolated!(
    fn ignored_fields_are_mistakes_where_that_is_asked_for(scene) {
        let magikrun = with_busybox(scene);
        let file = magikrun.manifest(pod("true", json!({"nodeName": "a", "priority": 1}), json!({})).to_string());
        let line = |field: &str| format!(
            "magikrun: {file}: spec.{field}: changes nothing: a scheduler reads it, and there is one host: \
             remove it, or leave --strict out"
        );
        for command in ["run", "validate"] {
            let out = magikrun.run(&["pod", command, "--strict", "-f", &file]);
            let mut said: Vec<&str> = out.stderr.lines().collect();
            said.sort_unstable();
            assert_eq!((out.code, said), (1, vec![line("nodeName").as_str(), &line("priority")]), "{command}");
        }
        let report = magikrun.run(&["pod", "validate", "--strict", "-o", "json", "-f", &file]);
        let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
        assert_eq!((&report[0]["pod"], report[0]["errors"].as_array().map(Vec::len)), (&Value::Null, Some(2)));
        assert_eq!(magikrun.pods(), [""; 0]);
    }
);
