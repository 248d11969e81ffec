//! A pod's whole life in this process.

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{ending::Stopping, pod::Pod};
use crate::{
    error::{LaunchError, LaunchStep},
    extension::RequiredExtensionFailed,
    life::{Inputs, Interrupt, Supervisor, reached},
    status::{Phase, PodReason, PodStatus},
    table::Kind,
};

impl Supervisor for Pod {
    fn extension_failures(&mut self) -> Option<mpsc::Receiver<RequiredExtensionFailed>> {
        self.extension_failures.take()
    }

    /// Mounts, init containers one after the other, then all app containers.
    async fn launch(&mut self) -> Result<(), LaunchError> {
        self.make_ready().await?;
        for container in self.shared.containers(Kind::Init) {
            self.progress(LaunchStep::InitContainer, &container.plan.name);
            self.run_init_container(&container).await?;
        }
        self.start_containers().await?;
        self.ready().await
    }

    async fn launch_failed(&mut self, error: &LaunchError) {
        self.shared.publish(|status| {
            status.phase = Phase::Failed;
            status.reason = Some(PodReason::LaunchFailed);
            status.message = Some(error.to_string());
            status.finished_at = Some(Timestamp::now());
        });
        self.extensions.stop(&self.shared.events).await;
        self.updates.failed(error);
    }

    async fn supervise(&mut self, inputs: &mut Inputs) -> Option<PodStatus> {
        let mut stopping: Option<Stopping> = None;
        let mut reason: Option<(PodReason, String)> = None;
        while !self.is_over(stopping.is_some()) {
            let next_kill = self.next_kill();
            let interrupt = tokio::select! {
                Some(report) = self.exits.recv() => {
                    if !self.is_of_now(&report) {
                        continue;
                    }
                    self.ended(&report);
                    // A pod that is going down is removed as a whole.
                    if stopping.is_none() && !self.runs_again(&report.name) {
                        self.delete(&report.name);
                    }
                    self.end_was_seen(&report.name, stopping.is_some());
                    continue;
                }
                Some(made) = self.making.join_next() => {
                    if let Ok(made) = made {
                        self.made(made, stopping.is_some()).await;
                    }
                    continue;
                }
                () = reached(next_kill) => {
                    self.kill_late().await;
                    continue;
                }
                interrupt = inputs.interrupt(&self.shared) => interrupt,
                () = reached(stopping.as_ref().map(|stopping| stopping.kill_at)) => {
                    if stopping.as_ref().is_some_and(|s| s.killed) {
                        reason = Some((PodReason::NotKilled, self.survivors()));
                        break;
                    }
                    stopping = Some(self.kill_all().await);
                    continue;
                }
            };
            match interrupt {
                Interrupt::Abandoned => return None,
                Interrupt::Stop { grace } => {
                    reason.get_or_insert((PodReason::Stopped, String::new()));
                    stopping = Some(self.stop(stopping, self.plan.grace(grace)).await);
                }
                Interrupt::Deadline => {
                    reason = Some((PodReason::DeadlineExceeded, self.plan.deadline_passed()));
                    stopping = Some(self.kill_all().await);
                }
                Interrupt::ExtensionFailed(error) => {
                    reason.get_or_insert((PodReason::ExtensionFailed, error.to_string()));
                    stopping = Some(self.stop(stopping, self.plan.grace(None)).await);
                }
                Interrupt::Change {
                    container,
                    change,
                    answer,
                } => {
                    let stopping = stopping.is_some();
                    self.change_container(container, change, answer, stopping).await;
                }
            }
        }
        if stopping.is_none() {
            while self.deletions.join_next().await.is_some() {}
        }
        Some(self.finish(reason).await)
    }
}
