//! `pod validate`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use magik_pri::{
    DocumentPod, Documents, IgnoredField, Location, PodRuntime, RuntimeClass, SpecErrors,
    limits::MAX_SPEC_ERRORS,
};
use serde::Serialize;

use super::manifest;
use crate::{
    failure,
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod validate -f web.yaml -f db.yaml
          magikrun pod validate -f web.yaml -o json
Notes on standard error say which fields change nothing and which runtime class would run the pod.";

#[derive(Debug, clap::Args)]
pub(crate) struct ValidateArgs {
    /// Manifests in YAML or JSON: files, directories, - for stdin
    #[arg(short, long = "file", required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What would isolate the pod [default: its runtimeClassName, else native]
    #[arg(long, value_name = "native|microvm|wasm")]
    runtime: Option<RuntimeClass>,
    /// A field that changes nothing is a mistake
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// What is said of a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    file: String,
    /// `namespace/name`, if it is valid.
    pod: Option<String>,
    runtime_class: Option<RuntimeClass>,
    /// At most [`MAX_SPEC_ERRORS`].
    errors: Vec<Mistake>,
    more_errors: usize,
    ignored: Vec<IgnoredField>,
}

/// A mistake.
#[derive(Debug, Serialize)]
struct Mistake {
    /// Where the field stands, or what it is missing in, counted from 1; `None`: that is not known.
    line: Option<u64>,
    column: Option<u64>,
    /// `None`: it is about the whole file.
    field: Option<String>,
    message: String,
}

pub(super) fn run(global: &GlobalArgs, args: &ValidateArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let allowed = global.config.allowed_unsafe_sysctls().value;
    let reports = reports(runtime.as_ref(), args, namespace, &allowed);
    if let Some(document) = args.format.document() {
        document.print(&reports)?;
    } else {
        reports.iter().try_for_each(print)?;
    }
    let valid = reports.iter().all(|report| report.errors.is_empty());
    Ok(if valid {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is said of each pod, and of each file that has mistakes.
fn reports(
    runtime: &dyn PodRuntime,
    args: &ValidateArgs,
    namespace: Option<&str>,
    allowed_sysctls: &[String],
) -> Vec<Report> {
    let (mut reports, mut texts, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for file in &args.files {
        match manifest::texts(std::slice::from_ref(file)) {
            Ok(read) => {
                names.extend(read.iter().map(|(name, _)| name.clone()));
                texts.extend(read);
            }
            Err(error) => {
                let name = manifest::name_of(file);
                names.push(name.clone());
                reports.push(Report::failed(name, &error));
            }
        }
    }
    if texts.is_empty() {
        return reports;
    }
    let (pods, ignored) = match Documents::from_yaml(&manifest::borrowed(&texts), namespace) {
        Ok(documents) => (documents.pods, documents.ignored),
        Err(errors) => {
            let mistakes = errors.files();
            reports.extend(mistakes.map(|(name, errors)| Report::wrong(name.to_owned(), errors)));
            (errors.valid().to_vec(), Vec::new())
        }
    };
    let pods = pods.into_iter();
    reports.extend(pods.map(|pod| checked(runtime, pod, args, namespace, allowed_sysctls)));
    for (file, ignored) in ignored {
        let place = reports.iter().position(|report| report.file == file);
        let place = place.unwrap_or_else(|| {
            reports.push(Report::of(file));
            reports.len() - 1
        });
        if let Some(report) = reports.get_mut(place) {
            report.ignored.push(ignored);
        }
    }
    if args.strict {
        reports.iter_mut().for_each(Report::be_strict);
    }
    // As they were given.
    reports.sort_by_key(|report| names.iter().position(|name| *name == report.file));
    reports
}

impl Mistake {
    /// That of a field that changes nothing, where that is one.
    fn strict(ignored: IgnoredField) -> Self {
        Self {
            line: None,
            column: None,
            field: Some(ignored.field),
            message: manifest::changes_nothing(&ignored.why),
        }
    }
}

impl Report {
    fn of(file: String) -> Self {
        Self {
            file,
            pod: None,
            runtime_class: None,
            errors: Vec::new(),
            more_errors: 0,
            ignored: Vec::new(),
        }
    }

    fn wrong(file: String, errors: &SpecErrors) -> Self {
        let mistakes = errors.located().map(|(location, error)| Mistake {
            line: location.map(|at| at.line),
            column: location.map(|at| at.column),
            field: error.path().map(str::to_owned),
            message: error.reason(),
        });
        Self {
            errors: mistakes.collect(),
            more_errors: errors.more(),
            ..Self::of(file)
        }
    }

    /// What changes nothing is a mistake.
    fn be_strict(&mut self) {
        if self.ignored.is_empty() {
            return;
        }
        self.more_errors += self.ignored.len().saturating_sub(MAX_SPEC_ERRORS);
        self.ignored.truncate(MAX_SPEC_ERRORS);
        self.errors.extend(self.ignored.drain(..).map(Mistake::strict));
        (self.pod, self.runtime_class) = (None, None);
    }

    fn failed(file: String, error: &anyhow::Error) -> Self {
        let message = failure::chain(error);
        let prefix = format!("{file}: ");
        let message = message.strip_prefix(&prefix).unwrap_or(&message).to_owned();
        Self {
            errors: vec![Mistake {
                line: None,
                column: None,
                field: None,
                message,
            }],
            ..Self::of(file)
        }
    }
}

/// Whether the pod could be run, what would run it, and the fields that change nothing.
fn checked(
    runtime: &dyn PodRuntime,
    pod: DocumentPod,
    args: &ValidateArgs,
    namespace: Option<&str>,
    allowed_sysctls: &[String],
) -> Report {
    let DocumentPod { file, spec, .. } = pod;
    if let Err(error) = manifest::check_namespace(&file, &spec, namespace) {
        return Report::failed(file, &error);
    }
    if let Err(errors) = spec.check_sysctls(allowed_sysctls) {
        return Report::wrong(file, &errors);
    }
    match runtime.check_pod(&spec, args.runtime) {
        Ok(class) => Report {
            pod: Some(spec.full_name()),
            runtime_class: Some(class),
            ignored: spec.ignored(class),
            ..Report::of(file)
        },
        Err(magik_pri::Error::Spec(errors)) => Report::wrong(file, &errors),
        Err(error) => Report::failed(file, &error.into()),
    }
}

fn print(report: &Report) -> Result<()> {
    let file = &report.file;
    if let Some(pod) = &report.pod {
        output::line(output::printable(&format!("{file}: pod {pod}: valid")))?;
    }
    for error in &report.errors {
        let location = error.line.zip(error.column);
        let location = location.map(|(line, column)| Location { line, column });
        let field = error.field.as_ref().map(|field| format!("{field}: "));
        let place = manifest::placed(file, location);
        failure::print(format!("{place}: {}{}", field.unwrap_or_default(), error.message));
    }
    if report.more_errors > 0 {
        failure::print(format!("{file}: and {} more", report.more_errors));
    }
    if let Some(class) = report.runtime_class {
        output::note(&format!("{file}: note: its runtime class is {class}"));
    }
    manifest::note_ignored(file, &report.ignored);
    Ok(())
}
