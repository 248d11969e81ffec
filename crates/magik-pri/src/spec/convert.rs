//! From Kubernetes' types to ours, checking every value.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use k8s_openapi::api::core::v1 as k8s;

use super::{
    ContainerSpec, PodData, PodSpec, SpecError,
    check::{At, Result, seconds},
    container,
    errors::Problems,
    host, lifecycle, names, pull_secrets, resources, security,
    volumes::{self, VolumeNames},
    walk::join,
};
use crate::limits::{
    DEFAULT_GRACE_PERIOD, MAX_ANNOTATIONS_SIZE, MAX_CONTAINERS_PER_POD, MAX_HOST_PORTS_PER_POD,
    MAX_POD_NAME_LEN,
};

/// Notes every value that is wrong. There may be a pod even then; where there is none, something was
/// noted.
pub(super) fn pod(pod: k8s::Pod, problems: &mut Problems) -> Option<PodSpec> {
    let metadata = pod.metadata;
    let name = metadata.name.unwrap_or_default();
    problems.or_default(names::dns_subdomain(&name, MAX_POD_NAME_LEN).at("metadata.name"));
    let namespace = metadata.namespace.unwrap_or_else(|| "default".into());
    problems.or_default(names::dns_label(&namespace).at("metadata.namespace"));
    let labels = metadata.labels.unwrap_or_default();
    let annotations = metadata.annotations.unwrap_or_default();
    check_labels(&labels, &annotations, problems);

    let mut spec = pod.spec?;
    host::check_namespaces(&spec, problems);
    let restart_policy = lifecycle::pod_policy(spec.restart_policy.as_deref());
    let restart_policy = problems.or_default(restart_policy);
    if let Some(hostname) = &spec.hostname {
        problems.or_default(names::dns_label(hostname).at("spec.hostname"));
    }
    host::override_name(&mut spec, problems);
    if let Some(k8s::PodOS { name }) = spec.os.take().filter(|os| os.name != "linux") {
        let why = format!("{name:?}: containers are Linux's");
        problems.add(SpecError::unsupported("spec.os.name", why));
    }
    let class = spec.runtime_class_name.take().map(|class| class.parse());
    let runtime_class = problems.or_default(class.transpose().at("spec.runtimeClassName"));

    let mut context = spec.security_context.take().unwrap_or_default();
    let sysctls = host::sysctls(context.sysctls.take().unwrap_or_default(), &spec, problems);
    let fs_group = context.fs_group.and_then(|group| u32::try_from(group).ok());
    let security = security::pod(context, spec.host_users, problems);

    let names = VolumeNames::new(spec.volumes.as_deref().unwrap_or_default(), problems);
    let volumes = volumes::volumes(spec.volumes.take().unwrap_or_default(), problems);
    let init = spec.init_containers.unwrap_or_default();
    problems.or_default(check_count(init.len(), spec.containers.len()));
    let mut seen = HashSet::new();
    let mut all = |list: Vec<k8s::Container>, is_init: bool| -> Vec<ContainerSpec> {
        let field = if is_init { "initContainers" } else { "containers" };
        // One that was not counted is not looked at.
        let list = list.into_iter().take(MAX_CONTAINERS_PER_POD).enumerate();
        list.map(|(i, c)| {
            let path = format!("spec.{field}[{i}]");
            let of = container::Of {
                volumes: &names,
                security: &security,
                restart_policy,
                is_init,
            };
            container::container(c, &of, &mut seen, &path, problems)
        })
        .collect()
    };
    let init_containers = all(init, true);
    let containers = all(spec.containers, false);

    let host_network = spec.host_network.unwrap_or(false);
    let lists = [("initContainers", &init_containers), ("containers", &containers)];
    check_host_ports(lists, host_network, problems);

    let grace = spec
        .termination_grace_period_seconds
        .map(|s| seconds(s, 0))
        .transpose()
        .at("spec.terminationGracePeriodSeconds");
    let deadline = spec
        .active_deadline_seconds
        .map(|s| seconds(s, 1))
        .transpose()
        .at("spec.activeDeadlineSeconds");
    let image_pull_secrets = pull_secrets::names(spec.image_pull_secrets.unwrap_or_default(), problems);
    let own = spec.resources.unwrap_or_default();
    let (limits, requests) = resources::resources(own, "spec.resources", problems);
    let dns = host::dns(spec.dns_policy.as_deref(), spec.dns_config, problems);
    let mut spec = PodSpec {
        name,
        namespace,
        labels,
        annotations,
        hostname: spec.hostname,
        host_aliases: host_aliases(spec.host_aliases.unwrap_or_default(), problems),
        host_network,
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        subdomain: spec.subdomain.filter(|name| !name.is_empty()),
        set_hostname_as_fqdn: spec.set_hostname_as_fqdn.unwrap_or(false),
        dns,
        sysctls,
        fs_group,
        image_pull_secrets,
        limits,
        requests,
        host_users: spec.host_users,
        share_process_namespace: spec.share_process_namespace.unwrap_or(false),
        init_containers,
        containers,
        volumes,
        claims: Vec::new(),
        termination_grace_period: problems.or_default(grace).unwrap_or(DEFAULT_GRACE_PERIOD),
        active_deadline: problems.or_default(deadline),
        restart_policy,
        runtime_class,
        given: serde_json::Value::Null,
        ignored_fields: Vec::new(),
        service_account_name: "default".into(),
        data: PodData::default(),
    };
    volumes::mount_read_only(&mut spec);
    resources::check_pod(&spec, problems);
    host::check_names(&spec, problems);
    Some(spec)
}

fn check_count(init: usize, app: usize) -> Result<()> {
    let reason = match init + app {
        _ if app == 0 => "a pod has at least one container: add one with name and image".to_owned(),
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
fn host_aliases(aliases: Vec<k8s::HostAlias>, problems: &mut Problems) -> Vec<(IpAddr, Vec<String>)> {
    let alias = |(i, alias): (usize, k8s::HostAlias)| {
        let field = format!("spec.hostAliases[{i}]");
        let names = alias.hostnames.unwrap_or_default();
        for (j, name) in names.iter().enumerate() {
            problems.or_default(names::dns_subdomain(name, 253).at(&format!("{field}.hostnames[{j}]")));
        }
        let ip = alias.ip.parse();
        let ip = ip.map_err(|_| format!("{:?} is no IP address, such as 192.0.2.1", alias.ip));
        Some((problems.ok(ip.at(&format!("{field}.ip")))?, names))
    };
    aliases.into_iter().enumerate().filter_map(alias).collect()
}

/// Each address and port of the host is one container port's; on the host's network they are the same (Kubernetes' own rules).
fn check_host_ports(lists: [(&str, &Vec<ContainerSpec>); 2], host_network: bool, problems: &mut Problems) {
    let mut seen: HashSet<SocketAddr> = HashSet::new();
    for (list, containers) in lists {
        for (i, container) in containers.iter().enumerate() {
            for (j, port) in container.ports.iter().enumerate() {
                let Some(host) = port.host else { continue };
                let reason = if host_network && host.port() != port.container_port {
                    format!(
                        "with hostNetwork it is the containerPort, {}",
                        port.container_port
                    )
                } else if seen.contains(&host) {
                    format!("{host} is another port's, too: choose another hostPort")
                } else if seen.len() == MAX_HOST_PORTS_PER_POD {
                    format!("more than {MAX_HOST_PORTS_PER_POD} of them")
                } else {
                    seen.insert(host);
                    continue;
                };
                let path = format!("spec.{list}[{i}].ports[{j}].hostPort");
                problems.add(SpecError::invalid(path, reason));
                if seen.len() == MAX_HOST_PORTS_PER_POD {
                    return;
                }
            }
        }
    }
}

fn check_labels(
    labels: &BTreeMap<String, String>,
    annotations: &BTreeMap<String, String>,
    problems: &mut Problems,
) {
    for (key, value) in labels {
        let path = join("metadata.labels", key);
        problems.or_default(names::qualified_key(key).at(&path));
        problems.or_default(names::label_value(value).at(&path));
    }
    for key in annotations.keys() {
        problems.or_default(names::qualified_key(key).at(&join("metadata.annotations", key)));
    }
    let size: usize = annotations.iter().map(|(k, v)| k.len() + v.len()).sum();
    if size > MAX_ANNOTATIONS_SIZE {
        problems.add(SpecError::invalid(
            "metadata.annotations",
            format!("{size} bytes, at most {MAX_ANNOTATIONS_SIZE} are allowed"),
        ));
    }
}
