//! Another version of the data in a pod's volumes.

use serde_json::Value;

use super::data;
use crate::{DataSource, DataVolume, PodSpec, SpecError, SpecErrors, spec::Problems};

/// Why a difference is a mistake.
const DIFFERS: &str = "is not what the pod was run with, and only the data of its volumes can be updated: run the pod anew ('pod run --replace')";

/// Whether nothing but the data differs.
///
/// # Errors
/// Names what does.
pub(crate) fn check(old: &PodSpec, new: &PodSpec) -> Result<(), SpecErrors> {
    let fields = |spec: &PodSpec| {
        let mut value = serde_json::to_value(spec).unwrap_or_default();
        if let Value::Object(fields) = &mut value {
            fields.remove("ignoredFields");
            // What it says is in the other fields.
            fields.remove("given");
        }
        value
    };
    let mut problems = Problems::default();
    if let (Value::Object(old), Value::Object(new)) = (fields(old), fields(new)) {
        for (field, value) in &new {
            let path = match field.as_str() {
                "name" | "namespace" | "labels" | "annotations" => format!("metadata.{field}"),
                field => format!("spec.{field}"),
            };
            compare(old.get(field).unwrap_or(&Value::Null), value, path, &mut problems);
        }
    }
    problems.finish()
}

/// Notes the innermost fields that differ.
fn compare(old: &Value, new: &Value, path: String, problems: &mut Problems) {
    match (old, new) {
        (old, new) if old == new => {}
        (Value::Object(old), Value::Object(new)) => {
            let added = new.keys().filter(|key| !old.contains_key(*key));
            for key in old.keys().chain(added) {
                let of = |map: &serde_json::Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                compare(&of(old), &of(new), format!("{path}.{key}"), problems);
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            for (i, (old, new)) in old.iter().zip(new).enumerate() {
                compare(old, new, format!("{path}[{i}]"), problems);
            }
        }
        _ => problems.add(SpecError::invalid(path, DIFFERS)),
    }
}

impl PodSpec {
    /// The volumes of data that can get another version: those of an immutable ConfigMap or Secret
    /// stay as they are.
    pub(crate) fn changeable(&self) -> impl Iterator<Item = (&str, &DataVolume)> {
        data::all(self).filter(|(_, data)| !self.is_immutable(data))
    }

    fn is_immutable(&self, data: &DataVolume) -> bool {
        data.sources.iter().any(|source| match source {
            DataSource::Object { kind, object, .. } => self
                .data
                .get(*kind, object)
                .is_some_and(|object| object.immutable),
            DataSource::Downward(_) => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(image: &str, more: &str, data: &str) -> PodSpec {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{{name: c, image: {image}{more}}}], volumes: [{{name: v, configMap: {{name: m}}}}]}}}}\n---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: m}}, {data}}}\n"
        );
        PodSpec::from_yaml(&text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn only_data_may_differ() {
        let old = pod("b", "", "data: {a: '1'}");
        // As it is read of a pod that runs.
        let old: PodSpec = serde_json::from_slice(&serde_json::to_vec(&old).unwrap()).unwrap();
        assert!(check(&old, &pod("b", "", "data: {z: '2'}")).is_ok());
        let paths = |new: &PodSpec| {
            let errors = check(&old, new).unwrap_err();
            let paths = errors.errors().into_iter().filter_map(SpecError::path);
            paths.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(paths(&pod("x", "", "data: {}")), ["spec.containers[0].image"]);
        assert_eq!(
            paths(&pod("b", ", workingDir: /x, env: [{name: A}]", "data: {}")),
            ["spec.containers[0].env", "spec.containers[0].workingDir"]
        );
        let mut other = pod("b", "", "data: {}");
        other.labels.insert("a".into(), "b".into());
        assert_eq!(paths(&other), ["metadata.labels.a"]);
    }

    #[test]
    fn what_is_immutable_stays() {
        assert_eq!(pod("b", "", "data: {}").changeable().count(), 1);
        assert_eq!(pod("b", "", "immutable: true").changeable().count(), 0);
    }
}
