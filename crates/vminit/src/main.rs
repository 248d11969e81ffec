//! PID 1 of a pod's virtual machine.
//!
//! It prepares the guest ([`mounts`], [`machine`]), dials the host ([`dial`]) and runs the same pod
//! init as native pods have, with the same runtime inside. Like theirs it executes itself once more
//! as PID 1 of a process namespace that the containers share. When the pod is over it waits for the
//! host to take the machine away.
#![cfg_attr(not(target_os = "linux"), allow(unused))]

#[cfg(target_os = "linux")]
use std::process::ExitCode;

#[cfg(target_os = "linux")]
mod dial;
#[cfg(target_os = "linux")]
mod machine;
#[cfg(target_os = "linux")]
mod mounts;
#[cfg(target_os = "linux")]
mod pod;

#[cfg(target_os = "linux")]
fn main() -> ExitCode {
    if magik_infra::pause::is_asked_for(std::env::args_os()) {
        return magik_infra::pause::main();
    }
    if !rustix::process::getpid().is_init() {
        machine::say("this is the init of a virtual machine, and nothing to be started by hand");
        return ExitCode::FAILURE;
    }
    if let Err(error) = pod::run() {
        machine::say(&error.to_string());
    }
    machine::power_off();
}

#[cfg(not(target_os = "linux"))]
fn main() {
    std::process::exit(1);
}
