//! `securityContext` of a pod and of its containers, checked as the API server does; what a
//! container says goes before what its pod says.

use std::path::{Component, Path};

use k8s_openapi::api::core::v1 as k8s;

use super::{
    AppArmor, ProcMount, SeLinuxOptions, Seccomp, Security, SpecError,
    check::{At, Result},
    errors::Problems,
    host,
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
pub(super) fn pod(
    context: k8s::PodSecurityContext,
    host_users: Option<bool>,
    problems: &mut Problems,
) -> PodSecurity {
    const PATH: &str = "spec.securityContext";
    let fs_group = host::fs_group(&context, problems);
    let mut groups = context.supplemental_groups.unwrap_or_default();
    if groups.len() > MAX_GROUPS {
        problems.add(SpecError::invalid(
            format!("{PATH}.supplementalGroups"),
            format!("{} groups, at most {MAX_GROUPS} are allowed", groups.len()),
        ));
        groups.clear();
    }
    let mut group = |(i, group)| {
        let path = format!("{PATH}.supplementalGroups[{i}]");
        problems.or_default(id(group).at(&path))
    };
    let mut supplemental_groups: Vec<u32> = groups.into_iter().enumerate().map(&mut group).collect();
    // As kubelet does it: who runs is in the group that volumes get.
    if let Some(group) = fs_group.filter(|group| !supplemental_groups.contains(group)) {
        supplemental_groups.push(group);
    }
    let strict_groups = match context.supplemental_groups_policy.as_deref() {
        None | Some("" | "Merge") => Ok(false),
        Some("Strict") => Ok(true),
        Some(other) => Err(format!("{other:?} is none of Merge, Strict")),
    };
    let strict_groups = strict_groups.at(&format!("{PATH}.supplementalGroupsPolicy"));
    PodSecurity {
        run_as_user: problems.or_default(any_id(context.run_as_user, PATH, "runAsUser")),
        run_as_group: problems.or_default(any_id(context.run_as_group, PATH, "runAsGroup")),
        run_as_non_root: context.run_as_non_root,
        supplemental_groups,
        strict_groups: problems.or_default(strict_groups),
        seccomp: problems.or_default(seccomp(context.seccomp_profile, PATH)),
        app_armor: problems.or_default(app_armor(context.app_armor_profile, PATH)),
        se_linux: se_linux(context.se_linux_options, PATH, problems),
        own_users: host_users == Some(false),
    }
}

/// Reads `securityContext` of a container, at `path`.
pub(super) fn container(
    context: k8s::SecurityContext,
    pod: &PodSecurity,
    path: &str,
    problems: &mut Problems,
) -> Security {
    let user = problems.or_default(any_id(context.run_as_user, path, "runAsUser"));
    let group = problems.or_default(any_id(context.run_as_group, path, "runAsGroup"));
    let (run_as_user, run_as_group) = (user.or(pod.run_as_user), group.or(pod.run_as_group));
    if run_as_group.is_some() && run_as_user.is_none() && context.run_as_user.is_none() {
        problems.add(SpecError::invalid(
            format!("{path}.runAsGroup"),
            "needs runAsUser, too: set it",
        ));
    }
    let run_as_non_root = context.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false);
    if run_as_non_root && run_as_user == Some(0) {
        problems.add(SpecError::invalid(
            format!("{path}.runAsUser"),
            "container's runAsUser breaks non-root policy: 0 is root, choose another user",
        ));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    let privileged = context.privileged.unwrap_or(false);
    let add_capabilities = names(capabilities.add, &format!("{path}.capabilities.add"), problems);
    if context.allow_privilege_escalation == Some(false) {
        let admin = |name: &String| capability(name) == "SYS_ADMIN";
        let clash = if privileged {
            Some("`privileged` to true")
        } else if add_capabilities.iter().any(admin) {
            Some("`capabilities.Add` CAP_SYS_ADMIN")
        } else {
            None
        };
        if let Some(what) = clash {
            problems.add(SpecError::invalid(
                path,
                format!("cannot set `allowPrivilegeEscalation` to false and {what}: remove one"),
            ));
        }
    }
    let seccomp = problems.or_default(seccomp(context.seccomp_profile, path));
    let app_armor = problems.or_default(app_armor(context.app_armor_profile, path));
    Security {
        run_as_user,
        run_as_group,
        run_as_non_root,
        supplemental_groups: pod.supplemental_groups.clone(),
        strict_supplemental_groups: pod.strict_groups,
        allow_privilege_escalation: context.allow_privilege_escalation.unwrap_or(true),
        read_only_root_filesystem: context.read_only_root_filesystem.unwrap_or(false),
        privileged,
        add_capabilities,
        drop_capabilities: names(capabilities.drop, &format!("{path}.capabilities.drop"), problems),
        seccomp: seccomp.or_else(|| pod.seccomp.clone()).unwrap_or_default(),
        app_armor: app_armor.or_else(|| pod.app_armor.clone()),
        // As Kubernetes has it: all of the container's, or all of the pod's.
        se_linux_options: se_linux(context.se_linux_options, path, problems).or_else(|| pod.se_linux.clone()),
        proc_mount: problems.or_default(proc_mount(context.proc_mount.as_deref(), pod, path)),
    }
}

fn any_id(value: Option<i64>, path: &str, name: &str) -> Result<Option<u32>> {
    value.map(id).transpose().at(&format!("{path}.{name}"))
}

pub(super) fn id(value: i64) -> std::result::Result<u32, String> {
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
fn names(list: Option<Vec<String>>, path: &str, problems: &mut Problems) -> Vec<String> {
    let list = list.unwrap_or_default();
    for (i, capability) in list.iter().enumerate() {
        let plain = capability.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        if capability.is_empty() || capability.len() > 64 || !plain {
            problems.add(SpecError::invalid(
                format!("{path}[{i}]"),
                "is no capability: write NET_ADMIN, ALL or the like",
            ));
        }
    }
    list
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
            format!("must be set when {kind} type is Localhost: name a profile of the host"),
        )),
        ("Localhost", Some(name)) => {
            if name.is_empty() || name.len() > MAX_NAME_LEN || name.contains('\0') {
                return Err(SpecError::invalid(
                    path,
                    "is no name of a profile: empty, too long, or it holds a NUL",
                ));
            }
            Ok(Some(name))
        }
        (_, None) => Ok(None),
        (_, Some(_)) => Err(SpecError::invalid(
            path,
            format!("can only be set when {kind} type is Localhost: remove it"),
        )),
    }
}

fn no_type(other: &str, path: &str) -> SpecError {
    SpecError::invalid(
        format!("{path}.type"),
        format!("{other:?} is none of RuntimeDefault, Unconfined, Localhost"),
    )
}

fn se_linux(
    options: Option<k8s::SELinuxOptions>,
    path: &str,
    problems: &mut Problems,
) -> Option<SeLinuxOptions> {
    let options = options?;
    let mut part = |value: Option<String>, name: &str, more: &[u8]| {
        let value = value.filter(|value| !value.is_empty())?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b) || more.contains(&b);
        if value.len() > MAX_NAME_LEN || !value.bytes().all(fits) {
            problems.add(SpecError::invalid(
                format!("{path}.seLinuxOptions.{name}"),
                "is no part of a label: write container_t, s0:c1,c2 or the like",
            ));
        }
        Some(value)
    };
    Some(SeLinuxOptions {
        user: part(options.user, "user", b""),
        role: part(options.role, "role", b""),
        type_: part(options.type_, "type", b""),
        level: part(options.level, "level", b":,"),
    })
}

fn proc_mount(value: Option<&str>, pod: &PodSecurity, path: &str) -> Result<ProcMount> {
    let path = format!("{path}.procMount");
    match value {
        None | Some("" | "Default") => Ok(ProcMount::Default),
        Some("Unmasked") if pod.own_users => Ok(ProcMount::Unmasked),
        Some("Unmasked") => Err(SpecError::invalid(
            path,
            "`hostUsers` must be false to use `Unmasked`: set it, or remove this",
        )),
        Some(other) => Err(SpecError::invalid(
            path,
            format!("{other:?} is none of Default, Unmasked"),
        )),
    }
}
