//! What runs as PID 1 of a microVM pod's processes on the host.

use std::{ffi::OsString, io, path::PathBuf, process::ExitCode, sync::Arc};

use magik_infra::{Relay, StateDir};
use magik_vm::{Machine, MachineGuest};
use rustix::fs::Mode;

use crate::{
    RuntimeClass,
    pods::init::{self, Descriptors, is_id},
};

/// The first argument of a supervisor: `main` looks for it before anything else.
pub const VM_SUPERVISOR: &str = "vm-supervisor";

/// Runs this process as the supervisor of a microVM pod, and returns how it ended.
///
/// The `main` of the program that starts pods calls it when its first argument is [`VM_SUPERVISOR`], before it has made a
/// thread or opened anything. Descriptors from 3 on are those that the launcher gave it.
#[must_use]
pub fn vm_supervisor_main() -> ExitCode {
    init::report(run())
}

fn run() -> io::Result<ExitCode> {
    let sandbox = arguments()?;
    let descriptors = Descriptors::take()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let machine = Machine::read(&sandbox)?;
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio.block_on(async {
        let state = StateDir::new(descriptors.state);
        let control = state.bind_control()?;
        descriptors.launch.set_nonblocking(true)?;
        let launch = tokio::net::UnixStream::from_std(descriptors.launch)?;
        let guest = Arc::new(MachineGuest::new(machine, sandbox));
        Relay::new(guest, state, RuntimeClass::MicroVm.as_str().to_owned())
            .publish(descriptors.listeners)
            .run(launch, control)
            .await
    })?;
    Ok(init::ended(&outcome, descriptors.lock))
}

/// The pod's sandbox.
fn arguments() -> io::Result<PathBuf> {
    let wrong = || io::Error::other("a machine's supervisor is started by magikrun itself, not by hand");
    let all: Vec<OsString> = std::env::args_os().collect();
    let [_, supervisor, id, sandbox] = all.as_slice() else {
        return Err(wrong());
    };
    if supervisor != VM_SUPERVISOR || !rustix::process::getpid().is_init() {
        return Err(wrong());
    }
    id.to_str().filter(|id| is_id(id)).ok_or_else(wrong)?;
    Ok(sandbox.into())
}
