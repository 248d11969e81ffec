//! `pod resize`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use magik_pri::{parse_millis, parse_quantity, status::Resized};

use super::advise;
use crate::{output, pod::backend, roots::GlobalArgs};

pub(crate) const EXAMPLE: &str = "\
Example: magikrun pod resize web -c server --memory 512Mi --cpu 1.5
The container goes on, unless its resizePolicy says RestartContainer. What is given holds for its later runs, too.";

#[derive(Debug, clap::Args)]
pub(crate) struct ResizeArgs {
    /// The container [default: the pod's default-container annotation, else the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// The most processors: 1.5, 500m
    #[arg(long, value_name = "N", value_parser = parse_millis)]
    cpu: Option<u64>,
    /// The most memory: 512Mi, 2Gi
    #[arg(long, value_name = "SIZE", value_parser = parse_quantity)]
    memory: Option<u64>,
    /// The processors that it may expect
    #[arg(long, value_name = "N", value_parser = parse_millis)]
    cpu_request: Option<u64>,
    /// The memory that it may expect
    #[arg(long, value_name = "SIZE", value_parser = parse_quantity)]
    memory_request: Option<u64>,
    /// Name, namespace/name, id or the start of an id
    #[arg(value_name = "POD")]
    pub(super) pod: String,
}

pub(super) async fn run(global: &GlobalArgs, args: &ResizeArgs) -> Result<ExitCode> {
    let by = Resized {
        cpu_limit: args.cpu,
        memory_limit: args.memory,
        cpu_request: args.cpu_request,
        memory_request: args.memory_request,
    };
    if by == Resized::default() {
        bail!("pod resize: give --cpu, --memory, --cpu-request or --memory-request");
    }
    let runtime = backend::pods(global)?;
    let container = super::container(runtime.as_ref(), &args.pod, args.container.as_deref()).await?;
    let resized = runtime.resize_container(&args.pod, &container, by).await;
    resized.map_err(advise)?;
    output::line(&args.pod)?;
    Ok(ExitCode::SUCCESS)
}
