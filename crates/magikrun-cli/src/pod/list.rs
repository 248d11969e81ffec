//! `pod ls`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use jiff::Timestamp;
use magik_pri::status::{ContainerStatus, PodStatus};

use super::status::BACK_OFF;
use crate::{
    output::{self, ListArgs, ListFormat},
    pod::backend,
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct PodListArgs {
    /// Pods of all namespaces, as without -n
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
    /// Only pods with these labels: app=web,tier!=db,stable,!old
    #[arg(short = 'l', long, value_name = "LABELS", value_parser = Selector::parse)]
    selector: Option<Selector>,
    #[command(flatten)]
    list: ListArgs,
}

/// Which labels a pod has to have, as `kubectl -l` has it, but for sets.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Selector(Vec<Requirement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    label: String,
    /// What it has to be; absent: anything.
    value: Option<String>,
    /// It must not be so.
    not: bool,
}

impl Selector {
    fn parse(text: &str) -> Result<Self, String> {
        let requirement = |part: &str| {
            let (label, value, not) = match part.split_once('=') {
                Some((label, value)) => match label.strip_suffix('!') {
                    Some(label) => (label, Some(value), true),
                    None => (label, Some(value.strip_prefix('=').unwrap_or(value)), false),
                },
                None => match part.strip_prefix('!') {
                    Some(label) => (label, None, true),
                    None => (part, None, false),
                },
            };
            if label.is_empty() || label.contains([' ', '!', '(']) {
                return Err(format!(
                    "{part:?} selects no label: write app=web, app!=web, app or !app"
                ));
            }
            let (label, value) = (label.to_owned(), value.map(str::to_owned));
            Ok(Requirement { label, value, not })
        };
        let parts = text.split(',').map(|part| requirement(part.trim()));
        parts.collect::<Result<_, _>>().map(Self)
    }

    fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|Requirement { label, value, not }| {
            let found = labels.get(label);
            let is_so = found.is_some_and(|found| value.as_ref().is_none_or(|value| value == found));
            is_so != *not
        })
    }
}

pub(super) async fn run(
    global: &GlobalArgs,
    args: &PodListArgs,
    namespace: Option<&str>,
) -> Result<ExitCode> {
    let mut pods = backend::pods(global)?.list_pods().await?;
    pods.retain(|pod| namespace.is_none_or(|namespace| namespace == pod.namespace));
    pods.retain(|pod| {
        args.selector
            .as_ref()
            .is_none_or(|selector| selector.selects(&pod.labels))
    });
    let args = &args.list;
    if args.quiet {
        pods.iter().try_for_each(|pod| output::line(&pod.id))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(document) = args.format.document() {
        document.print(&pods)?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = Timestamp::now();
    match args.format {
        // What every command takes.
        ListFormat::Name => pods
            .iter()
            .try_for_each(|pod| output::line(format_args!("{}/{}", pod.namespace, pod.name)))?,
        ListFormat::Wide => {
            let header = [
                "NAME",
                "NAMESPACE",
                "ID",
                "STATUS",
                "CONTAINERS",
                "AGE",
                "RUNTIME",
                "RESTARTS",
                "IMAGES",
            ];
            output::table(header, pods.iter().map(|pod| wide(pod, now)))?;
        }
        _ => {
            let header = ["NAME", "NAMESPACE", "ID", "STATUS", "CONTAINERS", "AGE"];
            output::table(header, pods.iter().map(|pod| row(pod, now)))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(pod: &PodStatus, now: Timestamp) -> [String; 6] {
    let is_ready = |c: &&ContainerStatus| c.ready && !pod.phase.is_final();
    let ready = pod.containers.iter().filter(is_ready).count();
    [
        pod.name.clone(),
        pod.namespace.clone(),
        pod.id.clone(),
        phase(pod),
        format!("{ready}/{}", pod.containers.len()),
        output::age(pod.created_at, now),
    ]
}

fn wide(pod: &PodStatus, now: Timestamp) -> [String; 9] {
    let [name, namespace, id, status, containers, age] = row(pod, now);
    let restarts: u64 = pod.containers.iter().map(|c| u64::from(c.restart_count)).sum();
    let images: Vec<&str> = pod.containers.iter().map(|c| c.image.as_str()).collect();
    [
        name,
        namespace,
        id,
        status,
        containers,
        age,
        pod.runtime_class.clone(),
        restarts.to_string(),
        images.join(","),
    ]
}

/// `Running`, `Running (CrashLoopBackOff)`, `Failed (DeadlineExceeded)`.
pub(super) fn phase(pod: &PodStatus) -> String {
    let waits = pod
        .all_containers()
        .any(|container| container.back_off_until.is_some());
    match &pod.reason {
        Some(reason) => format!("{:?} ({reason})", pod.phase),
        None if waits && !pod.phase.is_final() => format!("{:?} ({BACK_OFF})", pod.phase),
        None => format!("{:?}", pod.phase),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_selected_as_kubectl_selects_them() {
        let labels = [("app", "web"), ("stable", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let labels = BTreeMap::from(labels);
        for (text, selects) in [
            ("app=web", true),
            ("app==web,stable", true),
            ("app=db", false),
            ("app!=db", true),
            ("app!=web", false),
            ("other!=x", true),
            ("!old", true),
            ("!stable", false),
            ("old", false),
        ] {
            assert_eq!(Selector::parse(text).unwrap().selects(&labels), selects, "{text}");
        }
        for wrong in ["", "=x", "app=web,", "app in (a,b)", "!"] {
            assert!(Selector::parse(wrong).is_err(), "{wrong}");
        }
    }
}
