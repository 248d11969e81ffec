//! The command line's tree.

use clap::{Parser, Subcommand};

use crate::{completions, image, login, pod, roots::GlobalArgs, system};

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
    Pod(pod::PodArgs),
    /// Pull, import, look at and unpack images
    #[command(subcommand)]
    Image(Box<image::ImageCommand>),
    /// What this host can run, and cleaning up
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Log in to a registry
    #[command(after_help = login::LOGIN_EXAMPLE)]
    Login(login::LoginArgs),
    /// Forget the credentials for a registry
    #[command(after_help = login::LOGOUT_EXAMPLE)]
    Logout(login::LogoutArgs),
    /// Print a completion script
    #[command(after_help = completions::EXAMPLE)]
    Completions(completions::CompletionsArgs),
}
