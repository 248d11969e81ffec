//! Restarts, probes and hooks, from Kubernetes' types to those of the pod's init.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::util::intstr::IntOrString};
use magik_infra::plan::{Handler, Lifecycle, Probe, RestartPolicy, RestartRule};
use magik_oci::Signal;

use super::{
    Port, SpecError,
    check::{At, Result, seconds},
    errors::Problems,
};
use crate::limits::{MAX_PROBE_HEADERS, MAX_PROBE_SERVICE, MAX_RESTART_CODES};

/// The pod's `restartPolicy`; absent it is `Always`, as in Kubernetes.
pub(super) fn pod_policy(policy: Option<&str>) -> Result<RestartPolicy> {
    policy
        .map_or(Ok(RestartPolicy::Always), restart_policy)
        .at("spec.restartPolicy")
}

fn restart_policy(policy: &str) -> std::result::Result<RestartPolicy, String> {
    match policy {
        "Always" => Ok(RestartPolicy::Always),
        "OnFailure" => Ok(RestartPolicy::OnFailure),
        "Never" => Ok(RestartPolicy::Never),
        other => Err(format!("{other:?} is none of Always, OnFailure, Never")),
    }
}

/// What the other fields of a container have to be known for.
pub(super) struct Context<'a> {
    pub(super) pod_policy: RestartPolicy,
    pub(super) is_init: bool,
    pub(super) ports: &'a [Port],
    /// The container's path.
    pub(super) path: &'a str,
}

/// What is asked for, of a container.
pub(super) struct Asked {
    pub(super) policy: Option<String>,
    pub(super) rules: Option<Vec<k8s::ContainerRestartRule>>,
    pub(super) hooks: Option<k8s::Lifecycle>,
    pub(super) startup: Option<k8s::Probe>,
    pub(super) readiness: Option<k8s::Probe>,
    pub(super) liveness: Option<k8s::Probe>,
}

impl Asked {
    /// Takes its fields out of a container.
    pub(super) fn of(container: &mut k8s::Container) -> Self {
        Self {
            policy: container.restart_policy.take(),
            rules: container.restart_policy_rules.take(),
            hooks: container.lifecycle.take(),
            startup: container.startup_probe.take(),
            readiness: container.readiness_probe.take(),
            liveness: container.liveness_probe.take(),
        }
    }
}

/// A container's restarts, probes and hooks.
pub(super) fn lifecycle(asked: Asked, context: &Context<'_>, problems: &mut Problems) -> Lifecycle {
    let field = |name: &str| format!("{}.{name}", context.path);
    let own = asked.policy.as_deref().map(restart_policy).transpose();
    let own = problems.or_default(own.at(&field("restartPolicy")));
    let is_sidecar = context.is_init && own == Some(RestartPolicy::Always);
    if context.is_init && !is_sidecar {
        let all = [
            ("lifecycle", asked.hooks.is_some()),
            ("startupProbe", asked.startup.is_some()),
            ("readinessProbe", asked.readiness.is_some()),
            ("livenessProbe", asked.liveness.is_some()),
        ];
        for (name, _) in all.into_iter().filter(|(_, given)| *given) {
            let reason = "an init container has none, unless it is a sidecar: restartPolicy: Always";
            problems.add(SpecError::invalid(field(name), reason));
        }
    }
    let pods = match context.pod_policy {
        // An init container is to end.
        RestartPolicy::Always if context.is_init => RestartPolicy::OnFailure,
        policy => policy,
    };
    let rules = asked.rules.unwrap_or_default();
    if !rules.is_empty() && own.is_none() {
        let reason = "is missing: what restartPolicyRules say goes before it";
        problems.add(SpecError::invalid(field("restartPolicy"), reason));
    }
    let mut probe = |probe: Option<k8s::Probe>, name: &str| {
        let what = Kind::of(name);
        probe.and_then(|probe| self::probe(probe, what, context.ports, &field(name), problems))
    };
    let (startup, readiness, liveness) = (
        probe(asked.startup, "startupProbe"),
        probe(asked.readiness, "readinessProbe"),
        probe(asked.liveness, "livenessProbe"),
    );
    let hooks = asked.hooks.unwrap_or_default();
    let mut hook = |handler: Option<k8s::LifecycleHandler>, name: &str| {
        let path = field(&format!("lifecycle.{name}"));
        handler.and_then(|handler| self::hook(handler, context.ports, &path, problems))
    };
    let (post_start, pre_stop) = (
        hook(hooks.post_start, "postStart"),
        hook(hooks.pre_stop, "preStop"),
    );
    let signal = hooks.stop_signal.as_deref().map(stop_signal).transpose();
    Lifecycle {
        restart: own.unwrap_or(pods),
        restart_rules: restart_rules(&rules, &field("restartPolicyRules"), problems),
        startup,
        readiness,
        liveness,
        post_start,
        pre_stop,
        stop_signal: problems.or_default(signal.at(&field("lifecycle.stopSignal"))),
    }
}

fn stop_signal(name: &str) -> std::result::Result<i32, String> {
    let signal: std::result::Result<Signal, _> = name.parse();
    match signal {
        Ok(Signal(number)) if name.starts_with("SIG") => Ok(number),
        _ => Err(format!("{name:?} is no signal, such as SIGQUIT")),
    }
}

fn restart_rules(
    rules: &[k8s::ContainerRestartRule],
    path: &str,
    problems: &mut Problems,
) -> Vec<RestartRule> {
    let rules = rules.iter().enumerate();
    let rules = rules.filter_map(|(i, rule)| problems.ok(restart_rule(rule, &format!("{path}[{i}]"))));
    rules.collect()
}

fn restart_rule(rule: &k8s::ContainerRestartRule, path: &str) -> Result<RestartRule> {
    let all = match rule.action.as_str() {
        "Restart" => Ok(false),
        "RestartAllContainers" => Ok(true),
        other => Err(format!("{other:?} is none of Restart, RestartAllContainers")),
    };
    let all = all.at(&format!("{path}.action"))?;
    let path = format!("{path}.exitCodes");
    let codes = rule.exit_codes.as_ref();
    let codes = codes.ok_or_else(|| SpecError::invalid(&path, "is missing"))?;
    let but_these = match codes.operator.as_str() {
        "In" => Ok(false),
        "NotIn" => Ok(true),
        other => Err(format!("{other:?} is none of In, NotIn")),
    };
    let but_these = but_these.at(&format!("{path}.operator"))?;
    let codes = codes.values.clone().unwrap_or_default();
    if codes.is_empty() || codes.len() > MAX_RESTART_CODES {
        let reason = format!(
            "has {} exit codes, from 1 to {MAX_RESTART_CODES} are allowed",
            codes.len()
        );
        return Err(SpecError::invalid(format!("{path}.values"), reason));
    }
    Ok(RestartRule {
        codes,
        but_these,
        all,
    })
}

/// Which of the three a probe is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

impl Kind {
    fn of(field: &str) -> Self {
        match field {
            "startupProbe" => Self::Startup,
            "readinessProbe" => Self::Readiness,
            _ => Self::Liveness,
        }
    }
}

fn probe(
    probe: k8s::Probe,
    kind: Kind,
    ports: &[Port],
    path: &str,
    problems: &mut Problems,
) -> Option<Probe> {
    let mut number = |value: Option<i32>, name: &str, usual: u32, least: u32| -> u32 {
        let number = match value {
            // Kubernetes' own meaning of 0.
            None | Some(0) => Ok(usual),
            Some(value) => u32::try_from(value)
                .ok()
                .filter(|value| *value >= least)
                .ok_or_else(|| format!("{value} is not between {least} and {}", i32::MAX)),
        };
        problems.ok(number.at(&format!("{path}.{name}"))).unwrap_or(usual)
    };
    let initial_delay_s = number(probe.initial_delay_seconds, "initialDelaySeconds", 0, 0);
    let period_s = number(probe.period_seconds, "periodSeconds", 10, 1);
    let timeout_s = number(probe.timeout_seconds, "timeoutSeconds", 1, 1);
    let success_threshold = number(probe.success_threshold, "successThreshold", 1, 1);
    let failure_threshold = number(probe.failure_threshold, "failureThreshold", 3, 1);
    if kind != Kind::Readiness && success_threshold != 1 {
        let reason = "must be 1: one good answer is enough here";
        problems.add(SpecError::invalid(format!("{path}.successThreshold"), reason));
    }
    let grace_path = format!("{path}.terminationGracePeriodSeconds");
    let grace_s = match probe.termination_grace_period_seconds {
        None => Ok(None),
        Some(_) if kind == Kind::Readiness => {
            Err("a readiness probe ends no container; remove it".to_owned())
        }
        Some(value) => seconds(value, 1).map(|grace| Some(grace.as_secs())),
    };
    let grace_s = problems.or_default(grace_s.at(&grace_path));
    let asked = Questions {
        exec: probe.exec,
        http_get: probe.http_get,
        tcp_socket: probe.tcp_socket,
        grpc: probe.grpc,
        sleep: None,
    };
    if asked.is_empty() && problems.has_within(path) {
        // What was there was taken out, and enough was said of it.
        return None;
    }
    let handler = problems.ok(asked.handler(ports, path, "exec, httpGet, tcpSocket and grpc"))?;
    Some(Probe {
        handler,
        initial_delay_s: initial_delay_s.into(),
        period_s: period_s.into(),
        timeout_s: timeout_s.into(),
        success_threshold,
        failure_threshold,
        grace_s,
    })
}

fn hook(
    handler: k8s::LifecycleHandler,
    ports: &[Port],
    path: &str,
    problems: &mut Problems,
) -> Option<Handler> {
    let asked = Questions {
        exec: handler.exec,
        http_get: handler.http_get,
        tcp_socket: None,
        grpc: None,
        sleep: handler.sleep,
    };
    if asked.is_empty() && problems.has_within(path) {
        return None;
    }
    problems.ok(asked.handler(ports, path, "exec, httpGet and sleep"))
}

/// What a probe or a hook can be; one of them is given.
struct Questions {
    exec: Option<k8s::ExecAction>,
    http_get: Option<k8s::HTTPGetAction>,
    tcp_socket: Option<k8s::TCPSocketAction>,
    grpc: Option<k8s::GRPCAction>,
    sleep: Option<k8s::SleepAction>,
}

impl Questions {
    fn is_empty(&self) -> bool {
        self.given() == 0
    }

    fn given(&self) -> usize {
        let all = [
            self.exec.is_some(),
            self.http_get.is_some(),
            self.tcp_socket.is_some(),
            self.grpc.is_some(),
            self.sleep.is_some(),
        ];
        all.into_iter().filter(|given| *given).count()
    }

    fn handler(self, ports: &[Port], path: &str, names: &str) -> Result<Handler> {
        match self.given() {
            0 => {
                let reason = format!("does nothing: it has one of {names}");
                return Err(SpecError::invalid(path, reason));
            }
            1 => {}
            _ => {
                let reason = format!("has several of {names}: keep one");
                return Err(SpecError::invalid(path, reason));
            }
        }
        if let Some(asked) = self.exec {
            return exec(asked, &format!("{path}.exec.command"));
        }
        if let Some(asked) = self.http_get {
            return http_get(asked, ports, &format!("{path}.httpGet"));
        }
        if let Some(asked) = self.tcp_socket {
            let path = format!("{path}.tcpSocket");
            return Ok(Handler::TcpSocket {
                host: host(asked.host.as_deref()).at(&format!("{path}.host"))?,
                port: port(&asked.port, ports).at(&format!("{path}.port"))?,
            });
        }
        if let Some(asked) = self.grpc {
            return grpc(asked, ports, &format!("{path}.grpc"));
        }
        let pause = self.sleep.map_or(0, |sleep| sleep.seconds);
        Ok(Handler::Sleep {
            seconds: seconds(pause, 0).at(&format!("{path}.sleep.seconds"))?.as_secs(),
        })
    }
}

fn exec(asked: k8s::ExecAction, path: &str) -> Result<Handler> {
    let command = asked.command.unwrap_or_default();
    if command.first().is_none_or(String::is_empty) {
        return Err(SpecError::invalid(path, "names no program"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(SpecError::invalid(path, "must not hold a NUL"));
    }
    Ok(Handler::Exec { command })
}

fn grpc(asked: k8s::GRPCAction, ports: &[Port], path: &str) -> Result<Handler> {
    let service = asked.service.unwrap_or_default();
    if service.len() > MAX_PROBE_SERVICE {
        let reason = format!(
            "has {} bytes, at most {MAX_PROBE_SERVICE} are allowed",
            service.len()
        );
        return Err(SpecError::invalid(format!("{path}.service"), reason));
    }
    let tls = match asked.mode.as_deref() {
        None | Some("Plaintext") => Ok(false),
        Some("TLS") => Ok(true),
        Some(other) => Err(format!("{other:?} is none of Plaintext, TLS")),
    };
    Ok(Handler::Grpc {
        port: port(&IntOrString::Int(asked.port), ports).at(&format!("{path}.port"))?,
        service,
        tls: tls.at(&format!("{path}.mode"))?,
    })
}

fn http_get(asked: k8s::HTTPGetAction, ports: &[Port], path: &str) -> Result<Handler> {
    let tls = match asked.scheme.as_deref() {
        None | Some("" | "HTTP") => Ok(false),
        Some("HTTPS") => Ok(true),
        Some(other) => Err(format!("{other:?} is none of HTTP, HTTPS")),
    };
    let tls = tls.at(&format!("{path}.scheme"))?;
    let target = asked.path.unwrap_or_default();
    // What goes into the first line of a request: a space or a line break would be another request.
    if target.len() > 4096 || !target.bytes().all(|b| b.is_ascii_graphic()) {
        let reason = "is no path of a URL: write what is not plain text as %20 and the like";
        return Err(SpecError::invalid(format!("{path}.path"), reason));
    }
    let headers = asked.http_headers.unwrap_or_default();
    let headers_path = format!("{path}.httpHeaders");
    if headers.len() > MAX_PROBE_HEADERS {
        let reason = format!(
            "{} headers, at most {MAX_PROBE_HEADERS} are allowed",
            headers.len()
        );
        return Err(SpecError::invalid(headers_path, reason));
    }
    for (i, header) in headers.iter().enumerate() {
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        if header.name.is_empty() || header.name.len() > 256 || !header.name.bytes().all(is_token) {
            let reason = format!("{:?} is no name of a header", header.name);
            return Err(SpecError::invalid(format!("{headers_path}[{i}].name"), reason));
        }
        if header.value.len() > 4096 || header.value.bytes().any(|b| b.is_ascii_control()) {
            let reason = "is too long, or holds a line break or the like";
            return Err(SpecError::invalid(format!("{headers_path}[{i}].value"), reason));
        }
    }
    Ok(Handler::HttpGet {
        host: host(asked.host.as_deref()).at(&format!("{path}.host"))?,
        port: port(&asked.port, ports).at(&format!("{path}.port"))?,
        path: if target.is_empty() { "/".to_owned() } else { target },
        headers: headers
            .into_iter()
            .map(|header| (header.name, header.value))
            .collect(),
        tls,
    })
}

/// Only addresses: the init looks no names up, since nobody but the pod's containers should have to
/// answer it, and what looks names up loads programs from wherever it runs.
fn host(host: Option<&str>) -> std::result::Result<Option<IpAddr>, String> {
    match host {
        None | Some("") => Ok(None),
        Some("localhost") => Ok(Some(Ipv4Addr::LOCALHOST.into())),
        Some(text) => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(format!(
                "{text:?} is no address, such as 192.0.2.1; leave it out for the pod, and name a virtual host by a header Host"
            )),
        },
    }
}

/// A port by its number or its name.
fn port(port: &IntOrString, ports: &[Port]) -> std::result::Result<u16, String> {
    match port {
        IntOrString::Int(number) => {
            let fits = u16::try_from(*number).ok().filter(|number| *number > 0);
            fits.ok_or_else(|| format!("{number} is not between 1 and 65535"))
        }
        IntOrString::String(name) => {
            if let Some(number) = name.parse::<u16>().ok().filter(|number| *number > 0) {
                return Ok(number);
            }
            let mut named = ports.iter().filter(|port| port.name.as_deref() == Some(name));
            let found = named.next().map(|port| port.container_port);
            found.ok_or_else(|| {
                format!("no port of the container is called {name:?}: name one in ports, or write its number")
            })
        }
    }
}
