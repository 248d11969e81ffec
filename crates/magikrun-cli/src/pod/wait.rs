//! `pod wait`.

use std::{process::ExitCode, str::FromStr, time::Duration};

use anyhow::{Result, anyhow};
use jiff::SignedDuration;
use magik_pri::{Error, PodChange, PodRuntime};

use super::advise;
use crate::{output, pod::backend, roots::GlobalArgs};

pub(crate) const WAIT_EXAMPLE: &str = "\
Examples: magikrun pod wait web
          magikrun pod wait --for delete --timeout 30s web db
The exit code of each pod is printed once it has ended. With --for delete a pod that does not exist is what was waited for.";

/// Between two looks for a pod whose deletion has begun.
const PAUSE: Duration = Duration::from_millis(10);

#[derive(Debug, clap::Args)]
pub(crate) struct WaitArgs {
    /// What is waited for: its end, or that it was deleted
    #[arg(
        long = "for",
        value_name = "end|delete",
        default_value = "end",
        hide_default_value = true
    )]
    what: What,
    /// The longest time to wait: 30s, 5m [default: none]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Names, namespace/names, ids or the starts of ids
    #[arg(required = true, value_name = "POD")]
    pub(super) pods: Vec<String>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    End,
    Delete,
}

impl FromStr for What {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "end" | "exited" | "stopped" => Ok(Self::End),
            "delete" => Ok(Self::Delete),
            // A pod that exists was started as a whole.
            "running" | "condition=Ready" | "condition=ready" => {
                Err("'pod run' returns once every container runs: there is nothing to wait for".into())
            }
            _ => Err("give end or delete".into()),
        }
    }
}

/// A time in seconds, or with units.
fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse()
        .ok()
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    let units = || text.parse::<SignedDuration>().ok();
    seconds
        .or_else(|| units().and_then(|time| Duration::try_from(time).ok()))
        .ok_or_else(|| "give it as 30s, 5m or 1h".into())
}

pub(super) async fn wait(global: &GlobalArgs, args: &WaitArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let waited = async {
        for pod in &args.pods {
            match args.what {
                What::End => {
                    let end = runtime.wait_pod(pod).await.map_err(advise)?;
                    output::line(end.exit_code())?;
                }
                What::Delete => deleted(runtime.as_ref(), pod).await?,
            }
        }
        Ok(ExitCode::SUCCESS)
    };
    match args.timeout {
        None => waited.await,
        Some(limit) => tokio::time::timeout(limit, waited).await.unwrap_or_else(|_| {
            let what = args.pods.join(", ");
            Err(anyhow!("pod {what}: not over after {} s", limit.as_secs_f64()))
        }),
    }
}

/// Waits until the pod is gone; that it never was there is the same.
async fn deleted(runtime: &dyn PodRuntime, pod: &str) -> Result<()> {
    let id = match runtime.pod_status(pod).await {
        Ok(status) => status.id,
        Err(Error::NotFound(_)) => return Ok(()),
        Err(error) => return Err(advise(error)),
    };
    let mut changes = runtime.watch(0).await?;
    // One that was deleted before the watch began is not told of.
    while runtime.pod_status(&id).await.is_ok() {
        while changes.next().await?.what != PodChange::Gone(id.clone()) {}
        // Its deletion has begun.
        while !matches!(runtime.pod_status(&id).await, Err(Error::NotFound(_))) {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}
