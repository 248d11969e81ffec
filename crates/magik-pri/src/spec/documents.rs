//! Several manifests together: pods, and the data that they refer to.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use serde_json::Value;

use super::{
    DataKind, IgnoredField, PodSpec, SpecError, SpecErrors,
    claims::{self, Claims},
    data,
    document::{DEFAULT_NAMESPACE, fits, flatten, put_into, unknown},
    elsewhere,
    errors::Problems,
    order::Orders,
    parse::{self, NamedData},
    workloads,
};
use crate::limits::{MAX_DOCUMENTS, MAX_MANIFEST_SIZE};

/// What manifests hold: pods, each with the ConfigMaps and Secrets that it refers to. Of a Deployment,
/// `DaemonSet`, `StatefulSet`, `ReplicaSet`, `ReplicationController` or Job there are the pods that it makes, `NAME-0`
/// and so on.
///
/// ```
/// use magik_pri::{Documents, DataKind};
/// let pod = "
/// apiVersion: v1
/// kind: Pod
/// metadata: {name: web}
/// spec:
///   containers:
///   - {name: web, image: 'nginx:1.27', envFrom: [{configMapRef: {name: settings}}]}
/// ";
/// let settings = "{apiVersion: v1, kind: ConfigMap, metadata: {name: settings}, data: {MODE: fast}}";
/// let documents = Documents::from_yaml(&[("web.yaml", pod), ("settings.yaml", settings)], None)?;
/// assert!(documents.pods[0].spec.data.get(DataKind::ConfigMap, "settings").is_some());
///
/// let error = Documents::from_yaml(&[("web.yaml", pod)], None).unwrap_err();
/// assert!(error.to_string().starts_with("web.yaml: spec.containers[0].envFrom[0].configMapRef.name: no ConfigMap"));
/// # Ok::<(), magik_pri::DocumentErrors>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Documents {
    /// The pods, in their order.
    pub pods: Vec<DocumentPod>,
    /// What changes nothing beside the pods, by the text that it is in: fields of ConfigMaps and Secrets, those that no pod
    /// refers to, and objects that something else than a kubelet acts on, as a Service.
    pub ignored: Vec<(String, IgnoredField)>,
}

/// A pod of a manifest.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct DocumentPod {
    /// The name of the text that it is in.
    pub file: String,
    /// The pod.
    pub spec: PodSpec,
}

/// All that is wrong with several manifests, by their names; at least one mistake.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentErrors {
    files: Vec<(String, SpecErrors)>,
    valid: Vec<DocumentPod>,
}

impl DocumentErrors {
    /// What is wrong with each, in the order in which they were given.
    pub fn files(&self) -> impl Iterator<Item = (&str, &SpecErrors)> {
        self.files.iter().map(|(name, errors)| (name.as_str(), errors))
    }

    /// Pods with which nothing is wrong.
    #[must_use]
    pub fn valid(&self) -> &[DocumentPod] {
        &self.valid
    }
}

/// One line, however many there are.
impl fmt::Display for DocumentErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, errors)) in self.files.iter().enumerate() {
            let between = if i == 0 { "" } else { "; " };
            write!(f, "{between}{name}: {errors}")?;
        }
        Ok(())
    }
}

impl std::error::Error for DocumentErrors {}

impl Documents {
    /// Reads manifests, each a name for messages and a text in YAML or JSON with any number of documents: pods, and the
    /// ConfigMaps and Secrets that they refer to, wherever these are. A `List` is what it lists. What is in no namespace, or in
    /// the default one, is in `namespace` if there is one.
    ///
    /// # Errors
    /// Names every field that is wrong, and what pods refer to and is not there. There must be a pod.
    pub fn from_yaml(texts: &[(&str, &str)], namespace: Option<&str>) -> Result<Self, DocumentErrors> {
        let mut reader = Reader::default();
        let sizes = texts.iter().map(|(_, text)| text.len());
        let too_large = sizes.sum::<usize>() > MAX_MANIFEST_SIZE;
        for (file, (_, text)) in texts.iter().enumerate() {
            if too_large {
                reader.fail(file, SpecError::TooLarge(text.len()).into());
                break;
            }
            reader.take(file, text, namespace);
        }
        let orders = Orders::new(texts);
        reader.data(&orders);
        reader.claims(&orders);
        let pods = reader.pods(&orders);
        reader.complain_of_nothing(texts.len(), pods.len());
        reader.done(texts, pods)
    }
}

/// Namespace and name of each pod in these manifests, as [`PodSpec::full_name`] has them, without a look at what else they
/// say: as [`Documents::from_yaml`] reads them, and for whoever wants to find the pods.
///
/// # Errors
/// They are no manifests, or there is no pod in them, or one without a name.
pub fn pod_names(texts: &[(&str, &str)], namespace: Option<&str>) -> Result<Vec<String>, DocumentErrors> {
    let mut reader = Reader::default();
    for (file, (_, text)) in texts.iter().enumerate() {
        reader.take(file, text, namespace);
    }
    let mut names = Vec::new();
    for document in std::mem::take(&mut reader.pods) {
        let text = |path: &str| document.value.pointer(path).and_then(Value::as_str);
        let own = match document.workload {
            Some(_) => workloads::names_of(&document.value),
            None => text("/metadata/name").map(|name| vec![name.to_owned()]),
        };
        match own {
            Some(own) => {
                let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
                names.extend(own.iter().map(|name| format!("{namespace}/{name}")));
            }
            None => {
                let missing = SpecError::invalid("metadata.name", "is missing");
                reader.fail(document.file, missing.into());
            }
        }
    }
    reader.complain_of_nothing(texts.len(), names.len());
    reader.done(texts, Vec::new()).map(|_| names)
}

/// The only pod of a text, whose name is not said.
pub(super) fn one_pod(text: &str) -> Result<DocumentPod, SpecErrors> {
    let read = Documents::from_yaml(&[("", text)], None);
    let mut documents = read.map_err(|errors| match errors.files.into_iter().next() {
        Some((_, errors)) => errors,
        None => SpecError::NotAPod("there is nothing in it".into()).into(),
    })?;
    match (documents.pods.pop(), documents.pods.len()) {
        (Some(pod), 0) => Ok(pod),
        (_, others) => {
            let count = others + 1;
            let reason = format!("{count} pods, and one is wanted: put each into a file of its own");
            Err(SpecError::NotAPod(reason).into())
        }
    }
}

/// One document, and where it is.
struct Document {
    file: usize,
    /// Its number in the text, then those of the lists that it is in.
    place: Vec<usize>,
    value: Value,
    /// How many bytes the text has that it is all of.
    alone: Option<usize>,
    /// What makes its pods; `None`: it is a pod.
    workload: Option<&'static workloads::Kind>,
}

#[derive(Default)]
struct Reader {
    pods: Vec<Document>,
    objects: Vec<(DataKind, Document)>,
    known: NamedData,
    /// Where each object of `known` is.
    places: BTreeMap<(DataKind, String, String), usize>,
    ignored: Vec<(usize, IgnoredField)>,
    /// Objects that change nothing.
    others: Vec<String>,
    /// Documents of volumes and claims, until they are read.
    claimed: Vec<(claims::Kind, usize, Vec<usize>, Value)>,
    claims: Claims,
    /// The namespaces and names of those that pods refer to.
    used_claims: Vec<(String, String)>,
    /// By text.
    errors: BTreeMap<usize, Vec<SpecErrors>>,
}

impl Reader {
    fn fail(&mut self, file: usize, errors: SpecErrors) {
        self.errors.entry(file).or_default().push(errors);
    }

    /// Finds out what each document of a text is.
    fn take(&mut self, file: usize, text: &str, namespace: Option<&str>) {
        let values = match parse::documents::<Value>(text) {
            Ok(values) => values,
            Err(error) => return self.fail(file, error.into()),
        };
        let mut found = Vec::new();
        for (number, value) in values.into_iter().enumerate() {
            flatten(value, vec![number], &mut found);
        }
        let mut count = self.pods.len() + self.objects.len();
        let alone = (found.len() == 1).then_some(text.len());
        for (place, mut value) in found {
            count += 1;
            if count > MAX_DOCUMENTS {
                let reason = format!("more than {MAX_DOCUMENTS} documents");
                return self.fail(file, SpecError::NotAPod(reason).into());
            }
            put_into(&mut value, namespace);
            let says = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
            let (version, kind) = (says("apiVersion"), says("kind"));
            let workload = workloads::Kind::of(version, kind);
            let labels = value.pointer("/metadata/labels").unwrap_or(&Value::Null);
            if let Some(why) = elsewhere::why(version, kind, labels) {
                let name = value.pointer("/metadata/name").and_then(Value::as_str);
                let what = format!("{kind} {}", shown(name.unwrap_or_default()));
                self.others.push(what.clone());
                self.ignored.push((file, IgnoredField::new(what, why)));
                continue;
            }
            if let Some(kind) = claims::Kind::of(version, kind) {
                self.claimed.push((kind, file, place, value));
                continue;
            }
            let data = match (version, kind) {
                ("v1", "ConfigMap") => Some(DataKind::ConfigMap),
                ("v1", "Secret") => Some(DataKind::Secret),
                ("v1", "Pod") => None,
                _ if workload.is_some() => None,
                _ => {
                    self.fail(file, unknown(&value, alone.is_some(), &place).into());
                    continue;
                }
            };
            let document = Document {
                file,
                place,
                value,
                alone,
                workload,
            };
            match data {
                Some(kind) => self.objects.push((kind, document)),
                None => self.pods.push(document),
            }
        }
    }

    /// Reads the ConfigMaps and Secrets.
    fn data(&mut self, orders: &Orders<'_>) {
        for (kind, document) in std::mem::take(&mut self.objects) {
            let Document {
                file, place, value, ..
            } = document;
            let mut problems = Problems::default();
            let object = data::read(value, kind, &mut problems);
            let what = format!("{} {}: ", kind.as_str(), shown(&object.name));
            let key = (kind, object.namespace.clone(), object.name.clone());
            self.places.entry(key).or_insert(file);
            let known = self.known.entry(object.namespace.clone()).or_default();
            let name_is_known = !problems.covers("metadata.name");
            if name_is_known && !known.insert(Arc::new(object)) {
                let reason = "another one has that name, too: remove one";
                problems.add(SpecError::invalid("metadata.name", reason));
            }
            let order = || orders.of(file, &place);
            match problems.none_or(Some(()), order) {
                Ok(((), ignored)) => self.ignore(file, &what, ignored),
                Err(errors) => self.fail(file, errors.within(&what)),
            }
        }
    }

    /// Reads the claims of volumes, after the volumes that they can name.
    fn claims(&mut self, orders: &Orders<'_>) {
        let mut claimed = std::mem::take(&mut self.claimed);
        claimed.sort_by_key(|(kind, ..)| *kind);
        for (kind, file, place, value) in claimed {
            let mut problems = Problems::default();
            let name = self.claims.read(value, kind, file, &mut problems);
            let what = format!("{} {}: ", kind.as_str(), shown(&name));
            match problems.none_or(Some(()), || orders.of(file, &place)) {
                Ok(((), ignored)) => self.ignore(file, &what, ignored),
                Err(errors) => self.fail(file, errors.within(&what)),
            }
        }
    }

    fn ignore(&mut self, file: usize, what: &str, ignored: Vec<IgnoredField>) {
        self.ignored.extend(ignored.into_iter().map(|mut ignored| {
            ignored.field.insert_str(0, what);
            (file, ignored)
        }));
    }

    /// Reads the pods.
    fn pods(&mut self, orders: &Orders<'_>) -> Vec<DocumentPod> {
        let mut of_file: BTreeMap<usize, usize> = BTreeMap::new();
        for document in &self.pods {
            *of_file.entry(document.file).or_default() += 1;
        }
        let mut names = BTreeSet::new();
        let mut pods: Vec<DocumentPod> = Vec::new();
        for document in std::mem::take(&mut self.pods) {
            let file = document.file;
            let name = document.value.pointer("/metadata/name").and_then(Value::as_str);
            let name = shown(name.unwrap_or_default());
            let several = of_file.get(&file).is_some_and(|count| *count > 1);
            let kind = document.workload.map_or("Pod", workloads::Kind::name);
            let what = format!("{kind} {name}: ");
            let read = self.pods_of(document, orders).and_then(|(specs, ignored)| {
                let known = specs.iter().any(|spec| !names.insert(spec.full_name()));
                if known || pods.len() + specs.len() > MAX_DOCUMENTS {
                    let reason = if known {
                        "another pod has that name, too: give it another one".to_owned()
                    } else {
                        format!("more than {MAX_DOCUMENTS} pods")
                    };
                    return Err(SpecError::invalid("metadata.name", reason).into());
                }
                Ok((specs, ignored))
            });
            match read {
                Ok((specs, ignored)) => {
                    let file_name = orders.name(file);
                    pods.extend(specs.into_iter().map(|mut spec| {
                        let claims = spec.claim_names().map(|name| (spec.namespace.clone(), name));
                        self.used_claims.extend(claims);
                        self.claims.tell(&mut spec);
                        DocumentPod {
                            file: file_name.to_owned(),
                            spec,
                        }
                    }));
                    self.ignore(file, &what, ignored);
                }
                Err(errors) if several => self.fail(file, errors.within(&what)),
                Err(errors) => self.fail(file, errors),
            }
        }
        pods
    }

    /// A pod, or those of a workload, and what of that changes nothing.
    fn pods_of(
        &self,
        document: Document,
        orders: &Orders<'_>,
    ) -> Result<(Vec<PodSpec>, Vec<IgnoredField>), SpecErrors> {
        let Document {
            file,
            place,
            value,
            alone,
            workload,
        } = document;
        fits(&value, alone)?;
        let order = || orders.of(file, &place);
        match workload {
            Some(kind) => workloads::read(value, kind, order, &self.known),
            None => parse::read(value, order, &self.known).map(|pod| (vec![pod], Vec::new())),
        }
    }

    /// There must be a pod.
    fn complain_of_nothing(&mut self, texts: usize, pods: usize) {
        if pods > 0 || !self.errors.is_empty() {
            return;
        }
        let data = self.places.keys();
        let data = data.map(|(kind, _, name)| format!("{} {name}", kind.as_str()));
        let others: Vec<String> = data
            .chain(self.claims.names())
            .chain(self.others.iter().cloned())
            .take(8)
            .collect();
        let reason = match (others.as_slice(), texts) {
            ([], _) => "there is nothing in it; wanted is kind: Pod, apiVersion: v1".to_owned(),
            (others, 1) => format!(
                "there is only {}; wanted is kind: Pod, apiVersion: v1, too",
                others.join(", ")
            ),
            (others, _) => format!(
                "there is only {} in all files; wanted is kind: Pod, apiVersion: v1, too",
                others.join(", ")
            ),
        };
        self.fail(0, SpecError::NotAPod(reason).into());
    }

    fn done(self, texts: &[(&str, &str)], pods: Vec<DocumentPod>) -> Result<Documents, DocumentErrors> {
        let name = |file: usize| {
            texts
                .get(file)
                .map(|(name, _)| (*name).to_owned())
                .unwrap_or_default()
        };
        if !self.errors.is_empty() {
            let errors = self.errors.into_iter();
            return Err(DocumentErrors {
                files: errors
                    .map(|(file, list)| (name(file), SpecErrors::together(list)))
                    .collect(),
                valid: pods,
            });
        }
        let is_used = |(kind, namespace, object): &(DataKind, String, String)| {
            let mut pods = pods.iter().map(|pod| &pod.spec);
            pods.any(|pod| pod.namespace == *namespace && pod.data.get(*kind, object).is_some())
        };
        let unused = self.places.iter().filter(|(key, _)| !is_used(key));
        let unused = unused.map(|((kind, _, object), file)| {
            let path = format!("{} {object}", kind.as_str());
            (name(*file), IgnoredField::new(path, "no pod refers to it"))
        });
        let claims = self.claims.unused(&self.used_claims);
        let ignored = self
            .ignored
            .into_iter()
            .chain(claims)
            .map(|(file, ignored)| (name(file), ignored));
        Ok(Documents {
            ignored: ignored.chain(unused).collect(),
            pods,
        })
    }
}

/// A name, as far as messages repeat it.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}
