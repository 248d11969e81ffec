//! `magikrun-vm`: the supervisor of a microVM pod, and what a container of `magikrun --runtime krun` is. magikrun starts it when it
//! lies beside its own binary.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    match magik_pri::microvm::run_container_if_asked() {
        Some(code) => code,
        None => magik_pri::microvm::vm_supervisor_main(),
    }
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
