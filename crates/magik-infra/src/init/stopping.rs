//! From a pod that runs to its end.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use magik_oci::{ContainerId, Signal};
use tokio::time::Instant;

use super::{
    ending::{KILL_TIMEOUT, Stopping, after},
    handler::Subject,
    pod::Pod,
    probes::{self, Teller},
};
use crate::{
    events::{Event, EventKind},
    plan::PodEnd,
    status::{ContainerPhase, ContainerStatus, Phase, PodReason, PodStatus},
};

impl Pod {
    /// Asks every container to end, in the reverse of the order they were started in; sidecars once
    /// the others have ended, one after the other. A stop that is already under way is only ever
    /// made shorter.
    pub(super) async fn stop(&mut self, grace: Duration) {
        let kill_at = after(grace);
        match &mut self.stopping {
            Some(stopping) if stopping.killed || stopping.kill_at <= kill_at => return,
            Some(stopping) if !grace.is_zero() => {
                stopping.kill_at = kill_at;
                return;
            }
            _ if grace.is_zero() => return self.kill_all().await,
            _ => {}
        }
        self.event(Event::now(
            EventKind::PodStopping,
            "",
            format!("grace period {grace:?}"),
        ));
        self.stopping = Some(Stopping {
            kill_at,
            killed: false,
        });
        self.none_runs_again();
        for name in self.alive().iter().chain(&self.alive_ephemeral()).rev() {
            self.begin_to_end(name, grace).await;
        }
        self.end_a_sidecar().await;
    }

    /// The app containers have ended by themselves, and what they stand on goes now.
    pub(super) async fn end_sidecars(&mut self) {
        let grace = self.plan.grace(None);
        self.stopping = Some(Stopping {
            kill_at: after(grace),
            killed: false,
        });
        self.none_runs_again();
        self.end_a_sidecar().await;
    }

    /// Of a pod that is being stopped: asks the last sidecar to end, once no other runs.
    pub(super) async fn end_a_sidecar(&mut self) {
        let Some(kill_at) = self.stopping.as_ref().map(|stopping| stopping.kill_at) else {
            return;
        };
        if !self.alive().is_empty() {
            return;
        }
        // Who looks at a pod does not hold up its end.
        for name in self.alive_ephemeral() {
            self.kill(&name, Signal::KILL, true).await;
        }
        if let Some(last) = self.alive_sidecars().pop()
            && self.asked_sidecars.insert(last.clone())
        {
            let left = kill_at.saturating_duration_since(Instant::now());
            self.begin_to_end(&last, left).await;
        }
    }

    pub(super) async fn kill_all(&mut self) {
        self.stopping = Some(Stopping {
            kill_at: Instant::now() + KILL_TIMEOUT,
            killed: true,
        });
        self.none_runs_again();
        let all = [self.alive_sidecars(), self.alive(), self.alive_ephemeral()].concat();
        for name in all.iter().rev() {
            self.kill(name, Signal::KILL, true).await;
        }
    }

    /// Asks a container to end, after what it wants done before; that may take so long.
    pub(super) async fn begin_to_end(&mut self, name: &str, limit: Duration) {
        let Some(container) = self.shared.container(name) else {
            return;
        };
        if self.ending_hooks.contains(name) {
            return;
        }
        if let Some(hook) = &container.plan.lifecycle.pre_stop
            && let Some((subject, teller)) = self.subject(name)
        {
            self.ending_hooks.insert(name.to_owned());
            tokio::spawn(probes::before_its_end(subject, hook.clone(), limit, teller));
            return;
        }
        self.ask_by_signal(name).await;
    }

    /// Sends a container the signal that asks it to end.
    pub(super) async fn ask_by_signal(&self, name: &str) {
        let container = self.shared.container(name);
        let signal = container.and_then(|container| container.plan.lifecycle.stop_signal);
        self.kill(name, signal.map_or(Signal::TERM, Signal), false).await;
    }

    /// A container in its present run, for who asks or tells of it.
    pub(super) fn subject(&self, name: &str) -> Option<(Arc<Subject>, Teller)> {
        let container = self.shared.container(name)?;
        let id = ContainerId::new(name).ok()?;
        let teller = Teller {
            container: name.to_owned(),
            run: *self.runs.get(name)?,
            told: self.teller.clone(),
        };
        let bundle = container.plan.bundle.clone();
        Some((Arc::new(Subject::new(self.runtime.clone(), id, bundle)), teller))
    }

    pub(super) async fn kill(&self, name: &str, signal: Signal, all: bool) {
        let Ok(id) = ContainerId::new(name) else {
            return;
        };
        match self.runtime.kill(&id, signal, all).await {
            // It ended by itself meanwhile.
            Ok(()) | Err(magik_oci::Error::NotFound(_) | magik_oci::Error::WrongState { .. }) => {}
            Err(error) => tracing::warn!(container = %id, %error, "cannot signal the container"),
        }
    }

    /// Nothing runs any more: the final status is written, then the extensions are told.
    pub(super) async fn finish(&mut self, reason: Option<(PodReason, String)>) -> PodStatus {
        if let Some(call) = self.before.when_over.take() {
            // Nothing follows from its panic.
            let _ = tokio::task::spawn_blocking(call).await;
        }
        self.shared.publish(|status| {
            // Those that were never started have not failed.
            let failed = |c: &ContainerStatus| matches!(c.state, ContainerPhase::Exited { exit, .. } if exit.code != 0);
            let ended_well = matches!(reason, None | Some((PodReason::Stopped, _)));
            let failed = !ended_well || status.containers.iter().any(failed);
            let phase = if failed { Phase::Failed } else { Phase::Succeeded };
            status.phase = phase;
            status.finished_at = Some(Timestamp::now());
            if let Some((reason, message)) = reason {
                status.reason = Some(reason);
                status.message = Some(message).filter(|m| !m.is_empty());
            }
        });
        self.event(Event::now(EventKind::PodStopped, "", ""));
        self.extensions.stop(&self.shared.events).await;
        self.shared
            .status()
            .unwrap_or_else(|| unreachable!("the first status was published by Pod::new"))
    }

    /// The app containers that have not ended, in starting order; in a pod that is being stopped,
    /// without those that will not be started.
    pub(super) fn alive(&self) -> Vec<String> {
        let status = self.shared.status();
        let containers = status.map(|status| status.containers).unwrap_or_default();
        self.living(containers)
    }

    /// The sidecars that have not ended, in starting order.
    pub(super) fn alive_sidecars(&self) -> Vec<String> {
        let status = self.shared.status();
        let mut containers = status.map(|status| status.init_containers).unwrap_or_default();
        containers.retain(|c| {
            self.shared
                .container(&c.name)
                .is_some_and(|entry| entry.is_sidecar())
        });
        self.living(containers)
    }

    /// The ephemeral containers that have not ended.
    pub(super) fn alive_ephemeral(&self) -> Vec<String> {
        let status = self.shared.status();
        let containers = status.map(|status| status.ephemeral_containers);
        self.living(containers.unwrap_or_default())
    }

    fn living(&self, containers: Vec<ContainerStatus>) -> Vec<String> {
        let stopping = self.stopping.is_some();
        let lives = |c: &ContainerStatus| match c.state {
            ContainerPhase::Created => !stopping,
            // One that is being created is heard of once more.
            ContainerPhase::Waiting | ContainerPhase::Running { .. } => true,
            ContainerPhase::Exited { .. } => false,
        };
        let alive = containers.into_iter().filter(lives);
        alive.map(|container| container.name).collect()
    }

    /// Whether the pod has come to its end but for its sidecars.
    pub(super) fn is_over(&self) -> bool {
        let lives_on = self.plan.ends == PodEnd::Stopped && self.stopping.is_none();
        !lives_on && self.alive().is_empty()
    }

    pub(super) fn survivors(&self) -> String {
        let survivors = [self.alive(), self.alive_sidecars(), self.alive_ephemeral()].concat();
        format!("did not end after SIGKILL: {}", survivors.join(", "))
    }
}
