//! `pod run`.

use std::{collections::BTreeSet, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use magik_image::{
    Reference,
    connect::ConnectOptions,
    pull::{IMAGE_PULL_TIMEOUT, Progress},
};
use magik_pri::{
    PodRuntime, PodSpec, PullPolicy, RunOptions, RuntimeClass, UserNamespaces,
    status::{Phase, PodReason, PodStatus},
};

use super::manifest;
use crate::{
    failure, image::RegistryArgs, output, pod::backend, progress::Bars, roots::GlobalArgs, signals::Signals,
};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod run -f web.yaml
          magikrun pod run -f job.yaml --wait --rm
With --wait the exit code is the first that is not 0 of a container; 125 is magikrun's own failure.";

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// A Kubernetes v1 Pod in YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Wait until the pod is over; Ctrl-C stops it, twice kills it
    #[arg(long)]
    wait: bool,
    /// Delete the pod when it is over
    #[arg(long, requires = "wait")]
    rm: bool,
    /// What isolates the pod [default: runtimeClassName]
    #[arg(long, value_name = "native|microvm|wasm")]
    runtime: Option<RuntimeClass>,
    /// When to pull images [default: imagePullPolicy]
    #[arg(long, value_name = "always|missing|never", hide_possible_values = true)]
    pull: Option<Pull>,
    /// Which pods get users of their own where hostUsers is absent: those that ask nothing of the host, or none
    #[arg(
        long,
        value_name = "auto|never",
        default_value = "auto",
        hide_possible_values = true,
        hide_default_value = true,
        env = "MAGIKRUN_USER_NAMESPACES",
        hide_env_values = true
    )]
    user_namespaces: Users,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Which pods get a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Users {
    Auto,
    Never,
}

/// When to pull an image, in podman's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Pull {
    Always,
    Missing,
    Never,
}

impl From<Pull> for PullPolicy {
    fn from(pull: Pull) -> Self {
        match pull {
            Pull::Always => Self::Always,
            Pull::Missing => Self::IfNotPresent,
            Pull::Never => Self::Never,
        }
    }
}

pub(super) async fn run(global: &GlobalArgs, args: &RunArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let done = run_pod(global, args, namespace).await;
    // Without --wait no program's exit code is passed on, so 1 can only be ours.
    if args.wait {
        done.map_err(|e| failure::with_code(failure::OWN_FAILURE, e))
    } else {
        done
    }
}

async fn run_pod(global: &GlobalArgs, args: &RunArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let spec = manifest::read(&args.file, namespace)?;
    let class = args
        .runtime
        .or_else(|| spec.runtime())
        .unwrap_or(RuntimeClass::Native);
    if class == RuntimeClass::MicroVm {
        backend::warn_of_emulation(global)?;
    }
    let runtime = backend::pods(global)?;
    let bars = Arc::new(Bars::new(&format!("starting pod {}", spec.full_name()), false));
    let options = RunOptions {
        runtime_class: Some(class),
        user_namespaces: match args.user_namespaces {
            Users::Auto => UserNamespaces::Auto,
            Users::Never => UserNamespaces::Never,
        },
        pull_policy: args.pull.map(Into::into),
        connect: Some(connect(&spec, &args.registry).await?),
        image_limits: global.images.limits(),
        pull_timeout: global.images.pull_timeout(),
        progress: Some(Arc::clone(&bars) as Arc<dyn Progress>),
        ..RunOptions::default()
    };
    let mut signals = Signals::new()?;
    let pod = tokio::select! {
        pod = runtime.run_pod(&spec, options) => pod?,
        signal = signals.next() => {
            // The run is dropped, and being undone.
            runtime.settled().await;
            let error = anyhow!("pod {}: interrupted: nothing of it was left", spec.full_name());
            return Err(failure::with_code(signal.exit_code(), error));
        }
    };
    bars.clear();
    output::line(&pod.id)?;
    if !args.wait {
        return Ok(ExitCode::SUCCESS);
    }
    let end = wait(runtime.as_ref(), &pod.id, &mut signals).await?;
    if args.rm {
        runtime.delete_pod(&end.id, true).await?;
    }
    exit_code(&end)
}

/// How registries are reached. Who writes a manifest may not choose which registry sees a password.
async fn connect(spec: &PodSpec, args: &RegistryArgs) -> Result<ConnectOptions> {
    if args.has_credentials() {
        let images = spec.all_containers().filter_map(|c| c.image.reference());
        let registries: BTreeSet<&str> = images.map(Reference::registry).collect();
        if registries.len() > 1 {
            let registries: Vec<&str> = registries.into_iter().collect();
            bail!(
                "pod {}: --creds is for one registry, and its images are of several ({}): 'magikrun login' to each",
                spec.full_name(),
                registries.join(", ")
            );
        }
    }
    let mut connect = ConnectOptions::within(IMAGE_PULL_TIMEOUT);
    args.apply(&mut connect).await?;
    Ok(connect)
}

/// Waits for the pod's end. The first signal stops the pod as `pod stop` does, the second one kills it.
async fn wait(runtime: &dyn PodRuntime, id: &str, signals: &mut Signals) -> Result<PodStatus> {
    tokio::select! {
        end = runtime.wait_pod(id) => return Ok(end?),
        _ = signals.next() => {}
    }
    tokio::select! {
        end = runtime.stop_pod(id, None) => return Ok(end?),
        _ = signals.next() => {}
    }
    Ok(runtime.stop_pod(id, Some(Duration::ZERO)).await?)
}

/// The pod's exit code, or an error where it failed and no container says so.
fn exit_code(pod: &PodStatus) -> Result<ExitCode> {
    let code = pod.exit_code();
    if pod.phase == Phase::Failed && code == 0 {
        let reason = pod
            .message
            .as_deref()
            .or(pod.reason.map(PodReason::as_str))
            .unwrap_or("no reason was given");
        bail!("pod {}/{}: failed: {reason}", pod.namespace, pod.name);
    }
    Ok(super::program_exit(code))
}
