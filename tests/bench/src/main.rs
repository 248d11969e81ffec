//! `cargo xtask bench`: magikrun beside other runtimes, on this machine, in one run.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to the person at the terminal"
)]

mod contender;
mod cri;
mod images;
mod measure;
mod oci;
mod peers;
mod plot;
mod pods;
mod probes;
mod report;
mod scene;
mod vm;
mod wasm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Compares magikrun with other runtimes on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask bench",
    bin_name = "cargo xtask bench",
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true
)]
struct Args {
    /// Draws the tables of docs/benchmarks.md as pictures, in docs/images; measures nothing.
    #[arg(long, required = true)]
    plot: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

/// What is compared.
#[derive(Debug, Subcommand)]
enum Command {
    /// Pods of 1, 4 and 16 containers beside podman and containerd: time to all running and to deleted, memory, CPU.
    Pods(pods::Args),
    /// What it costs to ask 16 containers each second by exec, httpGet and tcpSocket.
    Probes(probes::Args),
    /// Pulling and unpacking 633 MB beside podman, containerd, skopeo with umoci, and gzip with tar.
    Images(images::Args),
    /// The OCI command line beside crun and runc: single operations, 50 containers one by one and at once.
    Oci(oci::Args),
    /// A pod's virtual machine beside a bare one: to the first program, to hello, to its container running.
    Vm(vm::Args),
    /// WebAssembly pods beside the wasmtime command line: start to exit, pods up, memory.
    Wasm(wasm::Args),
}

fn main() -> ExitCode {
    let args = Args::parse();
    match args.command.as_ref().map_or_else(plot::run, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Pods(args) => pods::run(args),
        Command::Probes(args) => probes::run(args),
        Command::Images(args) => images::run(args),
        Command::Oci(args) => oci::run(args),
        Command::Vm(args) => vm::run(args),
        Command::Wasm(args) => wasm::run(args),
    }
}
