//! From text to a checked pod.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    PodData, PodSpec, SpecError, SpecErrors, bind,
    check::At,
    convert, documents,
    errors::Problems,
    fields, names,
    order::{Order, Orders},
    pull_secrets, walk,
};
use crate::limits::MAX_SPEC_SIZE;

impl PodSpec {
    /// Reads a v1 Pod from YAML (or JSON, which is YAML), with the ConfigMaps and Secrets that it refers to, which are
    /// documents beside it. Empty documents are skipped; exactly one must be a pod.
    ///
    /// # Errors
    /// [`SpecErrors`] names every field that is wrong, in the order of the text.
    pub fn from_yaml(text: &str) -> Result<Self, SpecErrors> {
        documents::one_pod(text).map(|pod| pod.spec)
    }

    /// Reads a v1 Pod from JSON.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml).
    pub fn from_json(text: &str) -> Result<Self, SpecErrors> {
        check_size(text)?;
        let value = serde_json::from_str(text).map_err(|e| SpecError::Syntax {
            format: "JSON",
            reason: e.to_string(),
        })?;
        let texts = [("", text)];
        read(value, || Orders::new(&texts).of(0, &[0]), &NamedData::new())
    }

    /// Reads a v1 Pod from a JSON value.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml), sorted by name.
    pub fn from_value(value: Value) -> Result<Self, SpecErrors> {
        let order = Order::of_value(&value);
        read(value, || order, &NamedData::new())
    }
}

/// The documents of a YAML text, as values or as what else they are wanted as.
pub(super) fn documents<T: DeserializeOwned>(text: &str) -> Result<Vec<T>, SpecError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_documents: 256, max_depth: 64, max_aliases: 1000 },
        with_snippet: false,
        reject_unsupported_tags: true,
        // As Kubernetes reads the modes of files: 0644 is 420.
        legacy_octal_numbers: true,
    };
    serde_saphyr::from_multiple_with_options(text, options).map_err(|e| SpecError::Syntax {
        format: "YAML",
        reason: match e.without_snippet() {
            // It can be the value of a Secret that lacks quotes, which no message repeats.
            serde_saphyr::Error::UnsupportedTag { location, .. } => format!(
                "what begins with ! is a tag: put the value into quotes, at line {}, column {}",
                location.line(),
                location.column()
            ),
            error => one_line(&error.to_string()),
        },
    })
}

/// The ConfigMaps and Secrets of each namespace.
pub(super) type NamedData = BTreeMap<String, PodData>;

/// From a document to a pod, or all that is wrong with it.
pub(super) fn read(
    mut value: Value,
    order: impl FnOnce() -> Order,
    data: &NamedData,
) -> Result<PodSpec, SpecErrors> {
    let Value::Object(document) = &mut value else {
        return Err(SpecError::NotAPod(format!(
            "it is {}; wanted is kind: Pod, apiVersion: v1",
            describe(&value)
        ))
        .into());
    };
    let says = |key: &str| document.get(key).and_then(Value::as_str);
    if says("kind") != Some("Pod") || says("apiVersion") != Some("v1") {
        return Err(SpecError::NotAPod(format!(
            "it is {}; wanted is kind: Pod, apiVersion: v1",
            kind(&value)
        ))
        .into());
    }
    // What is missing is its name.
    document
        .entry("metadata")
        .or_insert_with(|| Value::Object(serde_json::Map::new()));
    // It changes nothing, but containers can be told of it.
    let account = value.pointer("/spec/serviceAccountName").and_then(Value::as_str);
    let account = account.filter(|name| !name.is_empty()).map(str::to_owned);
    let mut problems = Problems::default();
    walk::object(&mut value, &fields::POD, "", &mut problems);
    let given = value.get("spec").cloned().unwrap_or_default();
    let pod = serde_path_to_error::deserialize::<_, Pod>(value).map_err(|e| {
        let path = match e.path().to_string() {
            path if path == "." => "the pod".to_owned(),
            path => path,
        };
        SpecError::invalid(path, one_line(&e.into_inner().to_string()))
    });
    let mut spec = problems.ok(pod).and_then(|pod| convert::pod(pod, &mut problems));
    if let Some(spec) = &mut spec {
        if let Some(account) = account {
            let valid = names::dns_subdomain(&account, 253).at("spec.serviceAccountName");
            problems.or_default(valid);
            spec.service_account_name = account;
        }
        spec.data = data.get(&spec.namespace).cloned().unwrap_or_default();
        bind::check(spec, &mut problems);
        pull_secrets::check(spec, &mut problems);
        spec.data = spec.data.only(&spec.references());
    }
    let (spec, ignored_fields) = problems.none_or(spec, order)?;
    Ok(PodSpec {
        given,
        ignored_fields,
        ..spec
    })
}

fn check_size(text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_SPEC_SIZE {
        Err(SpecError::TooLarge(text.len()))
    } else {
        Ok(())
    }
}

/// What a document says it is, for error messages.
pub(super) fn kind(value: &Value) -> String {
    let text = |key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .map(|s| s.chars().take(64).collect::<String>())
    };
    match (text("kind"), text("apiVersion")) {
        (Some(kind), Some(version)) => format!("{kind:?} of {version:?}"),
        (Some(kind), None) => format!("{kind:?} without apiVersion"),
        (None, _) if value.is_object() => "an object without kind".into(),
        _ => describe(value).into(),
    }
}

pub(super) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Parsers' messages can have several lines and quote the input: one line, of a length fit for a terminal.
fn one_line(message: &str) -> String {
    const LONGEST: usize = 300;
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() <= LONGEST {
        line
    } else {
        line.chars().take(LONGEST).chain(['…']).collect()
    }
}
