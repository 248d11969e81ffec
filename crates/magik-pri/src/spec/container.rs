//! From Kubernetes' container to ours, checking every value.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{
    ContainerSpec, Limits, Mount, Port, Protocol, PullPolicy, SpecError, Volume,
    check::{At, Result, absolute},
    expand::expand,
    names, quantity,
    security::{self, PodSecurity},
};
use crate::limits::{MAX_ENV_VARS_PER_CONTAINER, MAX_EXPANDED_SIZE, MIN_MEMORY_LIMIT};

pub(super) fn container(
    c: k8s::Container,
    volumes: &[Volume],
    pod: &PodSecurity,
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
        security: security::container(
            c.security_context.unwrap_or_default(),
            pod,
            &field("securityContext"),
        )?,
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
    let limits = amounts(&resources.limits.unwrap_or_default(), &format!("{path}.limits"))?;
    let requests = amounts(
        &resources.requests.unwrap_or_default(),
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

fn amounts(list: &BTreeMap<String, Quantity>, path: &str) -> Result<Limits> {
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

fn port_number(number: i32) -> std::result::Result<u16, String> {
    let number_or_none = u16::try_from(number).ok().filter(|n| *n > 0);
    number_or_none.ok_or_else(|| format!("{number} is not between 1 and 65535"))
}

fn ports(list: Vec<k8s::ContainerPort>, path: &str) -> Result<Vec<Port>> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let mut ports = Vec::with_capacity(list.len());
    for (i, port) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let container_port = port_number(port.container_port).at(&format!("{path}.containerPort"))?;
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
        let host = match port.host_port {
            // Kubernetes' own meaning of 0.
            None | Some(0) => None,
            Some(_) if protocol != Protocol::Tcp => {
                return Err(SpecError::unsupported(
                    format!("{path}.hostPort"),
                    "only TCP is forwarded; use hostNetwork",
                ));
            }
            Some(number) => Some(port_number(number).at(&format!("{path}.hostPort"))?),
        };
        let address = match port.host_ip.as_deref() {
            None | Some("") => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Some(text) => text
                .parse()
                .map_err(|_| format!("{text:?} is no IP address"))
                .at(&format!("{path}.hostIP"))?,
        };
        ports.push(Port {
            name,
            container_port,
            host: host.map(|number| SocketAddr::new(address, number)),
            protocol,
        });
    }
    Ok(ports)
}
