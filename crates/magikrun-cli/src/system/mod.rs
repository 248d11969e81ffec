//! `magikrun system …`.

mod check;
mod usage;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Subcommand;
use magik_image::{PruneOptions, PruneReport};
use magik_oci::Platform;
use magik_pri::RuntimeClass;
use serde::Serialize;

use crate::{
    config, image,
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    /// Show what this host can run, and why not
    #[command(after_help = "Example: magikrun system info --format json")]
    Info(InfoArgs),
    /// Check what is missing on this host, and how to mend it
    #[command(after_help = check::EXAMPLE)]
    Check(check::CheckArgs),
    /// Show what takes room: images, layers, pods
    #[command(after_help = usage::EXAMPLE)]
    Df(usage::UsageArgs),
    /// Show the configuration, and where each value comes from
    #[command(after_help = "Example: magikrun system config -o json")]
    Config(InfoArgs),
    /// Remove leftovers of crashed pods, and everything that no image needs
    #[command(after_help = "Example: magikrun system prune")]
    Prune(image::PruneArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    format: FormatArg,
}

pub(crate) async fn run(global: &GlobalArgs, command: &SystemCommand) -> Result<ExitCode> {
    let done = match command {
        SystemCommand::Check(args) => return check::run(global, args).await,
        SystemCommand::Df(args) => usage::run(global, args).await,
        SystemCommand::Info(args) => info(global, args).await,
        SystemCommand::Config(args) => config::show(global, args.format),
        SystemCommand::Prune(args) => prune(global, args).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// What `info` shows.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Info {
    version: &'static str,
    data_root: PathBuf,
    state_root: PathBuf,
    /// The pod backends in this build, by their runtime class.
    runtime_classes: Vec<&'static str>,
    platform: Platform,
}

async fn info(global: &GlobalArgs, args: &InfoArgs) -> Result<()> {
    let pods = backend::pods(global)?;
    let mut platform = Platform::detect();
    // By booting a machine, once.
    if let Ok(microvm) = pods.availability(RuntimeClass::MicroVm).await {
        platform.microvm = microvm;
    }
    let info = Info {
        version: env!("CARGO_PKG_VERSION"),
        data_root: global.data_root()?,
        state_root: global.state_root()?,
        runtime_classes: pods.runtime_classes().iter().map(|c| c.as_str()).collect(),
        platform,
    };
    if let Some(document) = args.format.document() {
        document.print(&info)
    } else {
        output::line(for_a_person(&info))
    }
}

fn for_a_person(info: &Info) -> String {
    let mut text = output::fields([
        ("Version", Some(info.version.to_owned())),
        ("Data root", Some(info.data_root.display().to_string())),
        ("State root", Some(info.state_root.display().to_string())),
        ("Built with", Some(info.runtime_classes.join(", "))),
    ]);
    let platform = &info.platform;
    let rows = [
        ("native containers", &platform.native),
        ("cgroups", &platform.cgroups),
        ("overlayfs", &platform.overlayfs),
        ("seccomp", &platform.seccomp),
        ("landlock", &platform.landlock),
        ("user namespaces", &platform.user_namespaces),
        ("microVM", &platform.microvm),
        ("WASM", &platform.wasm),
    ];
    let rows = rows.map(|(name, capability)| {
        let available = if capability.available { "yes" } else { "no" };
        [name.to_owned(), available.to_owned(), capability.detail.clone()]
    });
    text.push('\n');
    text.push_str(&output::columns(["CAPABILITY", "HERE", "HOW, OR WHY NOT"], rows));
    text
}

/// What `prune` removed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pruned {
    /// The ids of pods that were never committed.
    pods: Vec<String>,
    /// Files, directories and control groups that belonged to no pod.
    pod_leftovers: usize,
    /// Of the image store.
    store: PruneReport,
}

async fn prune(global: &GlobalArgs, args: &image::PruneArgs) -> Result<()> {
    let swept = backend::pods(global)?.sweep().await?;
    let store = image::store(global)?.prune(PruneOptions {
        unused_images: args.all,
    })?;
    let pruned = Pruned {
        pods: swept.pods,
        pod_leftovers: swept.leftovers,
        store,
    };
    if let Some(document) = args.format.document() {
        return document.print(&pruned);
    }
    for id in &pruned.pods {
        output::line(format_args!("removed what was left of pod {id}"))?;
    }
    if pruned.pod_leftovers > 0 {
        output::line(format_args!("removed {} leftovers of pods", pruned.pod_leftovers))?;
    }
    output::line(image::pruned(&pruned.store))
}
