//! A pod as a Kubernetes API server would show it.

use std::net::IpAddr;

use jiff::Timestamp;
use magik_infra::status::{ContainerPhase, ContainerStatus, Phase, PodStatus};
use magik_oci::Exit;
use serde_json::{Map, Value, json};

use crate::{ContainerSpec, Limits, PodSpec, spec::facts};

/// The scheme of container ids, as other runtimes have `containerd://`.
const SCHEME: &str = "magikrun";

/// A v1 Pod with its status, which Kubernetes' clients can read: `metadata` with the pod's id as
/// uid, `spec` as the manifest has it without what changes nothing, and a kubelet's `status`.
///
/// A pod without the host's network has no address that anybody else could reach, and so no `podIP`.
#[must_use]
pub fn v1_pod(spec: &PodSpec, status: &PodStatus) -> Value {
    let mut metadata = object([
        ("name", json!(status.name)),
        ("namespace", json!(status.namespace)),
        ("uid", json!(status.id)),
        ("creationTimestamp", time(status.created_at)),
    ]);
    if !status.labels.is_empty() {
        metadata.insert("labels".into(), json!(status.labels));
    }
    if !status.annotations.is_empty() {
        metadata.insert("annotations".into(), json!(status.annotations));
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec.given,
        "status": of_status(spec, status),
    })
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let fields = fields.into_iter().filter(|(_, value)| !value.is_null());
    fields.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// As Kubernetes writes it, to the second.
fn time(at: Timestamp) -> Value {
    format!("{at:.0}").into()
}

fn of_status(spec: &PodSpec, status: &PodStatus) -> Value {
    let containers = |list: &[ContainerStatus], initialized: bool| -> Value {
        if list.is_empty() {
            return Value::Null;
        }
        let known = |c: &ContainerStatus| spec.all_containers().find(|known| known.name == c.name);
        let init = |c: &ContainerStatus| spec.init_containers.iter().any(|known| known.name == c.name);
        let one = |c| {
            let mut shown = container(status, c, known(c), initialized);
            // As a kubelet says it: one that is done is ready.
            if init(c) && matches!(c.state, ContainerPhase::Exited { .. }) {
                shown["ready"] = is_done(spec, c).into();
            }
            shown
        };
        list.iter().map(one).collect()
    };
    let initialized = is_initialized(spec, status);
    let host = facts::address_towards(facts::SOMEBODY_V4);
    let pod = host.filter(|_| spec.host_network && !status.phase.is_final());
    let list = |name: &str, ip: Option<IpAddr>| ip.map_or(Value::Null, |ip| json!([{ name: ip }]));
    let ips = |ip: Option<IpAddr>| list("ip", ip);
    object([
        ("phase", json!(status.phase)),
        ("reason", json!(status.reason)),
        ("message", json!(status.message)),
        ("startTime", time(status.created_at)),
        ("qosClass", json!(spec.qos_class().as_str())),
        ("conditions", conditions(spec, status, initialized)),
        ("hostIP", json!(host)),
        ("hostIPs", ips(host)),
        ("podIP", json!(pod)),
        ("podIPs", ips(pod)),
        ("initContainerStatuses", containers(&status.init_containers, true)),
        ("containerStatuses", containers(&status.containers, initialized)),
        (
            "ephemeralContainerStatuses",
            containers(&status.ephemeral_containers, true),
        ),
    ])
    .into()
}

/// Whether all init containers are done: else no other container begins.
fn is_initialized(spec: &PodSpec, status: &PodStatus) -> bool {
    let begun = |c: &ContainerStatus| c.state != ContainerPhase::Waiting || !c.past.is_empty();
    status.containers.iter().any(begun) || status.init_containers.iter().all(|c| is_done(spec, c))
}

/// Whether an init container lets the next one begin: it has ended well, or is a sidecar that has
/// started.
fn is_done(spec: &PodSpec, container: &ContainerStatus) -> bool {
    let known = spec
        .init_containers
        .iter()
        .find(|known| known.name == container.name);
    let is_sidecar = known.is_some_and(|known| known.lifecycle.is_of_sidecar());
    match container.state {
        ContainerPhase::Exited { exit, .. } => exit.code == 0,
        _ => is_sidecar && container.started,
    }
}

fn is_ready(container: &ContainerStatus) -> bool {
    container.ready && matches!(container.state, ContainerPhase::Running { .. })
}

fn conditions(spec: &PodSpec, status: &PodStatus, initialized: bool) -> Value {
    let over = status.phase.is_final();
    let since = |met: bool| match (met, over) {
        (_, true) => status.finished_at,
        (true, false) => status.started_at,
        (false, false) => None,
    };
    let condition = |kind: &str, met: bool, at: Timestamp, why: Option<(&str, String)>| {
        let (reason, message) = why.unzip();
        let message = message.filter(|message| !message.is_empty());
        object([
            ("type", json!(kind)),
            ("status", json!(if met { "True" } else { "False" })),
            ("lastProbeTime", Value::Null),
            ("lastTransitionTime", time(at)),
            ("reason", json!(reason)),
            ("message", json!(message)),
        ])
    };
    let unready = |list: &[ContainerStatus], is_fine: &dyn Fn(&ContainerStatus) -> bool| {
        let names = list.iter().filter(|c| !is_fine(c)).map(|c| c.name.as_str());
        names.collect::<Vec<_>>().join(" ")
    };
    let completed = status.phase == Phase::Succeeded;
    let initial = match (initialized, completed) {
        (true, true) => Some(("PodCompleted", String::new())),
        (true, false) => None,
        (false, _) => {
            let names = unready(&status.init_containers, &|c| is_done(spec, c));
            Some((
                "ContainersNotInitialized",
                format!("containers with incomplete status: [{names}]"),
            ))
        }
    };
    let names = unready(&status.containers, &is_ready);
    let ready = !over && names.is_empty();
    let why_not = || match (ready, completed) {
        (true, _) => None,
        (false, true) => Some(("PodCompleted", String::new())),
        (false, false) => Some((
            "ContainersNotReady",
            format!("containers with unready status: [{names}]"),
        )),
    };
    let created = status.created_at;
    let changed = since(ready).unwrap_or(created);
    json!([
        condition("PodScheduled", true, created, None),
        condition(
            "PodReadyToStartContainers",
            !over,
            if over { changed } else { created },
            None
        ),
        condition(
            "Initialized",
            initialized,
            status.started_at.filter(|_| initialized).unwrap_or(created),
            initial
        ),
        condition("ContainersReady", ready, changed, why_not()),
        condition("Ready", ready, changed, why_not()),
    ])
}

fn container(
    pod: &PodStatus,
    container: &ContainerStatus,
    spec: Option<&ContainerSpec>,
    initialized: bool,
) -> Value {
    let id = format!("{SCHEME}://{}/{}", pod.id, container.name);
    let exited = |started: Timestamp, finished: Timestamp, exit: &Exit, message: &Option<String>| {
        json!({"terminated": object([
            ("exitCode", json!(exit.code)),
            ("signal", json!(exit.signal)),
            ("reason", json!(reason(exit))),
            ("message", json!(message)),
            ("startedAt", time(started)),
            ("finishedAt", time(finished)),
            ("containerID", json!(id)),
        ])})
    };
    let state = match &container.state {
        _ if container.back_off_until.is_some() => {
            let message = format!(
                "back-off restarting failed container={} pod={}_{}({})",
                container.name, pod.name, pod.namespace, pod.id
            );
            json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}})
        }
        ContainerPhase::Waiting if !initialized => json!({"waiting": {"reason": "PodInitializing"}}),
        ContainerPhase::Waiting | ContainerPhase::Created => {
            json!({"waiting": {"reason": "ContainerCreating"}})
        }
        ContainerPhase::Running { started_at, .. } => json!({"running": {"startedAt": time(*started_at)}}),
        ContainerPhase::Exited {
            started_at,
            finished_at,
            exit,
            message,
        } => exited(*started_at, *finished_at, exit, message),
    };
    let last = container.past.last();
    let last = last.map_or_else(
        || json!({}),
        |run| exited(run.started_at, run.finished_at, &run.exit, &run.message),
    );
    let was_created = container.state != ContainerPhase::Waiting;
    object([
        ("name", json!(container.name)),
        ("image", json!(container.image)),
        ("imageID", json!(container.image_id.clone().unwrap_or_default())),
        ("containerID", if was_created { json!(id) } else { Value::Null }),
        ("ready", json!(is_ready(container))),
        ("started", json!(container.started)),
        ("restartCount", json!(container.restart_count)),
        ("state", state),
        ("lastState", last),
        (
            "resources",
            spec.map_or(Value::Null, |spec| resources(spec, container)),
        ),
    ])
    .into()
}

/// What a container may use and expect, as it is now.
fn resources(spec: &ContainerSpec, container: &ContainerStatus) -> Value {
    let (limits, requests) = spec.resized(container.resized);
    let amounts = |amounts: Limits| -> Value {
        let cpu = amounts.cpu_millis.map(|millis| format!("{millis}m"));
        let memory = amounts.memory.map(|bytes| bytes.to_string());
        let both = object([("cpu", json!(cpu)), ("memory", json!(memory))]);
        if both.is_empty() { Value::Null } else { both.into() }
    };
    let both = object([("limits", amounts(limits)), ("requests", amounts(requests))]);
    if both.is_empty() { Value::Null } else { both.into() }
}

/// Why a container ended, in a kubelet's words.
fn reason(exit: &Exit) -> String {
    match exit {
        Exit { oom_killed: true, .. } => "OOMKilled".to_owned(),
        Exit {
            reason: Some(reason), ..
        } => reason.to_string(),
        Exit { code: 0, .. } => "Completed".to_owned(),
        Exit { .. } => "Error".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn spec() -> PodSpec {
        PodSpec::from_yaml(
            "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  nodeName: somewhere
  initContainers: [{name: init, image: b}]
  containers:
  - {name: a, image: 'b:1', resources: {limits: {cpu: 1, memory: 64Mi}}, env: [{name: A, value: $(B)}]}
  - {name: b, image: b, ports: [{containerPort: 80}]}
",
        )
        .unwrap()
    }

    fn status(phase: &str, init: Value, a: Value, b: Value) -> PodStatus {
        let container = |name: &str, state: Value| {
            json!({"name": name, "image": "b:1", "imageId": "sha256:1",
            "started": state["phase"] == "running", "ready": state["phase"] == "running", "state": state})
        };
        serde_json::from_value(json!({
            "id": "0123", "name": "web", "namespace": "shop", "runtimeClass": "native", "phase": phase,
            "labels": {"app": "web"},
            "createdAt": "2024-01-01T00:00:00.5Z",
            "initContainers": [container("init", init)],
            "containers": [container("a", a), container("b", b)],
        }))
        .unwrap()
    }

    /// Reads it as Kubernetes' clients do, and returns what its conditions are.
    fn read(value: &Value) -> (Pod, Vec<(String, String)>) {
        let pod: Pod = serde_json::from_value(value.clone()).unwrap();
        let conditions = pod.status.as_ref().unwrap().conditions.clone().unwrap();
        (pod, conditions.into_iter().map(|c| (c.type_, c.status)).collect())
    }

    fn met(conditions: &[(String, String)]) -> Vec<&str> {
        let met = conditions.iter().filter(|(_, status)| status == "True");
        met.map(|(kind, _)| kind.as_str()).collect()
    }

    #[test]
    fn a_pod_that_runs_is_what_kubernetes_clients_read() {
        let done = json!({"phase": "exited", "startedAt": "2024-01-01T00:00:01Z", "finishedAt": "2024-01-01T00:00:02Z",
            "exit": {"code": 0, "oomKilled": false}});
        let runs = json!({"phase": "running", "startedAt": "2024-01-01T00:00:03Z", "pid": 7});
        let (pod, conditions) = read(&v1_pod(
            &spec(),
            &status("Running", done.clone(), runs.clone(), runs.clone()),
        ));
        assert_eq!(conditions.len(), met(&conditions).len(), "{conditions:?}");
        assert_eq!(pod.metadata.uid.as_deref(), Some("0123"));
        let spec_read = pod.spec.unwrap();
        assert_eq!((spec_read.containers.len(), spec_read.node_name), (2, None));
        assert_eq!(
            spec_read.containers[0].env.as_ref().unwrap()[0].value.as_deref(),
            Some("$(B)")
        );
        let status_read = pod.status.unwrap();
        assert_eq!(status_read.phase.as_deref(), Some("Running"));
        assert_eq!(status_read.qos_class.as_deref(), Some("Burstable"));
        assert_eq!(status_read.pod_ip, None);
        let containers = status_read.container_statuses.unwrap();
        assert!(
            containers
                .iter()
                .all(|c| c.ready && c.started == Some(true) && c.image_id == "sha256:1")
        );
        let ended = &status_read.init_container_statuses.unwrap()[0];
        let ended = ended.state.as_ref().unwrap().terminated.as_ref().unwrap();
        assert_eq!((ended.exit_code, ended.reason.as_deref()), (0, Some("Completed")));

        // One that waits for its init container, and one that has ended.
        let waits = json!({"phase": "waiting"});
        let (pod, conditions) = read(&v1_pod(&spec(), &status("Pending", runs, waits.clone(), waits)));
        assert_eq!(met(&conditions), ["PodScheduled", "PodReadyToStartContainers"]);
        let waiting = pod.status.unwrap().container_statuses.unwrap()[0]
            .state
            .clone()
            .unwrap();
        assert_eq!(
            waiting.waiting.unwrap().reason.as_deref(),
            Some("PodInitializing")
        );
        let waits = json!({"phase": "waiting"});
        let mut crashes = status("Running", done.clone(), waits.clone(), waits);
        crashes.containers[0].back_off_until = Some("2024-01-01T00:01:00Z".parse().unwrap());
        let (pod, _) = read(&v1_pod(&spec(), &crashes));
        let state = pod.status.unwrap().container_statuses.unwrap()[0]
            .state
            .clone()
            .unwrap();
        assert_eq!(state.waiting.unwrap().reason.as_deref(), Some("CrashLoopBackOff"));
        let (pod, conditions) = read(&v1_pod(
            &spec(),
            &status("Succeeded", done.clone(), done.clone(), done),
        ));
        assert_eq!(met(&conditions), ["PodScheduled", "Initialized"]);
        let ready = pod
            .status
            .unwrap()
            .conditions
            .unwrap()
            .into_iter()
            .find(|c| c.type_ == "Ready");
        assert_eq!(ready.unwrap().reason.as_deref(), Some("PodCompleted"));
    }
}
