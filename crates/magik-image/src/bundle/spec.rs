//! From image configuration and settings to a runtime spec.

use std::path::Path;

use oci_spec::{
    OciSpecError,
    image::ImageConfiguration,
    runtime::{
        Capabilities, Linux, LinuxCapabilities, LinuxCpuBuilder, LinuxDeviceCgroupBuilder,
        LinuxHugepageLimitBuilder, LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemoryBuilder,
        LinuxNamespaceBuilder, LinuxNamespaceType, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder,
        Mount, MountBuilder, Process, RootBuilder, Spec, UserBuilder,
    },
};

use super::{
    BundleError, ContainerSettings, DEFAULT_PIDS_LIMIT, MountKind, MountSetting, Propagation, Resources,
    SeccompProfile, capabilities, defaults,
    lsm::Modules,
    process, seccomp,
    user::{User, resolve_user, shown},
};

/// The version of the runtime-spec that the specs made here follow.
const OCI_VERSION: &str = "1.2.0";
/// The longest host name the kernel takes (`__NEW_UTS_LEN`).
const MAX_HOSTNAME_LEN: usize = 64;
/// The period of the processor limit in microseconds: the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The shortest quota the kernel takes, in microseconds.
const MIN_CPU_QUOTA_US: u64 = 1000;

/// Builds the runtime spec of a container of `image`.
///
/// As in Kubernetes, `command` replaces the entrypoint and drops the image's command, `args`
/// replaces the command. Other defaults are podman's; see [`ContainerSettings`].
///
/// # Errors
/// [`BundleError`] names the invalid field of the settings or the image's configuration.
pub fn runtime_spec(image: &ImageConfiguration, settings: &ContainerSettings) -> Result<Spec, BundleError> {
    let config = image.config().as_ref();
    let user = user(
        config.and_then(|c| c.user().as_deref()).unwrap_or_default(),
        settings,
    )?;
    let capabilities = capabilities::for_settings(settings)?;
    let modules = Modules::for_settings(settings)?;
    if let Some(name) = settings
        .hostname
        .as_ref()
        .filter(|name| name.is_empty() || name.len() > MAX_HOSTNAME_LEN)
    {
        return Err(BundleError::field(
            "hostname",
            format!("{name:?} has to have 1 to {MAX_HOSTNAME_LEN} bytes"),
        ));
    }

    let mut process = Process::default();
    process
        .set_terminal(Some(settings.terminal))
        .set_user(spec_user(&user)?)
        .set_args(Some(process::args(config, settings)?))
        .set_env(Some(process::env(config, settings, &user)?))
        .set_cwd(process::cwd(config, settings)?)
        .set_capabilities(Some(capability_sets(&capabilities)))
        .set_rlimits(None)
        .set_oom_score_adj(settings.oom_score_adj)
        .set_no_new_privileges(Some(settings.no_new_privs.unwrap_or(!settings.privileged)))
        .set_apparmor_profile(modules.apparmor_profile(settings)?)
        .set_selinux_label(modules.selinux_label(settings));

    let root = RootBuilder::default()
        .path(settings.rootfs_path.clone())
        .readonly(settings.readonly_rootfs)
        .build();
    let mut spec = Spec::default();
    spec.set_version(OCI_VERSION.to_owned())
        .set_root(Some(root.map_err(invalid("root"))?))
        .set_process(Some(process))
        // libcontainer, like runc, refuses a host name without a UTS namespace to set it in.
        .set_hostname(settings.hostname.clone().filter(|_| settings.namespaces.uts))
        .set_mounts(Some(mounts(settings)?))
        .set_annotations(
            (!settings.annotations.is_empty()).then(|| settings.annotations.clone().into_iter().collect()),
        )
        .set_linux(Some(linux(settings, &capabilities)?));
    Ok(spec)
}

/// The settings' user over the image's, part by part, with the settings' groups.
fn user(of_image: &str, settings: &ContainerSettings) -> Result<User, BundleError> {
    let mut user = user_of_both(of_image, settings)?;
    if settings.run_as_non_root {
        check_not_root(of_image, settings, &user)?;
    }
    if settings.strict_supplemental_groups {
        user.additional_gids.retain(|gid| *gid == user.gid);
    }
    for gid in &settings.supplemental_groups {
        if !user.additional_gids.contains(gid) {
            user.additional_gids.push(*gid);
        }
    }
    Ok(user)
}

fn user_of_both(of_image: &str, settings: &ContainerSettings) -> Result<User, BundleError> {
    let Some(given) = &settings.user else {
        return resolve_user(&settings.rootfs_layers, of_image);
    };
    let (image_user, image_group) = of_image.split_once(':').unwrap_or((of_image, ""));
    // Another user does not keep the group that the image gave to its own.
    let group_of_image = if given.user.is_some() { "" } else { image_group };
    let user = given.user.as_deref().unwrap_or(image_user);
    match given.group.as_deref().unwrap_or(group_of_image) {
        "" => resolve_user(&settings.rootfs_layers, user),
        group => resolve_user(&settings.rootfs_layers, &format!("{user}:{group}")),
    }
}

/// Refuses a user that is root, or a name: the image says what it stands for, and it may say
/// something else when it is looked up. The words are kubelet's.
fn check_not_root(of_image: &str, settings: &ContainerSettings, user: &User) -> Result<(), BundleError> {
    let refused = |reason: String| Err(BundleError::field("securityContext.runAsNonRoot", reason));
    let given = settings.user.as_ref().and_then(|given| given.user.as_deref());
    let name = given.unwrap_or_else(|| of_image.split_once(':').map_or(of_image, |(user, _)| user));
    if user.uid == 0 && given.is_some() {
        return refused("container's runAsUser breaks non-root policy".into());
    }
    if name.bytes().any(|b| !b.is_ascii_digit()) {
        let name = shown(name);
        return refused(format!(
            "container has runAsNonRoot and image has non-numeric user ({}), cannot verify user is non-root",
            name.escape_debug()
        ));
    }
    if user.uid == 0 {
        return refused("container has runAsNonRoot and image will run as root".into());
    }
    Ok(())
}

fn spec_user(user: &User) -> Result<oci_spec::runtime::User, BundleError> {
    let builder = UserBuilder::default()
        .uid(user.uid)
        .gid(user.gid)
        .additional_gids(user.additional_gids.clone());
    builder.build().map_err(invalid("user"))
}

/// Nothing inheritable or ambient: CVE-2022-24769.
fn capability_sets(set: &Capabilities) -> LinuxCapabilities {
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set.clone()))
        .set_inheritable(None)
        .set_ambient(None);
    sets
}

fn linux(settings: &ContainerSettings, capabilities: &Capabilities) -> Result<Linux, BundleError> {
    let owned = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources(settings).map_err(invalid("resources"))?))
        .set_namespaces(Some(namespaces(settings).map_err(invalid("namespaces"))?))
        .set_uid_mappings(id_mappings(settings).map_err(invalid("uidMappings"))?)
        .set_gid_mappings(id_mappings(settings).map_err(invalid("gidMappings"))?)
        .set_cgroups_path(settings.cgroups_path.clone())
        .set_masked_paths(None)
        .set_readonly_paths(None)
        .set_seccomp(None);
    if settings.privileged {
        linux.set_devices(Some(defaults::host_devices()?));
        return Ok(linux);
    }
    if !settings.unmasked {
        linux
            .set_masked_paths(owned(&defaults::MASKED_PATHS))
            .set_readonly_paths(owned(&defaults::READONLY_PATHS));
    }
    linux.set_seccomp(match &settings.seccomp {
        SeccompProfile::Default => Some(seccomp::default_profile(capabilities)?),
        SeccompProfile::Unconfined => None,
        SeccompProfile::Custom(profile) => Some(profile.as_ref().clone()),
        SeccompProfile::Document { name, text } => Some(seccomp::document(name, text, capabilities)?),
    });
    Ok(linux)
}

fn namespaces(settings: &ContainerSettings) -> Result<Vec<oci_spec::runtime::LinuxNamespace>, OciSpecError> {
    let new = &settings.namespaces;
    let kinds = [
        (new.pid, LinuxNamespaceType::Pid),
        (new.mount, LinuxNamespaceType::Mount),
        (new.network, LinuxNamespaceType::Network),
        (new.ipc, LinuxNamespaceType::Ipc),
        (new.uts, LinuxNamespaceType::Uts),
        (new.cgroup, LinuxNamespaceType::Cgroup),
    ];
    let new = kinds
        .into_iter()
        .filter(|(new, _)| *new)
        .map(|(_, kind)| LinuxNamespaceBuilder::default().typ(kind).build());
    let users = settings.user_namespace.as_ref().map(|users| &users.path);
    let processes = settings
        .process_namespace
        .as_ref()
        .map(|processes| &processes.path);
    let joined = [
        (users, LinuxNamespaceType::User),
        (processes, LinuxNamespaceType::Pid),
    ]
    .into_iter()
    .filter_map(|(path, kind)| Some(LinuxNamespaceBuilder::default().typ(kind).path(path?).build()));
    new.chain(joined).collect()
}

/// The maps of a joined user namespace: from them the runtime knows the streams' owner.
fn id_mappings(settings: &ContainerSettings) -> Result<Option<Vec<LinuxIdMapping>>, OciSpecError> {
    let mapping = settings.user_namespace.as_ref().map(|users| {
        LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(users.first)
            .size(users.size)
            .build()
    });
    Ok(mapping.transpose()?.map(|mapping| vec![mapping]))
}

/// Other limits of memory and processors for a container that runs; what is absent stays as it is.
///
/// # Errors
/// The runtime-spec cannot hold them.
pub fn limits_update(resources: &Resources) -> Result<LinuxResources, BundleError> {
    // Without a rule: those for devices stay as they are.
    let builder = LinuxResourcesBuilder::default().devices(Vec::new());
    let built = amounts(builder, resources).and_then(LinuxResourcesBuilder::build);
    built.map_err(invalid("linux.resources"))
}

fn amounts(
    mut builder: LinuxResourcesBuilder,
    resources: &Resources,
) -> Result<LinuxResourcesBuilder, OciSpecError> {
    if let Some(limit) = resources.memory_limit {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        // `swap` is memory and swap together: equal means no swap.
        builder = builder.memory(LinuxMemoryBuilder::default().limit(limit).swap(limit).build()?);
    }
    if resources.cpu_millis.is_some() || resources.cpu_shares.is_some() {
        let mut cpu = LinuxCpuBuilder::default();
        if let Some(millis) = resources.cpu_millis {
            let quota = millis.saturating_mul(CPU_PERIOD_US / 1000).max(MIN_CPU_QUOTA_US);
            cpu = cpu
                .quota(i64::try_from(quota).unwrap_or(i64::MAX))
                .period(CPU_PERIOD_US);
        }
        if let Some(shares) = resources.cpu_shares {
            cpu = cpu.shares(shares.clamp(2, 262_144));
        }
        builder = builder.cpu(cpu.build()?);
    }
    Ok(builder)
}

fn resources(settings: &ContainerSettings) -> Result<LinuxResources, OciSpecError> {
    let Resources {
        pids_limit,
        huge_pages,
        ..
    } = &settings.resources;
    // No device but those the runtime makes; a privileged container may use any.
    let devices = LinuxDeviceCgroupBuilder::default()
        .allow(settings.privileged)
        .access("rwm")
        .build()?;
    let pids = LinuxPidsBuilder::default()
        .limit(pids_limit.unwrap_or(DEFAULT_PIDS_LIMIT))
        .build()?;
    let builder = LinuxResourcesBuilder::default().devices(vec![devices]).pids(pids);
    let mut builder = amounts(builder, &settings.resources)?;
    if !huge_pages.is_empty() {
        let limits = huge_pages.iter().map(|(size, limit)| {
            LinuxHugepageLimitBuilder::default()
                .page_size(size.clone())
                .limit(i64::try_from(*limit).unwrap_or(i64::MAX))
                .build()
        });
        builder = builder.hugepage_limits(limits.collect::<Result<Vec<_>, _>>()?);
    }
    builder.build()
}

/// The standard mounts, less those that the settings replace, then the settings'.
fn mounts(settings: &ContainerSettings) -> Result<Vec<Mount>, BundleError> {
    let mut mounts = defaults::mounts(settings.privileged)?;
    let proc = mounts
        .iter_mut()
        .find(|mount| mount.destination() == Path::new("/proc"));
    let procfs = settings
        .process_namespace
        .as_ref()
        .and_then(|own| own.procfs.as_ref());
    if let (Some(procfs), Some(proc)) = (procfs, proc) {
        proc.set_typ(Some("bind".to_owned()))
            .set_source(Some(procfs.clone()));
        proc.options_mut().get_or_insert_default().push("bind".to_owned());
    }
    for (n, setting) in settings.mounts.iter().enumerate() {
        let mount = mount(
            &format!("mounts[{n}]"),
            setting,
            settings.user_namespace.is_some(),
        )?;
        mounts.retain(|standard| standard.destination() != mount.destination());
        mounts.push(mount);
    }
    Ok(mounts)
}

/// With `mapped` its files' owners are those of the container's user namespace.
fn mount(field: &str, setting: &MountSetting, mapped: bool) -> Result<Mount, BundleError> {
    let target = process::absolute(&format!("{field}.target"), &setting.target)?;
    if target == Path::new("/") || target.starts_with("/proc") {
        return Err(BundleError::field(
            format!("{field}.target"),
            format!("nothing can be mounted on {}", target.display()),
        ));
    }
    let access = if setting.readonly { "ro" } else { "rw" };
    let builder = MountBuilder::default().destination(target);
    let built = match setting.kind {
        MountKind::Bind | MountKind::BindUnmapped => {
            let source = process::absolute(&format!("{field}.source"), &setting.source)?;
            let propagation = match setting.propagation {
                Propagation::Private => "rprivate",
                Propagation::FromSource => "rslave",
                Propagation::Both => "rshared",
            };
            let access = if setting.readonly && setting.recursive_readonly {
                "rro"
            } else {
                access
            };
            let mut options = ["rbind", propagation, access].map(str::to_owned).to_vec();
            options.extend(setting.options.iter().cloned());
            if mapped && !setting.keeps_owners && setting.kind == MountKind::Bind {
                options.push("idmap".to_owned());
            }
            builder.typ("bind").source(source).options(options).build()
        }
        MountKind::Tmpfs { size } => {
            let mut options = ["nosuid", "nodev", "mode=1777", access]
                .map(str::to_owned)
                .to_vec();
            options.extend(size.map(|bytes| format!("size={bytes}")));
            builder.typ("tmpfs").source("tmpfs").options(options).build()
        }
    };
    built.map_err(invalid(field))
}

fn invalid(field: &str) -> impl Fn(OciSpecError) -> BundleError {
    move |e| BundleError::field(field, e.to_string())
}
