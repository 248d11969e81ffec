//! One program in a native container: as podman starts it, with namespaces, cgroup and seccomp.
//!
//! The binary that has wasmtime in it runs as two processes:
//!
//! - [`prepare`] runs on the host, for the runtime that creates the container. It reads the bundle,
//!   compiles, and answers on a socket: an error, or arguments and descriptors of the machine code
//!   (a sealed copy in memory), of its own binary, its dynamic loader and its libraries.
//! - [`inside`] runs in the container in place of its program, started from those descriptors. It
//!   trusts its arguments and the machine code only.

mod inside;
mod prepare;

use std::{ffi::OsStr, process::ExitCode};

use serde::{Deserialize, Serialize};

use crate::compiler::Kind;

/// The first argument of the process that prepares.
const PREPARE: &str = "magikrun-wasm-prepare";

/// The first argument of the one in the container.
const RUN: &str = "magikrun-wasm-run";

/// What one tells the other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Orders {
    kind: Kind,
    /// `None`: epochs.
    fuel: Option<u64>,
    /// Seconds.
    deadline: Option<u64>,
    http_concurrency: usize,
    listen: Option<String>,
    allow_outbound: Option<String>,
}

/// Why a native container's program is not run. Its process says so on its standard error and exits
/// with [`CANNOT_RUN`].
#[derive(Debug, thiserror::Error)]
#[error("magikrun: {0}")]
pub struct SandboxError(String);

/// The exit code of a program that cannot be run, as a shell has it.
pub const CANNOT_RUN: u8 = 126;

/// Prepares, or runs, a WebAssembly program of a native container, if this process was started for
/// that.
///
/// A binary that native containers with WebAssembly programs are started by calls it at the
/// beginning of its `main`, after [`run_compiler_if_asked`](crate::run_compiler_if_asked), says
/// what the error is, and exits.
#[must_use]
pub fn run_sandboxed_if_asked() -> Option<Result<ExitCode, SandboxError>> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next()?;
    if asked == OsStr::new(PREPARE) {
        Some(Ok(prepare::main(arguments)))
    } else if asked == OsStr::new(RUN) {
        Some(Err(inside::main(arguments)))
    } else {
        None
    }
}
