//! `cargo xtask bench`: magikrun beside other runtimes, on this machine, in one run.

mod contender;
mod cri;
mod images;
mod measure;
mod oci;
mod peers;
mod pods;
mod report;
mod scene;
mod vm;
mod wasm;

use anyhow::Result;

/// What is compared.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pods of 1, 4 and 16 containers beside podman and containerd: time to all running and to deleted, memory, CPU.
    Pods(pods::Args),
    /// Pulling and unpacking 633 MB beside podman, containerd, skopeo with umoci, and gzip with tar.
    Images(images::Args),
    /// The OCI command line beside crun and runc: single operations, 50 containers one by one and at once.
    Oci(oci::Args),
    /// A pod's virtual machine beside a bare one: to the first program, to hello, to its container running.
    Vm(vm::Args),
    /// WebAssembly pods beside the wasmtime command line: start to exit, pods up, memory.
    Wasm(wasm::Args),
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Pods(args) => pods::run(args),
        Command::Images(args) => images::run(args),
        Command::Oci(args) => oci::run(args),
        Command::Vm(args) => vm::run(args),
        Command::Wasm(args) => wasm::run(args),
    }
}
