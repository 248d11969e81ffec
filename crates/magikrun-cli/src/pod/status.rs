//! `pod status`.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Result;
use jiff::Timestamp;
use magik_pri::status::{ContainerPhase, ContainerStatus, PodStatus};

use super::{advise, list::phase, tree};
use crate::{
    output::{self, Document, Format},
    pod::backend,
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct StatusArgs {
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    /// How to print it
    #[arg(
        long,
        value_name = "table|json|yaml",
        default_value = "table",
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: Format,
    /// Print it as a Kubernetes v1 Pod with its status
    #[arg(
        short,
        long,
        value_name = "yaml|json",
        conflicts_with = "format",
        hide_possible_values = true
    )]
    output: Option<Document>,
}

pub(super) async fn run(global: &GlobalArgs, args: &StatusArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let pod = runtime.pod_status(&args.pod).await.map_err(advise)?;
    if let Some(document) = args.output {
        let spec = runtime.pod_spec(&pod.id).await.map_err(advise)?;
        document.print(&magik_pri::v1_pod(&spec, &pod))?;
    } else if let Some(document) = args.format.document() {
        document.print(&pod)?;
    } else if std::io::stdout().is_terminal() {
        // One that ends meanwhile is shown without.
        let spec = runtime.pod_spec(&pod.id).await.ok();
        let stats = runtime.stats(&pod.id).await.unwrap_or_default();
        let mut text = fields(&pod, Timestamp::now());
        text.push_str(&tree::draw(
            &pod,
            spec.as_ref(),
            &stats,
            Timestamp::now(),
            output::is_utf8(),
        ));
        text.push_str(&messages(&pod));
        output::line(text)?;
    } else {
        output::line(for_a_person(&pod, Timestamp::now()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn for_a_person(pod: &PodStatus, now: Timestamp) -> String {
    let mut text = fields(pod, now);
    let init = pod.init_containers.iter().map(|c| row(c, "init", now));
    let apps = pod.containers.iter().map(|c| row(c, "app", now));
    let added = pod.ephemeral_containers.iter();
    let rows = init.chain(apps).chain(added.map(|c| row(c, "ephemeral", now)));
    text.push_str(&output::columns(
        ["CONTAINER", "KIND", "IMAGE", "STATE", "RESTARTS", "AGE"],
        rows,
    ));
    text.push_str(&messages(pod));
    text
}

/// How much of a message is shown, in characters.
const SHOWN: usize = 200;

/// What containers have said about their last end.
fn messages(pod: &PodStatus) -> String {
    let said = pod.all_containers().filter_map(|container| {
        let message = match &container.state {
            ContainerPhase::Exited { message, .. } => message.as_deref(),
            _ => container.past.last()?.message.as_deref(),
        };
        let line = message?.split_whitespace().collect::<Vec<_>>().join(" ");
        let line = output::printable(&line);
        let shown: String = line.chars().take(SHOWN).collect();
        let more = if shown == line { "" } else { " …" };
        Some(format!(
            "\n\n{} said when it ended: {}{more}",
            container.name,
            output::printable(&shown),
        ))
    });
    said.collect()
}

fn fields(pod: &PodStatus, now: Timestamp) -> String {
    let labels: Vec<String> = pod
        .labels
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let time = |t: Timestamp| format!("{t:.0} ({} ago)", output::age(t, now));
    let fields = [
        ("Name", Some(pod.name.clone())),
        ("Namespace", Some(pod.namespace.clone())),
        ("Id", Some(pod.id.clone())),
        ("Runtime", Some(pod.runtime_class.clone())),
        ("Users", users(pod)),
        ("Status", Some(phase(pod))),
        ("Message", pod.message.clone()),
        ("Labels", Some(labels.join(", "))),
        ("Created", Some(time(pod.created_at))),
        ("Started", pod.started_at.map(time)),
        ("Finished", pod.finished_at.map(time)),
    ];
    let mut text = output::fields(fields);
    text.push('\n');
    text
}

/// Whose users the pod's are.
fn users(pod: &PodStatus) -> Option<String> {
    match pod.user_namespace {
        Some(own) => Some(format!("its own, root is {} on the host", own.host_id)),
        None => (pod.runtime_class == "native").then(|| "the host's".to_owned()),
    }
}

/// What a container does that has ended and waits to be run again, in Kubernetes' word.
pub(super) const BACK_OFF: &str = "CrashLoopBackOff";

pub(super) fn row(container: &ContainerStatus, kind: &str, now: Timestamp) -> [String; 6] {
    let (state, since) = match &container.state {
        ContainerPhase::Waiting if container.back_off_until.is_some() => (BACK_OFF.to_owned(), None),
        ContainerPhase::Waiting => ("Waiting".to_owned(), None),
        ContainerPhase::Created => ("Created".to_owned(), None),
        ContainerPhase::Running { started_at, .. } => {
            let state = match (container.started, container.ready) {
                (_, true) => "Running",
                (true, false) => "Running, not ready",
                (false, false) => "Running, not started",
            };
            (state.to_owned(), Some(*started_at))
        }
        ContainerPhase::Exited {
            finished_at, exit, ..
        } => {
            let how = match (exit.reason, exit.oom_killed, exit.signal) {
                (Some(reason), ..) => format!(", {reason}"),
                (None, true, _) => ", out of memory".to_owned(),
                (None, false, Some(signal)) => format!(", signal {signal}"),
                (None, false, None) => String::new(),
            };
            (format!("Exited ({}{how})", exit.code), Some(*finished_at))
        }
    };
    let age = since.map_or_else(|| "-".to_owned(), |t| output::age(t, now));
    [
        container.name.clone(),
        kind.to_owned(),
        container.image.clone(),
        state,
        container.restart_count.to_string(),
        age,
    ]
}
