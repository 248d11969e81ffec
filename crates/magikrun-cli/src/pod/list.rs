//! `pod ls`.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;
use magik_pri::status::{ContainerPhase, PodStatus};

use crate::{
    output::{self, ListArgs},
    pod::backend,
    roots::GlobalArgs,
};

pub(super) async fn run(global: &GlobalArgs, args: &ListArgs) -> Result<ExitCode> {
    let pods = backend::pods(global)?.list_pods().await?;
    if args.quiet {
        pods.iter().try_for_each(|pod| output::line(&pod.id))?;
    } else if args.format.json() {
        output::json(&pods)?;
    } else {
        let now = Timestamp::now();
        let header = ["NAME", "NAMESPACE", "ID", "STATUS", "CONTAINERS", "AGE"];
        output::table(header, pods.iter().map(|pod| row(pod, now)))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn row(pod: &PodStatus, now: Timestamp) -> [String; 6] {
    let running = pod
        .containers
        .iter()
        .filter(|c| matches!(c.state, ContainerPhase::Running { .. }))
        .count();
    [
        pod.name.clone(),
        pod.namespace.clone(),
        pod.id.clone(),
        phase(pod),
        format!("{running}/{}", pod.containers.len()),
        output::age(pod.created_at, now),
    ]
}

/// `Running`, `Failed (DeadlineExceeded)`.
pub(super) fn phase(pod: &PodStatus) -> String {
    match &pod.reason {
        Some(reason) => format!("{:?} ({reason})", pod.phase),
        None => format!("{:?}", pod.phase),
    }
}
