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

/// Every capability there is, with its number (`linux/capability.h`).
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The capabilities in this process's bounding set: no child can have others.
static AVAILABLE: LazyLock<Capabilities> =
    LazyLock::new(|| ALL.into_iter().filter(|c| is_available(*c)).collect());

#[cfg(target_os = "linux")]
fn is_available(capability: Capability) -> bool {
    let Some(number) = ALL
        .iter()
        .position(|c| *c == capability)
        .and_then(|n| u32::try_from(n).ok())
    else {
        return false;
    };
    // An older kernel answers EINVAL for what it does not know.
    rustix::thread::capability_is_in_bounding_set(rustix::thread::CapabilitySet::from_bits_retain(
        1 << u64::from(number),
    ))
    .unwrap_or(false)
}

#[cfg(not(target_os = "linux"))]
fn is_available(_: Capability) -> bool {
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
            let capability = ALL.into_iter().find(|c| c.to_string() == short);
            named
                .names
                .insert(capability.ok_or_else(|| BundleError::Capability {
                    name: text.clone(),
                    reason: "there is no capability of that name; see capabilities(7)".into(),
                })?);
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

    #[test]
    fn adds_and_drops_by_kubernetes_names_with_or_without_prefix() {
        let all: Capabilities = ALL.into();
        let set = resolve(
            &settings(&["NET_ADMIN", "cap_sys_time"], &["CAP_KILL", "MKNOD"]),
            &all,
        )
        .unwrap();
        assert!(set.contains(&Capability::NetAdmin) && set.contains(&Capability::SysTime));
        assert!(!set.contains(&Capability::Kill));
        assert_eq!(set.len(), 12);
    }

    #[test]
    fn drop_all_leaves_only_what_is_added() {
        let all: Capabilities = ALL.into();
        let set = resolve(&settings(&["NET_BIND_SERVICE"], &["ALL"]), &all).unwrap();
        assert_eq!(set, Capabilities::from([Capability::NetBindService]));
    }

    #[test]
    fn add_all_takes_what_the_host_has_and_no_more() {
        let available: Capabilities = ALL
            .into_iter()
            .filter(|c| *c != Capability::SysResource)
            .collect();
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
