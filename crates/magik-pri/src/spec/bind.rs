//! Variables, commands and files get their values: what a pod refers to is looked up.
//!
//! It is done twice. When a manifest is read, with [`Facts::unknown`], so that everything that is
//! wrong is found before anything is run; and for the pod that was reserved, whose id and host are
//! known then.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
    sync::Arc,
};

use super::{
    ContainerSpec, DataKind, DataObject, DataSource, DataVolume, DownwardValue, EnvFrom, EnvValue, FieldPath,
    MountPropagation, PodSpec, ResourceName, ResourceRef, SpecError, SubPath, VolumeSource, check::At,
    errors::Problems, expand::expand, facts::Facts, quote::pairs, volumes::check_sub_path,
};
use crate::limits::{
    MAX_DATA_FILES_PER_POD, MAX_DATA_FILES_PER_VOLUME, MAX_DATA_SIZE_PER_POD, MAX_EXPANDED_SIZE,
};

/// What a container is started with: nothing is left to be looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Bound {
    /// Replaces the image's entrypoint.
    pub(crate) command: Option<Vec<String>>,
    /// Replaces the image's command.
    pub(crate) args: Option<Vec<String>>,
    /// Added to the image's environment; each name once.
    pub(crate) env: Vec<(String, String)>,
    /// Of each of its mounts, the part of the volume.
    pub(crate) sub_paths: Vec<Option<String>>,
}

/// A file of a volume of data.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct BoundFile {
    /// Its permissions.
    pub(crate) mode: u32,
    /// What is in it.
    pub(crate) bytes: Arc<[u8]>,
}

/// Content is not shown: it may be secret.
impl fmt::Debug for BoundFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:o}, {} bytes", self.mode, self.bytes.len())
    }
}

/// The files of a volume by their paths in it.
pub(crate) type BoundFiles = BTreeMap<String, BoundFile>;

/// Looks everything up that the pod refers to, and notes what is not there.
pub(super) fn check(pod: &PodSpec, problems: &mut Problems) {
    let facts = Facts::unknown();
    for (path, container) in pod.containers_by_path() {
        Binder::new(pod, &facts, problems).container(container, &path);
        let all = container.mounts.iter().enumerate();
        for (i, _) in all.filter(|(_, mount)| mount.propagation == MountPropagation::Bidirectional) {
            // Whoever is root in users of its own would mount on the host.
            if pod.host_users == Some(false) {
                let path = format!("{path}.volumeMounts[{i}].mountPropagation");
                let reason = "Bidirectional mounts on the host: remove hostUsers: false";
                problems.add(SpecError::invalid(path, reason));
            }
        }
    }
    let (mut size, mut count) = (0, 0);
    for (i, volume) in pod.volumes.iter().enumerate() {
        if let VolumeSource::Data(data) = &volume.source {
            let path = format!("spec.volumes[{i}]");
            let files = Binder::new(pod, &facts, problems).files(data, &path);
            size += files.values().map(|file| file.bytes.len()).sum::<usize>();
            count += files.len();
        }
    }
    if count > MAX_DATA_FILES_PER_POD {
        let reason = format!(
            "ConfigMaps, Secrets and the like have {count} files in them, at most {MAX_DATA_FILES_PER_POD} are allowed"
        );
        problems.add(SpecError::invalid("spec.volumes", reason));
    }
    if size > MAX_DATA_SIZE_PER_POD {
        let reason = format!(
            "the files of ConfigMaps, Secrets and the like have {size} bytes, at most {MAX_DATA_SIZE_PER_POD} are allowed"
        );
        problems.add(SpecError::invalid("spec.volumes", reason));
    }
}

impl ContainerSpec {
    /// Its command, arguments and variables in a pod of which these facts are known.
    pub(crate) fn bind(&self, pod: &PodSpec, facts: &Facts) -> std::result::Result<Bound, super::SpecErrors> {
        let mut problems = Problems::default();
        let bound = Binder::new(pod, facts, &mut problems).container(self, &self.name);
        problems.finish().map(|()| bound)
    }
}

impl DataVolume {
    /// Its files in a pod of which these facts are known.
    pub(crate) fn bind(
        &self,
        pod: &PodSpec,
        facts: &Facts,
    ) -> std::result::Result<BoundFiles, super::SpecErrors> {
        let mut problems = Problems::default();
        let files = Binder::new(pod, facts, &mut problems).files(self, "volume");
        problems.finish().map(|()| files)
    }
}

/// The variables of a container as they become known; of equal names the last one counts.
#[derive(Default)]
struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if let Some(place) = self.index.get(name) {
            self.list[*place].1 = value;
        } else {
            self.index.insert(name.to_owned(), self.list.len());
            self.list.push((name.to_owned(), value));
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        let place = self.index.get(name)?;
        self.list.get(*place).map(|(_, value)| value.as_str())
    }
}

const TOO_LONG: &str = "is too long once $(NAME) is expanded";

struct Binder<'a> {
    pod: &'a PodSpec,
    facts: &'a Facts,
    problems: &'a mut Problems,
    /// How many bytes of variables, command and arguments there may still be.
    budget: usize,
}

impl<'a> Binder<'a> {
    fn new(pod: &'a PodSpec, facts: &'a Facts, problems: &'a mut Problems) -> Self {
        Self {
            pod,
            facts,
            problems,
            budget: MAX_EXPANDED_SIZE,
        }
    }

    fn container(mut self, container: &ContainerSpec, path: &str) -> Bound {
        let mut variables = Variables::default();
        for (i, from) in container.env_from.iter().enumerate() {
            self.env_from(from, &format!("{path}.envFrom[{i}]"), &mut variables);
        }
        for (i, var) in container.env.iter().enumerate() {
            let path = format!("{path}.env[{i}]");
            // There is none where a reference is optional.
            if let Some(value) = self.value(container, &var.value, &path, &variables) {
                variables.set(&var.name, value);
            }
        }
        let command = self.words(
            container.command.as_deref(),
            &format!("{path}.command"),
            &variables,
        );
        let args = self.words(container.args.as_deref(), &format!("{path}.args"), &variables);
        let mounts = container.mounts.iter().enumerate();
        let sub_paths = mounts.map(|(i, mount)| {
            let path = format!("{path}.volumeMounts[{i}].subPathExpr");
            self.sub_path(mount.sub_path.as_ref()?, &path, &variables)
        });
        Bound {
            command,
            args,
            sub_paths: sub_paths.collect(),
            env: variables.list,
        }
    }

    /// A part of a volume. As kubelet has it, each variable in it has a value.
    fn sub_path(&mut self, sub_path: &SubPath, path: &str, variables: &Variables) -> Option<String> {
        let text = match sub_path {
            SubPath::Path(path) => return Some(path.clone()),
            SubPath::Expression(text) => text,
        };
        let missing = RefCell::new(None);
        let lookup = |name: &str| {
            let value = variables.get(name).filter(|value| !value.is_empty());
            if value.is_none() {
                missing
                    .borrow_mut()
                    .get_or_insert_with(|| name.chars().take(64).collect::<String>());
            }
            value
        };
        let expanded = expand(text, lookup, &mut self.budget).ok_or_else(|| TOO_LONG.to_owned());
        let expanded = expanded.and_then(|expanded| match missing.take() {
            Some(name) => Err(format!("the container's env has no {name:?}, or it is empty")),
            None => check_sub_path(&expanded).map(|()| expanded),
        });
        self.problems.ok(expanded.at(path))
    }

    fn env_from(&mut self, from: &EnvFrom, path: &str, variables: &mut Variables) {
        let field = match from.kind {
            DataKind::ConfigMap => "configMapRef",
            DataKind::Secret => "secretRef",
        };
        let Some(object) = self.object(
            from.kind,
            &from.object,
            from.optional,
            &format!("{path}.{field}.name"),
        ) else {
            return;
        };
        for (key, entry) in object.entries.iter().filter(|(_, entry)| !entry.binary) {
            let text = entry.text().map_err(|why| format!("key {key} {why}"));
            let Some(text) = self.problems.ok(text.at(path)) else {
                return;
            };
            let name = format!("{}{key}", from.prefix);
            if self.spend(name.len() + text.len()).is_none() {
                self.problems.add(SpecError::invalid(
                    path,
                    "has more than a container's variables may have",
                ));
                return;
            }
            variables.set(&name, text.to_owned());
        }
    }

    fn spend(&mut self, bytes: usize) -> Option<()> {
        self.budget = self.budget.checked_sub(bytes)?;
        Some(())
    }

    /// The value of a variable; `None`: it has none, or enough was said of it.
    fn value(
        &mut self,
        container: &ContainerSpec,
        value: &EnvValue,
        path: &str,
        variables: &Variables,
    ) -> Option<String> {
        let from = format!("{path}.valueFrom");
        let found = match value {
            EnvValue::Text(text) => {
                let expanded = self.expanded(text, variables).at(&format!("{path}.value"));
                return self.problems.ok(expanded);
            }
            EnvValue::Field(field) => self.field(field),
            EnvValue::Resource(resource) => {
                let own = Some(container);
                self.resource(resource, own, &format!("{from}.resourceFieldRef.containerName"))?
            }
            EnvValue::Key {
                kind,
                object,
                key,
                optional,
            } => {
                let path = match kind {
                    DataKind::ConfigMap => format!("{from}.configMapKeyRef"),
                    DataKind::Secret => format!("{from}.secretKeyRef"),
                };
                let object = self.object(*kind, object, *optional, &format!("{path}.name"))?;
                let Some(entry) = object.entries.get(key) else {
                    self.no_key(&object, key, *optional, &format!("{path}.key"));
                    return None;
                };
                let text = entry.text().map_err(|why| format!("{key} {why}"));
                self.problems.ok(text.at(&format!("{path}.key")))?.to_owned()
            }
        };
        if self.spend(found.len()).is_none() {
            self.problems.add(SpecError::invalid(from, TOO_LONG));
            return None;
        }
        Some(found)
    }

    fn words(&mut self, list: Option<&[String]>, path: &str, variables: &Variables) -> Option<Vec<String>> {
        let words = list?.iter().enumerate().map(|(i, word)| {
            let expanded = self.expanded(word, variables).at(&format!("{path}[{i}]"));
            self.problems.or_default(expanded)
        });
        Some(words.collect())
    }

    /// The text with its `$(NAME)` replaced.
    fn expanded(&mut self, text: &str, variables: &Variables) -> std::result::Result<String, String> {
        if text.contains('\0') {
            return Err("must not hold a NUL".into());
        }
        expand(text, |name| variables.get(name), &mut self.budget).ok_or_else(|| TOO_LONG.into())
    }

    /// An object that the pod refers to; `None`: enough was said of it, or nothing need be.
    fn object(&mut self, kind: DataKind, name: &str, optional: bool, path: &str) -> Option<Arc<DataObject>> {
        let found = self.pod.data.get(kind, name).cloned();
        if found.is_none() && !optional {
            let shown: String = name.chars().take(64).collect();
            let reason = match self.pod.data.names(kind).as_slice() {
                _ if name.is_empty() => "must not be empty".to_owned(),
                [] => format!(
                    "no {0} is called {shown:?}, there are none: give its manifest, too (-f takes several)",
                    kind.as_str()
                ),
                names => format!(
                    "no {} is called {shown:?}: there is {}",
                    kind.as_str(),
                    listed(names)
                ),
            };
            self.problems.add(SpecError::invalid(path, reason));
        }
        found
    }

    /// Says that an object lacks a key, if it must not.
    fn no_key(&mut self, object: &DataObject, key: &str, optional: bool, path: &str) {
        if optional || object.unsure {
            return;
        }
        let keys: Vec<&str> = object.entries.keys().map(String::as_str).collect();
        let shown: String = key.chars().take(64).collect();
        let has = match keys.as_slice() {
            [] => "it is empty".to_owned(),
            keys => format!("it has {}", listed(keys)),
        };
        let (kind, name) = (object.kind.as_str(), &object.name);
        let reason = format!("{kind} {name} has no key {shown:?}: {has}");
        self.problems.add(SpecError::invalid(path, reason));
    }

    /// The value of a field of the pod.
    fn field(&self, field: &FieldPath) -> String {
        let (pod, facts) = (self.pod, self.facts);
        let one = |map: &BTreeMap<String, String>, key: &String| map.get(key).cloned().unwrap_or_default();
        match field {
            FieldPath::Name => pod.name.clone(),
            FieldPath::Namespace => pod.namespace.clone(),
            FieldPath::Uid => facts.uid.clone(),
            FieldPath::Label(key) => one(&pod.labels, key),
            FieldPath::Annotation(key) => one(&pod.annotations, key),
            FieldPath::Labels => pairs(&pod.labels),
            FieldPath::Annotations => pairs(&pod.annotations),
            FieldPath::NodeName => facts.node_name.clone(),
            FieldPath::ServiceAccountName => pod.service_account_name.clone(),
            FieldPath::HostIp => facts.host_ip(),
            FieldPath::HostIps => facts.host_ips(),
            FieldPath::PodIp => facts.pod_ip(pod.host_network),
            FieldPath::PodIps => facts.pod_ips(pod.host_network),
        }
    }

    /// How much a container has: of what is not limited, as much as the host has.
    fn resource(
        &mut self,
        resource: &ResourceRef,
        own: Option<&ContainerSpec>,
        path: &str,
    ) -> Option<String> {
        let container = match &resource.container {
            Some(name) => self.pod.all_containers().find(|c| c.name == *name),
            None => own,
        };
        let Some(container) = container else {
            let name = resource.container.as_deref().unwrap_or_default();
            let shown: String = name.chars().take(64).collect();
            let names: Vec<&str> = self.pod.all_containers().map(|c| c.name.as_str()).collect();
            let reason = format!("no container is called {shown:?}: there is {}", listed(&names));
            self.problems.add(SpecError::invalid(path, reason));
            return None;
        };
        let (limit, request, of_host) = match resource.resource {
            ResourceName::Cpu => (
                container.limits.cpu_millis.map(u128::from),
                container.requests.cpu_millis.map(u128::from),
                u128::from(self.facts.cpu_millis()),
            ),
            ResourceName::Memory => (
                container.limits.memory.map(|bytes| u128::from(bytes) * 1000),
                container.requests.memory.map(|bytes| u128::from(bytes) * 1000),
                u128::from(self.facts.memory) * 1000,
            ),
        };
        let millis = if resource.is_limit {
            limit.unwrap_or(of_host)
        } else {
            // A request that is not made is the limit.
            request.or(limit).unwrap_or(0)
        };
        Some(millis.div_ceil(u128::from(resource.divisor_millis)).to_string())
    }

    /// The files of a volume.
    fn files(mut self, volume: &DataVolume, path: &str) -> BoundFiles {
        let mut files = BoundFiles::new();
        for (i, source) in volume.sources.iter().enumerate() {
            let path = if volume.projected {
                format!("{path}.projected.sources[{i}]")
            } else {
                path.to_owned()
            };
            self.source(volume, source, &path, &mut files);
        }
        if files.len() > MAX_DATA_FILES_PER_VOLUME {
            let reason = format!(
                "{} files, at most {MAX_DATA_FILES_PER_VOLUME} are allowed",
                files.len()
            );
            self.problems.add(SpecError::invalid(path, reason));
        }
        let parents = files.keys().filter_map(|file| {
            let above = file.match_indices('/').map(|(end, _)| &file[..end]);
            above.into_iter().find(|dir| files.contains_key(*dir))
        });
        if let Some(dir) = parents.into_iter().next() {
            let reason = format!("{dir:?} is a file, and another file lies below it: choose another path");
            self.problems.add(SpecError::invalid(path, reason));
        }
        files
    }

    fn source(&mut self, volume: &DataVolume, source: &DataSource, path: &str, files: &mut BoundFiles) {
        let mut add = |file: &str, mode: Option<u32>, bytes: Arc<[u8]>| {
            let mode = mode.unwrap_or(volume.default_mode);
            files.insert(file.to_owned(), BoundFile { mode, bytes });
        };
        match source {
            DataSource::Object {
                kind,
                object,
                items,
                optional,
            } => {
                let (path, name) = match kind {
                    DataKind::ConfigMap => (format!("{path}.configMap"), "name"),
                    DataKind::Secret if volume.projected => (format!("{path}.secret"), "name"),
                    DataKind::Secret => (format!("{path}.secret"), "secretName"),
                };
                let name_path = format!("{path}.{name}");
                let Some(object) = self.object(*kind, object, *optional, &name_path) else {
                    return;
                };
                let Some(items) = items else {
                    for (key, entry) in &object.entries {
                        add(key, None, entry.bytes.clone());
                    }
                    return;
                };
                for (i, item) in items.iter().enumerate() {
                    match object.entries.get(&item.key) {
                        Some(entry) => add(&item.path, item.mode, entry.bytes.clone()),
                        None => {
                            let path = format!("{path}.items[{i}].key");
                            self.no_key(&object, &item.key, *optional, &path);
                        }
                    }
                }
            }
            DataSource::Downward(list) => {
                for (i, file) in list.iter().enumerate() {
                    let value = match &file.value {
                        DownwardValue::Field(field) => Some(self.field(field)),
                        DownwardValue::Resource(resource) => {
                            let field = "resourceFieldRef.containerName";
                            let path = format!("{path}.downwardAPI.items[{i}].{field}");
                            self.resource(resource, None, &path)
                        }
                    };
                    if let Some(value) = value {
                        add(&file.path, file.mode, value.into_bytes().into());
                    }
                }
            }
        }
    }
}

/// Names for people, not too many.
fn listed(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        let _ = write!(text, " and {} more", names.len() - SHOWN);
    }
    text
}
