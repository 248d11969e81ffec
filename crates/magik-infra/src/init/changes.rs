//! Changes to a pod that runs: one of its containers is stopped, run again, or removed.

use std::time::Duration;

use magik_oci::{ContainerId, Signal};
use tokio::{sync::oneshot, time::Instant};

use super::{
    container::{self, Created},
    pod::{KILL_TIMEOUT, Pod, after},
    rootfs,
    table::Kind,
};
use crate::{
    error::LaunchError,
    status::{ContainerPhase, ContainerStatus},
};

/// What is asked for a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// SIGTERM, and SIGKILL after so long; absent: the pod's own grace period.
    Stop(Option<Duration>),
    /// The same, and then it is run again; one that has ended is only run again.
    Restart(Option<Duration>),
    /// It is no longer one of the pod's. It has ended.
    Remove,
}

/// Why it was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("the pod has no container {0:?}")]
    Unknown(String),
    #[error("container {name}: {why}")]
    State { name: String, why: &'static str },
    #[error("the containers of a virtual machine cannot be changed one by one yet")]
    Unsupported,
    #[error(transparent)]
    Failed(LaunchError),
}

/// Who waits until it is done.
pub(crate) type Answer = oneshot::Sender<Result<(), ChangeError>>;

/// A container that was asked to end.
#[derive(Debug)]
pub(super) struct Ending {
    name: String,
    kill_at: Instant,
    killed: bool,
    /// Whether it is run again then: what was asked last counts.
    again: bool,
    /// Who wants to know that it has ended.
    stops: Vec<Answer>,
    /// Who wants to know that it runs again.
    restarts: Vec<Answer>,
}

/// A container that was created to be run again, or could not be.
#[derive(Debug)]
pub(super) struct Made {
    name: String,
    answers: Vec<Answer>,
    outcome: Result<Created, LaunchError>,
}

impl Pod {
    /// Does what is asked for a container, or begins to.
    pub(super) async fn change_container(&mut self, name: String, change: Change, answer: Answer) {
        let ended = match self.check_change(&name, change) {
            Ok(ended) => ended,
            Err(error) => return drop(answer.send(Err(error))),
        };
        match change {
            Change::Stop(_) if ended => drop(answer.send(Ok(()))),
            Change::Restart(_) if ended => self.run_again(&name, vec![answer]),
            Change::Stop(grace) => self.ask_to_end(&name, grace, false).await.stops.push(answer),
            Change::Restart(grace) => self.ask_to_end(&name, grace, true).await.restarts.push(answer),
            Change::Remove => {
                if let Some(container) = self.shared.container(&name) {
                    rootfs::unmount(&container.plan);
                }
                self.shared.remove(&name);
                drop(answer.send(Ok(())));
            }
        }
    }

    /// Whether a container that may be changed so has ended; it runs otherwise.
    fn check_change(&self, name: &str, change: Change) -> Result<bool, ChangeError> {
        let wrong = |why| ChangeError::State {
            name: name.to_owned(),
            why,
        };
        let container = self.shared.container(name);
        let container = container.ok_or_else(|| ChangeError::Unknown(name.to_owned()))?;
        if container.kind == Kind::Init {
            return Err(wrong("is an init container, which runs once"));
        }
        if container.plan.attach.is_some() {
            return Err(wrong("is run by who attaches to it"));
        }
        match self.shared.phase(name) {
            None | Some(ContainerPhase::Waiting) => Err(wrong("is being started")),
            Some(ContainerPhase::Running { .. }) if change == Change::Remove => {
                Err(wrong("runs: stop it first"))
            }
            Some(ContainerPhase::Running { .. }) => Ok(false),
            Some(ContainerPhase::Exited { .. }) => Ok(true),
        }
    }

    /// Asks a container to end. What is under way for that already is only ever made sooner.
    async fn ask_to_end(&mut self, name: &str, grace: Option<Duration>, again: bool) -> &mut Ending {
        let kill_at = after(grace.unwrap_or(Duration::from_secs(self.plan.grace_period_s)));
        self.kill(name, Signal::TERM, false).await;
        let place = self.ending.iter().position(|ending| ending.name == name);
        let place = place.unwrap_or_else(|| {
            self.ending.push(Ending {
                name: name.to_owned(),
                kill_at,
                killed: false,
                again,
                stops: Vec::new(),
                restarts: Vec::new(),
            });
            self.ending.len() - 1
        });
        let ending = &mut self.ending[place];
        if !ending.killed {
            ending.kill_at = ending.kill_at.min(kill_at);
        }
        ending.again = again;
        ending
    }

    /// When the next container is to be killed.
    pub(super) fn next_kill(&self) -> Option<Instant> {
        self.ending.iter().map(|ending| ending.kill_at).min()
    }

    /// Kills those whose time has come.
    pub(super) async fn kill_late(&mut self) {
        let now = Instant::now();
        let is_late = |ending: &mut Ending| ending.kill_at <= now;
        let late: Vec<Ending> = self.ending.extract_if(.., is_late).collect();
        for mut ending in late {
            if ending.killed {
                let (name, why) = (ending.name, "does not end after SIGKILL");
                let all = ending.stops.into_iter().chain(ending.restarts).collect();
                answer(all, &Err(ChangeError::State { name, why }));
                continue;
            }
            self.kill(&ending.name, Signal::KILL, true).await;
            ending.killed = true;
            ending.kill_at = now + KILL_TIMEOUT;
            self.ending.push(ending);
        }
    }

    /// Whether a container that ends now is run again.
    pub(super) fn runs_again(&self, name: &str) -> bool {
        self.ending
            .iter()
            .any(|ending| ending.name == name && ending.again)
    }

    /// A container has ended, as it was asked to or not.
    pub(super) fn end_was_seen(&mut self, name: &str, pod_is_stopping: bool) {
        let Some(place) = self.ending.iter().position(|ending| ending.name == name) else {
            return;
        };
        let ending = self.ending.swap_remove(place);
        answer(ending.stops, &Ok(()));
        let name = ending.name;
        if pod_is_stopping {
            answer(ending.restarts, &Err(stopping(name)));
        } else if ending.again {
            self.run_again(&name, ending.restarts);
        } else {
            let why = "was stopped by somebody else";
            answer(ending.restarts, &Err(ChangeError::State { name, why }));
        }
    }

    /// Creates a container once more, in the background: with a new writable layer, where it has
    /// one.
    fn run_again(&mut self, name: &str, answers: Vec<Answer>) {
        let (Some(container), Ok(id)) = (self.shared.container(name), ContainerId::new(name)) else {
            return;
        };
        self.change(name, ContainerStatus::will_run_again);
        container.log.send_replace(false);
        let (runtime, size, renews) = (self.runtime.clone(), self.shared.max_log_size, !self.mounted);
        let root = self.plan.user_namespace.map_or(0, |users| users.host_id);
        let name = name.to_owned();
        self.making.spawn(async move {
            let plan = &container.plan;
            let outcome = async {
                // By force: with a shared pid namespace its other processes may have outlived the
                // first.
                match runtime.delete(&id, true).await {
                    Ok(()) | Err(magik_oci::Error::NotFound(_)) => {}
                    Err(error) => return Err(LaunchError::runtime(&plan.name, "delete", &error)),
                }
                if renews {
                    let renewed = rootfs::renew(plan, root);
                    let old = renewed.map_err(|e| LaunchError::container(&plan.name, "mounts", &e))?;
                    tokio::spawn(rootfs::remove_old(old));
                }
                container::create(&*runtime, &container, size, false).await
            };
            Made {
                name,
                answers,
                outcome: outcome.await,
            }
        });
    }

    /// Starts what was created to be run again.
    pub(super) async fn made(&mut self, made: Made, pod_is_stopping: bool) {
        let Made {
            name,
            answers,
            outcome,
        } = made;
        let Some(container) = self.shared.container(&name) else {
            return;
        };
        let started = match outcome {
            Ok(created) if pod_is_stopping => {
                self.forget(&created.id);
                Err(stopping(name.clone()))
            }
            Ok(created) => {
                let (id, pid) = self.created(&container.plan, created);
                let started = self.start(&container.plan, &id, pid).await;
                if started.is_err() {
                    self.forget(&id);
                }
                started.map_err(ChangeError::Failed)
            }
            Err(error) => Err(ChangeError::Failed(error)),
        };
        if started.is_err() {
            self.change(&name, ContainerStatus::does_not_run_again);
            container.log.send_replace(true);
        }
        answer(answers, &started);
    }
}

fn stopping(name: String) -> ChangeError {
    let why = "the pod is being stopped";
    ChangeError::State { name, why }
}

fn answer(answers: Vec<Answer>, with: &Result<(), ChangeError>) {
    for answer in answers {
        // Who asked may be gone.
        let _ = answer.send(with.clone());
    }
}
