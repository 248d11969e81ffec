//! What a pod's variables and volumes refer to: data beside the pod, its own fields, its resources.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{PodSpec, VolumeSource};

/// A variable of `env`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Where its value comes from.
    pub value: EnvValue,
}

/// Where the value of a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// `value`, as it is written: `$(NAME)` in it is replaced when the pod is run.
    Text(String),
    /// `valueFrom.fieldRef`.
    Field(FieldPath),
    /// `valueFrom.resourceFieldRef`.
    Resource(ResourceRef),
    /// `valueFrom.configMapKeyRef` and `valueFrom.secretKeyRef`.
    Key {
        /// Which of the two.
        kind: DataKind,
        /// The object's name.
        object: String,
        /// The key in it.
        key: String,
        /// There is no such variable where there is no such key.
        optional: bool,
    },
}

/// An entry of `envFrom`: all keys of an object are variables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvFrom {
    /// What stands before each key in the variable's name.
    pub prefix: String,
    /// What the object is.
    pub kind: DataKind,
    /// The object's name.
    pub object: String,
    /// No variables where there is no such object.
    pub optional: bool,
}

/// A kind of object that holds data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataKind {
    /// A v1 `ConfigMap`.
    ConfigMap,
    /// A v1 `Secret`.
    Secret,
}

impl DataKind {
    /// As `kind` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// A field of the pod that its containers can learn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FieldPath {
    /// `metadata.name`.
    Name,
    /// `metadata.namespace`.
    Namespace,
    /// `metadata.uid`: the pod's id.
    Uid,
    /// `metadata.labels['KEY']`.
    Label(String),
    /// `metadata.annotations['KEY']`.
    Annotation(String),
    /// `metadata.labels`: all of them; in a file only.
    Labels,
    /// `metadata.annotations`: all of them; in a file only.
    Annotations,
    /// `spec.nodeName`: the host's name.
    NodeName,
    /// `spec.serviceAccountName`.
    ServiceAccountName,
    /// `status.hostIP`.
    HostIp,
    /// `status.hostIPs`.
    HostIps,
    /// `status.podIP`.
    PodIp,
    /// `status.podIPs`.
    PodIps,
}

/// How much of a resource a container has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRef {
    /// Of which container; absent: of the one that asks.
    pub container: Option<String>,
    /// Its limit, or its request.
    pub is_limit: bool,
    /// Which resource.
    pub resource: ResourceName,
    /// The unit it is counted in, in thousandths of a processor or of a byte; not 0.
    pub divisor_millis: u64,
}

/// A resource that containers can learn of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ResourceName {
    /// `cpu`.
    Cpu,
    /// `memory`.
    Memory,
}

/// A volume of files that the pod's documents hold: `configMap`, `secret`, `downwardAPI` and
/// `projected`, which is several of them in one directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataVolume {
    /// The permissions of files that have none of their own, at most 0777.
    pub default_mode: u32,
    /// It is a `projected` volume, which may have several sources.
    pub projected: bool,
    /// Where its files come from.
    pub sources: Vec<DataSource>,
}

/// Where files of a volume come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DataSource {
    /// A ConfigMap or a Secret.
    Object {
        /// Which of the two.
        kind: DataKind,
        /// Its name.
        object: String,
        /// The keys that are files, and where; absent: all, each in a file of its name.
        items: Option<Vec<KeyToPath>>,
        /// Nothing where there is no such object or key.
        optional: bool,
    },
    /// Fields of the pod.
    Downward(Vec<DownwardFile>),
}

/// A key that is a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeyToPath {
    /// The key.
    pub key: String,
    /// The file: relative, normal, and nothing at its beginning starts with `..`.
    pub path: String,
    /// Its permissions.
    pub mode: Option<u32>,
}

/// A file that holds a field of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DownwardFile {
    /// The file, as [`KeyToPath::path`].
    pub path: String,
    /// Its permissions.
    pub mode: Option<u32>,
    /// What is in it.
    pub value: DownwardValue,
}

/// What is in such a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DownwardValue {
    /// `fieldRef`.
    Field(FieldPath),
    /// `resourceFieldRef`; it names a container.
    Resource(ResourceRef),
}

impl PodSpec {
    /// The ConfigMaps and Secrets that it names.
    pub(super) fn references(&self) -> BTreeSet<(DataKind, String)> {
        let mut found = BTreeSet::new();
        for container in self.all_containers() {
            found.extend(
                container
                    .env_from
                    .iter()
                    .map(|from| (from.kind, from.object.clone())),
            );
            for variable in &container.env {
                if let EnvValue::Key { kind, object, .. } = &variable.value {
                    found.insert((*kind, object.clone()));
                }
            }
        }
        let credentials = self.image_pull_secrets.iter();
        found.extend(credentials.map(|name| (DataKind::Secret, name.clone())));
        for volume in &self.volumes {
            let VolumeSource::Data(data) = &volume.source else {
                continue;
            };
            for source in &data.sources {
                if let DataSource::Object { kind, object, .. } = source {
                    found.insert((*kind, object.clone()));
                }
            }
        }
        found
    }
}
