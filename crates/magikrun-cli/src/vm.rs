//! `magikrun-vm`: the supervisor of a microVM pod, and what a container of `magikrun --runtime krun` is. magikrun starts it when it
//! lies beside its own binary.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    use oci_krun::program::{FAILED, Streams, run_if_asked};
    let streams = Streams {
        input: rustix::stdio::stdin(),
        output: rustix::stdio::stdout(),
        errors: rustix::stdio::stderr(),
    };
    match run_if_asked(streams) {
        Some(Ok(code)) => code,
        Some(Err(error)) => {
            // Nothing is to be done where nobody reads it.
            let _ = rustix::io::write(streams.errors, format!("{error}\n").as_bytes());
            ExitCode::from(FAILED)
        }
        None => magik_pri::run_role_if_asked(&[magik_pri::microvm::ROLE]).unwrap_or(ExitCode::from(FAILED)),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
