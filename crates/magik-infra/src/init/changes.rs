//! Changes to a pod that runs: one of its containers is created, started, stopped, run again,
//! removed, or gets other limits.

use std::{path::PathBuf, time::Duration};

use magik_oci::{ContainerId, Exit, Signal};
use oci_spec::runtime::LinuxResources;
use serde_json::Value;
use tokio::time::Instant;

use super::{
    container,
    ending::{Ending, KILL_TIMEOUT, Made, after},
    message,
    pod::Pod,
    rootfs,
};
use crate::{
    error::{LaunchError, LaunchStep},
    logs,
    plan::{ContainerPlan, TARGET_PROCESSES},
    shared::{Answer, Change, ChangeError, Update},
    status::{ContainerPhase, ContainerStatus},
    table::{Entry, Kind},
};

/// Why a container is not changed while all are run again.
pub(super) const ALL_AGAIN: &str = "is being run again with all others";

/// The exit code of a container that cannot be started for another reason than its program; as
/// containerd has it.
pub(super) const CANNOT_START: i32 = 128;

impl Pod {
    /// Does what is asked for a container, or begins to.
    pub(super) async fn change_container(&mut self, name: String, change: Change, answer: Answer) {
        let phase = match self.check_change(&name, &change) {
            Ok(phase) => phase,
            Err(error) => return drop(answer.send(Err(error))),
        };
        let runs = matches!(phase, ContainerPhase::Running { .. });
        if self.waits.cancel(&name) {
            // It is as it ended, and stays so or is run at once.
            self.change(&name, ContainerStatus::does_not_run_again);
            self.delete(&name);
        }
        match change {
            Change::Create(plan) => self.create(*plan, answer),
            Change::Start => drop(answer.send(self.start_created(&name).await)),
            Change::Update(update) => drop(answer.send(self.update(&name, &update).await)),
            Change::Stop(_) if !runs => drop(answer.send(Ok(()))),
            Change::Restart(_) if !runs => self.run_again(&name, vec![answer]),
            Change::Stop(grace) => {
                let ending = self.ask_to_end(&name, grace).await;
                (ending.asked, ending.again) = (true, false);
                ending.stops.push(answer);
            }
            Change::Restart(grace) => {
                let ending = self.ask_to_end(&name, grace).await;
                (ending.asked, ending.again) = (true, true);
                ending.restarts.push(answer);
            }
            Change::Remove => {
                if phase == ContainerPhase::Created {
                    self.delete(&name);
                }
                if let Some(container) = self.shared.container(&name) {
                    self.forget(&container);
                }
                drop(answer.send(Ok(())));
            }
        }
    }

    /// Whether a container may be changed so; its phase, if it may.
    fn check_change(&self, name: &str, change: &Change) -> Result<ContainerPhase, ChangeError> {
        let pod_is_stopping = self.stopping.is_some();
        if let Change::Create(plan) = change {
            return self.check_new(plan);
        }
        let wrong = |why| wrong(name, why);
        let container = self.shared.container(name);
        let container = container.ok_or_else(|| ChangeError::Unknown(name.to_owned()))?;
        if container.kind == Kind::Init && !container.is_sidecar() {
            return Err(wrong("is an init container, which runs once"));
        }
        if container.plan.attach.is_some() {
            return Err(wrong("is run by who attaches to it"));
        }
        let phase = self.shared.phase(name).unwrap_or(ContainerPhase::Waiting);
        match (change, &phase) {
            (Change::Stop(_) | Change::Restart(_) | Change::Remove, ContainerPhase::Waiting)
                if self.waits.waits(name) && !pod_is_stopping =>
            {
                Ok(phase)
            }
            (_, ContainerPhase::Waiting) => Err(wrong("is being created")),
            (Change::Start | Change::Restart(_), _) if pod_is_stopping => Err(stopping(name)),
            (Change::Restart(_), _) if container.kind == Kind::Ephemeral => {
                Err(wrong("is ephemeral, which runs once"))
            }
            (Change::Start, ContainerPhase::Running { .. }) => Err(wrong("runs already")),
            (Change::Start, ContainerPhase::Exited { .. }) => Err(wrong("has run: it can be restarted")),
            (Change::Stop(_) | Change::Restart(_), ContainerPhase::Created) => {
                Err(wrong("was not started yet"))
            }
            (Change::Remove, ContainerPhase::Running { .. }) => Err(wrong("runs: stop it first")),
            (Change::Update(_), ContainerPhase::Exited { .. }) => Err(wrong("has ended")),
            _ => Ok(phase),
        }
    }

    /// Whether a container can be one of the pod's from now on; its phase then.
    fn check_new(&self, plan: &ContainerPlan) -> Result<ContainerPhase, ChangeError> {
        let name = &plan.name;
        if self.stopping.is_some() {
            return Err(stopping(name));
        }
        if self.confined {
            let why = "a container cannot be added to a pod whose init has given up its rights";
            return Err(ChangeError::Unsupported(why.to_owned()));
        }
        if plan.attach.is_some() {
            return Err(wrong(name, "nobody can attach to a container that was added"));
        }
        if self.shared.container(name).is_some() {
            return Err(wrong(name, "the pod has one of that name"));
        }
        let target = plan.ephemeral.as_ref().and_then(|own| own.target.as_ref());
        if let Some(target) = target
            && !matches!(self.shared.phase(target), Some(ContainerPhase::Running { .. }))
        {
            return Err(wrong(name, "the container that it is to look at does not run"));
        }
        Ok(ContainerPhase::Waiting)
    }

    /// Creates one more container, in the background.
    fn create(&mut self, plan: ContainerPlan, answer: Answer) {
        let name = plan.name.clone();
        self.shared.add(plan);
        self.make(&name, false, vec![answer]);
    }

    /// A container is no longer one of the pod's, or never became one.
    fn forget(&mut self, container: &Entry) {
        let plan = &container.plan;
        rootfs::unmount(plan);
        plan.message.iter().for_each(message::unmount);
        if self.before.own_files {
            tokio::spawn(rootfs::remove_old(rootfs::discard_layer(plan)));
            logs::remove(&plan.log);
        }
        self.shared.remove(&plan.name);
        self.waits.forget(&plan.name);
        self.updated.remove(&plan.name);
        container.log.send_replace(true);
    }

    /// Runs the program of one that was created.
    async fn start_created(&mut self, name: &str) -> Result<(), ChangeError> {
        let (Some(container), Ok(id)) = (self.shared.container(name), ContainerId::new(name)) else {
            return Err(ChangeError::Unknown(name.to_owned()));
        };
        let pid = self.pids.remove(name).flatten();
        let started = self.start(&container.plan, &id, pid).await;
        if let Err(error) = &started {
            let code = error
                .program
                .as_ref()
                .map_or(CANNOT_START, |why| i32::from(why.failure.exit_code()));
            self.change(name, |container| container.cannot_start(Exit::exited(code)));
            self.delete(name);
            container.log.send_replace(true);
        }
        started.map_err(ChangeError::Failed)
    }

    async fn update(&mut self, name: &str, update: &Update) -> Result<(), ChangeError> {
        let id = ContainerId::new(name).map_err(|_| ChangeError::Unknown(name.to_owned()))?;
        let updated = self.runtime.update(&id, &update.resources).await;
        updated.map_err(|error| match error {
            magik_oci::Error::Unsupported { .. } => ChangeError::Unsupported(error.to_string()),
            other => ChangeError::Refused(other.to_string()),
        })?;
        let merged = match self.updated.get(name) {
            Some(before) => merged(before, &update.resources),
            None => update.resources.clone(),
        };
        self.updated.insert(name.to_owned(), merged);
        if let Some(shown) = update.shown {
            self.change(name, |container| {
                let before = container.resized.unwrap_or_default();
                container.resized = Some(shown.over(before));
                container.revision = container.revision.saturating_add(1);
            });
        }
        Ok(())
    }

    /// Asks a container to end. What is under way for that already is only ever made sooner.
    async fn ask_to_end(&mut self, name: &str, grace: Option<Duration>) -> &mut Ending {
        let grace = self.plan.grace(grace);
        let kill_at = after(grace);
        self.begin_to_end(name, grace).await;
        let place = self.ending.iter().position(|ending| ending.name == name);
        let place = place.unwrap_or_else(|| {
            self.ending.push(Ending {
                name: name.to_owned(),
                kill_at,
                killed: false,
                asked: false,
                again: false,
                stops: Vec::new(),
                restarts: Vec::new(),
            });
            self.ending.len() - 1
        });
        let ending = &mut self.ending[place];
        if !ending.killed {
            ending.kill_at = ending.kill_at.min(kill_at);
        }
        ending
    }

    /// Asks a container to end since something is wrong with it: its policy says how it goes on.
    pub(super) async fn end_by_policy(&mut self, name: &str, grace_s: Option<u64>) {
        self.attended.remove(name);
        self.ask_to_end(name, grace_s.map(Duration::from_secs)).await;
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
                let error = wrong(&ending.name, "does not end after SIGKILL");
                let all = ending.stops.into_iter().chain(ending.restarts).collect();
                answer(all, &Err(error));
                continue;
            }
            self.kill(&ending.name, Signal::KILL, true).await;
            ending.killed = true;
            ending.kill_at = now + KILL_TIMEOUT;
            self.ending.push(ending);
        }
    }

    /// Whether somebody has asked a container to end, and then to be run again.
    pub(super) fn asked_to_end(&self, name: &str) -> Option<bool> {
        let mut asked = self.ending.iter().filter(|ending| ending.asked);
        asked
            .find(|ending| ending.name == name)
            .map(|ending| ending.again)
    }

    /// A container has ended, as it was asked to or not.
    pub(super) fn end_was_seen(&mut self, name: &str) {
        let Some(place) = self.ending.iter().position(|ending| ending.name == name) else {
            return;
        };
        let ending = self.ending.swap_remove(place);
        answer(ending.stops, &Ok(()));
        let name = ending.name;
        if self.stopping.is_some() {
            answer(ending.restarts, &Err(stopping(&name)));
        } else if ending.again {
            self.run_again(&name, ending.restarts);
        } else {
            let error = wrong(&name, "was stopped by somebody else");
            answer(ending.restarts, &Err(error));
        }
    }

    /// Creates a container once more: with a new writable layer, where it has one.
    fn run_again(&mut self, name: &str, answers: Vec<Answer>) {
        self.change(name, ContainerStatus::will_run_again);
        self.make(name, true, answers);
    }

    /// Creates a container, `again` or for the first time, in the background.
    pub(super) fn make(&mut self, name: &str, again: bool, answers: Vec<Answer>) {
        let (Some(container), Ok(_)) = (self.shared.container(name), ContainerId::new(name)) else {
            let error = ChangeError::Refused(format!("{name:?} is no container's name"));
            self.shared.remove(name);
            return answer(answers, &Err(error));
        };
        container.log.send_replace(false);
        let (runtime, size, mounts) = (self.runtime.clone(), self.log_size(), !self.confined);
        let makes_layer = self.before.own_files;
        let root = self.plan.user_namespace.map_or(0, |users| users.host_id);
        let joined = match self.join_target(&container.plan) {
            Ok(joined) => joined,
            Err(error) => {
                let failed = LaunchError::container(name, LaunchStep::ProcessNamespace, &error);
                self.forget(&container);
                return answer(answers, &Err(ChangeError::Failed(failed)));
            }
        };
        let (name, deleting) = (name.to_owned(), self.deleting.clone());
        self.making.spawn(async move {
            let plan = &container.plan;
            let create = async {
                drop(deleting.write().await);
                let failed = |e| LaunchError::container(&plan.name, LaunchStep::Mounts, &e);
                if !again {
                    if makes_layer {
                        rootfs::make_layer(plan).map_err(failed)?;
                    }
                    let _joined = joined;
                    return container::create(&*runtime, &container, size, mounts).await;
                }
                container::recreate(&*runtime, &container, size, mounts, root).await
            };
            let outcome = create.await;
            Made {
                name,
                again,
                answers,
                outcome,
            }
        });
    }

    /// Has the process namespace of the container that another one is to look at be where that one's
    /// bundle says, until it was created.
    fn join_target(&self, plan: &ContainerPlan) -> std::io::Result<Option<Joined>> {
        let target = plan.ephemeral.as_ref().and_then(|own| own.target.as_ref());
        let Some(target) = target else { return Ok(None) };
        let Some(ContainerPhase::Running { pid: Some(pid), .. }) = self.shared.phase(target) else {
            return Err(std::io::Error::other(format!("{target} does not run")));
        };
        // It is a child of this process, which has not waited for it.
        let place = plan.bundle.join(TARGET_PROCESSES);
        rustix::mount::mount_bind(format!("/proc/{pid}/ns/pid"), &place)?;
        Ok(Some(Joined(place)))
    }

    /// Starts what was created to be run again; what is new waits.
    pub(super) async fn made(&mut self, made: Made) {
        let Made {
            name,
            again,
            answers,
            outcome,
        } = made;
        let Some(container) = self.shared.container(&name) else {
            return;
        };
        let done = match outcome {
            Ok(_) if self.stopping.is_some() => Err(stopping(&name)),
            Ok(_) if self.restarting.is_some() => Err(wrong(&name, ALL_AGAIN)),
            Ok(created) => {
                let (id, pid) = self.created(&container.plan, created);
                if again {
                    let started = self.start(&container.plan, &id, pid).await;
                    started.map_err(ChangeError::Failed)
                } else {
                    self.pids.insert(name.clone(), pid);
                    self.shared.publish(|_| {});
                    Ok(())
                }
            }
            Err(error) => Err(ChangeError::Failed(error)),
        };
        if done.is_err() {
            // Also one that was created and cannot be started; of others there is nothing.
            self.delete(&name);
            if again {
                self.change(&name, ContainerStatus::does_not_run_again);
                container.log.send_replace(true);
                if let (true, Err(ChangeError::Failed(error))) = (answers.is_empty(), &done) {
                    self.could_not_run_again(&name, error);
                }
            } else {
                self.forget(&container);
            }
        }
        answer(answers, &done);
    }
}

/// A process namespace that is mounted for a container that is being created.
struct Joined(PathBuf);

impl Drop for Joined {
    fn drop(&mut self) {
        // The container is in it by now, or never will be.
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

/// Limits, and those of before where they say nothing.
fn merged(before: &LinuxResources, now: &LinuxResources) -> LinuxResources {
    fn lay(below: &mut Value, above: Value) {
        match (below, above) {
            (Value::Object(below), Value::Object(above)) => {
                for (key, value) in above {
                    lay(below.entry(key).or_insert(Value::Null), value);
                }
            }
            (_, Value::Null) => {}
            (below, above) => *below = above,
        }
    }
    let both = || {
        let mut all = serde_json::to_value(before).ok()?;
        lay(&mut all, serde_json::to_value(now).ok()?);
        serde_json::from_value(all).ok()
    };
    both().unwrap_or_else(|| now.clone())
}

pub(super) fn wrong(name: &str, why: &'static str) -> ChangeError {
    let name = name.to_owned();
    ChangeError::State { name, why }
}

fn stopping(name: &str) -> ChangeError {
    wrong(name, "the pod is being stopped")
}

fn answer(answers: Vec<Answer>, with: &Result<(), ChangeError>) {
    for answer in answers {
        // Who asked may be gone.
        let _ = answer.send(with.clone());
    }
}
