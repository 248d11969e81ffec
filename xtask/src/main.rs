//! The workspace's chores: `cargo xtask demo`, `cargo xtask test`, `cargo xtask bench pods`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "talking to the person at the terminal is what xtask is for"
)]

mod apt;
mod bench;
mod demo;
mod docs;
mod host;
mod install;
mod krun;
mod package;
mod test;
mod vm;
mod vminit;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
    BuildVminit(vminit::VminitArgs),
    /// Finds or fetches libkrunfw and takes the guest kernel out of it.
    FetchKernel,
    /// Everything virtual machines need here: kernel, init, vsock device; with --krun the monitor for libkrun.
    Vm(vm::VmArgs),
    /// Installs magikrun: programs, completions, a systemd unit.
    Install(install::InstallArgs),
    /// Packs what install installs as a .deb and a tarball.
    Package(install::PackageArgs),
    /// Builds the documentation as a book, with search.
    Docs(docs::DocsArgs),
    /// Compares magikrun with other runtimes on this machine.
    #[command(subcommand)]
    Bench(bench::Command),
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
        Command::BuildVminit(args) => vminit::run(&args),
        Command::FetchKernel => vm::fetch_kernel(&host::shell()?),
        Command::Vm(args) => vm::run(&args),
        Command::Install(args) => install::install(&args),
        Command::Package(args) => install::package(&args),
        Command::Docs(args) => docs::run(&args),
        Command::Bench(command) => bench::run(&command),
    }
}
