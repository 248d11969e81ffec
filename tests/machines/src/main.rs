//! Makes what virtual machines consist of: guest kernel, guest init, vsock device, monitor. All of it
//! lies in `target/vm`. `cargo xtask vm`, `build-vminit`, `fetch-kernel` and `test --krun` run this.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to the person at the terminal"
)]

mod install;
mod krun;
mod vm;
mod vminit;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use xtask::host;

/// Makes what virtual machines consist of.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds the init of virtual machines, static, and checks it.
    BuildVminit(vminit::VminitArgs),
    /// Finds or fetches libkrunfw and takes the guest kernel out of it.
    FetchKernel,
    /// Everything virtual machines need here: kernel, init, vsock device; with --krun the monitor for libkrun.
    Vm(vm::VmArgs),
    /// Tests the monitor and a pod under libkrun, for real: for `cargo xtask test --krun`.
    TestKrun,
    /// Copies what is there of all that to a directory: for `cargo xtask install` and `package`.
    Copy {
        /// Where an installation keeps it.
        #[arg(value_name = "DIR")]
        to: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::BuildVminit(args) => vminit::run(&args),
        Command::FetchKernel => vm::fetch_kernel(&host::shell()?),
        Command::Vm(args) => vm::run(&args),
        Command::TestKrun => krun::test(&host::shell()?),
        Command::Copy { to } => install::copy(&host::machine_files(&host::shell()?)?, &to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }
}
