//! `system check`: what is missing here, and the command that mends it.

mod distribution;
mod facts;
mod findings;

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use self::{
    distribution::Family,
    facts::Facts,
    findings::{Finding, State},
};
use crate::{
    failure,
    output::{self, FormatArg},
    roots::GlobalArgs,
};

pub(crate) const EXAMPLE: &str = "\
Example: magikrun system check && magikrun pod run -f web.yaml
The exit code is 0 where pods of at least one runtime class run, and 1 where none do.";

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    format: FormatArg,
}

/// The answer.
#[derive(Debug, Serialize)]
struct Checked {
    distribution: Family,
    /// The runtime classes whose pods run here.
    runs: Vec<&'static str>,
    checks: Vec<Finding>,
}

pub(super) async fn run(global: &GlobalArgs, args: &CheckArgs) -> Result<ExitCode> {
    let facts = Facts::gather(global).await?;
    let checked = Checked {
        distribution: facts.family,
        runs: facts.runnable(),
        checks: facts.findings(),
    };
    if let Some(document) = args.format.document() {
        document.print(&checked)?;
    } else {
        for finding in &checked.checks {
            output::line(line(finding))?;
        }
        if !checked.runs.is_empty() {
            output::line(format_args!("\nPods that run here: {}", checked.runs.join(", ")))?;
        }
    }
    if checked.runs.is_empty() {
        failure::print("nothing runs here: mend what is missing, and check again");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// `warn     KVM: there is no /dev/kvm` and, in a line of its own, what to do.
fn line(finding: &Finding) -> String {
    let Finding {
        name,
        state,
        detail,
        remedy,
    } = finding;
    let mut text = format!("{:<9}{name}: {}", state.as_str(), output::printable(detail));
    if let Some(remedy) = remedy.as_ref().filter(|_| *state != State::Ok) {
        text.push_str(&format!("\n         -> {}", output::printable(remedy)));
    }
    text
}
