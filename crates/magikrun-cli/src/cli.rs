//! The command line's tree.

use clap::{Parser, Subcommand};
use magikrun::failure;

use crate::{completions, image, pod, roots::GlobalArgs, system};

/// Run Kubernetes pods and OCI containers
#[derive(Debug, Parser)]
#[command(
    name = "magikrun",
    bin_name = "magikrun",
    disable_help_subcommand = true,
    max_term_width = 120
)]
#[command(after_help = "Example: magikrun pod run -f web.yaml && magikrun pod logs -f web")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Command {
    /// Whether the configuration files matter to it.
    pub(crate) fn is_configured(&self) -> bool {
        !matches!(self, Self::Completions(_))
    }

    /// An error of ours, with the exit code that says so where 1 may be a program's own.
    pub(crate) fn own_failure(&self, error: anyhow::Error) -> anyhow::Error {
        match self {
            Self::Pod(args) if args.passes_exit_code() => failure::with_code(failure::OWN_FAILURE, error),
            _ => error,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pods and look after them
    Pod(pod::PodArgs),
    /// Pull, import, look at and unpack images
    #[command(subcommand)]
    Image(image::ImageCommand),
    /// What this host can run, and cleaning up
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Print a completion script
    #[command(after_help = completions::EXAMPLE)]
    Completions(completions::CompletionsArgs),
}
