//! A pod's whole life in this process.

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::pod::Pod;
use crate::{
    error::LaunchError,
    extension::RequiredExtensionFailed,
    life::{Inputs, Interrupt, Supervisor, reached},
    status::{Phase, PodReason, PodStatus},
};

impl Supervisor for Pod {
    fn extension_failures(&mut self) -> Option<mpsc::Receiver<RequiredExtensionFailed>> {
        self.extension_failures.take()
    }

    /// Mounts, init containers one after the other, then all app containers.
    async fn launch(&mut self) -> Result<(), LaunchError> {
        self.make_ready().await?;
        self.run_init_containers().await?;
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
        let shared = self.shared.clone();
        let mut reason: Option<(PodReason, String)> = None;
        loop {
            if self.is_over() {
                if self.alive_sidecars().is_empty() {
                    break;
                }
                if self.stopping.is_none() {
                    self.end_sidecars().await;
                }
            }
            let kill_at = self.stopping.as_ref().map(|stopping| stopping.kill_at);
            let interrupt = tokio::select! {
                happening = self.happening() => {
                    // Of a pod that has started nothing need be forgiven.
                    drop(self.deal_with(happening).await);
                    continue;
                }
                interrupt = inputs.interrupt(&shared) => interrupt,
                () = reached(kill_at) => {
                    if self.stopping.as_ref().is_some_and(|stopping| stopping.killed) {
                        reason = Some((PodReason::NotKilled, self.survivors()));
                        break;
                    }
                    self.kill_all().await;
                    continue;
                }
            };
            match interrupt {
                Interrupt::Abandoned => return None,
                Interrupt::Stop { grace } => {
                    reason.get_or_insert((PodReason::Stopped, String::new()));
                    self.stop(self.plan.grace(grace)).await;
                }
                Interrupt::Deadline => {
                    reason = Some((PodReason::DeadlineExceeded, self.plan.deadline_passed()));
                    self.kill_all().await;
                }
                Interrupt::ExtensionFailed(error) => {
                    reason.get_or_insert((PodReason::ExtensionFailed, error.to_string()));
                    self.stop(self.plan.grace(None)).await;
                }
                Interrupt::Change {
                    container,
                    change,
                    answer,
                } => self.change_container(container, change, answer).await,
            }
        }
        if self.stopping.is_none() {
            while self.deletions.join_next().await.is_some() {}
        }
        Some(self.finish(reason).await)
    }
}
