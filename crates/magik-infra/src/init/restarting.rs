//! All containers of a pod are run again (`RestartAllContainers`, KEP-5532): as soon as one has ended
//! so the others are killed, and then everything begins from the first init container on. The pod
//! stays: its volumes, its network, its id.

use std::time::Duration;

use magik_oci::Signal;
use tokio::time::sleep_until;

use super::pod::Pod;
use crate::{
    error::LaunchError,
    status::{ContainerPhase, ContainerStatus, Phase},
    table::Kind,
};

impl Pod {
    /// A container has ended in a way that has all run again.
    pub(super) fn begin_all_again(&mut self, name: &str, ran_for: Duration, why: &str) {
        let due = self.back_off(name, ran_for, why, "all containers are");
        self.restarting = Some(due);
        // Who waited by itself begins with the others.
        self.none_runs_again_but(name);
    }

    /// As the kubelet does it: no hooks, and no grace.
    pub(super) async fn kill_for_restart(&mut self) {
        for name in [self.alive_sidecars(), self.alive(), self.alive_init()].concat() {
            self.forget_hooks(&name);
            self.kill(&name, Signal::KILL, true).await;
        }
    }

    /// Starts all containers: for the first time, or `again`, once they have ended. May be dropped at
    /// any await.
    pub(super) async fn begin_containers(&mut self, mut again: bool) -> Result<(), LaunchError> {
        loop {
            if again {
                self.until_all_have_ended().await;
            }
            let begun = match self.run_init_containers(again).await {
                Ok(()) => self.start_containers(again).await,
                Err(error) => Err(error),
            };
            if self.restarting.is_none() {
                return begun;
            }
            again = true;
        }
    }

    /// A pod that runs already goes on without an app container that fails, as it would at any other
    /// time; without its init containers it does not.
    pub(super) fn is_forgiven_again(&self, error: &LaunchError) -> bool {
        let container = error.container.as_deref();
        let container = container.and_then(|name| self.shared.container(name));
        let status = self.shared.status();
        let runs = status.is_some_and(|status| status.phase == Phase::Running);
        runs && container.is_some_and(|entry| entry.kind != Kind::Init || entry.is_sidecar())
    }

    /// Waits until none runs, and until it is time.
    async fn until_all_have_ended(&mut self) {
        while self.some_run() || !self.making.is_empty() {
            let happening = self.happening().await;
            // What happens now has happened to those that are run again.
            drop(self.deal_with(happening).await);
        }
        if let Some(due) = self.restarting {
            sleep_until(due).await;
        }
        while self.deletions.join_next().await.is_some() {}
        self.restarting = None;
        let all = [Kind::Init, Kind::App].map(|kind| self.shared.containers(kind));
        for container in all.into_iter().flatten() {
            self.runs.remove(&container.plan.name);
            container.log.send_replace(false);
            // It has ended, or is said already to begin again.
            self.change(&container.plan.name, ContainerStatus::will_run_again);
        }
    }

    fn some_run(&self) -> bool {
        let runs =
            |c: &ContainerStatus| matches!(c.state, ContainerPhase::Running { .. } | ContainerPhase::Created);
        let status = self.shared.status();
        status.is_some_and(|pod| pod.init_containers.iter().chain(&pod.containers).any(runs))
    }

    /// The init containers that run, without the sidecars.
    fn alive_init(&self) -> Vec<String> {
        let status = self.shared.status();
        let init = status.map(|status| status.init_containers).unwrap_or_default();
        let runs = |c: &ContainerStatus| matches!(c.state, ContainerPhase::Running { .. });
        let init = init.into_iter().filter(runs).map(|c| c.name);
        init.filter(|name| {
            self.shared
                .container(name)
                .is_some_and(|entry| !entry.is_sidecar())
        })
        .collect()
    }

    /// That comes to nothing, since the pod ends: who was to be run again stays as it ended.
    pub(super) fn give_up_restart(&mut self) {
        self.restarting = None;
        let all = [Kind::Init, Kind::App].map(|kind| self.shared.containers(kind));
        for container in all.into_iter().flatten() {
            self.change(&container.plan.name, |container| {
                if container.state == ContainerPhase::Waiting {
                    container.does_not_run_again();
                }
            });
        }
    }
}
