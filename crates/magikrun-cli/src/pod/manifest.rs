//! Manifests that are given by `-f`.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Result, anyhow, bail};
use magik_pri::{
    IgnoredField, PodSpec, RuntimeClass, SpecErrors,
    limits::{MAX_SPEC_ERRORS, MAX_SPEC_SIZE},
};
use magikrun::failure::Several;

use crate::output;

/// That of pods which name none.
const DEFAULT_NAMESPACE: &str = "default";

/// Reads a file, or standard input where it is called `-`, never more than a pod may have.
/// A pod that names no namespace, or the default one, is in `namespace`, if one is given.
pub(super) fn read(file: &Path, namespace: Option<&str>) -> Result<PodSpec> {
    let text = text(file)?;
    let spec = PodSpec::from_yaml(&text).map_err(|errors| mistakes(&name_of(file), &errors))?;
    in_namespace(file, spec, namespace)
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
    let read = open().and_then(|from| from.take(MAX_SPEC_SIZE as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| anyhow!("{name}: {}", unreadable(&error)))?;
    if bytes.len() > MAX_SPEC_SIZE {
        bail!(
            "{name}: larger than {} MiB, which no pod may be: give a Kubernetes v1 Pod",
            MAX_SPEC_SIZE >> 20
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
        io::ErrorKind::IsADirectory => "is a directory: give a manifest in it".into(),
        io::ErrorKind::PermissionDenied => "you may not read it: 'ls -l' shows who may".into(),
        _ => error.to_string(),
    }
}

/// Puts the pod into the namespace that was given on the command line.
pub(super) fn in_namespace(file: &Path, mut spec: PodSpec, namespace: Option<&str>) -> Result<PodSpec> {
    match namespace {
        Some(namespace) if spec.namespace == DEFAULT_NAMESPACE => spec.namespace = namespace.to_owned(),
        Some(namespace) if spec.namespace != namespace => bail!(
            "{}: the pod is in namespace {}, not {namespace}: leave -n out",
            name_of(file),
            spec.namespace
        ),
        _ => {}
    }
    Ok(spec)
}

/// A manifest's mistakes, each in a line of its own that begins with its name.
pub(super) fn mistakes(name: &str, errors: &SpecErrors) -> anyhow::Error {
    let mut lines: Vec<String> = errors
        .errors()
        .iter()
        .map(|error| format!("{name}: {error}"))
        .collect();
    if errors.more() > 0 {
        lines.push(format!("{name}: and {} more", errors.more()));
    }
    Several::new(lines).into()
}

/// What is wrong with a pod of that manifest: its mistakes in a line each, anything else as it is.
pub(super) fn explain(name: &str, error: magik_pri::Error) -> anyhow::Error {
    match error {
        magik_pri::Error::Spec(errors) => mistakes(name, &errors),
        error => error.into(),
    }
}

/// Says which fields of a pod change nothing; with `strict` that is an error.
pub(super) fn check_ignored(name: &str, spec: &PodSpec, class: RuntimeClass, strict: bool) -> Result<()> {
    let ignored = spec.ignored(class);
    if !strict || ignored.is_empty() {
        note_ignored(name, &ignored);
        return Ok(());
    }
    let shown = ignored.iter().take(MAX_SPEC_ERRORS);
    let mut lines: Vec<String> = shown
        .map(|IgnoredField { field, why }| format!("{name}: {field}: {}", changes_nothing(why)))
        .collect();
    if ignored.len() > MAX_SPEC_ERRORS {
        lines.push(format!("{name}: and {} more", ignored.len() - MAX_SPEC_ERRORS));
    }
    Err(Several::new(lines).into())
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

/// The pod that a manifest describes, by namespace and name.
pub(super) fn name(file: &Path, namespace: Option<&str>) -> Result<String> {
    if file != Path::new("-") && (!file.exists() || file.is_dir()) {
        let file = file.display();
        bail!(
            "{file}: is no file: -f names a manifest; to kill and delete a pod give 'pod delete --force {file}'"
        );
    }
    Ok(read(file, namespace)?.full_name())
}
