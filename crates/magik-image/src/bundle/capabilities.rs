//! Which capabilities a container has.

use std::{collections::HashSet, sync::LazyLock};

use oci_spec::runtime::{Capabilities, Capability};

use super::{BundleError, ContainerSettings};

/// The default capabilities of a container: podman's set, that is docker's and containerd's without
/// `AUDIT_WRITE`, `MKNOD` and `NET_RAW`.
pub const DEFAULT_CAPABILITIES: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// Every capability there is, in the order of their numbers (`linux/capability.h`).
const NAMES: &str = "\
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME \
    SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG \
    WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// Every capability with its number.
fn all() -> impl Iterator<Item = (u32, Capability)> {
    let named = NAMES.split(' ').map(|name| name.parse().ok());
    (0..)
        .zip(named)
        .filter_map(|(number, capability)| Some((number, capability?)))
}

/// The capabilities in this process's bounding set: no child can have others.
static AVAILABLE: LazyLock<Capabilities> = LazyLock::new(|| {
    let available = all().filter(|(number, _)| is_available(*number));
    available.map(|(_, capability)| capability).collect()
});

#[cfg(target_os = "linux")]
fn is_available(number: u32) -> bool {
    let capability = rustix::thread::CapabilitySet::from_bits_retain(1 << number);
    // An older kernel answers EINVAL for what it does not know.
    rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn is_available(_: u32) -> bool {
    true // the container runs in a virtual machine whose kernel has them all
}

/// The capability sets for `settings` on this host.
pub(super) fn for_settings(settings: &ContainerSettings) -> Result<Capabilities, BundleError> {
    resolve(settings, &AVAILABLE)
}

/// Whole sets are cut down to what is available; a capability asked for by name must be.
fn resolve(settings: &ContainerSettings, available: &Capabilities) -> Result<Capabilities, BundleError> {
    if settings.privileged {
        return Ok(available.clone());
    }
    let (add, drop) = (
        Named::parse(&settings.add_capabilities)?,
        Named::parse(&settings.drop_capabilities)?,
    );
    if let Some(missing) = add.names.iter().find(|c| !available.contains(c)) {
        return Err(BundleError::Capability {
            name: format!("CAP_{missing}"),
            reason: "this host does not have it (it is not in the bounding set)".into(),
        });
    }
    let mut set: Capabilities = if add.all {
        available.clone()
    } else {
        DEFAULT_CAPABILITIES.into()
    };
    if drop.all {
        set.clear();
    }
    set.retain(|c| available.contains(c) && !drop.names.contains(c));
    set.extend(add.names);
    Ok(set)
}

/// A list of capabilities as a manifest gives it.
struct Named {
    all: bool,
    names: HashSet<Capability>,
}

impl Named {
    fn parse(list: &[String]) -> Result<Self, BundleError> {
        let mut named = Self {
            all: false,
            names: HashSet::new(),
        };
        for text in list {
            let upper = text.to_ascii_uppercase();
            let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if short == "ALL" {
                named.all = true;
                continue;
            }
            let capability = short.parse().map_err(|_| BundleError::Capability {
                name: text.clone(),
                reason: "there is no capability of that name; see capabilities(7)".into(),
            })?;
            named.names.insert(capability);
        }
        Ok(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(add: &[&str], drop: &[&str]) -> ContainerSettings {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        ContainerSettings {
            add_capabilities: owned(add),
            drop_capabilities: owned(drop),
            ..ContainerSettings::default()
        }
    }

    fn every() -> Capabilities {
        let every: Capabilities = all().map(|(_, capability)| capability).collect();
        assert_eq!(every.len(), 41);
        every
    }

    #[test]
    fn adds_and_drops_by_kubernetes_names_with_or_without_prefix() {
        let settings = settings(&["NET_ADMIN", "cap_sys_time"], &["CAP_KILL", "MKNOD"]);
        let set = resolve(&settings, &every()).unwrap();
        assert!(set.contains(&Capability::NetAdmin) && set.contains(&Capability::SysTime));
        assert!(!set.contains(&Capability::Kill));
        assert_eq!(set.len(), 12);
    }

    #[test]
    fn drop_all_leaves_only_what_is_added() {
        let set = resolve(&settings(&["NET_BIND_SERVICE"], &["ALL"]), &every()).unwrap();
        assert_eq!(set, Capabilities::from([Capability::NetBindService]));
    }

    #[test]
    fn add_all_takes_what_the_host_has_and_no_more() {
        let mut available = every();
        available.remove(&Capability::SysResource);
        assert_eq!(resolve(&settings(&["ALL"], &[]), &available).unwrap(), available);
        let privileged = ContainerSettings {
            privileged: true,
            ..ContainerSettings::default()
        };
        assert_eq!(resolve(&privileged, &available).unwrap(), available);
    }

    #[test]
    fn refuses_an_unknown_or_unavailable_capability_by_name() {
        let available: Capabilities = DEFAULT_CAPABILITIES.into();
        for (name, reason) in [
            ("SYS_RESOURCE", "does not have it"),
            ("NO_SUCH", "no capability of that name"),
        ] {
            let message = resolve(&settings(&[name], &[]), &available)
                .unwrap_err()
                .to_string();
            assert!(message.contains(name) && message.contains(reason), "{message}");
        }
    }
}
