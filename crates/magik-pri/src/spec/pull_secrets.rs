//! `imagePullSecrets`: credentials for registries, from Secrets beside the pod.

use k8s_openapi::api::core::v1 as k8s;

use super::{DataKind, DataObject, IgnoredField, PodSpec, SpecError, check::At, errors::Problems, names};

/// The most of them, as there are containers that could each need one.
const MAX_SECRETS: usize = 16;
/// The types of Secrets that hold credentials, and their keys.
const JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
const OLD: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// Reads the names.
pub(super) fn names(list: Vec<k8s::LocalObjectReference>, problems: &mut Problems) -> Vec<String> {
    const PATH: &str = "spec.imagePullSecrets";
    if list.len() > MAX_SECRETS {
        let reason = format!("{} of them, at most {MAX_SECRETS} are allowed", list.len());
        problems.add(SpecError::invalid(PATH, reason));
        return Vec::new();
    }
    let name = |(i, secret): (usize, k8s::LocalObjectReference)| {
        let path = format!("{PATH}[{i}].name");
        problems.or_default(names::dns_subdomain(&secret.name, 253).at(&path));
        secret.name
    };
    list.into_iter().enumerate().map(name).collect()
}

/// Looks at the Secrets, once they are known. As with a kubelet, one that is missing is no error:
/// the image may be there, or need no password.
pub(super) fn check(pod: &PodSpec, problems: &mut Problems) {
    for (i, name) in pod.image_pull_secrets.iter().enumerate() {
        let path = format!("spec.imagePullSecrets[{i}]");
        let why = match pod.data.get(DataKind::Secret, name) {
            None => {
                let why = "no Secret of that name was given; 'magikrun login' keeps credentials, too";
                problems.ignored.push(IgnoredField::new(path, why));
                continue;
            }
            Some(secret) => match credentials(secret) {
                Some(Ok(_)) => continue,
                Some(Err(why)) => why.to_owned(),
                None => format!("the Secret {name} is not of the type {}", JSON.0),
            },
        };
        problems.add(SpecError::invalid(path, why));
    }
}

/// What a Secret holds, in the form of docker's `config.json`; `None`: it holds no credentials.
fn credentials(secret: &DataObject) -> Option<Result<String, &'static str>> {
    let type_ = secret.type_.as_deref()?;
    let (_, key) = [JSON, OLD].into_iter().find(|(known, _)| *known == type_)?;
    let bytes = &secret.entries.get(key)?.bytes;
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else {
        return Some(Err("what the Secret holds is no JSON"));
    };
    let value = if key == OLD.1 {
        serde_json::json!({ "auths": value })
    } else {
        value
    };
    Some(Ok(value.to_string()))
}

#[cfg(feature = "registry")]
impl PodSpec {
    /// The credentials that its `imagePullSecrets` hold, each with the Secret's name, in the form of
    /// docker's `config.json`.
    pub(crate) fn pull_credentials(&self) -> Vec<(String, String)> {
        let secrets = self
            .image_pull_secrets
            .iter()
            .filter_map(|name| self.data.get(DataKind::Secret, name));
        let texts = secrets.filter_map(|secret| Some((secret.name.clone(), credentials(secret)?.ok()?)));
        texts.collect()
    }
}
