//! The workspace's chores: `cargo xtask demo`, `cargo xtask test`, `cargo xtask bench pods`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the person at the terminal is what xtask is for"
)]

mod demo;
mod docs;
mod install;
mod package;
mod test;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use xtask::tools;

/// The workspace's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Builds magikrun, runs a pod of three containers and shows what can be done with it.
    Demo(demo::Args),
    /// Installs what the tests need and runs every check there is: what CI runs.
    Test(test::Args),
    /// Builds the init of virtual machines, static, and checks it.
    #[command(disable_help_flag = true)]
    BuildVminit(Rest),
    /// Finds or fetches libkrunfw and takes the guest kernel out of it.
    #[command(disable_help_flag = true)]
    FetchKernel(Rest),
    /// Everything virtual machines need here: kernel, init, vsock device; with --krun the monitor for libkrun.
    #[command(disable_help_flag = true)]
    Vm(Rest),
    /// Installs magikrun: programs, completions, a systemd unit.
    Install(install::InstallArgs),
    /// Packs what install installs as a .deb and a tarball.
    Package(install::PackageArgs),
    /// Builds the documentation as a book, with search.
    Docs(docs::DocsArgs),
    /// Compares magikrun with other runtimes on this machine.
    #[command(disable_help_flag = true)]
    Bench(Rest),
}

/// What a program of its own reads, its `--help` included.
#[derive(Debug, clap::Args)]
struct Rest {
    /// Its options; --help describes them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    // Whatever goes wrong is told in one line, also where RUST_BACKTRACE is set.
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
        Command::Demo(args) => demo::run(&args),
        Command::Test(args) => test::run(&args),
        Command::BuildVminit(rest) => machines("build-vminit", rest),
        Command::FetchKernel(rest) => machines("fetch-kernel", rest),
        Command::Vm(rest) => machines("vm", rest),
        Command::Install(args) => install::install(&args),
        Command::Package(args) => install::package(&args),
        Command::Docs(args) => docs::run(&args),
        Command::Bench(rest) => Err(tools::become_program(tools::BENCH, rest.arguments)),
    }
}

/// A chore of virtual machines.
fn machines(name: &str, rest: Rest) -> anyhow::Result<()> {
    let arguments = std::iter::once(name.into()).chain(rest.arguments);
    Err(tools::become_program(tools::MACHINES, arguments))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_chore_of_its_own_gets_all_that_follows_its_name() {
        let line = [
            "cargo xtask",
            "bench",
            "pods",
            "--iterations",
            "3",
            "--help",
            "-h",
        ];
        match Args::try_parse_from(line).unwrap().command {
            Command::Bench(rest) => assert_eq!(rest.arguments, line[2..]),
            other => panic!("{other:?}"),
        }
    }
}
