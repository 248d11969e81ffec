//! `pod debug`.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    process::ExitCode,
};

use anyhow::{Result, anyhow};
use magik_pri::{PodRuntime, PodSpec, RunOptions};
use serde_json::{Map, Value, json};

use super::{
    advise,
    attach::Asked,
    exec::{Ending, exec_failure},
    manifest, name_and_value,
};
use crate::{failure, output, pod::backend, roots::GlobalArgs};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod debug web --image busybox --target nginx -it
          magikrun pod debug web --image tcpdump -- tcpdump -i any -w /tmp/all
With --target it sees the processes of that container, and its files in /proc/1/root. It is in the pod's
status until the pod is deleted, and is never run again. With -i or -t the exit code is the program's.";

#[derive(Debug, clap::Args)]
pub(crate) struct DebugArgs {
    /// The image of the new container
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// The container whose processes it sees
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// Hand our standard input to it
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// What it is called [default: debugger- and five digits]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Set a variable
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = name_and_value)]
    env: Vec<(String, String)>,
    #[cfg(feature = "registry")]
    #[command(flatten)]
    registry: crate::image::RegistryArgs,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    /// The program and its arguments, in place of the image's
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(global: &GlobalArgs, args: &DebugArgs) -> Result<ExitCode> {
    let ours = |e: anyhow::Error| failure::with_code(exec_failure(&e), e);
    debug(global, args).await.map_err(ours)
}

async fn debug(global: &GlobalArgs, args: &DebugArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let pod = runtime.pod_spec(&args.pod).await.map_err(advise)?;
    let name = args.container.clone().unwrap_or_else(new_name);
    let spec = args.spec(&pod, &name)?;
    let container = spec
        .containers
        .first()
        .ok_or_else(|| anyhow!("pod debug: there is no container"))?;
    let options = RunOptions {
        image_limits: global.images.limits(),
        pull_timeout: global.images.pull_timeout(),
        max_log_size: global.config.log_size().map(|set| set.value),
        ..RunOptions::default()
    };
    #[cfg(feature = "registry")]
    let options = RunOptions {
        connect: Some(super::connect::options(&spec, &args.registry, global).await?),
        ..options
    };
    let target = args.target.as_deref();
    let made = runtime
        .debug_container(&args.pod, container, target, options)
        .await;
    made.map_err(advise)?;
    if !args.interactive && !args.tty {
        runtime.start_container(&args.pod, &name).await.map_err(advise)?;
        output::line(&name)?;
        return Ok(ExitCode::SUCCESS);
    }
    attached(runtime.as_ref(), args, container, &name).await
}

/// Starts the container once we are attached to it: nothing of what it writes is missed.
async fn attached(
    runtime: &dyn PodRuntime,
    args: &DebugArgs,
    container: &magik_pri::ContainerSpec,
    name: &str,
) -> Result<ExitCode> {
    output::note(&format!("container {name}"));
    let asked = Asked {
        container: name.to_owned(),
        console: container.console,
        stdin: true,
        from_start: true,
    };
    let session = asked.open(runtime, &args.pod).await?;
    runtime.start_container(&args.pod, name).await.map_err(advise)?;
    match asked.serve(session).await? {
        Ending::Exited(code) => Ok(super::program_exit(code)),
        Ending::Left => Ok(ExitCode::SUCCESS),
        Ending::Interrupted(code) => Ok(ExitCode::from(code)),
    }
}

impl DebugArgs {
    /// The container as one of a pod with that pod's security.
    fn spec(&self, pod: &PodSpec, name: &str) -> Result<PodSpec> {
        let env = self.env.iter();
        let env: Vec<Value> = env
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect();
        let mut container = Map::new();
        container.insert("name".into(), json!(name));
        container.insert("image".into(), json!(self.image));
        // As `pod run` has it: what is here is not looked for elsewhere.
        container.insert("imagePullPolicy".into(), json!("IfNotPresent"));
        container.insert("env".into(), json!(env));
        if !self.command.is_empty() {
            container.insert("command".into(), json!(self.command));
        }
        container.insert("stdin".into(), json!(self.interactive));
        container.insert("tty".into(), json!(self.tty));
        let mut spec = Map::new();
        spec.insert("restartPolicy".into(), json!("Never"));
        if let Some(security) = pod.given.get("securityContext") {
            spec.insert("securityContext".into(), security.clone());
        }
        spec.insert("containers".into(), json!([container]));
        let whole = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod.name, "namespace": pod.namespace}, "spec": spec,
        });
        PodSpec::from_value(whole).map_err(|errors| manifest::mistakes("pod debug", &errors))
    }
}

/// A name that no other has, most probably.
fn new_name() -> String {
    let number = RandomState::new().build_hasher().finish() % 100_000;
    format!("debugger-{number:05}")
}
