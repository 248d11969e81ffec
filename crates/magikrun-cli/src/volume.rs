//! `magikrun volume …`.

use anyhow::{Result, anyhow};
use clap::Subcommand;
use jiff::Timestamp;
use magik_pri::{NamedVolume, Roots, Volumes, parse_quantity};

use crate::{
    output::{self, FormatArg, ListArgs},
    roots::GlobalArgs,
};

const DEFAULT_NAMESPACE: &str = "default";

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// Make volumes
    #[command(after_help = "Example: magikrun volume create database")]
    Create(CreateArgs),
    /// List volumes
    #[command(after_help = "Example: magikrun volume ls --format json")]
    Ls(ListVolumesArgs),
    /// Show a volume: where it is, and which pods use it
    #[command(after_help = "Example: magikrun volume inspect database")]
    Inspect(InspectArgs),
    /// Remove volumes, and what is in them
    #[command(after_help = "Example: magikrun volume rm database")]
    Rm(RemoveArgs),
    /// Remove all volumes that no pod uses, and what is in them
    #[command(after_help = "Example: magikrun volume prune --force")]
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NamespaceArg {
    /// The namespace of the pods that use it [default: default]
    #[arg(short, long)]
    namespace: Option<String>,
}

impl NamespaceArg {
    fn name(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CreateArgs {
    /// What a claim calls it: claimName of a persistentVolumeClaim, or NAME of -v NAME:/path
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// How much it should hold, as 10Gi; it is noted, and nothing limits it
    #[arg(long, value_parser = parse_quantity)]
    size: Option<u64>,
    #[command(flatten)]
    namespace: NamespaceArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ListVolumesArgs {
    /// The volumes' namespace [default: all]
    #[arg(short, long)]
    namespace: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    namespace: NamespaceArg,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    namespace: NamespaceArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Really: what was in them is lost
    #[arg(short, long)]
    force: bool,
    /// The volumes' namespace [default: all]
    #[arg(short, long)]
    namespace: Option<String>,
}

pub(crate) fn run(global: &GlobalArgs, command: &VolumeCommand) -> Result<()> {
    let volumes = Volumes::open(&Roots {
        data: global.data_root()?,
        state: global.state_root()?,
    })?;
    match command {
        VolumeCommand::Create(args) => args.names.iter().try_for_each(|name| {
            volumes.create(args.namespace.name(), name, args.size)?;
            output::line(name)
        }),
        VolumeCommand::Ls(args) => list(&volumes, args),
        VolumeCommand::Inspect(args) => inspect(&volumes, args),
        VolumeCommand::Rm(args) => args.names.iter().try_for_each(|name| {
            volumes.remove(args.namespace.name(), name)?;
            output::line(name)
        }),
        VolumeCommand::Prune(args) => prune(&volumes, args),
    }
}

fn list(volumes: &Volumes, args: &ListVolumesArgs) -> Result<()> {
    let mut found = volumes.list()?;
    if let Some(namespace) = &args.namespace {
        found.retain(|volume| volume.namespace == *namespace);
    }
    if args.list.quiet {
        return found.iter().try_for_each(|volume| output::line(&volume.name));
    }
    if let Some(document) = args.list.format.document() {
        return document.print(&found);
    }
    let now = Timestamp::now();
    let rows = found.iter().map(|volume| {
        [
            volume.namespace.clone(),
            volume.name.clone(),
            output::age(volume.created_at, now),
            volume.used_by.len().to_string(),
        ]
    });
    output::line(output::columns(["NAMESPACE", "NAME", "CREATED", "PODS"], rows))
}

fn inspect(volumes: &Volumes, args: &InspectArgs) -> Result<()> {
    let volume = volumes.get(args.namespace.name(), &args.name)?;
    if let Some(document) = args.format.document() {
        return document.print(&volume);
    }
    output::line(for_a_person(&volume))
}

fn for_a_person(volume: &NamedVolume) -> String {
    let pods = volume.used_by.join(", ");
    output::fields([
        ("Name", Some(format!("{}/{}", volume.namespace, volume.name))),
        ("Path", Some(volume.path.display().to_string())),
        ("Created", Some(volume.created_at.to_string())),
        (
            "Size",
            volume
                .requested
                .map(|bytes| format!("{}, which nothing limits", output::size(bytes))),
        ),
        ("Pods", Some(pods).filter(|pods| !pods.is_empty())),
    ])
}

fn prune(volumes: &Volumes, args: &PruneArgs) -> Result<()> {
    if !args.force {
        return Err(anyhow!(
            "volume prune: removes all volumes that no pod uses, with what is in them: --force does it"
        ));
    }
    let removed = volumes.prune(args.namespace.as_deref())?;
    removed
        .iter()
        .try_for_each(|volume| output::line(format_args!("{}/{}", volume.namespace, volume.name)))
}
