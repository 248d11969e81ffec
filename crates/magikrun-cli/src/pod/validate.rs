//! `pod validate`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use magik_pri::{IgnoredField, PodRuntime, PodSpec, RuntimeClass, SpecErrors, limits::MAX_SPEC_ERRORS};
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
    /// A Kubernetes v1 Pod in YAML or JSON; - is standard input
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
    /// `None`: it is about the whole file.
    field: Option<String>,
    message: String,
}

pub(super) fn run(global: &GlobalArgs, args: &ValidateArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let mut reports = Vec::with_capacity(args.files.len());
    for file in &args.files {
        reports.push(report(runtime.as_ref(), file, args, namespace));
    }
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

fn report(runtime: &dyn PodRuntime, file: &Path, args: &ValidateArgs, namespace: Option<&str>) -> Report {
    let mut report = Report {
        file: manifest::name_of(file),
        pod: None,
        runtime_class: None,
        errors: Vec::new(),
        more_errors: 0,
        ignored: Vec::new(),
    };
    match checked(runtime, file, args.runtime, namespace) {
        Ok((spec, class)) => {
            report.ignored = spec.ignored(class);
            if args.strict && !report.ignored.is_empty() {
                report.more_errors = report.ignored.len().saturating_sub(MAX_SPEC_ERRORS);
                report.ignored.truncate(MAX_SPEC_ERRORS);
                let ignored = report.ignored.drain(..);
                report.errors = ignored.map(Mistake::strict).collect();
                return report;
            }
            report.pod = Some(spec.full_name());
            report.runtime_class = Some(class);
        }
        Err(Wrong::Fields(errors)) => {
            report.more_errors = errors.more();
            report.errors = errors
                .errors()
                .iter()
                .map(|error| Mistake {
                    field: error.path().map(str::to_owned),
                    message: error.reason(),
                })
                .collect();
        }
        Err(Wrong::Other(error)) => {
            let message = failure::chain(&error);
            let file = format!("{}: ", report.file);
            report.errors.push(Mistake {
                field: None,
                message: message.strip_prefix(&file).unwrap_or(&message).to_owned(),
            });
        }
    }
    report
}

impl Mistake {
    /// That of a field that changes nothing, where that is one.
    fn strict(ignored: IgnoredField) -> Self {
        Self {
            field: Some(ignored.field),
            message: manifest::changes_nothing(&ignored.why),
        }
    }
}

/// Why a file is no pod that could be run.
enum Wrong {
    Fields(SpecErrors),
    Other(anyhow::Error),
}

impl From<SpecErrors> for Wrong {
    fn from(errors: SpecErrors) -> Self {
        Self::Fields(errors)
    }
}

impl From<anyhow::Error> for Wrong {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// The pod, and what would run it.
fn checked(
    runtime: &dyn PodRuntime,
    file: &Path,
    class: Option<RuntimeClass>,
    namespace: Option<&str>,
) -> Result<(PodSpec, RuntimeClass), Wrong> {
    let text = manifest::text(file)?;
    let spec = PodSpec::from_yaml(&text)?;
    let spec = manifest::in_namespace(file, spec, namespace)?;
    let class = runtime.check_pod(&spec, class).map_err(|error| match error {
        magik_pri::Error::Spec(errors) => Wrong::Fields(errors),
        error => Wrong::Other(error.into()),
    })?;
    Ok((spec, class))
}

fn print(report: &Report) -> Result<()> {
    let file = &report.file;
    if let Some(pod) = &report.pod {
        output::line(output::printable(&format!("{file}: pod {pod}: valid")))?;
    }
    for error in &report.errors {
        let field = error.field.as_ref().map(|field| format!("{field}: "));
        failure::print(format!("{file}: {}{}", field.unwrap_or_default(), error.message));
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
