//! Manifests that are given by `-f`.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Result, anyhow, bail};
use magik_pri::{
    DocumentErrors, DocumentPod, Documents, IgnoredField, Location, PodSpec, RuntimeClass, SpecErrors,
    limits::{MAX_DOCUMENTS, MAX_MANIFEST_SIZE, MAX_SPEC_ERRORS},
    pod_names,
};
use magikrun::failure::Several;

use crate::output;

/// Reads the pods of these manifests, with the data that they refer to. What names no namespace, or the
/// default one, is in `namespace`, if one is given.
/// What changes nothing beside the pods is said; with `strict` it is an error.
pub(super) fn read(files: &[PathBuf], namespace: Option<&str>, strict: bool) -> Result<Vec<DocumentPod>> {
    let texts = texts(files)?;
    let Documents { pods, ignored, .. } = documents(&texts, namespace)?;
    if strict && !ignored.is_empty() {
        let shown = ignored.iter().take(MAX_SPEC_ERRORS);
        let lines = shown.map(|(file, ignored)| refused(file, ignored));
        return Err(Several::new(lines.collect()).into());
    }
    for (file, ignored) in &ignored {
        note_ignored(file, std::slice::from_ref(ignored));
    }
    Ok(pods)
}

/// What these texts hold, each with its name; mistakes in a line each.
pub(super) fn documents(texts: &[(String, String)], namespace: Option<&str>) -> Result<Documents> {
    let documents = Documents::from_yaml(&borrowed(texts), namespace).map_err(|errors| wrong(&errors))?;
    for pod in &documents.pods {
        check_namespace(&pod.file, &pod.spec, namespace)?;
    }
    Ok(documents)
}

/// The texts of manifests, each with its name for messages: of files, of standard input where one is
/// called `-`, and of all manifests in a directory.
pub(super) fn texts(files: &[PathBuf]) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for file in files {
        for file in expanded(file)? {
            texts.push((name_of(&file), text(&file)?));
        }
    }
    Ok(texts)
}

/// A file, or the manifests of a directory, sorted by name.
fn expanded(path: &Path) -> Result<Vec<PathBuf>> {
    if path == Path::new("-") || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let name = name_of(path);
    let unreadable = |error: io::Error| anyhow!("{name}: {}", unreadable(&error));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        let is_manifest = file
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"));
        // What is no file, as a pipe, is not waited for.
        if is_manifest && file.is_file() {
            found.push(file);
        }
        if found.len() > MAX_DOCUMENTS {
            bail!("{name}: has more than {MAX_DOCUMENTS} manifests: name those that are meant");
        }
    }
    if found.is_empty() {
        bail!("{name}: is a directory without a manifest (*.yaml, *.yml, *.json): give one that has some");
    }
    found.sort();
    Ok(found)
}

/// What messages call the file.
pub(super) fn name_of(file: &Path) -> String {
    if file == Path::new("-") {
        "stdin".into()
    } else {
        file.display().to_string()
    }
}

/// The text of a manifest.
pub(super) fn text(file: &Path) -> Result<String> {
    let name = name_of(file);
    let open = || -> io::Result<Box<dyn Read>> {
        Ok(if file == Path::new("-") {
            Box::new(io::stdin().lock())
        } else {
            Box::new(File::open(file)?)
        })
    };
    let mut bytes = Vec::new();
    let read = open().and_then(|from| from.take(MAX_MANIFEST_SIZE as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| anyhow!("{name}: {}", unreadable(&error)))?;
    if bytes.len() > MAX_MANIFEST_SIZE {
        bail!(
            "{name}: larger than {} MiB, which no manifest may be: give a Kubernetes v1 Pod",
            MAX_MANIFEST_SIZE >> 20
        );
    }
    String::from_utf8(bytes).map_err(|_| anyhow!("{name}: is no text in UTF-8: give a Kubernetes v1 Pod"))
}

/// Why a file cannot be read, and what to do.
fn unreadable(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file: give the path of a manifest, or - for stdin".into()
        }
        io::ErrorKind::PermissionDenied => "you may not read it: 'ls -l' shows who may".into(),
        _ => error.to_string(),
    }
}

/// A pod that names a namespace is not put into another one.
pub(super) fn check_namespace(file: &str, spec: &PodSpec, namespace: Option<&str>) -> Result<()> {
    match namespace {
        Some(namespace) if spec.namespace != namespace => bail!(
            "{file}: the pod is in namespace {}, not {namespace}: leave -n out",
            spec.namespace
        ),
        _ => Ok(()),
    }
}

/// A manifest's mistakes, each in a line of its own that begins with its name.
pub(super) fn mistakes(name: &str, errors: &SpecErrors) -> anyhow::Error {
    Several::new(lines_of(name, errors)).into()
}

/// Manifests as the library takes them: names and texts.
pub(super) fn borrowed(texts: &[(String, String)]) -> Vec<(&str, &str)> {
    let texts = texts.iter();
    texts.map(|(name, text)| (name.as_str(), text.as_str())).collect()
}

/// All mistakes of several manifests.
fn wrong(errors: &DocumentErrors) -> anyhow::Error {
    let lines = errors.files().flat_map(|(name, errors)| lines_of(name, errors));
    Several::new(lines.collect()).into()
}

fn lines_of(name: &str, errors: &SpecErrors) -> Vec<String> {
    let mistakes = errors.located();
    let mut lines: Vec<String> = mistakes
        .map(|(location, error)| format!("{}: {error}", placed(name, location)))
        .collect();
    if errors.more() > 0 {
        lines.push(format!("{name}: and {} more", errors.more()));
    }
    lines
}

/// `FILE:LINE:COLUMN`, as editors and terminals open it, or the name alone.
pub(super) fn placed(name: &str, location: Option<Location>) -> String {
    location.map_or_else(|| name.to_owned(), |location| format!("{name}:{location}"))
}

/// What is wrong with a pod of that manifest: its mistakes in a line each, anything else as it is.
pub(super) fn explain(name: &str, error: magik_pri::Error) -> anyhow::Error {
    match error {
        magik_pri::Error::Spec(errors) => mistakes(name, &errors),
        error => error.into(),
    }
}

/// Says which fields of pods change nothing, of equal ones once; with `strict` that is an error.
pub(super) fn check_ignored<'a>(
    pods: impl Iterator<Item = (&'a str, &'a PodSpec, RuntimeClass)>,
    strict: bool,
) -> Result<()> {
    let mut all: Vec<(&str, Vec<IgnoredField>)> = Vec::new();
    for (name, spec, class) in pods {
        let ignored = spec.ignored(class);
        let known = (name, ignored);
        if !known.1.is_empty() && !all.contains(&known) {
            all.push(known);
        }
    }
    if !strict {
        all.iter().for_each(|(name, ignored)| note_ignored(name, ignored));
        return Ok(());
    }
    let mut lines = Vec::new();
    for (name, ignored) in all {
        let shown = ignored.iter().take(MAX_SPEC_ERRORS);
        lines.extend(shown.map(|ignored| refused(name, ignored)));
        if ignored.len() > MAX_SPEC_ERRORS {
            lines.push(format!("{name}: and {} more", ignored.len() - MAX_SPEC_ERRORS));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    Err(Several::new(lines).into())
}

/// A field that changes nothing, where that is a mistake.
fn refused(name: &str, IgnoredField { field, why }: &IgnoredField) -> String {
    format!("{name}: {field}: {}", changes_nothing(why))
}

/// What is wrong with a field that changes nothing, where nothing may be said in vain.
pub(super) fn changes_nothing(why: &str) -> String {
    format!("changes nothing: {why}: remove it, or leave --strict out")
}

/// Says which fields of a manifest change nothing.
pub(super) fn note_ignored(name: &str, ignored: &[IgnoredField]) {
    for IgnoredField { field, why } in ignored.iter().take(MAX_SPEC_ERRORS) {
        output::note(&format!("{name}: note: {field} changes nothing: {why}"));
    }
    if ignored.len() > MAX_SPEC_ERRORS {
        let more = ignored.len() - MAX_SPEC_ERRORS;
        output::note(&format!("{name}: note: and {more} more fields change nothing"));
    }
}

/// The pods that a manifest describes, by namespace and name.
pub(super) fn names(file: &Path, namespace: Option<&str>) -> Result<Vec<String>> {
    if file != Path::new("-") && !file.exists() {
        let file = file.display();
        bail!(
            "{file}: is no file: -f names a manifest; to kill and delete a pod give 'pod delete --force {file}'"
        );
    }
    let texts = texts(&[file.to_owned()])?;
    pod_names(&borrowed(&texts), namespace).map_err(|errors| wrong(&errors))
}
