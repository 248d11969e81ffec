//! The pods on this host, and the backends of this build.

use anyhow::Result;
use magik_pri::{PodRuntime, Pods, Roots};

use crate::roots::GlobalArgs;

/// The pods below the roots, with all backends of this build.
pub(crate) fn pods(global: &GlobalArgs) -> Result<Box<dyn PodRuntime>> {
    let pods = Pods::new(roots(global)?);
    #[cfg(all(feature = "native", target_os = "linux"))]
    let pods = pods.with(magik_pri::native::Native::new());
    #[cfg(all(feature = "krun", target_os = "linux"))]
    let pods = pods.with(magik_pri::microvm::MicroVm::new(&roots(global)?));
    #[cfg(all(feature = "wasm", target_os = "linux"))]
    let pods = pods.with(magik_pri::wasm::Wasm::new());
    Ok(Box::new(pods))
}

/// Where pods are kept.
pub(crate) fn roots(global: &GlobalArgs) -> Result<Roots> {
    Ok(Roots {
        data: global.data_root()?,
        state: global.state_root()?,
    })
}

/// Says so where machines are emulated, before a person waits for one.
pub(super) fn warn_of_emulation(global: &GlobalArgs) -> Result<()> {
    #[cfg(all(feature = "krun", target_os = "linux"))]
    if std::io::IsTerminal::is_terminal(&std::io::stderr())
        && magik_pri::microvm::MicroVm::new(&roots(global)?).is_emulated()
    {
        crate::output::note(
            "nothing here runs virtual machines by hardware: QEMU emulates this one, 10 to 20 times slower",
        );
    }
    let _ = global;
    Ok(())
}
