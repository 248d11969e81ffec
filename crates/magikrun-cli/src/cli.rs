//! The command line's tree.

use clap::{CommandFactory as _, Parser, Subcommand};
use magikrun::failure;

#[cfg(feature = "registry")]
use crate::login;
#[cfg(target_os = "linux")]
use crate::volume;
use crate::{completions, image, manual, pod, roots::GlobalArgs, system};

/// Run Kubernetes pods and OCI containers
#[derive(Debug, Parser)]
#[command(
    name = "magikrun",
    bin_name = "magikrun",
    disable_help_subcommand = true,
    max_term_width = 120
)]
#[command(after_help = after_help())]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands that `magikrun` itself does, without the engine: an OCI runtime's.
pub(crate) fn oci_commands() -> Vec<clap::Command> {
    #[cfg(target_os = "linux")]
    return magikrun::oci_commands();
    #[cfg(not(target_os = "linux"))]
    return Vec::new();
}

/// The whole command line, with the OCI runtime's commands.
pub(crate) fn whole() -> clap::Command {
    let mut root = Cli::command();
    // Before they are added: the options of all commands are not theirs.
    root.build();
    // Where they are listed like the others, help need not name them once more.
    root.after_help(EXAMPLE).subcommands(oci_commands())
}

const EXAMPLE: &str = "Example: magikrun pod run -f web.yaml && magikrun pod logs -f web";

fn after_help() -> String {
    let commands = oci_commands();
    let names: Vec<&str> = commands.iter().map(clap::Command::get_name).collect();
    let (first, second) = names.split_at(names.len().div_ceil(2));
    format!(
        "OCI runtime commands, as runc has them ('magikrun create --help'):\n  {}\n  {}\n\n{EXAMPLE}",
        first.join(" "),
        second.join(" ")
    )
}

impl Command {
    /// Whether the configuration files matter to it.
    pub(crate) fn is_configured(&self) -> bool {
        !matches!(self, Self::Completions(_) | Self::Manual(_))
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
    Pod(Box<pod::PodArgs>),
    /// Pull, import, look at and unpack images
    #[command(subcommand)]
    Image(Box<image::ImageCommand>),
    /// Volumes with names, which stay when pods go
    #[cfg(target_os = "linux")]
    #[command(subcommand)]
    Volume(volume::VolumeCommand),
    /// What this host can run, and cleaning up
    #[command(subcommand)]
    System(system::SystemCommand),
    /// Log in to a registry
    #[cfg(feature = "registry")]
    #[command(after_help = login::LOGIN_EXAMPLE)]
    Login(login::LoginArgs),
    /// Forget the credentials for a registry
    #[cfg(feature = "registry")]
    #[command(after_help = login::LOGOUT_EXAMPLE)]
    Logout(login::LogoutArgs),
    /// Print a completion script
    #[command(after_help = completions::EXAMPLE)]
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true, after_help = manual::EXAMPLE)]
    Manual(manual::ManualArgs),
}
