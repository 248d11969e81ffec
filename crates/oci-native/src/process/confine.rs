//! The last of what confines a process: its filter, and the loss of its capabilities.

use std::os::fd::OwnedFd;

use landlock::{
    AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
};
use libcontainer::{capabilities, syscall::syscall::create_syscall};
use oci_spec::runtime::{Capability, Process};

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

/// Has the kernel refuse the process all that ptrace(2) would be allowed for, as `/proc/PID/root`, but
/// for processes that it begins: a Landlock domain does that, whatever it is for (landlock(7)). This
/// one is for nothing else. Nothing happens where the process may look into others by a capability,
/// or where there is no Landlock.
pub(crate) fn stay_among_its_own(process: &Process) -> Result<(), Failure> {
    let may = |capability| {
        let sets = process.capabilities().as_ref();
        sets.and_then(|sets| sets.bounding().as_ref())
            .is_some_and(|set| set.contains(&capability))
    };
    if may(Capability::SysPtrace) || may(Capability::SysAdmin) {
        return Ok(());
    }
    // A right that the rule gives back everywhere. Without one that it handles there is no domain.
    let right = AccessFs::Refer;
    let handled = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(right);
    let Ok(ruleset) = handled.and_then(Ruleset::create) else {
        return Ok(());
    };
    let failed = |e: &dyn std::fmt::Display| Failure::Other(format!("a Landlock domain: {e}"));
    let root = PathFd::new("/").map_err(|e| failed(&e))?;
    let ruleset = ruleset.add_rule(PathBeneath::new(root, right));
    // Whether there are new privileges is the process's own field to say.
    let ruleset = ruleset.map_err(|e| failed(&e))?.no_new_privs(false);
    ruleset.restrict_self().map_err(|e| failed(&e))?;
    Ok(())
}
