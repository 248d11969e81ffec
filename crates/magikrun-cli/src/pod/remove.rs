//! `pod stop`, `pod restart` and `pod delete`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;

use super::{advise, manifest};
use crate::{failure, output, pod::backend, roots::GlobalArgs};

pub(crate) const DELETE_EXAMPLE: &str = "\
Examples: magikrun pod delete --force web db
          magikrun pod delete -f web.yaml";

#[derive(Debug, clap::Args)]
pub(crate) struct StopArgs {
    /// Seconds until SIGKILL [default: the pod's terminationGracePeriodSeconds]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u32>,
    /// Names, namespace/names, ids or the starts of ids
    #[arg(required = true, value_name = "POD")]
    pub(super) pods: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RestartArgs {
    /// Seconds until SIGKILL [default: the pod's terminationGracePeriodSeconds]
    #[arg(short, long, value_name = "SECONDS")]
    time: Option<u32>,
    /// Only this container [default: all, one after the other, but for init containers]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Names, namespace/names, ids or the starts of ids
    #[arg(required = true, value_name = "POD")]
    pub(super) pods: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DeleteArgs {
    /// The pod of this manifest; - is standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Kill what still runs, and do not mind pods that do not exist
    #[arg(long)]
    force: bool,
    /// Every pod, or with -n every pod of that namespace
    #[arg(long, conflicts_with_all = ["file", "pods"])]
    all: bool,
    /// Names, namespace/names, ids or the starts of ids
    #[arg(required_unless_present_any = ["file", "all"], value_name = "POD")]
    pub(super) pods: Vec<String>,
}

pub(super) async fn stop(global: &GlobalArgs, args: &StopArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let grace = args.time.map(|seconds| Duration::from_secs(seconds.into()));
    let mut failures = Failures::default();
    for pod in &args.pods {
        let stopped = runtime.stop_pod(pod, grace).await;
        failures.note(pod, stopped.map(drop))?;
    }
    Ok(failures.exit_code())
}

pub(super) async fn restart(global: &GlobalArgs, args: &RestartArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let grace = args.time.map(|seconds| Duration::from_secs(seconds.into()));
    let mut failures = Failures::default();
    for pod in &args.pods {
        let restarted = async {
            let containers = match &args.container {
                Some(only) => vec![only.clone()],
                None => {
                    let status = runtime.pod_status(pod).await?;
                    status.containers.into_iter().map(|c| c.name).collect()
                }
            };
            for container in containers {
                runtime.restart_container(pod, &container, grace).await?;
            }
            Ok(())
        };
        failures.note(pod, restarted.await)?;
    }
    Ok(failures.exit_code())
}

pub(super) async fn delete(
    global: &GlobalArgs,
    args: &DeleteArgs,
    namespace: Option<&str>,
) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let mut pods = args.pods.clone();
    if let Some(file) = &args.file {
        pods.extend(manifest::names(file, namespace)?);
    }
    if args.all {
        pods = match namespace {
            Some(namespace) => {
                let all = runtime.list_pods().await?.into_iter();
                all.filter(|pod| pod.namespace == namespace)
                    .map(|pod| pod.id)
                    .collect()
            }
            None => runtime.pod_ids().await?,
        };
    }
    let mut failures = Failures::default();
    for pod in &pods {
        let deleted = runtime.delete_pod(pod, args.force).await;
        failures.note(pod, deleted)?;
    }
    Ok(failures.exit_code())
}

/// Of several pods each is tried, and each failure said.
#[derive(Debug, Default)]
struct Failures {
    any: bool,
}

impl Failures {
    fn note(&mut self, pod: &str, result: magik_pri::Result<()>) -> Result<()> {
        match result {
            Ok(()) => output::line(pod),
            Err(error) => {
                self.any = true;
                failure::print(failure::chain(&advise(error)));
                Ok(())
            }
        }
    }

    fn exit_code(&self) -> ExitCode {
        if self.any {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}
