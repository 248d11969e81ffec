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

/// The first argument of the process that prepares.
const PREPARE: &str = "magikrun-wasm-prepare";

/// The first argument of the one in the container.
const RUN: &str = "magikrun-wasm-run";

/// What one tells the other.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Orders {
    component: bool,
    /// `None`: epochs.
    fuel: Option<u64>,
    /// Seconds.
    deadline: Option<u64>,
    http_concurrency: usize,
    listen: Option<String>,
    allow_outbound: Option<String>,
}

/// Prepares, or runs, a WebAssembly program of a native container, if started for that.
///
/// A binary that starts native containers with WebAssembly programs calls it first in `main`, after
/// [`run_compiler_if_asked`](crate::run_compiler_if_asked).
#[must_use]
pub fn run_sandboxed_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let asked = arguments.next()?;
    if asked == OsStr::new(PREPARE) {
        Some(prepare::main(arguments))
    } else if asked == OsStr::new(RUN) {
        Some(inside::main(arguments))
    } else {
        None
    }
}
