//! The binary `magikrun`: the OCI runtime's command line, and the way to every other command.
//!
//! Container engines start it several times per container, so it is small. For the pod, image and
//! system commands it becomes [`ENGINE_BINARY`], which lies beside it. Both use the user's messages
//! and directories here: [`failure`], [`output`], [`roots`].
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod engine;
pub mod failure;
#[cfg(target_os = "linux")]
mod oci;
pub mod output;
pub mod roots;

use std::{env, ffi::OsString, process::ExitCode};

pub use engine::ENGINE_BINARY;
#[cfg(target_os = "linux")]
pub use oci::commands as oci_commands;

/// What `--version` prints, in runc's form, which Docker and containerd read: exactly three lines.
pub const VERSION: &str = concat!(
    "magikrun version ",
    env!("CARGO_PKG_VERSION"),
    "\ncommit: unknown\nspec: 1.3.0\n"
);

/// The whole of `main`.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(all(feature = "native", target_os = "linux"))]
    oci_native::run_worker_if_asked();

    let args: Vec<OsString> = env::args_os().skip(1).collect();
    #[cfg(target_os = "linux")]
    if let Some(code) = oci::dispatch(&args) {
        return code;
    }
    engine::run(&args)
}
