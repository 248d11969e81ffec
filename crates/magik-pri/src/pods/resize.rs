//! Other limits and requests for a container of a pod that runs (`pod resize`, `resizePolicy`).

use magik_image::bundle::{Resources, limits_update};
use magik_infra::status::{ContainerPhase, PodStatus, Resized};

use super::Pods;
use crate::{
    ContainerSpec, Error, Limits, PodRuntime as _, PodSpec, Result, SpecError, limits::MIN_MEMORY_LIMIT,
    spec::cpu_shares,
};

impl ContainerSpec {
    /// Its limits and requests once it has been given others.
    pub(crate) fn resized(&self, by: Option<Resized>) -> (Limits, Limits) {
        let by = by.unwrap_or_default();
        let limits = Limits {
            cpu_millis: by.cpu_limit.or(self.limits.cpu_millis),
            memory: by.memory_limit.or(self.limits.memory),
            ..self.limits
        };
        let requests = Limits {
            cpu_millis: by.cpu_request.or(self.requests.cpu_millis),
            memory: by.memory_request.or(self.requests.memory),
            ..self.requests
        };
        (limits, requests)
    }
}

impl Pods {
    /// Gives a container other limits, and runs it again where its `resizePolicy` says so.
    pub(super) async fn resize(&self, pod: &str, name: &str, by: Resized) -> Result<PodStatus> {
        let (client, status) = self.connect(pod, "resize").await?;
        let spec = self.pod_spec(&status.id).await?;
        let refused = |reason: String| Error::Container {
            pod: pod.to_owned(),
            reason,
        };
        let init = spec.init_containers.iter();
        let sidecars = init.filter(|container| container.lifecycle.is_of_sidecar());
        let mut all = spec.containers.iter().chain(sidecars);
        let known = all.find(|container| container.name == name);
        let now = status.container(name);
        let (Some(container), Some(now)) = (known, now) else {
            let why = "has no app container or sidecar that it began with and that is called so";
            return Err(refused(format!("it {why}: {name:?}")));
        };
        let total = by.over(now.resized.unwrap_or_default());
        check(&spec, &status, container, total)?;
        let (limits, requests) = container.resized(Some(total));
        let cpu = by.cpu_limit.is_some() || by.cpu_request.is_some();
        let memory = by.memory_limit.is_some() || by.memory_request.is_some();
        let restarts = cpu && container.resize_restarts.cpu || memory && container.resize_restarts.memory;
        if let Some(limit) = by.memory_limit.filter(|_| !restarts) {
            // As a kubelet does: what is in use is not taken away.
            let used = client.stats().await.unwrap_or_default();
            let used = used.get(name).map_or(0, |stats| stats.memory.working_set);
            if used > limit {
                return Err(refused(format!(
                    "container {name} uses {used} bytes of memory, more than {limit}: stop something in it first"
                )));
            }
        }
        let resources = limits_update(&Resources {
            memory_limit: by.memory_limit,
            cpu_millis: by.cpu_limit,
            cpu_shares: cpu.then(|| cpu_shares(requests.cpu_millis.or(limits.cpu_millis))),
            ..Resources::default()
        });
        let resources = resources.map_err(|e| refused(e.to_string()))?;
        let failed = |e| Error::control(pod, "resize", &e);
        let updated = client.resize_container(name, &resources, Some(by)).await;
        let updated = updated.map_err(failed)?;
        let runs = matches!(now.state, ContainerPhase::Running { .. });
        if restarts && runs {
            return client.restart_container(name, None).await.map_err(failed);
        }
        Ok(updated)
    }
}

/// Whether a container can have these amounts.
fn check(spec: &PodSpec, status: &PodStatus, container: &ContainerSpec, total: Resized) -> Result<()> {
    let (limits, requests) = container.resized(Some(total));
    let invalid = |field: &str, reason: &str| -> Result<()> {
        let path = format!("resources.{field}");
        Err(SpecError::invalid(path, reason.to_owned()).into())
    };
    if limits.cpu_millis == Some(0) {
        return invalid("limits.cpu", "must be more than 0");
    }
    if limits.memory.is_some_and(|memory| memory < MIN_MEMORY_LIMIT) {
        let reason = format!("at least {MIN_MEMORY_LIMIT} bytes are needed to start a program");
        return invalid("limits.memory", &reason);
    }
    let kinds = [
        ("cpu", requests.cpu_millis, limits.cpu_millis),
        ("memory", requests.memory, limits.memory),
    ];
    for (kind, request, limit) in kinds {
        if request.zip(limit).is_some_and(|(request, limit)| request > limit) {
            return invalid(&format!("requests.{kind}"), "must not be more than the limit");
        }
    }
    // What others were given counts, too.
    let as_it_is = |with: Option<(&str, Resized)>| {
        let mut pod = spec.clone();
        for own in pod.init_containers.iter_mut().chain(&mut pod.containers) {
            let given = status.container(&own.name).and_then(|c| c.resized);
            let given = with
                .filter(|(name, _)| *name == own.name)
                .map_or(given, |(_, by)| Some(by));
            (own.limits, own.requests) = own.resized(given);
        }
        pod.qos_class()
    };
    let (before, after) = (as_it_is(None), as_it_is(Some((&container.name, total))));
    if before != after {
        let reason =
            format!("the pod would be {after}, and it stays {before}: give requests and limits that fit");
        return invalid("limits", &reason);
    }
    Ok(())
}
