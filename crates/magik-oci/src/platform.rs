//! What this host can run, and why not: each answer is a trial, not a guess from a version or a
//! file.

use serde::Serialize;

/// The device that makes virtual machines by the hardware.
pub const KVM: &str = "/dev/kvm";

/// Whether the host can do one thing, and how or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Capability {
    /// Whether it can.
    pub available: bool,
    /// How ("cgroup v2"), or why not ("/dev/kvm: permission denied"), for a person to read.
    pub detail: String,
}

impl Capability {
    /// It can, in this way.
    fn yes(detail: impl Into<String>) -> Self {
        Self {
            available: true,
            detail: detail.into(),
        }
    }

    /// It cannot, for this reason.
    fn no(detail: impl Into<String>) -> Self {
        Self {
            available: false,
            detail: detail.into(),
        }
    }
}

/// The capabilities of this host, each tried rather than guessed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Platform {
    /// Linux containers: namespaces and the right to unshare them.
    pub native: Capability,
    /// Control groups: v2, v1 or hybrid.
    pub cgroups: Capability,
    /// Virtual machines that really boot. To try that is their backend's part, which sets this
    /// (`PodRuntime::availability`): here it is `no`.
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

impl Platform {
    /// Tries everything, which takes a few milliseconds and leaves nothing behind. It blocks; it
    /// may be called from any thread of any process.
    ///
    /// ```
    /// let platform = magik_oci::Platform::detect();
    /// println!("native containers: {}", platform.native.detail);
    /// ```
    #[must_use]
    pub fn detect() -> Self {
        Self {
            native: host::native(),
            cgroups: host::cgroups(),
            microvm: Capability::no(format!("no microVM was booted; {}", host::hypervisor())),
            wasm: Capability::yes("it needs nothing of the host"),
            overlayfs: host::overlayfs(),
            seccomp: host::seccomp(),
            landlock: host::landlock(),
            user_namespaces: host::user_namespaces(),
        }
    }

    /// Tries user namespaces alone.
    #[must_use]
    pub fn user_namespaces() -> Capability {
        host::user_namespaces()
    }
}

#[cfg(target_os = "linux")]
#[path = "platform/linux.rs"]
mod host;

#[cfg(not(target_os = "linux"))]
mod host {
    //! Everywhere else there is nothing to try.

    use super::Capability;

    pub(super) fn needs_linux() -> Capability {
        Capability::no(format!("needs Linux; this is {}", std::env::consts::OS))
    }

    pub(super) use needs_linux as native;
    pub(super) use needs_linux as cgroups;
    pub(super) use needs_linux as overlayfs;
    pub(super) use needs_linux as seccomp;
    pub(super) use needs_linux as landlock;
    pub(super) use needs_linux as user_namespaces;

    pub(super) fn hypervisor() -> &'static str {
        if cfg!(target_os = "macos") {
            "Hypervisor.framework was not tried"
        } else {
            "this system has no supported hypervisor"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_says_how_or_why_not() {
        let json = serde_json::to_value(Platform::detect()).unwrap();
        let all = json.as_object().unwrap();
        assert_eq!(all.len(), 8);
        for (name, capability) in all {
            assert!(!capability["detail"].as_str().unwrap().is_empty(), "{name}");
        }
        assert_eq!(json["microvm"]["available"], false);
        assert_eq!(json["wasm"]["available"], true);
        assert!(json.get("userNamespaces").is_some());
    }
}
