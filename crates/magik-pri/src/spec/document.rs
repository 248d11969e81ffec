//! One document of a manifest, before it is read.

use serde_json::Value;

use super::{SpecError, SpecErrors, parse};
use crate::limits::MAX_SPEC_SIZE;

/// The namespace of what names none.
pub(super) const DEFAULT_NAMESPACE: &str = "default";

/// A document, or what a list lists. Where nothing is there is no document.
pub(super) fn flatten(value: Value, place: Vec<usize>, found: &mut Vec<(Vec<usize>, Value)>) {
    let is_list = value.get("kind").and_then(Value::as_str) == Some("List");
    match value {
        Value::Null => {}
        Value::Object(mut fields) if is_list && fields.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = fields.remove("items") else {
                return;
            };
            for (number, item) in items.into_iter().enumerate() {
                let mut place = place.clone();
                place.push(number);
                flatten(item, place, found);
            }
        }
        value => found.push((place, value)),
    }
}

/// Puts a document that is in no namespace, or in the default one, into this one.
pub(super) fn put_into(document: &mut Value, namespace: Option<&str>) {
    let Some(namespace) = namespace else { return };
    if let Some(Value::Object(metadata)) = document.get_mut("metadata") {
        let of_default = metadata
            .get("namespace")
            .is_none_or(|own| own.is_null() || own == DEFAULT_NAMESPACE);
        if of_default {
            metadata.insert("namespace".into(), namespace.into());
        }
    }
}

/// A pod alone, without the data beside it, has a bound of its own.
pub(super) fn fits(pod: &Value, alone: Option<usize>) -> Result<(), SpecErrors> {
    let size = alone.unwrap_or_else(|| pod.to_string().len());
    if size > MAX_SPEC_SIZE {
        return Err(SpecError::TooLarge(size).into());
    }
    Ok(())
}

/// Says what a document is that nothing can be made of.
pub(super) fn unknown(value: &Value, alone: bool, place: &[usize]) -> SpecError {
    let kind = parse::kind(value);
    if alone {
        return SpecError::NotAPod(format!("it is {kind}; wanted is kind: Pod, apiVersion: v1"));
    }
    let number: Vec<String> = place.iter().map(|number| (number + 1).to_string()).collect();
    SpecError::NotAPod(format!(
        "document {} is {kind}: beside a pod there may be ConfigMaps, Secrets, PersistentVolumeClaims and PersistentVolumes; remove it",
        number.join(".")
    ))
}
