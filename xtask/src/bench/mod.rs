//! `cargo xtask bench`: magikrun beside other runtimes, on this machine, in one run.

mod contender;
mod measure;
mod pods;
mod report;

use anyhow::Result;

/// What is compared.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pods of 1, 4 and 16 containers: time to all running and to deleted, memory, CPU.
    Pods(pods::Args),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Pods(args) => pods::run(args),
    }
}
