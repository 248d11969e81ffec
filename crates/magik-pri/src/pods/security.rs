//! What a container may do, from its `securityContext` to the settings of its bundle.

use std::path::PathBuf;

use magik_image::bundle::{
    AppArmorProfile, BundleError, ContainerSettings, SeccompProfile, SelinuxLabel, load_seccomp_profile,
};

use crate::{AppArmor, ProcMount, Seccomp, Security};

/// Where `localhostProfile`s are, unless [`PROFILES_VARIABLE`] says otherwise.
const PROFILES: &str = "/etc/magikrun/seccomp";
/// The environment variable that names another directory of profiles.
const PROFILES_VARIABLE: &str = "MAGIKRUN_SECCOMP_PROFILES";

/// The settings with what a container's `securityContext` says, but for its user.
///
/// # Errors
/// [`BundleError`] if a profile of the host cannot be read.
pub(crate) fn settings(
    security: &Security,
    settings: ContainerSettings,
) -> Result<ContainerSettings, BundleError> {
    let seccomp = match &security.seccomp {
        Seccomp::RuntimeDefault => SeccompProfile::Default,
        Seccomp::Unconfined => SeccompProfile::Unconfined,
        Seccomp::Localhost { profile } => {
            let dir = std::env::var_os(PROFILES_VARIABLE).map_or_else(|| PROFILES.into(), PathBuf::from);
            load_seccomp_profile(&dir, profile)?
        }
    };
    Ok(ContainerSettings {
        run_as_non_root: security.run_as_non_root,
        supplemental_groups: security.supplemental_groups.clone(),
        strict_supplemental_groups: security.strict_supplemental_groups,
        privileged: security.privileged,
        add_capabilities: security.add_capabilities.clone(),
        drop_capabilities: security.drop_capabilities.clone(),
        no_new_privs: Some(!security.allow_privilege_escalation),
        seccomp,
        unmasked: security.proc_mount == ProcMount::Unmasked,
        apparmor: match &security.app_armor {
            None => AppArmorProfile::Unset,
            Some(AppArmor::RuntimeDefault) => AppArmorProfile::Default,
            Some(AppArmor::Unconfined) => AppArmorProfile::Unconfined,
            Some(AppArmor::Localhost { profile }) => AppArmorProfile::Named(profile.clone()),
        },
        selinux: security.se_linux_options.as_ref().map(|options| SelinuxLabel {
            user: options.user.clone(),
            role: options.role.clone(),
            type_: options.type_.clone(),
            level: options.level.clone(),
        }),
        ..settings
    })
}
