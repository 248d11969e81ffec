//! ConfigMaps and Secrets: data that manifests hold beside a pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use base64::Engine as _;
use serde_json::Value;

use super::{
    DataKind, SpecError,
    check::{At, Result},
    data_fields,
    errors::Problems,
    names, walk,
    walk::join,
};
use crate::limits::{MAX_DATA_KEY_LEN, MAX_DATA_OBJECT_SIZE};

/// A ConfigMap or a Secret.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataObject {
    /// Which of the two.
    pub kind: DataKind,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, by default `default`.
    pub namespace: String,
    /// A Secret's `type`.
    pub type_: Option<String>,
    /// `immutable`: a new version may not differ.
    pub immutable: bool,
    /// What is in it, by key; of a Secret decoded.
    pub entries: BTreeMap<String, DataEntry>,
    /// Something was wrong with it: what it lacks may be there.
    pub(super) unsure: bool,
}

/// What a key of a ConfigMap or a Secret holds.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DataEntry {
    /// Its bytes.
    pub bytes: Arc<[u8]>,
    /// Of a ConfigMap's `binaryData`, of which no variables are made.
    pub binary: bool,
}

impl DataEntry {
    /// The text, if it can be a variable's value.
    pub(super) fn text(&self) -> std::result::Result<&str, &'static str> {
        match std::str::from_utf8(&self.bytes) {
            _ if self.binary => Err("is in binaryData, of which no variables are made"),
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err("holds bytes that no variable can have: use a volume"),
        }
    }
}

/// Values are not shown: they may be secret.
impl fmt::Debug for DataObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}/{} {:?}",
            self.kind.as_str(),
            self.namespace,
            self.name,
            self.entries
        )
    }
}

impl fmt::Debug for DataEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

/// The ConfigMaps and Secrets that a pod refers to. They are never written with it: a [`PodSpec`](crate::PodSpec)
/// that was serialised has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodData {
    objects: BTreeMap<(DataKind, String), Arc<DataObject>>,
}

impl PodData {
    /// An object by its name.
    #[must_use]
    pub fn get(&self, kind: DataKind, name: &str) -> Option<&Arc<DataObject>> {
        self.objects.get(&(kind, name.to_owned()))
    }

    /// All of them.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<DataObject>> {
        self.objects.values()
    }

    /// `false`: there is one of that name.
    pub(super) fn insert(&mut self, object: Arc<DataObject>) -> bool {
        let key = (object.kind, object.name.clone());
        self.objects.insert(key, object).is_none()
    }

    /// What there is of a kind, for who looked for another.
    pub(super) fn names(&self, kind: DataKind) -> Vec<&str> {
        let of_kind = self.objects.keys().filter(|(other, _)| *other == kind);
        of_kind.map(|(_, name)| name.as_str()).collect()
    }

    /// Those of the objects that are referred to.
    pub(super) fn only(&self, wanted: &BTreeSet<(DataKind, String)>) -> Self {
        let objects = self.objects.iter().filter(|(key, _)| wanted.contains(*key));
        Self {
            objects: objects
                .map(|(key, object)| (key.clone(), object.clone()))
                .collect(),
        }
    }
}

/// Reads a document that is a ConfigMap or a Secret, noting all that is wrong with it.
pub(super) fn read(mut value: Value, kind: DataKind, problems: &mut Problems) -> DataObject {
    if let Value::Object(fields) = &mut value {
        fields
            .entry("metadata")
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    let schema = match kind {
        DataKind::ConfigMap => &data_fields::CONFIG_MAP,
        DataKind::Secret => &data_fields::SECRET,
    };
    walk::object(&mut value, schema, "", problems);
    let text = |path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let name = text("/metadata/name").unwrap_or_default();
    problems.or_default(names::dns_subdomain(&name, 253).at("metadata.name"));
    let namespace = text("/metadata/namespace").unwrap_or_else(|| "default".into());
    problems.or_default(names::dns_label(&namespace).at("metadata.namespace"));
    let mut object = DataObject {
        kind,
        name,
        namespace,
        type_: text("/type"),
        immutable: value.get("immutable").and_then(Value::as_bool).unwrap_or(false),
        entries: BTreeMap::new(),
        unsure: false,
    };
    let fields: [(&str, bool); 2] = match kind {
        DataKind::ConfigMap => [("data", false), ("binaryData", true)],
        // What stringData has goes before what data has.
        DataKind::Secret => [("data", true), ("stringData", false)],
    };
    for (field, encoded) in fields {
        let Some(Value::Object(pairs)) = value.get(field) else {
            continue;
        };
        for (key, value) in pairs {
            let path = join(field, key);
            problems.or_default(data_key(key).at(&path));
            let text = value.as_str().unwrap_or_default();
            let bytes = if encoded {
                decode(text)
            } else {
                Ok(text.as_bytes().into())
            };
            let Some(bytes) = problems.ok(bytes.at(&path)) else {
                continue;
            };
            let binary = kind == DataKind::ConfigMap && encoded;
            if binary && object.entries.contains_key(key) {
                problems.add(SpecError::invalid(&path, "is in data, too: remove one"));
            }
            object.entries.insert(key.clone(), DataEntry { bytes, binary });
        }
    }
    problems.or_default(check(&object));
    object.unsure = !problems.is_empty();
    object
}

/// The keys that a Secret of a type must have.
const OF_TYPE: [(&str, &[&str]); 4] = [
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
];

fn check(object: &DataObject) -> Result<()> {
    let size: usize = object.entries.values().map(|entry| entry.bytes.len()).sum();
    if size > MAX_DATA_OBJECT_SIZE {
        return Err(SpecError::invalid(
            "data",
            format!("{size} bytes, at most {MAX_DATA_OBJECT_SIZE} are allowed"),
        ));
    }
    let type_ = object.type_.as_deref().unwrap_or_default();
    let needed = OF_TYPE.iter().find(|(known, _)| *known == type_);
    let mut needed = needed.map_or(&[][..], |(_, keys)| keys).iter();
    match needed.find(|key| !object.entries.contains_key(**key)) {
        Some(key) => Err(SpecError::invalid(
            "data",
            format!("a Secret of the type {type_} has the key {key}: add it"),
        )),
        None => Ok(()),
    }
}

/// Checks the key of a ConfigMap or a Secret, which is a file's name, too.
fn data_key(key: &str) -> std::result::Result<(), String> {
    let shown: String = key.chars().take(64).collect();
    if key.is_empty() || key.len() > MAX_DATA_KEY_LEN {
        return Err(format!(
            "{shown:?} is no key: it has 1 to {MAX_DATA_KEY_LEN} characters"
        ));
    }
    if !key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    {
        return Err(format!(
            "{shown:?} is no key: it may hold only letters, digits, '-', '_' and '.'"
        ));
    }
    if key == "." || key.starts_with("..") {
        return Err(format!(
            "{shown:?} is no key: it must not be '.' or begin with '..'"
        ));
    }
    Ok(())
}

/// Base64 as Kubernetes reads it: line breaks in it mean nothing. What is wrong is said without the
/// value, which may be secret.
fn decode(text: &str) -> std::result::Result<Arc<[u8]>, String> {
    let broken = text.contains(['\n', '\r']);
    let joined: String;
    let plain = if broken {
        joined = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        &joined
    } else {
        text
    };
    match base64::engine::general_purpose::STANDARD.decode(plain) {
        Ok(bytes) => Ok(bytes.into()),
        Err(_) => Err("is not base64: encode it ('base64 -w0'), or put the text into stringData".into()),
    }
}
