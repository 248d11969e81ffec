//! `magikrun-vmm N`: one virtual machine. Descriptor N is its configuration, a sealed memory file (`magik_vm::VmmConfig`).
//!
//! It loads what it needs, confines itself, and becomes the machine. What it says, and the guest's console, goes to standard
//! error. `magik_vm::Krun` starts it.
#![allow(clippy::print_stderr, reason = "there is no other way to say what failed")]

mod machine;

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
    process::ExitCode,
};

use magik_vm::VmmConfig;
use magikrun_vmm::{Confinement, seccomp};

use crate::machine::Machine;

fn main() -> ExitCode {
    match run() {
        Ok(never) => match never {},
        Err(error) => {
            eprintln!("magikrun-vmm: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<std::convert::Infallible, Box<dyn std::error::Error>> {
    let config = VmmConfig::read(descriptor()?).map_err(|e| format!("read the configuration: {e}"))?;
    let machine = Machine::load(&config)?;
    let confined = Confinement::new(&config).enter()?;
    let machine = machine.configure(&config, &confined)?;
    seccomp::enter(config.shares.iter().any(|share| share.setuid))?;
    Err(machine.start().into())
}

/// The configuration.
#[allow(unsafe_code, reason = "a descriptor that is inherited is a number")]
fn descriptor() -> io::Result<OwnedFd> {
    let wrong = || io::Error::other("a machine is started by magikrun itself, not by hand");
    let mut arguments = std::env::args().skip(1);
    let number: RawFd = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .filter(|n| *n > 2)
        .ok_or_else(wrong)?;
    // SAFETY: nothing in this process has opened anything yet, so the number is whoever's who started it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
