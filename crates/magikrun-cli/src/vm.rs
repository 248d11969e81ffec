//! `magikrun-vm`: the supervisor of a microVM pod and nothing else. magikrun starts it when it lies beside its own binary.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    magik_pri::microvm::vm_supervisor_main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
