//! What this host can run, and why not (DESIGN section 4).

use serde::Serialize;

/// Whether the host can do one thing, and how or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Whether it can.
    pub available: bool,
    /// How ("cgroup v2"), or why not ("/dev/kvm: permission denied"), for a person to read.
    pub detail: String,
}

/// The capabilities of this host, each tried rather than guessed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    /// Linux containers: namespaces and the right to unshare them.
    pub native: Capability,
    /// Control groups: v2, v1 or hybrid.
    pub cgroups: Capability,
    /// Virtual machines that really boot.
    pub microvm: Capability,
    /// WebAssembly.
    pub wasm: Capability,
    /// overlayfs, tried by mounting one.
    pub overlayfs: Capability,
    /// Seccomp filters.
    pub seccomp: Capability,
    /// Landlock, with its ABI version.
    pub landlock: Capability,
    /// User namespaces.
    pub user_namespaces: Capability,
}
