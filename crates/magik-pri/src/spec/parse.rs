//! From text to a checked pod.

use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::{PodSpec, convert, fields};
use crate::limits::MAX_SPEC_SIZE;

/// Why a text is no pod that can be run. One line, naming the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// The text is larger than [`MAX_SPEC_SIZE`].
    #[error("the manifest has {0} bytes, at most {MAX_SPEC_SIZE} are read")]
    TooLarge(usize),
    /// The text is not YAML, or not JSON.
    #[error("not valid {format}: {reason}")]
    Syntax {
        /// `YAML` or `JSON`.
        format: &'static str,
        /// What the parser said, with line and column.
        reason: String,
    },
    /// The text is valid, and not exactly one v1 Pod.
    #[error("not a pod: {0}")]
    NotAPod(String),
    /// A field that Kubernetes does not have.
    #[error("{path}: unknown field{}", suggestion.as_ref().map(|s| format!(", did you mean {s}?")).unwrap_or_default())]
    UnknownField {
        /// Where, e.g. `spec.containers[1].imge`.
        path: String,
        /// The field that was perhaps meant.
        suggestion: Option<String>,
    },
    /// A field, or a value of a field, that Kubernetes has and this does not.
    #[error("{path}: not supported{}", why.as_ref().map(|w| format!(": {w}")).unwrap_or_default())]
    NotSupported {
        /// Where.
        path: String,
        /// Why, and what to do instead.
        why: Option<String>,
    },
    /// A value that is wrong.
    #[error("{path}: {reason}")]
    Invalid {
        /// Where.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl SpecError {
    pub(crate) fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(path: impl Into<String>, why: impl Into<String>) -> Self {
        Self::NotSupported {
            path: path.into(),
            why: Some(why.into()),
        }
    }
}

impl PodSpec {
    /// Reads a v1 Pod from YAML (or JSON, which is YAML). Empty documents are skipped; there must be exactly one other.
    ///
    /// # Errors
    /// [`SpecError`] names the first field that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self, SpecError> {
        check_size(text)?;
        let options = serde_saphyr::options! {
            budget: serde_saphyr::budget! { max_documents: 64, max_depth: 64, max_aliases: 1000 },
            with_snippet: false,
            reject_unsupported_tags: true,
        };
        let documents: Vec<Value> =
            serde_saphyr::from_multiple_with_options(text, options).map_err(|e| SpecError::Syntax {
                format: "YAML",
                reason: one_line(&e.to_string()),
            })?;
        match <[Value; 1]>::try_from(documents) {
            Ok([document]) => Self::from_value(document),
            Err(documents) if documents.is_empty() => {
                Err(SpecError::NotAPod("there is nothing in it".into()))
            }
            Err(documents) => {
                let kinds: Vec<String> = documents.iter().take(8).map(kind).collect();
                let reason = format!(
                    "{} documents ({}), and only one is run",
                    documents.len(),
                    kinds.join(", ")
                );
                Err(SpecError::NotAPod(reason))
            }
        }
    }

    /// Reads a v1 Pod from JSON.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml).
    pub fn from_json(text: &str) -> Result<Self, SpecError> {
        check_size(text)?;
        let value = serde_json::from_str(text).map_err(|e| SpecError::Syntax {
            format: "JSON",
            reason: e.to_string(),
        })?;
        Self::from_value(value)
    }

    /// Reads a v1 Pod from a JSON value.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml).
    pub fn from_value(value: Value) -> Result<Self, SpecError> {
        if !value.is_object() {
            return Err(SpecError::NotAPod(format!("it is {}", describe(&value))));
        }
        if value.get("kind").and_then(Value::as_str) != Some("Pod")
            || value.get("apiVersion").and_then(Value::as_str) != Some("v1")
        {
            return Err(SpecError::NotAPod(format!(
                "it is {}; wanted is kind: Pod, apiVersion: v1",
                kind(&value)
            )));
        }
        fields::check(&value)?;
        let pod: Pod = serde_path_to_error::deserialize(value).map_err(|e| {
            let path = match e.path().to_string() {
                path if path == "." => "the pod".to_owned(),
                path => path,
            };
            SpecError::Invalid {
                path,
                reason: one_line(&e.into_inner().to_string()),
            }
        })?;
        convert::pod(pod)
    }
}

fn check_size(text: &str) -> Result<(), SpecError> {
    if text.len() > MAX_SPEC_SIZE {
        Err(SpecError::TooLarge(text.len()))
    } else {
        Ok(())
    }
}

/// What a document says it is, for error messages.
fn kind(value: &Value) -> String {
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

fn describe(value: &Value) -> &'static str {
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
