//! From the first container to a pod that is ready.

use futures_util::{StreamExt, stream};
use magik_oci::{Exit, OciRuntime};

use super::{
    container::{self, Created, ExitReport},
    happening::Unforgiven,
    pod::Pod,
};
use crate::{
    error::{LaunchError, LaunchStep},
    status::{ContainerPhase, ContainerStatus},
    table::{Entry, Kind},
};

impl Pod {
    /// The init containers one after the other: to their end, or, if one is a sidecar, until it has
    /// started.
    pub(super) async fn run_init_containers(&mut self, again: bool) -> Result<(), LaunchError> {
        for container in self.shared.containers(Kind::Init) {
            let plan = &container.plan;
            if plan.attach.is_some() {
                let why = "nobody can attach to an init container";
                return Err(LaunchError::container(&plan.name, LaunchStep::Plan, why));
            }
            self.progress(LaunchStep::InitContainer, &plan.name);
            let runtime = self.runtime.clone();
            let created = self.creation(&*runtime, &container, again).await?;
            let (id, pid) = self.created(plan, created);
            self.start(plan, &id, pid).await?;
            if container.is_sidecar() {
                self.until_started(&plan.name).await?;
            } else {
                let ended = |c: &ContainerStatus| matches!(c.state, ContainerPhase::Exited { .. });
                self.until(&plan.name, ended).await?;
            }
        }
        Ok(())
    }

    /// Creates the app containers, as many at a time as there are processors, and starts them in
    /// order once all of them are there: a container that cannot be created means that none was
    /// started. Then those that are asked whether they have started are waited for.
    pub(super) async fn start_containers(&mut self, again: bool) -> Result<(), LaunchError> {
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = self.runtime.clone();
        let containers = self.shared.containers(Kind::App);
        let jobs = containers.iter();
        let jobs = jobs.map(|container| self.creation(&*runtime, container, again));
        let mut jobs = stream::iter(jobs.collect::<Vec<_>>()).buffered(parallel);
        let mut created = Vec::new();
        for Entry { plan, .. } in &containers {
            self.progress(LaunchStep::Create, &plan.name);
            let Some(result) = jobs.next().await else { break };
            created.push((plan, self.created(plan, result?)));
        }
        for (plan, (id, pid)) in created {
            self.start(plan, &id, pid).await?;
            if plan.lifecycle.post_start.is_some() {
                // As the kubelet does it: the next one finds it done.
                self.progress(LaunchStep::PostStart, &plan.name);
                let done = |c: &ContainerStatus| {
                    matches!(
                        c.state,
                        ContainerPhase::Running { .. } | ContainerPhase::Exited { .. }
                    )
                };
                self.until(&plan.name, done).await?;
            }
        }
        for Entry { plan, .. } in &containers {
            if plan.lifecycle.startup.is_some() {
                self.progress(LaunchStep::StartupProbe, &plan.name);
                self.until_started(&plan.name).await?;
            }
        }
        Ok(())
    }

    /// Creates a container, for the first time or `again`.
    fn creation<'a>(
        &self,
        runtime: &'a dyn OciRuntime,
        container: &'a Entry,
        again: bool,
    ) -> impl Future<Output = Result<Created, LaunchError>> + Send + use<'a> {
        let (size, mounts) = (self.log_size(), !self.confined);
        let root = self.plan.user_namespace.map_or(0, |users| users.host_id);
        let status = self.shared.status();
        let status = status
            .as_ref()
            .and_then(|pod| pod.container(&container.plan.name));
        // One may not have been there yet when all were to begin again.
        let again = again && status.is_some_and(|status| !status.past.is_empty());
        async move {
            if again {
                container::recreate(runtime, container, size, mounts, root).await
            } else {
                container::create(runtime, container, size, mounts).await
            }
        }
    }

    /// Waits until a container has started, or has ended well.
    async fn until_started(&mut self, name: &str) -> Result<(), LaunchError> {
        let done = |c: &ContainerStatus| c.started || matches!(c.state, ContainerPhase::Exited { .. });
        self.until(name, done).await
    }

    /// Waits until a container has come so far, and its hook is not under way.
    ///
    /// # Errors
    /// Meanwhile one has failed in a way that its policy does not forgive.
    async fn until(
        &mut self,
        name: &str,
        done: impl Fn(&ContainerStatus) -> bool,
    ) -> Result<(), LaunchError> {
        loop {
            if self.restarting.is_some() {
                let why = "all containers are run again";
                return Err(LaunchError::container(name, LaunchStep::Start, why));
            }
            let status = self.shared.status();
            let container = status.as_ref().and_then(|status| status.container(name));
            let hook = self.starting_hooks.contains(name);
            if container.is_none_or(|container| !hook && done(container)) {
                return Ok(());
            }
            let happening = self.happening().await;
            if let Some(Unforgiven(error)) = self.deal_with(happening).await
                && !self.is_forgiven_again(&error)
            {
                return Err(error);
            }
        }
    }
}

/// How a container has ended, in a few words, with the last line that it wrote.
pub(super) fn in_words(report: &ExitReport) -> String {
    let ending = match (&report.unknown, report.exit) {
        (Some(why), _) => why.clone(),
        (None, Exit { oom_killed: true, .. }) => "killed: out of memory".to_owned(),
        (None, Exit { signal: Some(n), .. }) => format!("killed by signal {n}"),
        (None, Exit { code, .. }) => format!("exit code {code}"),
    };
    if report.last_line.is_empty() {
        ending
    } else {
        format!("{ending}: {}", report.last_line)
    }
}
