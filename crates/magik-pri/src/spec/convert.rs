//! From Kubernetes' types to ours, checking every value.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Component, Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{
    ContainerSpec, EmptyDir, HostPath, HostPathKind, Limits, Mount, PodSpec, Port, Protocol, PullPolicy,
    Security, SpecError, Volume, VolumeSource, expand::expand, names, quantity,
};
use crate::limits::{
    DEFAULT_GRACE_PERIOD, MAX_ANNOTATIONS_SIZE, MAX_CONTAINERS_PER_POD, MAX_ENV_VARS_PER_CONTAINER,
    MAX_EXPANDED_SIZE, MAX_POD_NAME_LEN, MAX_VOLUMES_PER_POD, MIN_MEMORY_LIMIT,
};

type Result<T> = std::result::Result<T, SpecError>;

/// Puts the path before a reason.
trait At<T> {
    fn at(self, path: &str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, String> {
    fn at(self, path: &str) -> Result<T> {
        self.map_err(|reason| SpecError::invalid(path, reason))
    }
}

pub(super) fn pod(pod: k8s::Pod) -> Result<PodSpec> {
    let metadata = pod.metadata;
    let name = metadata
        .name
        .ok_or_else(|| SpecError::invalid("metadata.name", "is missing"))?;
    names::dns_subdomain(&name, MAX_POD_NAME_LEN).at("metadata.name")?;
    let namespace = metadata.namespace.unwrap_or_else(|| "default".into());
    names::dns_label(&namespace).at("metadata.namespace")?;
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    check_labels(&labels, &annotations)?;

    let spec = pod.spec.ok_or_else(|| SpecError::invalid("spec", "is missing"))?;
    restart_policy(spec.restart_policy.as_deref())?;
    if let Some(hostname) = &spec.hostname {
        names::dns_label(hostname).at("spec.hostname")?;
    }
    let runtime_class = spec
        .runtime_class_name
        .map(|class| class.parse())
        .transpose()
        .at("spec.runtimeClassName")?;

    let volumes = volumes(spec.volumes.unwrap_or_default())?;
    let init = spec.init_containers.unwrap_or_default();
    let count = init.len() + spec.containers.len();
    if count > MAX_CONTAINERS_PER_POD {
        let reason = format!(
            "{count} containers with the init containers, at most {MAX_CONTAINERS_PER_POD} are allowed"
        );
        return Err(SpecError::invalid("spec.containers", reason));
    }
    if spec.containers.is_empty() {
        return Err(SpecError::invalid(
            "spec.containers",
            "a pod has at least one container",
        ));
    }
    let mut seen = HashSet::new();
    let mut all = |list: Vec<k8s::Container>, field: &str| -> Result<Vec<ContainerSpec>> {
        let read = |(i, c)| container(c, &volumes, &mut seen, &format!("spec.{field}[{i}]"));
        list.into_iter().enumerate().map(read).collect()
    };
    let init_containers = all(init, "initContainers")?;
    let containers = all(spec.containers, "containers")?;

    let grace = spec
        .termination_grace_period_seconds
        .map(|s| seconds(s, 0))
        .transpose();
    let deadline = spec.active_deadline_seconds.map(|s| seconds(s, 1)).transpose();
    Ok(PodSpec {
        name,
        namespace,
        labels,
        annotations,
        hostname: spec.hostname,
        host_network: spec.host_network.unwrap_or(false),
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        init_containers,
        containers,
        volumes,
        termination_grace_period: grace
            .at("spec.terminationGracePeriodSeconds")?
            .unwrap_or(DEFAULT_GRACE_PERIOD),
        active_deadline: deadline.at("spec.activeDeadlineSeconds")?,
        runtime_class,
    })
}

fn check_labels(labels: &BTreeMap<String, String>, annotations: &BTreeMap<String, String>) -> Result<()> {
    for (key, value) in labels {
        names::qualified_key(key).at("metadata.labels")?;
        names::label_value(value).at(&format!("metadata.labels.{key}"))?;
    }
    for key in annotations.keys() {
        names::qualified_key(key).at("metadata.annotations")?;
    }
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_ANNOTATIONS_SIZE {
        return Err(SpecError::invalid(
            "metadata.annotations",
            format!("{size} bytes, at most {MAX_ANNOTATIONS_SIZE} are allowed"),
        ));
    }
    Ok(())
}

fn restart_policy(policy: Option<&str>) -> Result<()> {
    const PATH: &str = "spec.restartPolicy";
    match policy {
        None | Some("Never") => Ok(()),
        Some(policy @ ("Always" | "OnFailure")) => Err(SpecError::unsupported(
            PATH,
            format!("{policy}: a pod is replaced, not repaired; use Never, or leave it out"),
        )),
        Some(policy) => Err(SpecError::invalid(
            PATH,
            format!("{policy:?} is none of Never, Always, OnFailure"),
        )),
    }
}

fn seconds(value: i64, least: i64) -> std::result::Result<Duration, String> {
    match u64::try_from(value) {
        Ok(seconds) if value >= least && value <= i64::from(i32::MAX) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("{value} is not between {least} and {}", i32::MAX)),
    }
}

fn volumes(list: Vec<k8s::Volume>) -> Result<Vec<Volume>> {
    if list.len() > MAX_VOLUMES_PER_POD {
        let reason = format!(
            "{} volumes, at most {MAX_VOLUMES_PER_POD} are allowed",
            list.len()
        );
        return Err(SpecError::invalid("spec.volumes", reason));
    }
    let mut seen = HashSet::new();
    let mut volumes = Vec::with_capacity(list.len());
    for (i, volume) in list.into_iter().enumerate() {
        let path = format!("spec.volumes[{i}]");
        names::dns_label(&volume.name).at(&format!("{path}.name"))?;
        if !seen.insert(volume.name.clone()) {
            return Err(SpecError::invalid(
                format!("{path}.name"),
                format!("another volume is called {}, too", volume.name),
            ));
        }
        let source = match (volume.empty_dir, volume.host_path) {
            (Some(_), Some(_)) => return Err(SpecError::invalid(path, "is both an emptyDir and a hostPath")),
            (None, Some(host_path)) => {
                VolumeSource::HostPath(self::host_path(host_path, &format!("{path}.hostPath"))?)
            }
            // A volume without a source is an emptyDir in Kubernetes, too.
            (empty_dir, None) => VolumeSource::EmptyDir(self::empty_dir(
                empty_dir.unwrap_or_default(),
                &format!("{path}.emptyDir"),
            )?),
        };
        volumes.push(Volume {
            name: volume.name,
            source,
        });
    }
    Ok(volumes)
}

fn empty_dir(source: k8s::EmptyDirVolumeSource, path: &str) -> Result<EmptyDir> {
    let limit_path = format!("{path}.sizeLimit");
    let size_limit = source
        .size_limit
        .map(|Quantity(text)| quantity::parse_whole(&text))
        .transpose()
        .at(&limit_path)?;
    match source.medium.as_deref() {
        Some("Memory") if size_limit == Some(0) => Err(SpecError::invalid(limit_path, "must be more than 0")),
        Some("Memory") => Ok(EmptyDir::Memory { size_limit }),
        None | Some("") if size_limit.is_some() => Err(SpecError::unsupported(
            limit_path,
            "nothing would enforce it on disk; use medium: Memory, or leave it out",
        )),
        None | Some("") => Ok(EmptyDir::Disk),
        Some(medium) => Err(SpecError::unsupported(
            format!("{path}.medium"),
            format!("{medium:?}; use Memory, or leave it out"),
        )),
    }
}

fn host_path(source: k8s::HostPathVolumeSource, path: &str) -> Result<HostPath> {
    let kind = match source.type_.as_deref() {
        None | Some("") => HostPathKind::Any,
        Some("Directory") => HostPathKind::Directory,
        Some("DirectoryOrCreate") => HostPathKind::DirectoryOrCreate,
        Some("File") => HostPathKind::File,
        Some("FileOrCreate") => HostPathKind::FileOrCreate,
        Some("Socket") => HostPathKind::Socket,
        Some("CharDevice") => HostPathKind::CharDevice,
        Some("BlockDevice") => HostPathKind::BlockDevice,
        Some(kind) => {
            return Err(SpecError::invalid(
                format!("{path}.type"),
                format!("{kind:?} is none of Kubernetes' types"),
            ));
        }
    };
    Ok(HostPath {
        path: absolute(&source.path).at(&format!("{path}.path"))?,
        kind,
    })
}

/// Takes an absolute path without `..`, and drops what means nothing in it.
fn absolute(text: &str) -> std::result::Result<PathBuf, String> {
    let path = Path::new(text);
    if text.len() > 4095 || text.contains('\0') {
        return Err("is no path: too long, or it holds a NUL".into());
    }
    if !path.is_absolute() {
        return Err(format!("{text:?} must be absolute"));
    }
    if path.components().any(|c| matches!(c, Component::ParentDir)) {
        return Err(format!("{text:?} must not hold '..'"));
    }
    Ok(path.components().collect())
}

fn container(
    c: k8s::Container,
    volumes: &[Volume],
    seen: &mut HashSet<String>,
    path: &str,
) -> Result<ContainerSpec> {
    let field = |name: &str| format!("{path}.{name}");
    names::dns_label(&c.name).at(&field("name"))?;
    if !seen.insert(c.name.clone()) {
        return Err(SpecError::invalid(
            field("name"),
            format!("another container is called {}, too", c.name),
        ));
    }
    let image = c
        .image
        .filter(|image| !image.is_empty())
        .ok_or_else(|| SpecError::invalid(field("image"), "is missing"))?;
    let image = image
        .parse()
        .map_err(|e: magik_image::source::InvalidSource| SpecError::invalid(field("image"), e.to_string()))?;
    let image_pull_policy = match c.image_pull_policy.as_deref() {
        None | Some("") => None,
        Some("Always") => Some(PullPolicy::Always),
        Some("IfNotPresent") => Some(PullPolicy::IfNotPresent),
        Some("Never") => Some(PullPolicy::Never),
        Some(other) => {
            return Err(SpecError::invalid(
                field("imagePullPolicy"),
                format!("{other:?} is none of Always, IfNotPresent, Never"),
            ));
        }
    };
    let mut budget = MAX_EXPANDED_SIZE;
    let env = environment(c.env.unwrap_or_default(), &mut budget, &field("env"))?;
    let command = words(c.command, &env, &mut budget, &field("command"))?;
    let args = words(c.args, &env, &mut budget, &field("args"))?;
    let working_dir = c
        .working_dir
        .filter(|dir| !dir.is_empty())
        .map(|dir| absolute(&dir))
        .transpose()
        .at(&field("workingDir"))?;
    let (limits, requests) = resources(c.resources.unwrap_or_default(), &field("resources"))?;
    Ok(ContainerSpec {
        mounts: mounts(
            c.volume_mounts.unwrap_or_default(),
            volumes,
            &field("volumeMounts"),
        )?,
        ports: ports(c.ports.unwrap_or_default(), &field("ports"))?,
        security: security(c.security_context.unwrap_or_default(), &field("securityContext"))?,
        name: c.name,
        image,
        image_pull_policy,
        command,
        args,
        env,
        working_dir,
        limits,
        requests,
    })
}

fn no_nul(text: &str) -> std::result::Result<(), String> {
    if text.contains('\0') {
        Err("must not hold a NUL".into())
    } else {
        Ok(())
    }
}

const TOO_LONG: &str = "is too long once $(NAME) is expanded";

fn environment(list: Vec<k8s::EnvVar>, budget: &mut usize, path: &str) -> Result<Vec<(String, String)>> {
    if list.len() > MAX_ENV_VARS_PER_CONTAINER {
        let reason = format!(
            "{} variables, at most {MAX_ENV_VARS_PER_CONTAINER} are allowed",
            list.len()
        );
        return Err(SpecError::invalid(path, reason));
    }
    let mut env: Vec<(String, String)> = Vec::with_capacity(list.len());
    for (i, var) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        names::env_name(&var.name).at(&format!("{path}.name"))?;
        let value = var.value.unwrap_or_default();
        no_nul(&value).at(&format!("{path}.value"))?;
        let value = expand(&value, lookup(&env), budget)
            .ok_or_else(|| SpecError::invalid(format!("{path}.value"), TOO_LONG))?;
        env.push((var.name, value));
    }
    Ok(env)
}

/// The value of a variable: of equal names the last one counts.
fn lookup<'a>(env: &'a [(String, String)]) -> impl Fn(&str) -> Option<&'a str> {
    move |name| {
        env.iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }
}

fn words(
    list: Option<Vec<String>>,
    env: &[(String, String)],
    budget: &mut usize,
    path: &str,
) -> Result<Option<Vec<String>>> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let mut words = Vec::with_capacity(list.len());
    for (i, word) in list.iter().enumerate() {
        let path = format!("{path}[{i}]");
        no_nul(word).at(&path)?;
        words.push(expand(word, lookup(env), budget).ok_or_else(|| SpecError::invalid(path, TOO_LONG))?);
    }
    Ok(Some(words))
}

fn resources(resources: k8s::ResourceRequirements, path: &str) -> Result<(Limits, Limits)> {
    let limits = amounts(resources.limits.unwrap_or_default(), &format!("{path}.limits"))?;
    let requests = amounts(
        resources.requests.unwrap_or_default(),
        &format!("{path}.requests"),
    )?;
    let positive = |value: Option<u64>, name: &str| match value {
        Some(0) => Err(SpecError::invalid(
            format!("{path}.limits.{name}"),
            "must be more than 0; leave it out for no limit",
        )),
        _ => Ok(()),
    };
    positive(limits.cpu_millis, "cpu")?;
    if let Some(memory) = limits.memory.filter(|memory| *memory < MIN_MEMORY_LIMIT) {
        let reason = format!(
            "{memory} bytes, at least {MIN_MEMORY_LIMIT} are needed to start a program (m is a thousandth, Mi is MiB)"
        );
        return Err(SpecError::invalid(format!("{path}.limits.memory"), reason));
    }
    let within = |request: Option<u64>, limit: Option<u64>, name: &str| match (request, limit) {
        (Some(request), Some(limit)) if request > limit => Err(SpecError::invalid(
            format!("{path}.requests.{name}"),
            "must not be more than the limit",
        )),
        _ => Ok(()),
    };
    within(requests.cpu_millis, limits.cpu_millis, "cpu")?;
    within(requests.memory, limits.memory, "memory")?;
    Ok((limits, requests))
}

fn amounts(list: BTreeMap<String, Quantity>, path: &str) -> Result<Limits> {
    let get = |name: &str, parse: fn(&str) -> std::result::Result<u64, String>| {
        list.get(name)
            .map(|Quantity(text)| parse(text))
            .transpose()
            .at(&format!("{path}.{name}"))
    };
    let limits = Limits {
        cpu_millis: get("cpu", quantity::parse_milli)?,
        memory: get("memory", quantity::parse_whole)?,
    };
    // What the kernel takes: quota in microseconds per 100 ms, and bytes, both as signed numbers.
    for (value, largest, name) in [
        (limits.cpu_millis, 100_000_000, "cpu"),
        (limits.memory, i64::MAX.unsigned_abs(), "memory"),
    ] {
        if value.is_some_and(|value| value > largest) {
            return Err(SpecError::invalid(format!("{path}.{name}"), "is too large"));
        }
    }
    Ok(limits)
}

fn security(context: k8s::SecurityContext, path: &str) -> Result<Security> {
    let id = |value: Option<i64>, name: &str| -> Result<Option<u32>> {
        let read = |value: i64| match u32::try_from(value) {
            // The largest one means "none" to the kernel; Kubernetes has the bound of signed numbers.
            Ok(id) if value <= i64::from(i32::MAX) => Ok(id),
            _ => Err(format!("{value} is not between 0 and {}", i32::MAX)),
        };
        value.map(read).transpose().at(&format!("{path}.{name}"))
    };
    let run_as_user = id(context.run_as_user, "runAsUser")?;
    let run_as_group = id(context.run_as_group, "runAsGroup")?;
    if run_as_group.is_some() && run_as_user.is_none() {
        return Err(SpecError::invalid(
            format!("{path}.runAsGroup"),
            "needs runAsUser, too",
        ));
    }
    let capabilities = context.capabilities.unwrap_or_default();
    let known = |list: Option<Vec<String>>, name: &str| -> Result<Vec<String>> {
        let list = list.unwrap_or_default();
        for (i, capability) in list.iter().enumerate() {
            let plain = capability.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
            if capability.is_empty() || capability.len() > 64 || !plain {
                return Err(SpecError::invalid(
                    format!("{path}.capabilities.{name}[{i}]"),
                    "is no capability: write NET_ADMIN, ALL or the like",
                ));
            }
        }
        Ok(list)
    };
    Ok(Security {
        run_as_user,
        run_as_group,
        read_only_root_filesystem: context.read_only_root_filesystem.unwrap_or(false),
        privileged: context.privileged.unwrap_or(false),
        add_capabilities: known(capabilities.add, "add")?,
        drop_capabilities: known(capabilities.drop, "drop")?,
    })
}

fn mounts(list: Vec<k8s::VolumeMount>, volumes: &[Volume], path: &str) -> Result<Vec<Mount>> {
    let mut seen = HashSet::new();
    let mut mounts = Vec::with_capacity(list.len());
    for (i, mount) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        if !volumes.iter().any(|v| v.name == mount.name) {
            let name: String = mount.name.chars().take(64).collect();
            return Err(SpecError::invalid(
                format!("{path}.name"),
                format!("no volume of the pod is called {name:?}"),
            ));
        }
        let path = format!("{path}.mountPath");
        let target = absolute(&mount.mount_path).at(&path)?;
        if target == Path::new("/") {
            return Err(SpecError::invalid(path, "must not be /"));
        }
        if !seen.insert(target.clone()) {
            return Err(SpecError::invalid(
                path,
                format!("{} is mounted on twice", target.display()),
            ));
        }
        mounts.push(Mount {
            volume: mount.name,
            path: target,
            read_only: mount.read_only.unwrap_or(false),
        });
    }
    // As CRI runtimes do it: an outer mount does not cover an inner one, whatever order they are written in.
    mounts.sort_by_key(|mount| mount.path.components().count());
    Ok(mounts)
}

fn ports(list: Vec<k8s::ContainerPort>, path: &str) -> Result<Vec<Port>> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let mut ports = Vec::with_capacity(list.len());
    for (i, port) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let number = u16::try_from(port.container_port).ok().filter(|n| *n > 0);
        let container_port = number
            .ok_or_else(|| format!("{} is not between 1 and 65535", port.container_port))
            .at(&format!("{path}.containerPort"))?;
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP" | "") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            Some(other) => {
                return Err(SpecError::invalid(
                    format!("{path}.protocol"),
                    format!("{other:?} is none of TCP, UDP, SCTP"),
                ));
            }
        };
        let name = port.name.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            names::port_name(name).at(&format!("{path}.name"))?;
            if !names.insert(name.clone()) {
                return Err(SpecError::invalid(
                    format!("{path}.name"),
                    format!("another port is called {name}, too"),
                ));
            }
        }
        if !numbers.insert((container_port, protocol)) {
            return Err(SpecError::invalid(
                format!("{path}.containerPort"),
                format!("{container_port} is listed twice"),
            ));
        }
        ports.push(Port {
            name,
            container_port,
            protocol,
        });
    }
    Ok(ports)
}
