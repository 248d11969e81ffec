//! `pod events`.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use magik_pri::events::Event;

use super::advise;
use crate::{
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct EventsArgs {
    /// Go on until the pod is over
    #[arg(short, long)]
    follow: bool,
    /// Only what is younger: 10m, 2h, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = super::logs::parse_since)]
    since: Option<Timestamp>,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    #[command(flatten)]
    format: FormatArg,
}

pub(super) async fn run(global: &GlobalArgs, args: &EventsArgs) -> Result<ExitCode> {
    let mut events = backend::pods(global)?
        .events(&args.pod, args.follow)
        .await
        .map_err(advise)?;
    while let Some(event) = events.next().await? {
        if args.since.is_some_and(|since| event.time < since) {
            continue;
        }
        if let Some(document) = args.format.document() {
            document.item(&event)?;
        } else {
            output::line(output::printable(&for_a_person(&event)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Columns of a fixed width, because later lines are not known yet.
fn for_a_person(event: &Event) -> String {
    let Event {
        time,
        kind,
        container,
        detail,
        exit_code,
    } = event;
    let code = exit_code.map(|code| format!("exit code {code}"));
    let more = [code, Some(detail.clone()).filter(|d| !d.is_empty())];
    let more: Vec<String> = more.into_iter().flatten().collect();
    format!(
        "{time:.3}  {:<18}  {container:<16}  {}",
        kind.as_str(),
        more.join(": ")
    )
    .trim_end()
    .to_owned()
}
