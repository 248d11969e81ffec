//! `pod stats`.

use std::{
    collections::{BTreeMap, HashMap},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use magik_oci::Stats;
use magik_pri::{PodRuntime, status::PodStatus};
use serde::Serialize;

use super::advise;
use crate::{
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

/// Between two samples of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, clap::Args)]
pub(crate) struct StatsArgs {
    /// Go on, every two seconds, with the share of a processor used meanwhile; on a terminal it is so
    #[arg(long, conflicts_with = "no_stream")]
    watch: bool,
    /// Show it once, on a terminal too
    #[arg(long)]
    no_stream: bool,
    /// Names, namespace/names, ids or the starts of ids [default: every running pod]
    #[arg(value_name = "POD")]
    pub(super) pods: Vec<String>,
    #[command(flatten)]
    format: FormatArg,
}

/// What the containers of one pod use.
#[derive(Debug, Serialize)]
struct Sample {
    id: String,
    name: String,
    namespace: String,
    containers: BTreeMap<String, Stats>,
}

pub(super) async fn run(global: &GlobalArgs, args: &StatsArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let mut usage = Usage::default();
    let watch = args.watch || (!args.no_stream && args.format.document().is_none() && terminal_is_stdout());
    loop {
        let samples = sample(runtime.as_ref(), &args.pods).await?;
        match (args.format.document(), watch) {
            (Some(document), false) => document.print(&samples)?,
            (Some(document), true) => document.item(&samples)?,
            (None, watch) => table(&samples, watch, &mut usage)?,
        }
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The pods that were named, or every one that runs.
async fn sample(runtime: &dyn PodRuntime, named: &[String]) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    if named.is_empty() {
        for pod in runtime
            .list_pods()
            .await?
            .into_iter()
            .filter(|pod| !pod.phase.is_final())
        {
            // It may well have ended since it was listed.
            if let Ok(containers) = runtime.stats(&pod.id).await {
                samples.push(Sample::new(pod, containers));
            }
        }
    }
    for name in named {
        let pod = runtime.pod_status(name).await.map_err(advise)?;
        let containers = runtime.stats(&pod.id).await?;
        samples.push(Sample::new(pod, containers));
    }
    Ok(samples)
}

impl Sample {
    fn new(pod: PodStatus, containers: BTreeMap<String, Stats>) -> Self {
        Self {
            id: pod.id,
            name: pod.name,
            namespace: pod.namespace,
            containers,
        }
    }
}

/// Processor time of the sample before, for the share used since.
#[derive(Debug, Default)]
struct Usage {
    before: HashMap<(String, String), (Instant, u64)>,
}

impl Usage {
    /// Per cent of one processor since the last call for this container.
    fn share(&mut self, pod: &str, container: &str, usage_ns: u64, now: Instant) -> Option<f64> {
        let (then, before) = self
            .before
            .insert((pod.into(), container.into()), (now, usage_ns))?;
        let used = Duration::from_nanos(usage_ns.saturating_sub(before)).as_secs_f64();
        let elapsed = now.duration_since(then).as_secs_f64();
        (elapsed > 0.0).then(|| 100.0 * used / elapsed)
    }
}

fn table(samples: &[Sample], watch: bool, usage: &mut Usage) -> Result<()> {
    let now = Instant::now();
    let mut rows = Vec::new();
    for sample in samples {
        for (container, stats) in &sample.containers {
            let share = usage.share(&sample.id, container, stats.cpu.usage_ns, now);
            let limit =
                |limit: Option<u64>, show: fn(u64) -> String| limit.map_or_else(|| "-".to_owned(), show);
            rows.push([
                sample.name.clone(),
                container.clone(),
                share.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}%")),
                format!("{:.2}s", Duration::from_nanos(stats.cpu.usage_ns).as_secs_f64()),
                output::size(stats.memory.working_set),
                limit(stats.memory.limit, output::size),
                stats.pids.current.to_string(),
                limit(stats.pids.limit, |n| n.to_string()),
            ]);
        }
    }
    let header = [
        "POD",
        "CONTAINER",
        "CPU",
        "CPU TIME",
        "MEMORY",
        "LIMIT",
        "PIDS",
        "LIMIT",
    ];
    if watch {
        // The screen's top left corner; what was below is cleared, as `watch` does.
        let clear = if terminal_is_stdout() { "\x1b[H\x1b[2J" } else { "" };
        return output::line(format!("{clear}{}", output::columns(header, rows)));
    }
    // One sample has no share.
    let rows = rows
        .into_iter()
        .map(|[pod, container, _, time, memory, limit, pids, pids_limit]| {
            [pod, container, time, memory, limit, pids, pids_limit]
        });
    output::table(
        ["POD", "CONTAINER", "CPU TIME", "MEMORY", "LIMIT", "PIDS", "LIMIT"],
        rows,
    )
}

fn terminal_is_stdout() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stdout())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_of_the_time_since_the_sample_before() {
        let mut usage = Usage::default();
        let start = Instant::now();
        assert_eq!(usage.share("p", "c", 1_000_000_000, start), None);
        let later = start + Duration::from_secs(2);
        assert_eq!(usage.share("p", "c", 2_000_000_000, later), Some(50.0));
        // A container that was replaced starts at 0 again.
        assert_eq!(
            usage.share("p", "c", 0, later + Duration::from_secs(1)),
            Some(0.0)
        );
        assert_eq!(usage.share("p", "other", 5, later), None);
    }
}
