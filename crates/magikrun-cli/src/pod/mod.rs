//! `magikrun pod …`.

mod attach;
pub(crate) mod backend;
mod compose;
#[cfg(feature = "registry")]
mod connect;
mod cp;
mod debug;
mod events;
mod exec;
mod forward;
mod inspect;
mod list;
mod logs;
mod manifest;
mod remove;
mod resize;
mod run;
mod stats;
mod status;
mod top;
mod tree;
mod update;
mod validate;
mod wait;

use std::{process::ExitCode, slice};

use anyhow::Result;
use clap::Subcommand;
use magik_pri::PodRuntime;

use crate::{output, roots::GlobalArgs};

#[derive(Debug, clap::Args)]
pub(crate) struct PodArgs {
    /// The pods' namespace [default: default; of `ls`: all]
    #[arg(short, long, global = true, value_name = "NAMESPACE", value_parser = namespace)]
    namespace: Option<String>,
    #[command(subcommand)]
    command: PodCommand,
}

impl PodArgs {
    /// Whether the exit code is that of a program in the pod.
    pub(crate) fn passes_exit_code(&self) -> bool {
        match &self.command {
            PodCommand::Run(args) => args.waits(),
            PodCommand::Exec(_) | PodCommand::Attach(_) | PodCommand::Debug(_) => true,
            _ => false,
        }
    }
}

/// Reads `NAME=VALUE`.
fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("give it as NAME=VALUE".into()),
    }
}

/// Checks `-n`.
fn namespace(text: &str) -> Result<String, String> {
    magik_pri::check_namespace(text).map(|()| text.to_owned())
}

#[derive(Debug, Subcommand)]
pub(crate) enum PodCommand {
    /// Run a pod: all of its containers, or nothing of it
    #[command(after_help = run::EXAMPLE)]
    Run(Box<run::RunArgs>),
    /// Check manifests without running them
    #[command(after_help = validate::EXAMPLE)]
    Validate(validate::ValidateArgs),
    /// List pods
    #[command(visible_alias = "ps", after_help = "Example: magikrun pod ls")]
    Ls(list::PodListArgs),
    /// Show a pod and its containers
    #[command(after_help = "Example: magikrun pod status web --format json")]
    Status(status::StatusArgs),
    /// Print all that is known of pods: what they were run with, and how they are
    #[command(after_help = "Example: magikrun pod inspect -o yaml web")]
    Inspect(inspect::InspectArgs),
    /// Print what containers wrote
    #[command(after_help = logs::EXAMPLE)]
    Logs(logs::LogsArgs),
    /// Show what containers write from now on, until they end
    #[command(after_help = attach::EXAMPLE)]
    Attach(attach::AttachArgs),
    /// Wait until pods are over, and print their exit codes
    #[command(after_help = wait::WAIT_EXAMPLE)]
    Wait(wait::WaitArgs),
    /// Run a program in a container of a pod
    #[command(after_help = exec::EXAMPLE)]
    Exec(exec::ExecArgs),
    /// Look at a container of a pod that runs from another one beside it
    #[command(after_help = debug::EXAMPLE)]
    Debug(debug::DebugArgs),
    /// Stop pods: SIGTERM, and SIGKILL after the grace period
    #[command(after_help = "Example: magikrun pod stop -t 5 web")]
    Stop(remove::StopArgs),
    /// Run containers of pods again: SIGTERM, SIGKILL after the grace period, and a fresh start
    #[command(after_help = "Example: magikrun pod restart -c server web")]
    Restart(remove::RestartArgs),
    /// Give a container of a pod other limits
    #[command(after_help = resize::EXAMPLE)]
    Resize(resize::ResizeArgs),
    /// Give the volumes of a pod other data of ConfigMaps and Secrets
    #[command(after_help = update::EXAMPLE)]
    Update(update::UpdateArgs),
    /// Delete pods and everything of theirs
    #[command(visible_alias = "rm", after_help = remove::DELETE_EXAMPLE)]
    Delete(remove::DeleteArgs),
    /// Show what containers use
    #[command(after_help = "Example: magikrun pod stats --watch web")]
    Stats(stats::StatsArgs),
    /// Show the processes of containers
    #[command(after_help = "Example: magikrun pod top -c server web")]
    Top(top::TopArgs),
    /// Copy files and directories from and to containers
    #[command(after_help = cp::EXAMPLE)]
    Cp(cp::CpArgs),
    /// Show what happened in a pod
    #[command(after_help = "Example: magikrun pod events -f web --format json")]
    Events(events::EventsArgs),
    /// Forward local ports to a pod
    #[command(after_help = "Example: magikrun pod port-forward web 8080:80 6379")]
    PortForward(forward::ForwardArgs),
}

impl PodCommand {
    /// The pods that are named.
    fn names(&mut self) -> &mut [String] {
        match self {
            Self::Run(_) | Self::Validate(_) | Self::Ls(_) => &mut [],
            Self::Status(args) => slice::from_mut(&mut args.pod),
            Self::Logs(args) => slice::from_mut(&mut args.pod),
            Self::Exec(args) => slice::from_mut(&mut args.pod),
            Self::Attach(args) => slice::from_mut(&mut args.pod),
            Self::Debug(args) => slice::from_mut(&mut args.pod),
            Self::Resize(args) => slice::from_mut(&mut args.pod),
            Self::Events(args) => slice::from_mut(&mut args.pod),
            Self::PortForward(args) => slice::from_mut(&mut args.pod),
            Self::Inspect(args) => &mut args.pods,
            Self::Wait(args) => &mut args.pods,
            Self::Stop(args) => &mut args.pods,
            Self::Restart(args) => &mut args.pods,
            Self::Update(args) => slice::from_mut(&mut args.pod),
            Self::Delete(args) => &mut args.pods,
            Self::Stats(args) => &mut args.pods,
            Self::Top(args) => slice::from_mut(&mut args.pod),
            Self::Cp(args) => args.pods(),
        }
    }
}

pub(crate) async fn run(global: &GlobalArgs, args: PodArgs) -> Result<ExitCode> {
    let PodArgs {
        namespace,
        mut command,
    } = args;
    if let Some(namespace) = &namespace {
        for name in command.names().iter_mut().filter(|name| !name.contains('/')) {
            *name = format!("{namespace}/{name}");
        }
    }
    let namespace = namespace.as_deref();
    match &command {
        PodCommand::Run(args) => run::run(global, args, namespace).await,
        PodCommand::Validate(args) => validate::run(global, args, namespace),
        PodCommand::Ls(args) => list::run(global, args, namespace).await,
        PodCommand::Status(args) => status::run(global, args).await,
        PodCommand::Logs(args) => logs::run(global, args).await,
        PodCommand::Exec(args) => exec::run(global, args).await,
        PodCommand::Inspect(args) => inspect::run(global, args).await,
        PodCommand::Attach(args) => attach::run(global, args).await,
        PodCommand::Debug(args) => debug::run(global, args).await,
        PodCommand::Resize(args) => resize::run(global, args).await,
        PodCommand::Wait(args) => wait::wait(global, args).await,
        PodCommand::Stop(args) => remove::stop(global, args).await,
        PodCommand::Restart(args) => remove::restart(global, args).await,
        PodCommand::Update(args) => update::run(global, args, namespace).await,
        PodCommand::Delete(args) => remove::delete(global, args, namespace).await,
        PodCommand::Stats(args) => stats::run(global, args).await,
        PodCommand::Top(args) => top::run(global, args).await,
        PodCommand::Cp(args) => cp::run(global, args).await,
        PodCommand::Events(args) => events::run(global, args).await,
        PodCommand::PortForward(args) => forward::run(global, args).await,
    }
}

/// The annotation by which a pod says which of its containers is meant where none is named.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The container that is meant: the one that was named, or else, as kubectl has it, the pod's default
/// or its first one, which is said where there are several.
async fn container(runtime: &dyn PodRuntime, pod: &str, named: Option<&str>) -> Result<String> {
    if let Some(named) = named {
        return Ok(named.to_owned());
    }
    let pod = runtime.pod_status(pod).await.map_err(advise)?;
    let default = pod.annotations.get(DEFAULT_CONTAINER);
    if let Some(default) = default.filter(|name| pod.container(name).is_some()) {
        return Ok(default.clone());
    }
    let names: Vec<&str> = pod.containers.iter().map(|c| c.name.as_str()).collect();
    if names.len() > 1 {
        output::note(&format!(
            "container {} of {} (-c chooses)",
            names[0],
            names.join(", ")
        ));
    }
    Ok(names.first().copied().unwrap_or_default().to_owned())
}

/// An error with what to do about it on this command line.
fn advise(error: magik_pri::Error) -> anyhow::Error {
    let advice = match error {
        magik_pri::Error::NotFound(_) => "see 'magikrun pod ls'",
        magik_pri::Error::Container { .. } => "choose one with -c",
        other => return other.into(),
    };
    anyhow::anyhow!("{error}: {advice}")
}

/// The exit code of a program, as ours.
fn program_exit(code: i32) -> ExitCode {
    // The kernel keeps the lowest eight bits, so there are no others.
    ExitCode::from(u8::try_from(code & 0xff).unwrap_or(u8::MAX))
}
