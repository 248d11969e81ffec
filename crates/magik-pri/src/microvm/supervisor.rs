//! What runs as PID 1 of a microVM pod's processes on the host.

use std::{io, path::PathBuf, process::ExitCode, sync::Arc};

use magik_infra::{ExtensionRegistry, Relay};
use magik_vm::{Machine, MachineGuest};

use crate::{
    RuntimeClass,
    pods::init::{self, Init},
};

/// Extensions are the guest's own affair.
pub(crate) fn run(sandbox: PathBuf, _: ExtensionRegistry) -> io::Result<ExitCode> {
    let Init {
        sandbox, descriptors, ..
    } = Init::<()>::begin(sandbox, |()| true)?;
    let machine = Machine::read(&sandbox)?;
    init::serve(descriptors, async |serving| {
        let guest = Arc::new(MachineGuest::new(machine, sandbox));
        Relay::new(guest, serving.state, RuntimeClass::MicroVm.as_str().to_owned())
            .publish(serving.listeners)
            .run(serving.launch, serving.control)
            .await
    })
}
