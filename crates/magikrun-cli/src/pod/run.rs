//! `pod run`.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use magik_pri::{
    PodRuntime, PodSpec, PullPolicy, RunOptions, RunProgress, RuntimeClass,
    status::{Phase, PodReason, PodStatus},
};
use serde_json::Value;

use super::{attach, compose::PodOptions, exec::Ending, logs, manifest};
use crate::{
    config::Users,
    failure,
    output::{self, Document},
    pod::backend,
    progress::Bars,
    roots::GlobalArgs,
    signals::Signals,
};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod run -f web.yaml
          magikrun pod run --name web -p 8080:80 -v ./site:/usr/share/nginx/html:ro nginx
          magikrun pod run --rm -it busybox -- sh
With --wait the exit code is that of the first container that failed; 125 is magikrun's own failure.";

#[derive(Debug, clap::Args)]
pub(crate) struct RunArgs {
    /// Manifests in YAML or JSON: files, directories, - for stdin
    #[arg(short, long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Wait until the pod is over; Ctrl-C stops it, twice kills it
    #[arg(long)]
    wait: bool,
    /// Wait, and show what its containers write
    #[arg(short, long)]
    attach: bool,
    /// Wait, and delete the pod when it is over
    #[arg(long)]
    rm: bool,
    /// What is done anyway, in podman's and docker's words
    #[arg(short, long, hide = true, conflicts_with_all = ["wait", "attach", "rm"])]
    detach: bool,
    /// Delete a pod of that name first, once the images are there
    #[arg(long)]
    replace: bool,
    /// Refuse a manifest with fields that change nothing here
    #[arg(long, hide_short_help = true)]
    strict: bool,
    /// Of several pods: all of them, or none
    #[arg(long, requires = "files", conflicts_with = "replace", hide_short_help = true)]
    atomic: bool,
    /// Run nothing: check the pod, and print it as a manifest
    #[arg(long, value_name = "client", num_args = 0..=1, require_equals = true, default_missing_value = "client", value_parser = ["client"], hide_possible_values = true)]
    dry_run: Option<String>,
    /// How to print it
    #[arg(
        short,
        long,
        value_name = "yaml|json",
        default_value = "yaml",
        requires = "dry_run",
        conflicts_with = "files",
        hide_possible_values = true,
        hide_default_value = true,
        hide_short_help = true
    )]
    output: Document,
    /// Show no progress
    #[arg(short, long, hide_short_help = true)]
    quiet: bool,
    /// How it is isolated [default: what the pod says, else native]
    #[arg(long, value_name = "native|microvm|wasm")]
    runtime: Option<RuntimeClass>,
    /// When to pull images [default: what the pod says]
    #[arg(long, value_name = "always|missing|never", hide_possible_values = true)]
    pull: Option<Pull>,
    /// Which pods get users of their own where hostUsers is absent: those that ask nothing of the host, or none
    #[arg(
        long,
        value_name = "auto|never",
        hide_possible_values = true,
        hide_default_value = true,
        hide_short_help = true,
        env = "MAGIKRUN_USER_NAMESPACES",
        hide_env_values = true
    )]
    user_namespaces: Option<Users>,
    /// How long containers wait at most before they are run again [default: 300]
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = clap::value_parser!(u64).range(1..=300),
        hide_short_help = true,
        env = "MAGIKRUN_MAX_RESTART_DELAY",
        hide_env_values = true
    )]
    max_restart_delay: Option<u64>,
    #[cfg(feature = "registry")]
    #[command(flatten)]
    registry: crate::image::RegistryArgs,
    #[command(flatten)]
    options: PodOptions,
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
    let done = run_pods(global, args, namespace).await;
    // Where nobody waits no program's exit code is passed on, so 1 can only be ours.
    if args.waits() {
        done.map_err(|e| failure::with_code(failure::OWN_FAILURE, e))
    } else {
        done
    }
}

impl RunArgs {
    /// Whether it waits for the pod's end.
    pub(super) fn waits(&self) -> bool {
        self.wait || self.attaches() || self.rm
    }

    /// Whether it shows what the pod's containers write.
    fn attaches(&self) -> bool {
        self.attach || self.options.is_interactive() && !self.detach
    }

    /// The pods, and what a pod is as a manifest where it was made of options.
    fn pods(&self, namespace: Option<&str>) -> Result<(Vec<Asked>, Option<Value>)> {
        if self.files.is_empty() {
            let composed = self.options.compose(namespace)?;
            let asked = Asked {
                spec: composed.spec,
                source: "pod run".into(),
            };
            return Ok((vec![asked], Some(composed.manifest)));
        }
        if self.options != PodOptions::default() {
            let both = anyhow!("pod run: -f FILE and options of a pod without one: write them into the file");
            return Err(failure::with_code(failure::USAGE, both));
        }
        let pods = manifest::read(&self.files, namespace, self.strict)?.into_iter();
        let asked = pods.map(|pod| Asked {
            spec: pod.spec,
            source: pod.file,
        });
        Ok((asked.collect(), None))
    }

    /// How a pod is isolated.
    fn class(&self, global: &GlobalArgs, spec: &PodSpec) -> RuntimeClass {
        self.runtime
            .or_else(|| spec.runtime())
            .unwrap_or_else(|| global.config.runtime().value)
    }

    fn run_options(&self, global: &GlobalArgs, class: RuntimeClass, bars: &Arc<Bars>) -> RunOptions {
        RunOptions {
            runtime_class: Some(class),
            user_namespaces: self
                .user_namespaces
                .unwrap_or_else(|| global.config.user_namespaces().value)
                .into(),
            pull_policy: self.pull.map(Into::into),
            allowed_unsafe_sysctls: global.config.allowed_unsafe_sysctls().value,
            max_log_size: global.config.log_size().map(|set| set.value),
            image_limits: global.images.limits(),
            pull_timeout: global.images.pull_timeout(),
            max_restart_delay: self.max_restart_delay.map(Duration::from_secs),
            progress: Some(Arc::clone(bars) as Arc<dyn RunProgress>),
            ..RunOptions::default()
        }
    }
}

/// A pod that is asked for.
struct Asked {
    spec: PodSpec,
    /// What messages call what it is in.
    source: String,
}

async fn run_pods(global: &GlobalArgs, args: &RunArgs, namespace: Option<&str>) -> Result<ExitCode> {
    let (pods, manifest) = args.pods(namespace)?;
    let of_class = pods.iter().map(|pod| (pod, args.class(global, &pod.spec)));
    let of_class: Vec<(&Asked, RuntimeClass)> = of_class.collect();
    let said = of_class
        .iter()
        .map(|(pod, class)| (pod.source.as_str(), &pod.spec, *class));
    manifest::check_ignored(said, args.strict)?;
    if args.dry_run.is_some() {
        for pod in &pods {
            print_manifest(&pod.spec, manifest.as_ref(), args.output)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if args.attaches() && pods.len() > 1 {
        bail!(
            "pod run: --attach shows one pod, and these are {}: leave it out",
            pods.len()
        );
    }
    if of_class.iter().any(|(_, class)| *class == RuntimeClass::MicroVm) {
        backend::warn_of_emulation(global)?;
    }
    let runtime = backend::pods(global)?;
    let mut signals = Signals::new()?;
    let (mut ran, mut some_failed) = (Vec::new(), false);
    for (pod, class) in of_class {
        match run_pod(global, args, runtime.as_ref(), pod, class, &mut signals).await {
            Ok(status) => {
                // What its programs write is all that is to be on standard output.
                if !args.attaches() && !args.atomic {
                    output::line(&status.id)?;
                }
                ran.push(status);
            }
            Err(error) if args.atomic => {
                for status in &ran {
                    // What went wrong first is what is said at the end.
                    if let Err(left) = runtime.delete_pod(&status.id, true).await {
                        failure::report(&left.into());
                    }
                }
                return Err(error);
            }
            // The others are run all the same, unless somebody has had enough.
            Err(error) if pods.len() > 1 && !failure::has_code(&error) => {
                failure::report(&error);
                some_failed = true;
            }
            Err(error) => return Err(error),
        }
    }
    if args.atomic {
        ran.iter().try_for_each(|status| output::line(&status.id))?;
    }
    let mut code = some_failed.then_some(ExitCode::FAILURE);
    if args.waits() {
        for status in &ran {
            let ended = end(args, runtime.as_ref(), status, &mut signals).await?;
            if ended != ExitCode::SUCCESS {
                code.get_or_insert(ended);
            }
        }
    }
    Ok(code.unwrap_or(ExitCode::SUCCESS))
}

/// Runs one of the pods: all of it, or nothing.
async fn run_pod(
    global: &GlobalArgs,
    args: &RunArgs,
    runtime: &dyn PodRuntime,
    asked: &Asked,
    class: RuntimeClass,
    signals: &mut Signals,
) -> Result<PodStatus> {
    let Asked { spec, source } = asked;
    #[cfg(feature = "registry")]
    let connect = super::connect::options(spec, &args.registry, global).await?;
    let bars = Arc::new(Bars::new(&format!("pod {}", spec.full_name()), args.quiet));
    let options = args.run_options(global, class, &bars);
    #[cfg(feature = "registry")]
    let options = RunOptions {
        connect: Some(connect),
        ..options
    };
    let run = async {
        match runtime.run_pod(spec, options.clone()).await {
            Err(magik_pri::Error::NameInUse { id, .. }) if args.replace => {
                runtime.delete_pod(&id, true).await?;
                runtime.run_pod(spec, options).await
            }
            ran => ran,
        }
    };
    let pod = tokio::select! {
        pod = run => pod.map_err(|error| advise(error, args, source))?,
        signal = signals.next() => {
            // The run is dropped, and being undone.
            runtime.settled().await;
            let error = anyhow!("pod {}: interrupted: nothing of it was left", spec.full_name());
            return Err(failure::with_code(signal.exit_code(), error));
        }
    };
    if let Some(times) = bars.times() {
        bars.clear();
        output::note(&format!("pod {} runs: {times}", spec.full_name()));
    }
    Ok(pod)
}

/// Waits for a pod's end, and deletes it where that is asked for.
async fn end(
    args: &RunArgs,
    runtime: &dyn PodRuntime,
    pod: &PodStatus,
    signals: &mut Signals,
) -> Result<ExitCode> {
    let end = if args.attaches() {
        match attached(runtime, pod, signals).await? {
            Some(end) => end,
            // Who sat there has left, and it goes on.
            None => return Ok(ExitCode::SUCCESS),
        }
    } else {
        wait(runtime, &pod.id, signals).await?
    };
    if args.rm {
        runtime.delete_pod(&end.id, true).await?;
    }
    exit_code(&end)
}

/// The pod as a manifest: that which was given is not printed again.
fn print_manifest(spec: &PodSpec, manifest: Option<&Value>, document: Document) -> Result<()> {
    match manifest {
        Some(manifest) => document.print(manifest),
        None => output::line(format_args!(
            "pod {} is valid (nothing was run)",
            spec.full_name()
        )),
    }
}

/// An error of a run, with the option that helps.
fn advise(error: magik_pri::Error, args: &RunArgs, source: &str) -> anyhow::Error {
    match error {
        magik_pri::Error::NameInUse { .. } if args.files.is_empty() => {
            anyhow!("{error}: --name gives another one, --replace deletes the other pod first")
        }
        other => manifest::explain(source, other),
    }
}

/// Shows what the pod's containers write, and waits for its end. `None`: who sat at its only container
/// has left it.
async fn attached(
    runtime: &dyn PodRuntime,
    pod: &PodStatus,
    signals: &mut Signals,
) -> Result<Option<PodStatus>> {
    if let Some(only) = attach::only(pod).filter(|only| !only.console.is_default()) {
        let asked = attach::Asked {
            container: only.name.clone(),
            console: only.console,
            stdin: true,
            from_start: true,
        };
        // One that has ended already is not attached to: its log has all that it said.
        if let Ok(session) = asked.open(runtime, &pod.id).await {
            return match asked.serve(session).await? {
                Ending::Exited(_) => wait(runtime, &pod.id, signals).await.map(Some),
                Ending::Left => Ok(None),
                Ending::Interrupted(_) => {
                    // It is heard of here, too.
                    let _ = signals.next().await;
                    stop(runtime, &pod.id, signals).await.map(Some)
                }
            };
        }
    }
    let containers = logs::names(pod);
    let shown = logs::follow(runtime, &pod.id, &containers, None);
    let (end, shown) = tokio::join!(wait(runtime, &pod.id, signals), shown);
    let end = end?;
    shown?;
    Ok(Some(end))
}

/// Waits for the pod's end. The first signal stops the pod as `pod stop` does, the second one kills it.
async fn wait(runtime: &dyn PodRuntime, id: &str, signals: &mut Signals) -> Result<PodStatus> {
    tokio::select! {
        end = runtime.wait_pod(id) => return Ok(end?),
        _ = signals.next() => {}
    }
    stop(runtime, id, signals).await
}

/// Stops the pod; a signal kills it.
async fn stop(runtime: &dyn PodRuntime, id: &str, signals: &mut Signals) -> Result<PodStatus> {
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
