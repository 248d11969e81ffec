//! The host's security modules: which AppArmor profile and which SELinux label a container gets.
//!
//! Without the module a setting has no effect. Only a profile that is asked for by name is then an
//! error, because the user relies on it.

use std::{fs::File, io, path::Path};

use super::{AppArmorProfile, BundleError, ContainerSettings, SelinuxLabel};
use crate::bounded;

/// Profiles that confine containers in general: the first that is loaded is the default.
/// `magikrun-default` is for those who want one of their own; the others are loaded by docker,
/// containerd and podman.
const DEFAULT_PROFILES: [&str; 4] = [
    "magikrun-default",
    "docker-default",
    "cri-containerd.apparmor.d",
    "containers-default-",
];

/// The most that is read of the list of profiles, in bytes.
const MAX_PROFILES_SIZE: u64 = 4 << 20;

/// What the host has.
#[derive(Debug, Default)]
pub(super) struct Modules {
    /// The names of the profiles that are loaded, if AppArmor is enabled.
    apparmor: Option<Vec<String>>,
    selinux: bool,
}

impl Modules {
    /// What this host has, as far as the settings ask for it.
    pub(super) fn for_settings(settings: &ContainerSettings) -> Result<Self, BundleError> {
        if !settings.host_security_modules {
            return Ok(Self::default());
        }
        let asked = matches!(
            settings.apparmor,
            AppArmorProfile::Default | AppArmorProfile::Named(_)
        );
        let apparmor = if asked && is_apparmor_enabled() {
            Some(profiles()?)
        } else {
            None
        };
        Ok(Self {
            apparmor,
            selinux: settings.selinux.is_some() && Path::new("/sys/fs/selinux/enforce").exists(),
        })
    }

    /// The profile of the container's program.
    pub(super) fn apparmor_profile(
        &self,
        settings: &ContainerSettings,
    ) -> Result<Option<String>, BundleError> {
        let refused = |reason: String| BundleError::field("appArmorProfile", reason);
        match (&settings.apparmor, &self.apparmor) {
            (AppArmorProfile::Unset | AppArmorProfile::Unconfined, _) | (AppArmorProfile::Default, None) => {
                Ok(None)
            }
            (AppArmorProfile::Default, Some(_)) if settings.privileged => Ok(None),
            (AppArmorProfile::Default, Some(loaded)) => {
                let default = DEFAULT_PROFILES.iter().find_map(|wanted| {
                    let is_it = |name: &&String| match wanted.strip_suffix('-') {
                        Some(_) => name.starts_with(wanted),
                        None => name == wanted,
                    };
                    loaded.iter().find(is_it)
                });
                default.cloned().map(Some).ok_or_else(|| {
                    refused(
                        "RuntimeDefault: no default profile is loaded; load one called magikrun-default, or use Unconfined"
                            .into(),
                    )
                })
            }
            (AppArmorProfile::Named(name), None) => Err(refused(format!(
                "Localhost {name}: there is no AppArmor where the container runs"
            ))),
            (AppArmorProfile::Named(name), Some(loaded)) if loaded.contains(name) => Ok(Some(name.clone())),
            (AppArmorProfile::Named(name), Some(_)) => Err(refused(format!(
                "Localhost {name}: no such profile is loaded; load it with apparmor_parser"
            ))),
        }
    }

    /// The label of the container's processes.
    pub(super) fn selinux_label(&self, settings: &ContainerSettings) -> Option<String> {
        let label = settings.selinux.as_ref().filter(|_| self.selinux)?;
        let SelinuxLabel {
            user,
            role,
            type_,
            level,
        } = label;
        let part = |part: &Option<String>, default: &str| part.as_deref().unwrap_or(default).to_owned();
        let parts = [
            part(user, "system_u"),
            part(role, "system_r"),
            part(type_, "container_t"),
            part(level, "s0"),
        ];
        Some(parts.join(":"))
    }
}

fn is_apparmor_enabled() -> bool {
    let enabled = bounded::text_if_any(Path::new("/sys/module/apparmor/parameters/enabled"), 64);
    enabled.is_ok_and(|text| text.is_some_and(|text| text.starts_with('Y')))
}

/// The names of the loaded profiles; a line is `name (enforce)`.
fn profiles() -> Result<Vec<String>, BundleError> {
    let path = Path::new("/sys/kernel/security/apparmor/profiles");
    let read = || -> io::Result<String> {
        let bytes = bounded::read(File::open(path)?, MAX_PROFILES_SIZE)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().map_err(|source| BundleError::Io {
        path: path.to_owned(),
        source,
    })?;
    Ok(names(&text))
}

fn names(text: &str) -> Vec<String> {
    let name = |line: &str| line.rsplit_once(" (").map(|(name, _)| name.to_owned());
    text.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(apparmor: AppArmorProfile) -> ContainerSettings {
        ContainerSettings {
            apparmor,
            selinux: Some(SelinuxLabel {
                level: Some("s0:c1,c2".into()),
                ..SelinuxLabel::default()
            }),
            ..ContainerSettings::default()
        }
    }

    fn loaded(text: &str) -> Modules {
        Modules {
            apparmor: Some(names(text)),
            selinux: true,
        }
    }

    #[test]
    fn without_the_modules_only_a_profile_by_name_is_an_error() {
        let none = Modules::default();
        for profile in [
            AppArmorProfile::Unset,
            AppArmorProfile::Unconfined,
            AppArmorProfile::Default,
        ] {
            let settings = settings(profile);
            assert_eq!(none.apparmor_profile(&settings).unwrap(), None);
            assert_eq!(none.selinux_label(&settings), None);
        }
        let named = settings(AppArmorProfile::Named("strict".into()));
        let message = none.apparmor_profile(&named).unwrap_err().to_string();
        assert!(message.contains("appArmorProfile: Localhost strict"), "{message}");
        // A guest's kernel is not the host's.
        let guest = ContainerSettings {
            host_security_modules: false,
            ..named
        };
        let modules = Modules::for_settings(&guest).unwrap();
        assert!(modules.apparmor_profile(&guest).is_err());
    }

    #[test]
    fn profiles_are_those_that_are_loaded() {
        let modules = loaded("/usr/bin/man (enforce)\ndocker-default (enforce)\nmy profile (complain)\n");
        let profile = |profile| modules.apparmor_profile(&settings(profile));
        assert_eq!(
            profile(AppArmorProfile::Default).unwrap().as_deref(),
            Some("docker-default")
        );
        assert_eq!(profile(AppArmorProfile::Unset).unwrap(), None);
        let named = |name: &str| profile(AppArmorProfile::Named(name.into()));
        assert_eq!(named("my profile").unwrap().as_deref(), Some("my profile"));
        let message = named("other").unwrap_err().to_string();
        assert!(message.contains("other: no such profile is loaded"), "{message}");

        let podmans = loaded("containers-default-0.50.1 (enforce)\n");
        let default = settings(AppArmorProfile::Default);
        assert_eq!(
            podmans.apparmor_profile(&default).unwrap().as_deref(),
            Some("containers-default-0.50.1")
        );
        assert!(loaded("").apparmor_profile(&default).is_err());
        let privileged = ContainerSettings {
            privileged: true,
            ..default
        };
        assert_eq!(loaded("").apparmor_profile(&privileged).unwrap(), None);
    }

    #[test]
    fn a_label_has_containers_parts_where_nobody_says() {
        let settings = settings(AppArmorProfile::Unset);
        assert_eq!(
            loaded("").selinux_label(&settings).as_deref(),
            Some("system_u:system_r:container_t:s0:c1,c2")
        );
    }
}
