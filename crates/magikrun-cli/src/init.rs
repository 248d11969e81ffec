//! `magikrun-init`: the init of a native pod and nothing else. magikrun starts it when it lies beside its own binary, and
//! itself otherwise.

use std::process::ExitCode;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    magik_pri::run_role_if_asked(&[magik_pri::native::ROLE]).unwrap_or(ExitCode::FAILURE)
}

#[cfg(not(target_os = "linux"))]
fn main() -> ExitCode {
    ExitCode::FAILURE
}
