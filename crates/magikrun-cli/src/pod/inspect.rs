//! `pod inspect`.

use std::process::ExitCode;

use anyhow::Result;
use magik_pri::{PodSpec, status::PodStatus};
use serde::Serialize;

use super::advise;
use crate::{output::Document, pod::backend, roots::GlobalArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// How to print it
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_name = "json|yaml",
        default_value = "json",
        hide_possible_values = true,
        hide_default_value = true
    )]
    format: Document,
    /// Names, namespace/names, ids or the starts of ids
    #[arg(required = true, value_name = "POD")]
    pub(super) pods: Vec<String>,
}

/// A pod with all that is known of it.
#[derive(Debug, Serialize)]
struct Inspected {
    spec: PodSpec,
    status: PodStatus,
}

pub(super) async fn run(global: &GlobalArgs, args: &InspectArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let mut pods = Vec::new();
    for pod in &args.pods {
        let status = runtime.pod_status(pod).await.map_err(advise)?;
        let spec = runtime.pod_spec(&status.id).await.map_err(advise)?;
        pods.push(Inspected { spec, status });
    }
    args.format.print(&pods)?;
    Ok(ExitCode::SUCCESS)
}
