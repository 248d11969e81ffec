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
    ignored: Vec<Ignored>,
}

/// A mistake.
#[derive(Debug, Serialize)]
struct Mistake {
    /// `None`: it is about the whole file.
    field: Option<String>,
    message: String,
}

/// A field that changes nothing.
#[derive(Debug, Serialize)]
struct Ignored {
    field: String,
    why: &'static str,
}

pub(super) fn run(global: &GlobalArgs, args: &ValidateArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let mut reports = Vec::with_capacity(args.files.len());
    for file in &args.files {
        reports.push(report(runtime.as_ref(), file, args.runtime, namespace));
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

fn report(
    runtime: &dyn PodRuntime,
    file: &Path,
    class: Option<RuntimeClass>,
    namespace: Option<&str>,
) -> Report {
    let mut report = Report {
        file: manifest::name_of(file),
        pod: None,
        runtime_class: None,
        errors: Vec::new(),
        more_errors: 0,
        ignored: Vec::new(),
    };
    match checked(runtime, file, class, namespace) {
        Ok((spec, class, ignored)) => {
            report.pod = Some(spec.full_name());
            report.runtime_class = Some(class);
            let ignored = ignored.into_iter().chain(spec.ignored(class));
            report.ignored = ignored
                .map(|field| Ignored {
                    field: field.path,
                    why: field.why,
                })
                .collect();
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

/// The pod, what would run it, and the fields that change nothing whatever runs it.
fn checked(
    runtime: &dyn PodRuntime,
    file: &Path,
    class: Option<RuntimeClass>,
    namespace: Option<&str>,
) -> Result<(PodSpec, RuntimeClass, Vec<IgnoredField>), Wrong> {
    let text = manifest::text(file)?;
    let (spec, ignored) = PodSpec::from_yaml_with_ignored(&text)?;
    let spec = manifest::in_namespace(file, spec, namespace)?;
    let class = runtime.check_pod(&spec, class).map_err(|error| match error {
        magik_pri::Error::Spec(errors) => Wrong::Fields(errors),
        error => Wrong::Other(error.into()),
    })?;
    Ok((spec, class, ignored))
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
    for ignored in report.ignored.iter().take(MAX_SPEC_ERRORS) {
        output::note(&format!(
            "{file}: note: {} changes nothing: {}",
            ignored.field, ignored.why
        ));
    }
    if report.ignored.len() > MAX_SPEC_ERRORS {
        let more = report.ignored.len() - MAX_SPEC_ERRORS;
        output::note(&format!("{file}: note: and {more} more fields change nothing"));
    }
    Ok(())
}
