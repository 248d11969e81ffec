//! `securityContext` of a pod and of its containers, checked as the API server does; what a
//! container says goes before what its pod says.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1 as k8s;

use super::{
    AppArmor, ProcMount, SeLinuxOptions, Seccomp, Security, SpecError,
    check::{At, Result},
};

/// The most supplementary groups, as many as the kernel takes (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65_536;
/// The longest name of a profile or part of a label, in bytes.
const MAX_NAME_LEN: usize = 4095;

/// What a pod says for all of its containers.
#[derive(Debug, Default)]
pub(super) struct PodSecurity {
    run_as_user: Option<u32>,
    run_as_group: Option<u32>,
    run_as_non_root: Option<bool>,
    supplemental_groups: Vec<u32>,
    strict_groups: bool,
    seccomp: Option<Seccomp>,
    app_armor: Option<AppArmor>,
    se_linux: Option<SeLinuxOptions>,
    /// `hostUsers: false`.
    own_users: bool,
}

/// Reads `spec.securityContext`.
pub(super) fn pod(context: k8s::PodSecurityContext, host_users: Option<bool>) -> Result<PodSecurity> {
    const PATH: &str = "spec.securityContext";
    let groups = context.supplemental_groups.unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        return Err(SpecError::invalid(
            format!("{PATH}.supplementalGroups"),
            format!("{} groups, at most {MAX_GROUPS} are allowed", groups.len()),
        ));
    }
    let group = |(i, group)| id(group).at(&format!("{PATH}.supplementalGroups[{i}]"));
    let strict_groups = match context.supplemental_groups_policy.as_deref() {
        None | Some("" | "Merge") => false,
        Some("Strict") => true,
        Some(other) => {
            return Err(SpecError::invalid(
                format!("{PATH}.supplementalGroupsPolicy"),
                format!("{other:?} is none of Merge, Strict"),
            ));
        }
    };
    Ok(PodSecurity {
        run_as_user: any_id(context.run_as_user, PATH, "runAsUser")?,
        run_as_group: any_id(context.run_as_group, PATH, "runAsGroup")?,
        run_as_non_root: context.run_as_non_root,
        supplemental_groups: groups.into_iter().enumerate().map(group).collect::<Result<_>>()?,
        strict_groups,
        seccomp: seccomp(context.seccomp_profile, PATH)?,
        app_armor: app_armor(context.app_armor_profile, PATH)?,
        se_linux: se_linux(context.se_linux_options, PATH)?,
        own_users: host_users == Some(false),
    })
}

/// Reads `securityContext` of a container, at `path`.
pub(super) fn container(context: k8s::SecurityContext, pod: &PodSecurity, path: &str) -> Result<Security> {
    let run_as_user = any_id(context.run_as_user, path, "runAsUser")?.or(pod.run_as_user);
    let run_as_group = any_id(context.run_as_group, path, "runAsGroup")?.or(pod.run_as_group);
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(SpecError::invalid(
            format!("{path}.runAsGroup"),
            "needs runAsUser, too",
        ));
    }
    let run_as_non_root = context.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
    if run_as_non_root && run_as_user == Some(0) {
        return Err(SpecError::invalid(
            format!("{path}.runAsUser"),
            "container's runAsUser breaks non-root policy",
        ));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    let privileged = context.privileged.unwrap_or(false);
    let add_capabilities = names(capabilities.add, &format!("{path}.capabilities.add"))?;
    if context.allow_privilege_escalation == Some(false) {
        let refused = |what| {
            Err(SpecError::invalid(
                path,
                format!("cannot set `allowPrivilegeEscalation` to false and {what}"),
            ))
        };
        if privileged {
            return refused("`privileged` to true");
        }
        if add_capabilities
            .iter()
            .any(|name| capability(name) == "SYS_ADMIN")
        {
            return refused("`capabilities.Add` CAP_SYS_ADMIN");
        }
    }
    Ok(Security {
        run_as_user,
        run_as_group,
        run_as_non_root,
        supplemental_groups: pod.supplemental_groups.clone(),
        strict_supplemental_groups: pod.strict_groups,
        allow_privilege_escalation: context.allow_privilege_escalation.unwrap_or(true),
        read_only_root_filesystem: context.read_only_root_filesystem.unwrap_or(false),
        privileged,
        add_capabilities,
        drop_capabilities: names(capabilities.drop, &format!("{path}.capabilities.drop"))?,
        seccomp: seccomp(context.seccomp_profile, path)?
            .or_else(|| pod.seccomp.clone())
            .unwrap_or_default(),
        app_armor: app_armor(context.app_armor_profile, path)?.or_else(|| pod.app_armor.clone()),
        // As Kubernetes has it: all of the container's, or all of the pod's.
        se_linux_options: se_linux(context.se_linux_options, path)?.or_else(|| pod.se_linux.clone()),
        proc_mount: proc_mount(context.proc_mount.as_deref(), pod, path)?,
    })
}

fn any_id(value: Option<i64>, path: &str, name: &str) -> Result<Option<u32>> {
    value.map(id).transpose().at(&format!("{path}.{name}"))
}

fn id(value: i64) -> std::result::Result<u32, String> {
    match u32::try_from(value) {
        // The largest one means "none" to the kernel; Kubernetes has the bound of signed numbers.
        Ok(id) if value <= i64::from(i32::MAX) => Ok(id),
        _ => Err(format!("{value} is not between 0 and {}", i32::MAX)),
    }
}

/// A capability's name as capabilities(7) has it, without `CAP_`.
pub(crate) fn capability(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
}

/// Names of capabilities; whether there are such is for the machine to say.
fn names(list: Option<Vec<String>>, path: &str) -> Result<Vec<String>> {
    let list = list.unwrap_or_default();
    for (i, capability) in list.iter().enumerate() {
        let plain = capability.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        if capability.is_empty() || capability.len() > 64 || !plain {
            return Err(SpecError::invalid(
                format!("{path}[{i}]"),
                "is no capability: write NET_ADMIN, ALL or the like",
            ));
        }
    }
    Ok(list)
}

fn seccomp(profile: Option<k8s::SeccompProfile>, path: &str) -> Result<Option<Seccomp>> {
    let Some(profile) = profile else {
        return Ok(None);
    };
    let path = format!("{path}.seccompProfile");
    let local = local(profile.localhost_profile, &profile.type_, &path, "seccomp")?;
    Ok(Some(match (profile.type_.as_str(), local) {
        ("RuntimeDefault", _) => Seccomp::RuntimeDefault,
        ("Unconfined", _) => Seccomp::Unconfined,
        (_, Some(name)) => {
            let path = format!("{path}.localhostProfile");
            let relative = Path::new(&name);
            if relative.is_absolute() {
                return Err(SpecError::invalid(path, "must be a relative path"));
            }
            if !relative.components().all(|c| matches!(c, Component::Normal(_))) {
                return Err(SpecError::invalid(path, "must not contain '..'"));
            }
            Seccomp::Localhost { profile: name }
        }
        (other, None) => return Err(no_type(other, &path)),
    }))
}

fn app_armor(profile: Option<k8s::AppArmorProfile>, path: &str) -> Result<Option<AppArmor>> {
    let Some(profile) = profile else {
        return Ok(None);
    };
    let path = format!("{path}.appArmorProfile");
    let local = local(profile.localhost_profile, &profile.type_, &path, "AppArmor")?;
    Ok(Some(match (profile.type_.as_str(), local) {
        ("RuntimeDefault", _) => AppArmor::RuntimeDefault,
        ("Unconfined", _) => AppArmor::Unconfined,
        (_, Some(profile)) => {
            if profile.chars().any(|c| c.is_whitespace() || c.is_control()) {
                return Err(SpecError::invalid(
                    format!("{path}.localhostProfile"),
                    "is no name of a profile: it holds white space",
                ));
            }
            AppArmor::Localhost { profile }
        }
        (other, None) => return Err(no_type(other, &path)),
    }))
}

/// The profile of the host that is named; there is one exactly if the type is `Localhost`.
fn local(name: Option<String>, type_: &str, path: &str, kind: &str) -> Result<Option<String>> {
    let path = format!("{path}.localhostProfile");
    match (type_, name) {
        ("Localhost", None) => Err(SpecError::invalid(
            path,
            format!("must be set when {kind} type is Localhost"),
        )),
        ("Localhost", Some(name)) => {
            if name.is_empty() || name.len() > MAX_NAME_LEN || name.contains('\0') {
                return Err(SpecError::invalid(
                    path,
                    "is no name: empty, too long, or it holds a NUL",
                ));
            }
            Ok(Some(name))
        }
        (_, None) => Ok(None),
        (_, Some(_)) => Err(SpecError::invalid(
            path,
            format!("can only be set when {kind} type is Localhost"),
        )),
    }
}

fn no_type(other: &str, path: &str) -> SpecError {
    SpecError::invalid(
        format!("{path}.type"),
        format!("{other:?} is none of RuntimeDefault, Unconfined, Localhost"),
    )
}

fn se_linux(options: Option<k8s::SELinuxOptions>, path: &str) -> Result<Option<SeLinuxOptions>> {
    let Some(options) = options else {
        return Ok(None);
    };
    let part = |value: Option<String>, name: &str, more: &[u8]| {
        let value = value.filter(|value| !value.is_empty());
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || more.contains(&b);
        match value {
            Some(value) if value.len() > MAX_NAME_LEN || !value.bytes().all(fits) => Err(SpecError::invalid(
                format!("{path}.seLinuxOptions.{name}"),
                "is no part of a label",
            )),
            value => Ok(value),
        }
    };
    Ok(Some(SeLinuxOptions {
        user: part(options.user, "user", b"")?,
        role: part(options.role, "role", b"")?,
        type_: part(options.type_, "type", b"")?,
        level: part(options.level, "level", b":,")?,
    }))
}

fn proc_mount(value: Option<&str>, pod: &PodSecurity, path: &str) -> Result<ProcMount> {
    let path = format!("{path}.procMount");
    match value {
        None | Some("" | "Default") => Ok(ProcMount::Default),
        Some("Unmasked") if pod.own_users => Ok(ProcMount::Unmasked),
        Some("Unmasked") => Err(SpecError::invalid(
            path,
            "`hostUsers` must be false to use `Unmasked`",
        )),
        Some(other) => Err(SpecError::invalid(
            path,
            format!("{other:?} is none of Default, Unmasked"),
        )),
    }
}
