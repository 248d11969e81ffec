//! Pod manifests, as JSON, which is YAML too.

use serde_json::{Value, json};

/// A Pod of these containers and nothing else.
#[must_use]
pub fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 2, "containers": containers},
    })
}

/// A container that runs a shell script.
#[must_use]
pub fn container(name: &str, image: &str, script: &str) -> Value {
    json!({"name": name, "image": image, "imagePullPolicy": "Never", "command": ["/bin/sh", "-c", script]})
}
