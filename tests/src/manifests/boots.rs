//! Makes one pod of many, so that a virtual machine boots once for all of them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{Manifest, header::Step};

/// How many containers a pod has at most.
const MAX_CONTAINERS: usize = 16;
/// How many directories of the host QEMU's machine has devices for, beside its own.
const MAX_HOST_PATHS: usize = 4;

/// A pod with the containers of several manifests, each called `MANIFEST-CONTAINER`.
#[derive(Debug)]
pub(super) struct Boot {
    /// The pod's name.
    pub(super) name: String,
    /// Whose containers it has.
    pub(super) manifests: Vec<Manifest>,
    /// The pod, then all other documents.
    pub(super) documents: Vec<Value>,
}

/// Puts manifests together whose pods say the same but for containers and volumes. One that says
/// what the status of its pod is, or has several pods, has a machine of its own.
pub(super) fn boots(directory: &str, manifests: Vec<Manifest>) -> Vec<Boot> {
    let mut alike: BTreeMap<String, Vec<Manifest>> = BTreeMap::new();
    for manifest in manifests {
        alike.entry(key(&manifest)).or_default().push(manifest);
    }
    let mut groups: Vec<Vec<Manifest>> = Vec::new();
    for alike in alike.into_values() {
        let mut group = Vec::new();
        for manifest in alike {
            let one = std::slice::from_ref(&manifest);
            if containers(&group) + containers(one) > MAX_CONTAINERS
                || host_paths(&group) + host_paths(one) > MAX_HOST_PATHS
            {
                groups.push(std::mem::take(&mut group));
            }
            group.push(manifest);
        }
        groups.push(group);
    }
    let numbered = groups.into_iter().enumerate();
    numbered
        .map(|(number, manifests)| Boot::new(format!("{directory}-{number}"), manifests))
        .collect()
}

fn containers(manifests: &[Manifest]) -> usize {
    let count = |list: &Value| list.as_array().map_or(0, Vec::len);
    let pods = manifests.iter().flat_map(Manifest::pods);
    pods.map(|pod| count(&pod["spec"]["containers"]) + count(&pod["spec"]["initContainers"]))
        .sum()
}

fn host_paths(manifests: &[Manifest]) -> usize {
    let pods = manifests.iter().flat_map(Manifest::pods);
    let volumes = pods.flat_map(|pod| pod["spec"]["volumes"].as_array().into_iter().flatten());
    volumes.filter(|volume| !volume["hostPath"].is_null()).count()
}

/// All that a pod says besides its name, its containers and its volumes.
fn key(manifest: &Manifest) -> String {
    let header = &manifest.header;
    let is_of_pod = |step: &Step| matches!(step, Step::Status(..));
    if header.steps.iter().any(is_of_pod) || !header.notes.is_empty() || !header.refused.is_empty() {
        return manifest.name.clone();
    }
    let pods: Vec<&Value> = manifest.pods().collect();
    let [pod] = pods[..] else {
        return manifest.name.clone();
    };
    if pod["kind"] != "Pod" {
        return manifest.name.clone();
    }
    let (mut metadata, mut spec) = (pod["metadata"].clone(), pod["spec"].clone());
    remove(&mut metadata, &["name"]);
    remove(&mut spec, &["containers", "initContainers", "volumes"]);
    json!({"metadata": metadata, "spec": spec}).to_string()
}

fn remove(object: &mut Value, fields: &[&str]) {
    let object = object.as_object_mut().expect("an object");
    object.retain(|field, _| !fields.contains(&field.as_str()));
}

impl Boot {
    fn new(name: String, manifests: Vec<Manifest>) -> Self {
        if let [alone] = &manifests[..] {
            let documents = alone.documents.clone();
            return Self {
                name: alone.name.clone(),
                documents,
                manifests,
            };
        }
        let mut pod = Value::Null;
        let mut others = Vec::new();
        for manifest in &manifests {
            for document in &manifest.documents {
                if document["kind"] == "Pod" {
                    add(&mut pod, renamed(&manifest.name, document.clone()));
                } else {
                    others.push(document.clone());
                }
            }
        }
        pod["metadata"]["name"] = name.clone().into();
        others.insert(0, pod);
        Self {
            name,
            manifests,
            documents: others,
        }
    }

    /// What stands before the names of a manifest's containers.
    pub(super) fn prefix(&self, manifest: &Manifest) -> String {
        if self.manifests.len() == 1 {
            return String::new();
        }
        format!("{}-", manifest.name)
    }
}

/// Its containers and volumes, beside those that are there.
fn add(pod: &mut Value, mut other: Value) {
    if pod.is_null() {
        *pod = other;
        return;
    }
    for list in ["containers", "initContainers", "volumes"] {
        let Value::Array(more) = other["spec"][list].take() else {
            continue;
        };
        match &mut pod["spec"][list] {
            Value::Array(there) => there.extend(more),
            none => *none = more.into(),
        }
    }
}

/// With the manifest's name before those of its containers and volumes, and whatever refers to them.
fn renamed(manifest: &str, mut pod: Value) -> Value {
    let rename = |value: &mut Value| {
        if let Value::String(name) = value {
            *name = format!("{manifest}-{name}");
        }
    };
    let each = |list: &mut Value, rename: &dyn Fn(&mut Map<String, Value>)| {
        let objects = list.as_array_mut().into_iter().flatten();
        objects.filter_map(Value::as_object_mut).for_each(rename);
    };
    let names = |object: &mut Map<String, Value>| object.get_mut("name").map_or((), rename);
    let spec = &mut pod["spec"];
    each(&mut spec["volumes"], &names);
    for list in ["containers", "initContainers"] {
        each(&mut spec[list], &names);
        each(&mut spec[list], &|container| {
            if let Some(mounts) = container.get_mut("volumeMounts") {
                each(mounts, &names);
            }
        });
    }
    rename_fields(spec, "containerName", &rename);
    remove_nulls(spec);
    pod
}

fn rename_fields(value: &mut Value, field: &str, rename: &dyn Fn(&mut Value)) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                if name == field {
                    rename(value);
                } else {
                    rename_fields(value, field, rename);
                }
            }
        }
        Value::Array(list) => list
            .iter_mut()
            .for_each(|value| rename_fields(value, field, rename)),
        _ => {}
    }
}

/// Looking for a list that is not there has made it null.
fn remove_nulls(spec: &mut Value) {
    if let Value::Object(spec) = spec {
        spec.retain(|_, value| !value.is_null());
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Header, *};

    fn manifest(name: &str, step: &str, spec: &str) -> Manifest {
        let header = format!("# about\n#\n# on: microvm\n# {step}\n");
        let text = format!("{{kind: Pod, metadata: {{name: {name}}}, spec: {spec}}}");
        Manifest {
            name: name.into(),
            path: "x.yaml".into(),
            header: Header::parse(&header).unwrap(),
            documents: serde_saphyr::from_multiple(&text).unwrap(),
        }
    }

    #[test]
    fn those_that_say_the_same_share_a_machine() {
        let volumes =
            "{containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v}]}";
        let manifests = vec![
            manifest("a", "log c => x", volumes),
            manifest(
                "b",
                "log c => x",
                "{hostname: h, containers: [{name: c}], initContainers: [{name: i}]}",
            ),
            manifest(
                "c",
                "status: /status/phase => Running",
                "{containers: [{name: c}]}",
            ),
            manifest("d", "log c => x", volumes),
        ];
        let boots = boots("dir", manifests);
        let names: Vec<Vec<&str>> = boots
            .iter()
            .map(|boot| {
                boot.manifests
                    .iter()
                    .map(|manifest| manifest.name.as_str())
                    .collect()
            })
            .collect();
        assert_eq!(names, [vec!["c"], vec!["b"], vec!["a", "d"]]);
        let both = &boots[2];
        let expected = json!({
            "kind": "Pod", "metadata": {"name": "dir-2"}, "spec": {
                "containers": [
                    {"name": "a-c", "volumeMounts": [{"name": "a-v", "mountPath": "/v"}]},
                    {"name": "d-c", "volumeMounts": [{"name": "d-v", "mountPath": "/v"}]},
                ],
                "volumes": [{"name": "a-v"}, {"name": "d-v"}],
            },
        });
        assert_eq!(
            (both.name.as_str(), &both.documents[..]),
            ("dir-2", &[expected][..])
        );
        assert_eq!(both.prefix(&both.manifests[0]), "a-");
        assert_eq!(boots[0].prefix(&boots[0].manifests[0]), "");
    }

    #[test]
    fn no_machine_has_more_containers_than_a_pod_may() {
        let one = |name: String| manifest(&name, "log c => x", "{containers: [{name: c}]}");
        let boots = boots(
            "dir",
            (0..40).map(|number| one(format!("m{number:02}"))).collect(),
        );
        let sizes: Vec<usize> = boots.iter().map(|boot| boot.manifests.len()).collect();
        assert_eq!(sizes, [16, 16, 8]);
    }
}
