//! Changes to a pod that runs: one of its containers is stopped, run again, or removed.

use std::time::Duration;

use magik_oci::{ContainerId, Signal};
use tokio::{sync::oneshot, time::Instant};

use super::{
    container::{self, Created},
    pod::{KILL_TIMEOUT, Pod},
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
        match self.begin_change(&name, change).await {
            Ok(Some(ending)) => {
                let ending = self.ending_of(ending);
                let waiting = if ending.again {
                    &mut ending.restarts
                } else {
                    &mut ending.stops
                };
                waiting.push(answer);
            }
            Ok(None) if matches!(change, Change::Restart(_)) => self.run_again(&name, vec![answer]),
            Ok(None) => drop(answer.send(Ok(()))),
            Err(error) => drop(answer.send(Err(error))),
        }
    }

    /// `Some`: it has to end first, which it was asked to.
    async fn begin_change(&mut self, name: &str, change: Change) -> Result<Option<Ending>, ChangeError> {
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
        match (self.shared.phase(name), change) {
            (None | Some(ContainerPhase::Waiting), _) => Err(wrong("is being started")),
            (Some(ContainerPhase::Running { .. }), Change::Remove) => Err(wrong("runs: stop it first")),
            (Some(ContainerPhase::Exited { .. }), Change::Remove) => {
                rootfs::unmount(&container.plan);
                self.shared.remove(name);
                Ok(None)
            }
            (Some(ContainerPhase::Exited { .. }), Change::Stop(_) | Change::Restart(_)) => Ok(None),
            (Some(ContainerPhase::Running { .. }), Change::Stop(grace)) => {
                Ok(Some(self.ask_to_end(name, grace, false).await))
            }
            (Some(ContainerPhase::Running { .. }), Change::Restart(grace)) => {
                Ok(Some(self.ask_to_end(name, grace, true).await))
            }
        }
    }

    async fn ask_to_end(&mut self, name: &str, grace: Option<Duration>, again: bool) -> Ending {
        let grace = grace.unwrap_or(Duration::from_secs(self.plan.grace_period_s));
        let kill_at = Instant::now().checked_add(grace);
        self.kill(name, Signal::TERM, false).await;
        Ending {
            name: name.to_owned(),
            // An absurd grace period is as good as a year.
            kill_at: kill_at.unwrap_or_else(|| Instant::now() + Duration::from_secs(365 * 24 * 3600)),
            killed: false,
            again,
            stops: Vec::new(),
            restarts: Vec::new(),
        }
    }

    /// The one that is under way for a container, which is only ever made sooner, or else the new one.
    fn ending_of(&mut self, new: Ending) -> &mut Ending {
        let place = self.ending.iter().position(|old| old.name == new.name);
        let place = match place {
            Some(place) => {
                let old = &mut self.ending[place];
                if !old.killed {
                    old.kill_at = old.kill_at.min(new.kill_at);
                }
                old.again = new.again;
                place
            }
            None => {
                self.ending.push(new);
                self.ending.len() - 1
            }
        };
        &mut self.ending[place]
    }

    /// When the next container is to be killed.
    pub(super) fn next_kill(&self) -> Option<Instant> {
        self.ending.iter().map(|ending| ending.kill_at).min()
    }

    /// Kills those whose time has come.
    pub(super) async fn kill_late(&mut self) {
        let now = Instant::now();
        let late: Vec<usize> = (0..self.ending.len())
            .rev()
            .filter(|place| self.ending[*place].kill_at <= now)
            .collect();
        for place in late {
            let Ending { name, killed, .. } = &self.ending[place];
            if !killed {
                let name = name.clone();
                self.kill(&name, Signal::KILL, true).await;
                self.ending[place].killed = true;
                self.ending[place].kill_at = now + KILL_TIMEOUT;
                continue;
            }
            let ending = self.ending.swap_remove(place);
            let (name, why) = (ending.name, "does not end after SIGKILL");
            let all = ending.stops.into_iter().chain(ending.restarts).collect();
            answer(all, &Err(ChangeError::State { name, why }));
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

    /// Creates a container once more, in the background: with a new writable layer, where it has one.
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
                // By force: with a shared pid namespace its other processes may have outlived the first.
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
