//! From Kubernetes' container to ours, checking every value.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use k8s_openapi::api::core::v1 as k8s;
use magik_image::source::ImageSource;
use magik_infra::plan::RestartPolicy;

use super::{
    ContainerSpec, IgnoredField, Port, Protocol, SpecError,
    check::{At, Result, absolute, image, pull_policy},
    env,
    errors::Problems,
    lifecycle::{self, Asked, Context},
    names, resize, resources,
    security::{self, PodSecurity},
    streams,
    volumes::{VolumeNames, check_propagation, mounts},
};

/// What a container has of its pod.
pub(super) struct Of<'a> {
    pub(super) volumes: &'a VolumeNames,
    pub(super) security: &'a PodSecurity,
    pub(super) restart_policy: RestartPolicy,
    pub(super) is_init: bool,
}

pub(super) fn container(
    mut c: k8s::Container,
    of: &Of<'_>,
    seen: &mut HashSet<String>,
    path: &str,
    problems: &mut Problems,
) -> ContainerSpec {
    let field = |name: &str| format!("{path}.{name}");
    let c_is_no_sidecar = c.restart_policy.as_deref() != Some("Always");
    let asked = Asked::of(&mut c);
    let streams = streams::Asked::of(&mut c);
    problems.or_default(names::dns_label(&c.name).at(&field("name")));
    if !seen.insert(c.name.clone()) {
        problems.add(SpecError::invalid(
            field("name"),
            format!(
                "another container is called {}, too: give it another name",
                c.name
            ),
        ));
    }
    let image = image(c.image.as_deref().unwrap_or_default()).at(&field("image"));
    // Nobody will see the other one, but those behind it keep their numbers.
    let image = problems.ok(image).unwrap_or_else(|| ImageSource::OciDir {
        path: PathBuf::new(),
        tag: None,
    });
    let policy = pull_policy(c.image_pull_policy.as_deref()).at(&field("imagePullPolicy"));
    let image_pull_policy = problems.or_default(policy);
    let env_from = env::sources(c.env_from.unwrap_or_default(), &field("envFrom"), problems);
    let env = env::variables(c.env.unwrap_or_default(), &field("env"), problems);
    let words = |list: Option<Vec<String>>| list.filter(|list| !list.is_empty());
    let working_dir = c
        .working_dir
        .filter(|dir| !dir.is_empty())
        .map(|dir| absolute(&dir))
        .transpose()
        .at(&field("workingDir"));
    let working_dir = problems.or_default(working_dir);
    let (limits, requests) =
        resources::resources(c.resources.unwrap_or_default(), &field("resources"), problems);
    let mounts = mounts(
        c.volume_mounts.unwrap_or_default(),
        of.volumes,
        &field("volumeMounts"),
        problems,
    );
    let policies = c.resize_policy.take().unwrap_or_default();
    if of.is_init && !policies.is_empty() && c_is_no_sidecar {
        let reason = "an init container has none, unless it is a sidecar: restartPolicy: Always";
        problems.add(SpecError::invalid(field("resizePolicy"), reason));
    }
    let never = of.restart_policy == RestartPolicy::Never;
    let resize_restarts = resize::resize_policy(policies, never, &field("resizePolicy"), problems);
    let console = streams.console(path, problems);
    let termination_message = streams.message(&mounts, path, problems);
    let ports = ports(c.ports.unwrap_or_default(), &field("ports"), problems);
    let context = Context {
        pod_policy: of.restart_policy,
        is_init: of.is_init,
        ports: &ports,
        path,
    };
    let lifecycle = lifecycle::lifecycle(asked, &context, problems);
    let context = c.security_context.unwrap_or_default();
    let security = security::container(context, of.security, &field("securityContext"), problems);
    check_propagation(&mounts, security.privileged, &field("volumeMounts"), problems);
    ContainerSpec {
        name: c.name,
        image,
        image_pull_policy,
        command: words(c.command),
        args: words(c.args),
        env_from,
        env,
        working_dir,
        limits,
        requests,
        ports,
        mounts,
        security,
        lifecycle,
        console,
        termination_message,
        resize_restarts,
    }
}

fn port_number(number: i32) -> std::result::Result<u16, String> {
    let number_or_none = u16::try_from(number).ok().filter(|n| *n > 0);
    number_or_none.ok_or_else(|| format!("{number} is not between 1 and 65535"))
}

fn ports(list: Vec<k8s::ContainerPort>, path: &str, problems: &mut Problems) -> Vec<Port> {
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    let port = |(i, port): (usize, k8s::ContainerPort)| {
        let path = format!("{path}[{i}]");
        let name = port.name.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            let path = format!("{path}.name");
            problems.or_default(names::port_name(name).at(&path));
            if !names.insert(name.clone()) {
                let reason = format!("another port is called {name}, too: give it another name");
                problems.add(SpecError::invalid(path, reason));
            }
        }
        let protocol = protocol(port.protocol.as_deref()).at(&format!("{path}.protocol"));
        let protocol = problems.ok(protocol);
        let host = host_port(port.host_port, protocol, &path);
        let host = problems.or_default(host);
        let address = match port.host_ip.as_deref() {
            None | Some("") => Ok(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Some(text) => text
                .parse()
                .map_err(|_| format!("{text:?} is no IP address, such as 127.0.0.1")),
        };
        let ip_path = format!("{path}.hostIP");
        if host.is_none() && port.host_ip.is_some_and(|text| !text.is_empty()) {
            let why = "there is no hostPort";
            problems.ignored.push(IgnoredField::new(&ip_path, why));
        }
        let address = problems.ok(address.at(&ip_path));
        let path = format!("{path}.containerPort");
        let container_port = problems.ok(port_number(port.container_port).at(&path));
        if let (Some(number), Some(protocol)) = (container_port, protocol)
            && !numbers.insert((number, protocol))
            && host.is_none()
        {
            let why = format!("{number} is listed above, too");
            problems.ignored.push(IgnoredField::new(&path, why));
        }
        // What is wrong is left out, but those behind it keep their numbers.
        Port {
            name,
            container_port: container_port.unwrap_or_default(),
            host: container_port
                .and(address.zip(host))
                .map(|(address, number)| SocketAddr::new(address, number)),
            protocol: protocol.unwrap_or(Protocol::Tcp),
        }
    };
    list.into_iter().enumerate().map(port).collect()
}

fn protocol(text: Option<&str>) -> std::result::Result<Protocol, String> {
    match text {
        None | Some("TCP" | "") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(format!("{other:?} is none of TCP, UDP, SCTP")),
    }
}

/// The port of the host; `path` is the container port's.
fn host_port(number: Option<i32>, protocol: Option<Protocol>, path: &str) -> Result<Option<u16>> {
    let path = format!("{path}.hostPort");
    match number {
        // Kubernetes' own meaning of 0.
        None | Some(0) => Ok(None),
        Some(_) if protocol.is_some_and(|protocol| protocol != Protocol::Tcp) => Err(SpecError::unsupported(
            path,
            "only TCP is forwarded; use hostNetwork",
        )),
        Some(number) => port_number(number).map(Some).at(&path),
    }
}
