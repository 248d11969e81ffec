//! From Kubernetes' variables and references to ours, checking every value.

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{
    DataKind, EnvFrom, EnvValue, EnvVar, FieldPath, ResourceName, ResourceRef, SpecError,
    check::{At, Result},
    errors::Problems,
    names, quantity,
};
use crate::limits::MAX_ENV_VARS_PER_CONTAINER;

/// The variables of `env`.
pub(super) fn variables(list: Vec<k8s::EnvVar>, path: &str, problems: &mut Problems) -> Vec<EnvVar> {
    if list.len() > MAX_ENV_VARS_PER_CONTAINER {
        let reason = format!(
            "{} variables, at most {MAX_ENV_VARS_PER_CONTAINER} are allowed",
            list.len()
        );
        problems.add(SpecError::invalid(path, reason));
        return Vec::new();
    }
    let variable = |(i, var): (usize, k8s::EnvVar)| {
        let path = format!("{path}[{i}]");
        problems.or_default(names::env_name(&var.name).at(&format!("{path}.name")));
        let text = var.value.unwrap_or_default();
        let value = match var.value_from {
            None => EnvValue::Text(text),
            Some(_) if !text.is_empty() => {
                problems.add(SpecError::invalid(
                    &path,
                    "has both value and valueFrom: remove one",
                ));
                EnvValue::Text(text)
            }
            // What is wrong is left out, but those behind it keep their numbers.
            Some(source) => {
                value_from(source, &format!("{path}.valueFrom"), problems).unwrap_or(EnvValue::Text(text))
            }
        };
        EnvVar {
            name: var.name,
            value,
        }
    };
    list.into_iter().enumerate().map(variable).collect()
}

fn value_from(source: k8s::EnvVarSource, path: &str, problems: &mut Problems) -> Option<EnvValue> {
    let key = |kind, object, key, optional: Option<bool>| EnvValue::Key {
        kind,
        object,
        key,
        optional: optional.unwrap_or(false),
    };
    let keys = [
        source
            .config_map_key_ref
            .map(|r| key(DataKind::ConfigMap, r.name, r.key, r.optional)),
        source
            .secret_key_ref
            .map(|r| key(DataKind::Secret, r.name, r.key, r.optional)),
    ];
    let field = source.field_ref.map(|field| {
        let read = field_path(&field, &format!("{path}.fieldRef"), problems)?;
        if matches!(read, FieldPath::Labels | FieldPath::Annotations) {
            let path = format!("{path}.fieldRef.fieldPath");
            let reason = "all of them are for a file (a downwardAPI volume): add ['KEY'] for one";
            problems.add(SpecError::invalid(path, reason));
        }
        Some(EnvValue::Field(read))
    });
    let resource = source.resource_field_ref.map(|resource| {
        let path = format!("{path}.resourceFieldRef");
        resource_ref(resource, &path, problems).map(EnvValue::Resource)
    });
    let [map, secret] = keys.map(|key| key.map(Some));
    let mut given: Vec<Option<EnvValue>> = [map, secret, field, resource].into_iter().flatten().collect();
    if given.len() != 1 && !(given.is_empty() && problems.has_within(path)) {
        let reason = if given.is_empty() {
            "names no source: give configMapKeyRef, fieldRef, resourceFieldRef or secretKeyRef"
        } else {
            "names more than one source: keep one"
        };
        problems.add(SpecError::invalid(path, reason));
    }
    given.pop().flatten()
}

/// The objects of `envFrom`.
pub(super) fn sources(list: Vec<k8s::EnvFromSource>, path: &str, problems: &mut Problems) -> Vec<EnvFrom> {
    if list.len() > MAX_ENV_VARS_PER_CONTAINER {
        let reason = format!(
            "{} objects, at most {MAX_ENV_VARS_PER_CONTAINER} are allowed",
            list.len()
        );
        problems.add(SpecError::invalid(path, reason));
        return Vec::new();
    }
    let source = |(i, source): (usize, k8s::EnvFromSource)| {
        let path = format!("{path}[{i}]");
        let prefix = source.prefix.unwrap_or_default();
        if !prefix.is_empty() {
            problems.or_default(names::env_name(&prefix).at(&format!("{path}.prefix")));
        }
        let (kind, object, optional) = match (source.config_map_ref, source.secret_ref) {
            (Some(map), None) => (DataKind::ConfigMap, map.name, map.optional),
            (None, Some(secret)) => (DataKind::Secret, secret.name, secret.optional),
            (None, None) if problems.has_within(&path) => return None,
            (map, _) => {
                let reason = if map.is_some() {
                    "names both a ConfigMap and a Secret: make two entries of it"
                } else {
                    "names no source: give configMapRef or secretRef"
                };
                problems.add(SpecError::invalid(path, reason));
                return None;
            }
        };
        Some(EnvFrom {
            prefix,
            kind,
            object,
            optional: optional.unwrap_or(false),
        })
    };
    // What is wrong is left out; nothing else is said of those behind it then.
    list.into_iter().enumerate().filter_map(source).collect()
}

/// The fields that variables and files can have.
const FIELDS: [(&str, FieldPath); 11] = [
    ("metadata.name", FieldPath::Name),
    ("metadata.namespace", FieldPath::Namespace),
    ("metadata.uid", FieldPath::Uid),
    ("metadata.labels", FieldPath::Labels),
    ("metadata.annotations", FieldPath::Annotations),
    ("spec.nodeName", FieldPath::NodeName),
    ("spec.serviceAccountName", FieldPath::ServiceAccountName),
    ("status.hostIP", FieldPath::HostIp),
    ("status.hostIPs", FieldPath::HostIps),
    ("status.podIP", FieldPath::PodIp),
    ("status.podIPs", FieldPath::PodIps),
];

pub(super) fn field_path(
    field: &k8s::ObjectFieldSelector,
    path: &str,
    problems: &mut Problems,
) -> Option<FieldPath> {
    if let Some(version) = field.api_version.as_deref().filter(|v| !matches!(*v, "" | "v1")) {
        let reason = format!("{version:?} is not v1");
        problems.add(SpecError::invalid(format!("{path}.apiVersion"), reason));
    }
    let text = field.field_path.as_str();
    let one = |prefix: &str| text.strip_prefix(prefix)?.strip_prefix("['")?.strip_suffix("']");
    let read = if let Some(key) = one("metadata.labels") {
        names::qualified_key(key).map(|()| FieldPath::Label(key.to_owned()))
    } else if let Some(key) = one("metadata.annotations") {
        names::qualified_key(&key.to_lowercase()).map(|()| FieldPath::Annotation(key.to_owned()))
    } else {
        let known = FIELDS.into_iter().find(|(name, _)| *name == text);
        known.map(|(_, field)| field).ok_or_else(|| {
            let names: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
            let shown: String = text.chars().take(64).collect();
            format!(
                "{shown:?} is none of {}, metadata.labels['KEY'], metadata.annotations['KEY']",
                names.join(", ")
            )
        })
    };
    problems.ok(read.at(&format!("{path}.fieldPath")))
}

pub(super) fn resource_ref(
    resource: k8s::ResourceFieldSelector,
    path: &str,
    problems: &mut Problems,
) -> Option<ResourceRef> {
    let (is_limit, name) = match resource.resource.split_once('.') {
        Some(("limits", name)) => (true, name),
        Some(("requests", name)) => (false, name),
        _ => (true, ""),
    };
    let name_path = format!("{path}.resource");
    let (resource_name, unit) = match name {
        "cpu" => (ResourceName::Cpu, &CPU_UNITS[..]),
        "memory" => (ResourceName::Memory, &BYTE_UNITS[..]),
        "ephemeral-storage" => {
            let why = "no container has a limit of it; remove it";
            problems.add(SpecError::unsupported(name_path, why));
            return None;
        }
        _ => {
            let shown: String = resource.resource.chars().take(64).collect();
            let reason =
                format!("{shown:?} is none of limits.cpu, limits.memory, requests.cpu, requests.memory");
            problems.add(SpecError::invalid(name_path, reason));
            return None;
        }
    };
    let divisor = divisor(resource.divisor.as_ref(), unit, &format!("{path}.divisor"));
    Some(ResourceRef {
        container: resource.container_name.filter(|name| !name.is_empty()),
        is_limit,
        resource: resource_name,
        divisor_millis: problems.ok(divisor)?,
    })
}

/// The units that Kubernetes counts processors in.
const CPU_UNITS: [&str; 2] = ["1m", "1"];
/// The units that Kubernetes counts bytes in.
const BYTE_UNITS: [&str; 13] = [
    "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei",
];

/// The divisor in thousandths: one where there is none.
fn divisor(divisor: Option<&Quantity>, units: &[&str], path: &str) -> Result<u64> {
    let text = match divisor {
        Some(Quantity(text)) if text != "0" && !text.is_empty() => text.as_str(),
        _ => "1",
    };
    let unit = |text: &str| match quantity::parse_milli(text) {
        Ok(millis) => Ok(millis),
        // The largest of the units, in thousandths, are more than fits: they divide into one part.
        Err(_) if units.contains(&text) => Ok(u64::MAX),
        Err(error) => Err(error),
    };
    let millis = unit(text).at(path)?;
    let known = units
        .iter()
        .any(|known| unit(known).is_ok_and(|other| other == millis));
    if known {
        return Ok(millis);
    }
    Err(SpecError::invalid(
        path,
        format!("{text:?} is none of {}", units.join(", ")),
    ))
}
