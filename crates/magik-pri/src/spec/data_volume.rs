//! From Kubernetes' volumes of data to ours, checking every value.

use std::{
    collections::HashSet,
    path::{Component, Path},
};

use k8s_openapi::api::core::v1 as k8s;

use super::{
    DataKind, DataSource, DataVolume, DownwardFile, DownwardValue, FieldPath, KeyToPath, SpecError,
    check::At, env, errors::Problems,
};
use crate::limits::{MAX_DATA_FILES_PER_VOLUME, MAX_DATA_PATH_DEPTH, MAX_DATA_PATH_LEN};

/// The permissions of files where nothing is said.
const DEFAULT_MODE: u32 = 0o644;

/// Reads the volume if it is one of data; `None`: it is none, or enough was said of it.
pub(super) fn read(volume: &k8s::Volume, path: &str, problems: &mut Problems) -> Option<DataVolume> {
    let mut paths = Paths::default();
    let mut reader = Reader {
        paths: &mut paths,
        problems,
    };
    if let Some(map) = &volume.config_map {
        let items = reader.items(map.items.as_deref(), &format!("{path}.configMap.items"));
        return Some(DataVolume {
            default_mode: mode(map.default_mode),
            projected: false,
            sources: vec![object(DataKind::ConfigMap, map.name.clone(), items, map.optional)],
        });
    }
    if let Some(secret) = &volume.secret {
        let items = reader.items(secret.items.as_deref(), &format!("{path}.secret.items"));
        let name = secret.secret_name.clone().unwrap_or_default();
        return Some(DataVolume {
            default_mode: mode(secret.default_mode),
            projected: false,
            sources: vec![object(DataKind::Secret, name, items, secret.optional)],
        });
    }
    if let Some(downward) = &volume.downward_api {
        let files = reader.downward(downward.items.as_deref(), &format!("{path}.downwardAPI.items"));
        return Some(DataVolume {
            default_mode: mode(downward.default_mode),
            projected: false,
            sources: vec![DataSource::Downward(files)],
        });
    }
    let projected = volume.projected.as_ref()?;
    let list = projected.sources.as_deref().unwrap_or_default();
    let path = format!("{path}.projected.sources");
    if list.len() > MAX_DATA_FILES_PER_VOLUME {
        let reason = format!(
            "{} sources, at most {MAX_DATA_FILES_PER_VOLUME} are allowed",
            list.len()
        );
        reader.problems.add(SpecError::invalid(path, reason));
        return None;
    }
    let sources = list.iter().enumerate();
    Some(DataVolume {
        default_mode: mode(projected.default_mode),
        projected: true,
        sources: sources
            .map(|(i, source)| reader.projection(source, &format!("{path}[{i}]")))
            .collect(),
    })
}

fn object(
    kind: DataKind,
    object: String,
    items: Option<Vec<KeyToPath>>,
    optional: Option<bool>,
) -> DataSource {
    DataSource::Object {
        kind,
        object,
        items,
        optional: optional.unwrap_or(false),
    }
}

/// What it is was checked with its type.
fn mode(mode: Option<i32>) -> u32 {
    mode.and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(DEFAULT_MODE)
}

/// The paths of a volume's files that are named in it.
#[derive(Default)]
struct Paths(HashSet<String>);

struct Reader<'a> {
    paths: &'a mut Paths,
    problems: &'a mut Problems,
}

impl Reader<'_> {
    // What is wrong has something in its place, so that what is behind it keeps its number.
    fn projection(&mut self, source: &k8s::VolumeProjection, path: &str) -> DataSource {
        let given = [
            source.config_map.is_some(),
            source.secret.is_some(),
            source.downward_api.is_some(),
        ];
        if given.iter().filter(|given| **given).count() != 1 {
            let reason = "is one of configMap, secret and downwardAPI";
            if !self.problems.has_within(path) {
                self.problems.add(SpecError::invalid(path, reason));
            }
            return DataSource::Downward(Vec::new());
        }
        if let Some(map) = &source.config_map {
            let items = self.items(map.items.as_deref(), &format!("{path}.configMap.items"));
            return object(DataKind::ConfigMap, map.name.clone(), items, map.optional);
        }
        if let Some(secret) = &source.secret {
            let items = self.items(secret.items.as_deref(), &format!("{path}.secret.items"));
            return object(DataKind::Secret, secret.name.clone(), items, secret.optional);
        }
        let items = source
            .downward_api
            .as_ref()
            .and_then(|downward| downward.items.as_deref());
        DataSource::Downward(self.downward(items, &format!("{path}.downwardAPI.items")))
    }

    /// The keys that are files; `None`: all of them. An empty list is none, too, as in Kubernetes.
    fn items(&mut self, list: Option<&[k8s::KeyToPath]>, path: &str) -> Option<Vec<KeyToPath>> {
        let list = list.filter(|list| !list.is_empty() && self.count(list.len(), path))?;
        let items = list.iter().enumerate().map(|(i, item)| KeyToPath {
            key: item.key.clone(),
            path: self.path(&item.path, &format!("{path}[{i}].path")),
            mode: item.mode.map(|given| mode(Some(given))),
        });
        Some(items.collect())
    }

    fn downward(&mut self, list: Option<&[k8s::DownwardAPIVolumeFile]>, path: &str) -> Vec<DownwardFile> {
        let Some(list) = list.filter(|list| self.count(list.len(), path)) else {
            return Vec::new();
        };
        let files = list.iter().enumerate().map(|(i, item)| {
            let path = format!("{path}[{i}]");
            DownwardFile {
                path: self.path(&item.path, &format!("{path}.path")),
                mode: item.mode.map(|given| mode(Some(given))),
                value: self
                    .downward_value(item, &path)
                    .unwrap_or(DownwardValue::Field(FieldPath::Name)),
            }
        });
        files.collect()
    }

    fn downward_value(&mut self, item: &k8s::DownwardAPIVolumeFile, path: &str) -> Option<DownwardValue> {
        match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), None) => {
                let path = format!("{path}.fieldRef");
                let field = env::field_path(field, &path, self.problems)?;
                let of_file = !matches!(
                    field,
                    FieldPath::NodeName
                        | FieldPath::ServiceAccountName
                        | FieldPath::HostIp
                        | FieldPath::HostIps
                        | FieldPath::PodIp
                        | FieldPath::PodIps
                );
                if !of_file {
                    let reason = "is for variables (env) only: a file can have fields of metadata";
                    let path = format!("{path}.fieldPath");
                    self.problems.add(SpecError::invalid(path, reason));
                }
                Some(DownwardValue::Field(field))
            }
            (None, Some(resource)) => {
                let path = format!("{path}.resourceFieldRef");
                let resource = env::resource_ref(resource.clone(), &path, self.problems)?;
                if resource.container.is_none() {
                    let path = format!("{path}.containerName");
                    self.problems.add(SpecError::invalid(path, "is missing"));
                }
                Some(DownwardValue::Resource(resource))
            }
            _ => {
                let reason = "is either a fieldRef or a resourceFieldRef";
                if !self.problems.has_within(path) {
                    self.problems.add(SpecError::invalid(path, reason));
                }
                None
            }
        }
    }

    fn count(&mut self, count: usize, path: &str) -> bool {
        let fits = count <= MAX_DATA_FILES_PER_VOLUME;
        if !fits {
            let reason = format!("{count} files, at most {MAX_DATA_FILES_PER_VOLUME} are allowed");
            self.problems.add(SpecError::invalid(path, reason));
        }
        fits
    }

    /// Takes a path of a file in the volume, which no other may have.
    fn path(&mut self, text: &str, path: &str) -> String {
        let file = self.problems.or_default(relative(text).at(path));
        if !file.is_empty() && !self.paths.0.insert(file.clone()) {
            let reason = format!("{file:?} is another file's path, too: choose another");
            self.problems.add(SpecError::invalid(path, reason));
        }
        file
    }
}

/// Takes a relative path that stays below where it begins, and drops what means nothing in it. What
/// begins with `..` is where the files of each version are (`..data`).
fn relative(text: &str) -> std::result::Result<String, String> {
    let shown: String = text.chars().take(64).collect();
    if text.is_empty() || text.len() > MAX_DATA_PATH_LEN || text.contains('\0') {
        return Err(format!(
            "{shown:?} is no path: it has 1 to {MAX_DATA_PATH_LEN} bytes, and no NUL"
        ));
    }
    let mut parts = Vec::new();
    for part in Path::new(text).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str().unwrap_or_default()),
            Component::CurDir => {}
            Component::ParentDir => return Err(format!("{shown:?} must not hold '..'")),
            Component::RootDir | Component::Prefix(_) => {
                return Err(format!("{shown:?} must be relative to the volume"));
            }
        }
    }
    if parts.len() > MAX_DATA_PATH_DEPTH {
        return Err(format!("{shown:?} has more than {MAX_DATA_PATH_DEPTH} names"));
    }
    if parts.iter().any(|part| part.len() > 255) {
        return Err(format!("{shown:?} has a name of more than 255 bytes"));
    }
    match parts.first() {
        None => Err(format!("{shown:?} names no file")),
        Some(first) if first.starts_with("..") => Err(format!("{shown:?} must not begin with '..'")),
        Some(_) => Ok(parts.join("/")),
    }
}
