//! `pod attach`.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use magik_pri::{
    AttachRequest, ExecSession, PodRuntime,
    status::{ConsolePlan, ContainerPhase, ContainerStatus, PodStatus},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use super::{
    advise,
    exec::{Ending, pass_on, read_stdin},
    logs,
};
use crate::{
    failure, output,
    pod::backend,
    roots::GlobalArgs,
    signals::Signals,
    terminal::{self, RawMode},
};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod attach -c server web
          echo 'flush' | magikrun pod attach worker
A container with stdin: true gets our standard input, one with tty: true our terminal; Ctrl-P Ctrl-Q leaves it.
The exit code is the container's, or the pod's.";

#[derive(Debug, clap::Args)]
pub(crate) struct AttachArgs {
    /// Only this container [default: all]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Do not hand our standard input to it
    #[arg(long)]
    no_stdin: bool,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
}

/// Shows what the pod's containers write from now on, until they end, and passes on the pod's exit code.
pub(super) async fn run(global: &GlobalArgs, args: &AttachArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let pod = runtime.pod_status(&args.pod).await.map_err(advise)?;
    if pod.phase.is_final() {
        let error = anyhow!(
            "pod {}/{}: it is over: see 'magikrun pod logs'",
            pod.namespace,
            pod.name
        );
        return Err(failure::with_code(failure::OWN_FAILURE, error));
    }
    let chosen = match &args.container {
        Some(name) => pod.container(name),
        None => only(&pod),
    };
    if let Some(chosen) = chosen.filter(|container| !container.console.is_default()) {
        let asked = Asked {
            container: chosen.name.clone(),
            console: chosen.console,
            stdin: !args.no_stdin,
            from_start: false,
        };
        let session = asked.open(runtime.as_ref(), &pod.id).await?;
        return match asked.serve(session).await? {
            Ending::Exited(code) => Ok(super::program_exit(code)),
            Ending::Left => Ok(ExitCode::SUCCESS),
            Ending::Interrupted(code) => Ok(ExitCode::from(code)),
        };
    }
    let mut signals = Signals::new()?;
    let shown = async {
        let containers = match &args.container {
            Some(only) => vec![only.clone()],
            None => logs::names(&pod),
        };
        logs::follow(runtime.as_ref(), &pod.id, &containers, Some(0)).await?;
        end(runtime.as_ref(), &pod, args.container.as_deref()).await
    };
    tokio::select! {
        code = shown => code,
        // The pod goes on: one who watched has gone.
        signal = signals.next() => Ok(ExitCode::from(signal.exit_code())),
    }
}

/// The only container of a pod, if the others have ended before it began.
pub(super) fn only(pod: &PodStatus) -> Option<&ContainerStatus> {
    match pod.containers.as_slice() {
        [only] => Some(only),
        _ => None,
    }
}

/// Attaching to the streams of a container that has input or a terminal.
pub(super) struct Asked {
    pub(super) container: String,
    pub(super) console: ConsolePlan,
    /// Whether our input is its, if it has input.
    pub(super) stdin: bool,
    /// Whether that comes first which it has written already.
    pub(super) from_start: bool,
}

impl Asked {
    /// Attaches to the container.
    pub(super) async fn open(&self, runtime: &dyn PodRuntime, pod: &str) -> Result<ExecSession> {
        let request = AttachRequest {
            container: self.container.clone(),
            stdin: self.stdin && self.console.stdin,
            size: terminal::size().filter(|_| self.console.tty),
            from_start: self.from_start,
        };
        let attached = runtime.attach(pod, request).await.map_err(advise);
        attached.map_err(|e| failure::with_code(failure::OWN_FAILURE, e))
    }

    /// Connects our streams with the container's until one of the two has enough.
    pub(super) async fn serve(&self, attached: ExecSession) -> Result<Ending> {
        let stdin = self.stdin && self.console.stdin;
        let ExecSession { input, output, .. } = attached;
        let is_raw = self.console.tty && stdin && terminal::stdin_is_one();
        let raw_mode = is_raw.then(RawMode::enter).transpose()?;
        let (leave, left) = oneshot::channel();
        if stdin {
            read_stdin(input.clone(), is_raw.then_some(leave));
        }
        let resizes = self.console.tty.then(|| signal(SignalKind::window_change()));
        let resizes = resizes.transpose()?.map(|changes| (changes, input));
        let ending = pass_on("attach", output, resizes, is_raw.then_some(left)).await;
        drop(raw_mode);
        if let Ok(Ending::Left) = ending {
            output::note(&format!("container {} goes on", self.container));
        }
        ending
    }
}

/// The exit code of a container that has ended, or of the pod.
async fn end(runtime: &dyn PodRuntime, pod: &PodStatus, container: Option<&str>) -> Result<ExitCode> {
    let status = match container {
        Some(_) => runtime.pod_status(&pod.id).await?,
        None => runtime.wait_pod(&pod.id).await?,
    };
    let of_one = container
        .and_then(|name| status.container(name))
        .map(|c| &c.state);
    Ok(super::program_exit(match of_one {
        Some(ContainerPhase::Exited { exit, .. }) => exit.code,
        _ => status.exit_code(),
    }))
}
