//! From Kubernetes' types to ours, checking every value.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{
    ContainerSpec, EmptyDir, HostPath, HostPathKind, PodSpec, SpecError, Volume, VolumeSource,
    check::{At, Result, absolute},
    container, names, quantity, security,
};
use crate::limits::{
    DEFAULT_GRACE_PERIOD, MAX_ANNOTATIONS_SIZE, MAX_CONTAINERS_PER_POD, MAX_HOST_PORTS_PER_POD,
    MAX_POD_NAME_LEN, MAX_VOLUMES_PER_POD,
};

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

    let security = security::pod(spec.security_context.unwrap_or_default(), spec.host_users)?;

    let volumes = volumes(spec.volumes.unwrap_or_default())?;
    let init = spec.init_containers.unwrap_or_default();
    check_count(init.len(), spec.containers.len())?;
    let mut seen = HashSet::new();
    let mut all = |list: Vec<k8s::Container>, field: &str| -> Result<Vec<ContainerSpec>> {
        let read = |(i, c)| {
            let path = format!("spec.{field}[{i}]");
            container::container(c, &volumes, &security, &mut seen, &path)
        };
        list.into_iter().enumerate().map(read).collect()
    };
    let init_containers = all(init, "initContainers")?;
    let containers = all(spec.containers, "containers")?;

    let host_network = spec.host_network.unwrap_or(false);
    check_host_ports(
        &[("initContainers", &init_containers), ("containers", &containers)],
        host_network,
    )?;

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
        host_aliases: host_aliases(spec.host_aliases.unwrap_or_default())?,
        host_network,
        host_users: spec.host_users,
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

fn check_count(init: usize, app: usize) -> Result<()> {
    let reason = match init + app {
        _ if app == 0 => "a pod has at least one container".to_owned(),
        count if count > MAX_CONTAINERS_PER_POD => {
            format!(
                "{count} containers with the init containers, at most {MAX_CONTAINERS_PER_POD} are allowed"
            )
        }
        _ => return Ok(()),
    };
    Err(SpecError::invalid("spec.containers", reason))
}

/// Addresses and the names that they have in the pod.
fn host_aliases(aliases: Vec<k8s::HostAlias>) -> Result<Vec<(IpAddr, Vec<String>)>> {
    let alias = |(i, alias): (usize, k8s::HostAlias)| {
        let field = format!("spec.hostAliases[{i}]");
        let ip = alias.ip.parse().map_err(|_| {
            SpecError::invalid(format!("{field}.ip"), format!("{:?} is no IP address", alias.ip))
        })?;
        let names = alias.hostnames.unwrap_or_default();
        for (j, name) in names.iter().enumerate() {
            names::dns_subdomain(name, 253).at(&format!("{field}.hostnames[{j}]"))?;
        }
        Ok((ip, names))
    };
    aliases.into_iter().enumerate().map(alias).collect()
}

/// Each address and port of the host is one container port's; on the host's network they are the same (Kubernetes' own rules).
fn check_host_ports(lists: &[(&str, &[ContainerSpec])], host_network: bool) -> Result<()> {
    let mut seen: Vec<SocketAddr> = Vec::new();
    for (list, containers) in lists {
        for (i, container) in containers.iter().enumerate() {
            for (j, port) in container.ports.iter().enumerate() {
                let Some(host) = port.host else { continue };
                let invalid = |reason| {
                    Err(SpecError::invalid(
                        format!("spec.{list}[{i}].ports[{j}].hostPort"),
                        reason,
                    ))
                };
                if host_network && host.port() != port.container_port {
                    return invalid(format!(
                        "with hostNetwork it is the containerPort, {}",
                        port.container_port
                    ));
                }
                if seen.contains(&host) {
                    return invalid(format!("{host} is another port's, too"));
                }
                if seen.len() == MAX_HOST_PORTS_PER_POD {
                    return invalid(format!("more than {MAX_HOST_PORTS_PER_POD} of them"));
                }
                seen.push(host);
            }
        }
    }
    Ok(())
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
                VolumeSource::HostPath(self::host_path(&host_path, &format!("{path}.hostPath"))?)
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

fn host_path(source: &k8s::HostPathVolumeSource, path: &str) -> Result<HostPath> {
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
