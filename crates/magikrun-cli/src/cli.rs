//! The command line's tree.

use clap::{Parser, Subcommand};

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

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run pods and look after them
    Pod(Box<pod::PodArgs>),
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
