//! The last of what confines a process: its filter, and the loss of its capabilities.

use std::os::fd::OwnedFd;

use libcontainer::{capabilities, syscall::syscall::create_syscall};
use oci_spec::runtime::Process;

use crate::{failure::Failure, seccomp::Filter};

/// Loads the filter and drops capabilities. Without no_new_privs loading is privileged, so it comes
/// first; with it, last. `listens` gets the descriptor of a filter that asks a listener.
///
/// `join` makes the process visible to others, and is called when it has no more rights than the
/// container. `early` ([`birth::joins_early`](super::birth::joins_early)): only the filter is
/// missing.
pub(crate) fn enter(
    process: &Process,
    filter: Option<&Filter>,
    listens: impl FnOnce(OwnedFd) -> Result<(), Failure>,
    early: bool,
    join: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let load = || match filter.map(Filter::load).transpose() {
        Ok(listener) => listener.flatten().map_or(Ok(()), listens),
        Err(e) => Err(Failure::Other(format!("loading the seccomp filter: {e}"))),
    };
    let drop_capabilities = || match process.capabilities() {
        Some(capabilities) => capabilities::drop_privileges(capabilities, create_syscall().as_ref())
            .map_err(|e| Failure::Other(format!("dropping capabilities: {e}"))),
        None => Ok(()),
    };
    if process.no_new_privileges() == Some(true) {
        drop_capabilities()?;
        if early {
            join()?;
            return load();
        }
        load()?;
    } else {
        load()?;
        drop_capabilities()?;
    }
    join()
}
