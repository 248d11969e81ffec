//! Claims of volumes: in a pod, and as documents beside it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as k8s;
use serde_json::Value;

use super::{
    Claim, HostPath, IgnoredField, PodSpec, SpecError, VolumeSource,
    check::At,
    claim_fields,
    errors::Problems,
    names, quantity,
    schema::Schema,
    volumes::{check_volume_mode, host_path},
    walk,
};
use crate::limits::MAX_POD_NAME_LEN;

/// A kind of document that tells of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A `PersistentVolume`.
    Volume,
    /// A `PersistentVolumeClaim`.
    Claim,
}

impl Kind {
    pub(super) fn of(version: &str, kind: &str) -> Option<Self> {
        match (version, kind) {
            ("v1", "PersistentVolume") => Some(Self::Volume),
            ("v1", "PersistentVolumeClaim") => Some(Self::Claim),
            _ => None,
        }
    }

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Volume => "PersistentVolume",
            Self::Claim => "PersistentVolumeClaim",
        }
    }
}

/// What such a document says.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The text that it is in.
    file: usize,
    /// Of a claim: bytes.
    requested: Option<u64>,
    /// Of a claim: the volume that it names.
    volume: Option<String>,
    /// Of a volume.
    host_path: Option<HostPath>,
}

/// All such documents.
#[derive(Debug, Default)]
pub(super) struct Claims {
    /// By namespace and name; volumes are in none.
    known: BTreeMap<(Kind, String, String), Known>,
}

impl Claims {
    /// Reads a document; the volumes come before the claims that name them. Returns its name.
    pub(super) fn read(
        &mut self,
        mut value: Value,
        kind: Kind,
        file: usize,
        problems: &mut Problems,
    ) -> String {
        let schema: &'static Schema = match kind {
            Kind::Volume => &claim_fields::VOLUME_DOCUMENT,
            Kind::Claim => &claim_fields::CLAIM_DOCUMENT,
        };
        walk::object(&mut value, schema, "", problems);
        let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let name = text("/metadata/name").unwrap_or_default();
        problems.or_default(names::dns_subdomain(&name, MAX_POD_NAME_LEN).at("metadata.name"));
        let namespace = match kind {
            Kind::Volume => String::new(),
            Kind::Claim => text("/metadata/namespace").unwrap_or_else(|| "default".into()),
        };
        if kind == Kind::Claim {
            problems.or_default(names::dns_label(&namespace).at("metadata.namespace"));
        }
        let modes = value.pointer("/spec/accessModes").and_then(Value::as_array);
        for (i, mode) in modes.into_iter().flatten().enumerate() {
            let checked = access_mode(mode.as_str().unwrap_or_default());
            problems.or_default(checked.at(&format!("spec.accessModes[{i}]")));
        }
        let mode = text("/spec/volumeMode");
        problems.or_default(check_volume_mode(mode.as_deref(), "spec.volumeMode"));
        let known = Known {
            file,
            requested: requested(&value, problems),
            volume: text("/spec/volumeName").filter(|name| !name.is_empty()),
            host_path: value.pointer("/spec/hostPath").and_then(|source| {
                let source: k8s::HostPathVolumeSource = serde_json::from_value(source.clone()).ok()?;
                let host = host_path(&source, "spec.hostPath", problems);
                problems.ok(host)
            }),
        };
        if let Some(volume) = &known.volume
            && !self
                .known
                .contains_key(&(Kind::Volume, String::new(), volume.clone()))
        {
            let shown: String = volume.chars().take(64).collect();
            problems.add(SpecError::invalid(
                "spec.volumeName",
                format!("no PersistentVolume is called {shown:?}: give its manifest, too, or remove it"),
            ));
        }
        let key = (kind, namespace, name.clone());
        if self.known.insert(key, known).is_some() {
            let reason = "another one has that name, too: remove one";
            problems.add(SpecError::invalid("metadata.name", reason));
        }
        name
    }

    /// Tells a pod what is known of the volumes that it claims.
    pub(super) fn tell(&self, spec: &mut PodSpec) {
        for volume in &mut spec.volumes {
            let VolumeSource::Claim(claim) = &mut volume.source else {
                continue;
            };
            let key = (Kind::Claim, spec.namespace.clone(), claim.name.clone());
            let Some(known) = self.known.get(&key) else {
                continue;
            };
            (claim.make, claim.requested) = (true, known.requested);
            let named = known.volume.clone();
            let named = named.and_then(|name| self.known.get(&(Kind::Volume, String::new(), name)));
            if let Some(host) = named.and_then(|volume| volume.host_path.clone()) {
                volume.source = VolumeSource::HostPath(host);
            }
        }
    }

    /// What each is called, for messages.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        let known = self.known.keys();
        known.map(|(kind, _, name)| format!("{} {name}", kind.as_str()))
    }

    /// Those that none of the pods uses, by the text that they are in. `used` has the claims of all
    /// pods, by namespace and name.
    pub(super) fn unused(&self, used: &[(String, String)]) -> Vec<(usize, IgnoredField)> {
        let is_used = |key: &(Kind, String, String)| match key.0 {
            Kind::Claim => used.iter().any(|(space, name)| (space, name) == (&key.1, &key.2)),
            Kind::Volume => {
                let mut known = self.known.values();
                known.any(|claim| claim.volume.as_ref() == Some(&key.2))
            }
        };
        let unused = self.known.iter().filter(|(key, _)| !is_used(key));
        unused
            .map(|((kind, _, name), known)| {
                let what = format!("{} {name}", kind.as_str());
                let why = match kind {
                    Kind::Claim => "no pod refers to it",
                    Kind::Volume => "no claim names it",
                };
                (known.file, IgnoredField::new(what, why))
            })
            .collect()
    }
}

fn access_mode(text: &str) -> Result<(), String> {
    match text {
        // Any number of pods of one host.
        "ReadWriteOnce" | "ReadOnlyMany" | "ReadWriteMany" => Ok(()),
        "ReadWriteOncePod" => Err("ReadWriteOncePod: other pods could use it; use ReadWriteOnce".into()),
        other => {
            let shown: String = other.chars().take(64).collect();
            Err(format!(
                "{shown:?} is none of ReadWriteOnce, ReadOnlyMany, ReadWriteMany"
            ))
        }
    }
}

fn requested(value: &Value, problems: &mut Problems) -> Option<u64> {
    let path = "spec.resources.requests.storage";
    let text = match value.pointer("/spec/resources/requests/storage")? {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let why = "is noted, and nothing limits how large a volume becomes";
    problems.ignored.push(IgnoredField::new(path, why));
    problems.ok(quantity::parse_whole(&text).at(path))
}

/// The claim of a pod's volume.
pub(super) fn of_volume(
    source: &k8s::PersistentVolumeClaimVolumeSource,
    path: &str,
    problems: &mut Problems,
) -> Claim {
    let name = source.claim_name.clone();
    let path = format!("{path}.persistentVolumeClaim.claimName");
    problems.or_default(names::dns_subdomain(&name, MAX_POD_NAME_LEN).at(&path));
    Claim {
        name,
        read_only: source.read_only.unwrap_or(false),
        make: false,
        requested: None,
    }
}
