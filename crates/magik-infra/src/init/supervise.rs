//! A pod's whole life in this process.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    changes::{ALL_AGAIN, wrong},
    happening::Happening,
    pod::Pod,
};
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
        self.begin_containers(false).await?;
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
            if self.restarting.is_some() && self.stopping.is_none() {
                match self.all_again(inputs).await {
                    AllAgain::Begun => continue,
                    AllAgain::Failed(error) => {
                        reason = Some((PodReason::LaunchFailed, error.to_string()));
                        self.kill_all().await;
                    }
                    AllAgain::Abandoned => return None,
                    AllAgain::Stop(why, grace) => {
                        reason.get_or_insert(why);
                        self.stop(grace).await;
                    }
                }
            }
            if self.is_over() {
                if self.alive_sidecars().is_empty() && self.alive_ephemeral().is_empty() {
                    break;
                }
                if self.stopping.is_none() {
                    self.end_sidecars().await;
                }
            }
            let kill_at = self.stopping.as_ref().map(|stopping| stopping.kill_at);
            let interrupt = tokio::select! {
                happening = self.happening() => {
                    if let Happening::Exceeded(why) = happening {
                        // As a kubelet ends it: at once.
                        reason = Some((PodReason::Evicted, why));
                        self.kill_all().await;
                        continue;
                    }
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

/// What has become of running all containers again.
enum AllAgain {
    Begun,
    Failed(LaunchError),
    Abandoned,
    /// The pod is to end, for this reason and with this much grace.
    Stop((PodReason, String), Duration),
}

impl Pod {
    /// Runs all containers again, unless the pod is to end meanwhile.
    async fn all_again(&mut self, inputs: &mut Inputs) -> AllAgain {
        let shared = self.shared.clone();
        let ended = {
            // On the heap: hardly any pod needs room for it.
            let mut begun = Box::pin(self.begin_containers(true));
            loop {
                let interrupt = tokio::select! {
                    done = &mut begun => match done {
                        Ok(()) => return AllAgain::Begun,
                        Err(error) => break Err(error),
                    },
                    interrupt = inputs.interrupt(&shared) => interrupt,
                };
                match interrupt {
                    Interrupt::Change {
                        container, answer, ..
                    } => drop(answer.send(Err(wrong(&container, ALL_AGAIN)))),
                    other => break Ok(other),
                }
            }
        };
        self.give_up_restart();
        match ended {
            Err(error) => AllAgain::Failed(error),
            Ok(Interrupt::Abandoned | Interrupt::Change { .. }) => AllAgain::Abandoned,
            Ok(Interrupt::Stop { grace }) => {
                AllAgain::Stop((PodReason::Stopped, String::new()), self.plan.grace(grace))
            }
            Ok(Interrupt::Deadline) => {
                let why = self.plan.deadline_passed();
                AllAgain::Stop((PodReason::DeadlineExceeded, why), Duration::ZERO)
            }
            Ok(Interrupt::ExtensionFailed(error)) => {
                let why = (PodReason::ExtensionFailed, error.to_string());
                AllAgain::Stop(why, self.plan.grace(None))
            }
        }
    }
}
