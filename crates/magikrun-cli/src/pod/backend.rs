//! The pod backends of this build.

use anyhow::{Result, bail};
use magik_oci::Capability;
use magik_pri::{PodRuntime, RuntimeClass};

use crate::roots::GlobalArgs;

/// The runtime classes this build can run.
pub(crate) fn classes() -> impl Iterator<Item = RuntimeClass> {
    [RuntimeClass::Native, RuntimeClass::MicroVm, RuntimeClass::Wasm]
        .into_iter()
        .filter(|class| match class {
            RuntimeClass::Native => cfg!(all(feature = "native", target_os = "linux")),
            RuntimeClass::MicroVm => cfg!(all(feature = "krun", target_os = "linux")),
            RuntimeClass::Wasm => cfg!(all(feature = "wasm", target_os = "linux")),
        })
}

/// The backend of a runtime class.
pub(super) fn open(global: &GlobalArgs, class: RuntimeClass) -> Result<Box<dyn PodRuntime>> {
    match class {
        #[cfg(all(feature = "native", target_os = "linux"))]
        RuntimeClass::Native => native(global),
        #[cfg(all(feature = "krun", target_os = "linux"))]
        RuntimeClass::MicroVm => microvm(global),
        #[cfg(all(feature = "wasm", target_os = "linux"))]
        RuntimeClass::Wasm => wasm(global),
        #[allow(unreachable_patterns, reason = "a build with all features has all backends")]
        other => {
            let _ = global;
            let classes: Vec<&str> = classes().map(RuntimeClass::as_str).collect();
            bail!(
                "runtime class {other}: this build has no such backend: it has {}",
                classes.join(", ")
            )
        }
    }
}

/// A backend for commands on pods that exist: those go to the pod's own init, so that any backend works on the pods of all.
pub(crate) fn any(global: &GlobalArgs) -> Result<Box<dyn PodRuntime>> {
    open(global, classes().next().unwrap_or(RuntimeClass::Native))
}

#[cfg(all(feature = "native", target_os = "linux"))]
fn native(global: &GlobalArgs) -> Result<Box<dyn PodRuntime>> {
    let runtime = magik_pri::native::NativePodRuntime::new(roots(global)?);
    Ok(Box::new(runtime))
}

#[cfg(all(feature = "wasm", target_os = "linux"))]
fn wasm(global: &GlobalArgs) -> Result<Box<dyn PodRuntime>> {
    let runtime = magik_pri::wasm::WasmPodRuntime::new(roots(global)?);
    Ok(Box::new(runtime))
}

#[cfg(all(
    target_os = "linux",
    any(feature = "native", feature = "krun", feature = "wasm")
))]
fn roots(global: &GlobalArgs) -> Result<magik_pri::Roots> {
    Ok(magik_pri::Roots {
        data: global.data_root()?,
        state: global.state_root()?,
    })
}

/// Whether machines boot here, by booting one, once; `None`: this build has none.
pub(crate) fn microvm_capability(global: &GlobalArgs) -> Result<Option<Capability>> {
    #[cfg(all(feature = "krun", target_os = "linux"))]
    return Ok(Some(
        magik_pri::microvm::MicroVmPodRuntime::new(roots(global)?).is_available(),
    ));
    #[cfg(not(all(feature = "krun", target_os = "linux")))]
    {
        let _ = global;
        Ok(None)
    }
}

#[cfg(all(feature = "krun", target_os = "linux"))]
fn microvm(global: &GlobalArgs) -> Result<Box<dyn PodRuntime>> {
    use std::io::IsTerminal;
    let runtime = magik_pri::microvm::MicroVmPodRuntime::new(roots(global)?);
    if std::io::stderr().is_terminal() && runtime.is_emulated() {
        crate::output::note(
            "nothing here runs virtual machines by hardware: QEMU emulates this one, 10 to 20 times slower",
        );
    }
    Ok(Box::new(runtime))
}
