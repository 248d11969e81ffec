//! What a pod's process gets around it, beside what it takes from itself.

use std::{fmt, sync::OnceLock};

use serde::{Deserialize, Serialize};

/// How much this caller may isolate; tried once.
#[derive(Default)]
pub(super) struct Isolation(OnceLock<Kind>);

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// Namespaces made by root; root file systems are overlays.
    Root,
    /// Namespaces made by anybody, below a user namespace; root file systems are copies.
    User,
    /// None: another system, or a host that forbids user namespaces.
    None,
}

impl Isolation {
    pub(super) fn kind(&self) -> Kind {
        *self.0.get_or_init(detect)
    }

    pub(super) fn describe(&self) -> &'static str {
        match self.kind() {
            Kind::Root => "wasmtime, in namespaces",
            Kind::User => "wasmtime, in a user namespace",
            Kind::None => "wasmtime, without namespaces",
        }
    }
}

impl fmt::Debug for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(target_os = "linux")]
fn detect() -> Kind {
    use rustix::thread::{CapabilitySet, capabilities};
    let may = capabilities(None).is_ok_and(|sets| {
        sets.effective
            .contains(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
    });
    if may {
        Kind::Root
    } else if magik_oci::Platform::user_namespaces().available {
        Kind::User
    } else {
        Kind::None
    }
}

#[cfg(not(target_os = "linux"))]
fn detect() -> Kind {
    Kind::None
}
