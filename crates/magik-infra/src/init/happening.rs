//! What happens to the containers of a pod, and what comes of it.

use std::{collections::HashMap, time::Duration};

use jiff::Timestamp;
use magik_oci::Exit;
use tokio::time::Instant;

use super::{
    container::ExitReport,
    ending::Made,
    handler::HandlerError,
    pod::Pod,
    probes::{News, Told},
    starting::in_words,
};
use crate::{
    error::{LaunchError, LaunchStep},
    events::{Event, EventKind},
    life::reached,
    plan::Lifecycle,
    status::{ContainerPhase, ContainerStatus},
    table::Kind,
};

/// The least time between the end of what is done before a container's end and SIGKILL; the
/// kubelet's.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// What has happened.
#[derive(Debug)]
pub(super) enum Happening {
    /// A container has ended.
    Exit(ExitReport),
    /// One was created, or could not be.
    Made(Box<Made>),
    /// The time of one that was asked to end is over.
    KillDue,
    /// One has waited long enough to be run again.
    RestartDue,
    /// A probe or a hook has said something.
    Told(Told),
    /// It has too much on disk, in these words.
    Exceeded(String),
}

/// What a container's policy does not forgive: a pod that is being started does not start.
#[derive(Debug)]
pub(super) struct Unforgiven(pub(super) LaunchError);

/// A container's way from one run to the next.
#[derive(Debug, Default)]
pub(super) struct Waits(HashMap<String, Wait>);

#[derive(Debug, Default)]
struct Wait {
    /// How long it waited the last time.
    delay: Option<Duration>,
    /// When it is run again, if it waits for that.
    due: Option<Instant>,
}

impl Waits {
    fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|wait| wait.due).min()
    }

    pub(super) fn waits(&self, name: &str) -> bool {
        self.0.get(name).is_some_and(|wait| wait.due.is_some())
    }

    /// It waits no longer; `false`: it did not wait.
    pub(super) fn cancel(&mut self, name: &str) -> bool {
        self.0.get_mut(name).and_then(|wait| wait.due.take()).is_some()
    }

    /// Those whose time has come.
    fn due(&mut self, now: Instant) -> Vec<String> {
        let is_due = |wait: &Wait| wait.due.is_some_and(|due| due <= now);
        let due = self.0.iter_mut().filter(|(_, wait)| is_due(wait));
        due.map(|(name, wait)| {
            wait.due = None;
            name.clone()
        })
        .collect()
    }

    fn waiting(&self) -> Vec<String> {
        let waiting = self.0.iter().filter(|(_, wait)| wait.due.is_some());
        waiting.map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.0.remove(name);
    }
}

impl Pod {
    /// What happens next. May be dropped and called again.
    pub(super) async fn happening(&mut self) -> Happening {
        let (next_kill, next_run) = (self.next_kill(), self.waits.next());
        loop {
            tokio::select! {
                Some(report) = self.exits.recv() => return Happening::Exit(report),
                Some(made) = self.making.join_next() => {
                    if let Ok(made) = made {
                        return Happening::Made(Box::new(made));
                    }
                }
                Some(told) = self.told.recv() => return Happening::Told(told),
                Some(why) = self.exceeded.1.recv() => return Happening::Exceeded(why),
                () = reached(next_kill) => return Happening::KillDue,
                () = reached(next_run) => return Happening::RestartDue,
            }
        }
    }

    /// Does what is to be done then.
    pub(super) async fn deal_with(&mut self, happening: Happening) -> Option<Unforgiven> {
        match happening {
            Happening::Exit(report) => {
                let restarted = self.restarting.is_some();
                let unforgiven = self.exit_seen(&report);
                if self.restarting.is_some() && !restarted {
                    self.kill_for_restart().await;
                }
                self.end_a_sidecar().await;
                return unforgiven;
            }
            Happening::Made(made) => {
                self.made(*made).await;
                self.end_a_sidecar().await;
            }
            Happening::KillDue => self.kill_late().await,
            Happening::RestartDue => {
                for name in self.waits.due(Instant::now()) {
                    self.make(&name, true, Vec::new());
                }
            }
            Happening::Told(told) => return self.told(told).await,
            // Of a pod that has started its supervisor makes more of it.
            Happening::Exceeded(why) => {
                return Some(Unforgiven(LaunchError::pod(LaunchStep::Start, &why)));
            }
        }
        None
    }

    fn exit_seen(&mut self, report: &ExitReport) -> Option<Unforgiven> {
        let name = report.name.as_str();
        if !self.is_of_now(report) {
            return None;
        }
        let was_started = !matches!(self.shared.phase(name), Some(ContainerPhase::Created));
        let ran_for = self.ended(report);
        let hook = self.forget_hooks(name);
        let asked = self.asked_to_end(name);
        let mut unforgiven = None;
        let is_ephemeral = self
            .shared
            .container(name)
            .is_some_and(|container| container.kind == Kind::Ephemeral);
        if self.restarting.is_some() && !is_ephemeral {
            // It is run again with the others.
            self.end_was_seen(name);
            return None;
        }
        // A pod that is going down is removed as a whole.
        if self.stopping.is_none() && !asked.is_some_and(|again| again) {
            let lifecycle = self.lifecycle(name);
            if was_started && asked.is_none() && lifecycle.restarts_all(&report.exit) {
                self.begin_all_again(name, ran_for, &in_words(report));
            } else if was_started && asked.is_none() && lifecycle.runs_again(&report.exit) {
                self.will_run_again(name, ran_for, &in_words(report));
                // What it has left in a process namespace that is not its own does not live until then.
                self.delete(name);
            } else {
                self.delete(name);
                let failed = !is_ephemeral && (report.exit.code != 0 || report.unknown.is_some());
                unforgiven = failed.then(|| self.unforgiven(report, hook));
            }
        }
        self.end_was_seen(name);
        unforgiven
    }

    fn unforgiven(&mut self, report: &ExitReport, hook: Option<LaunchError>) -> Unforgiven {
        Unforgiven(hook.unwrap_or_else(|| {
            let container = self.shared.container(&report.name);
            let step = match container.map(|container| container.kind) {
                Some(Kind::App | Kind::Ephemeral) => LaunchStep::Start,
                Some(Kind::Init) | None => LaunchStep::InitContainer,
            };
            LaunchError::container(&report.name, step, &in_words(report))
        }))
    }

    /// One that has ended waits to be run again: the first time not at all.
    pub(super) fn will_run_again(&mut self, name: &str, ran_for: Duration, why: &str) {
        let due = self.back_off(name, ran_for, why, "it is");
        if let Some(wait) = self.waits.0.get_mut(name) {
            wait.due = Some(due);
        }
    }

    /// When one that has ended is run again, which its status says.
    pub(super) fn back_off(&mut self, name: &str, ran_for: Duration, why: &str, who: &str) -> Instant {
        let back_off = self.plan.back_off;
        let wait = self.waits.0.entry(name.to_owned()).or_default();
        if ran_for >= Duration::from_millis(back_off.reset_ms) {
            wait.delay = None;
        }
        let delay = match wait.delay {
            None => Duration::ZERO,
            Some(last) => back_off.after(Some(last).filter(|last| !last.is_zero())),
        };
        wait.delay = Some(delay);
        let until = Timestamp::now()
            .checked_add(delay)
            .ok()
            .filter(|_| !delay.is_zero());
        self.change(name, |container| {
            container.will_run_again();
            container.back_off_until = until;
        });
        let detail = format!("{why}; {who} run again in {delay:?}");
        self.event(Event::now(EventKind::ContainerBackOff, name, detail));
        Instant::now() + delay
    }

    /// Of a pod that is being stopped: whoever waits to be run again stays as it ended.
    pub(super) fn none_runs_again(&mut self) {
        self.none_runs_again_but("");
    }

    /// The same for all but one.
    pub(super) fn none_runs_again_but(&mut self, one: &str) {
        for name in self.waits.waiting().into_iter().filter(|name| name != one) {
            self.waits.cancel(&name);
            self.change(&name, ContainerStatus::does_not_run_again);
        }
    }

    pub(super) fn lifecycle(&self, name: &str) -> Lifecycle {
        let container = self.shared.container(name);
        container
            .map(|container| container.plan.lifecycle.clone())
            .unwrap_or_default()
    }

    /// A probe or a hook of a container in its present run has said something.
    async fn told(&mut self, told: Told) -> Option<Unforgiven> {
        let Told { container, run, news } = told;
        let name = container.as_str();
        if self.runs.get(name) != Some(&run) {
            return None;
        }
        let lifecycle = self.lifecycle(name);
        match news {
            News::PostStart(done) => {
                match done {
                    Ok(()) => {
                        self.starting_hooks.remove(name);
                        if lifecycle.startup.is_none() {
                            self.has_started(name, &lifecycle);
                        }
                    }
                    // Who waits for it waits for the container's end, and for its next run.
                    Err(error) => {
                        let step = LaunchStep::PostStart;
                        self.failed(name, "postStart hook", &error);
                        let error = LaunchError::container(name, step, &error.to_string());
                        self.failed_hooks.insert(name.to_owned(), error);
                        self.end_by_policy(name, None).await;
                    }
                }
            }
            News::Startup(Ok(())) => self.has_started(name, &lifecycle),
            News::Startup(Err(error)) => {
                self.failed(name, "startup probe", &error);
                let grace = lifecycle.startup.and_then(|probe| probe.grace_s);
                self.end_by_policy(name, grace).await;
                let step = LaunchStep::StartupProbe;
                return Some(Unforgiven(LaunchError::container(name, step, &error.to_string())));
            }
            News::Readiness(answer) => {
                let ready = answer.is_ok();
                let kind = if ready {
                    EventKind::ContainerReady
                } else {
                    EventKind::ContainerUnready
                };
                let detail = answer.err().map(|error| error.to_string()).unwrap_or_default();
                self.answers(name, (true, ready), kind, detail);
            }
            News::Unlive(error) => {
                self.failed(name, "liveness probe", &error);
                let grace = lifecycle.liveness.and_then(|probe| probe.grace_s);
                self.end_by_policy(name, grace).await;
            }
            News::PreStop(done) => {
                self.ending_hooks.remove(name);
                if let Err(error) = done {
                    self.failed(name, "preStop hook", &error);
                }
                self.allow_least_grace(name);
                self.ask_by_signal(name).await;
            }
        }
        None
    }

    /// A container's hook and startup probe have succeeded, if it has any.
    fn has_started(&mut self, name: &str, lifecycle: &Lifecycle) {
        let ready = lifecycle.readiness.is_none();
        self.answers(name, (true, ready), EventKind::ContainerHealthy, String::new());
    }

    fn answers(&mut self, name: &str, (started, ready): (bool, bool), kind: EventKind, detail: String) {
        let mut is_news = false;
        self.change(name, |container| is_news = container.answers(started, ready));
        if is_news {
            self.event(Event::now(kind, name, detail));
        }
    }

    fn failed(&mut self, name: &str, what: &str, error: &HandlerError) {
        let event = Event::now(EventKind::ContainerUnhealthy, name, format!("{what}: {error}"));
        self.event(event);
    }

    /// A hook that has just ended leaves the container some time to end, too.
    fn allow_least_grace(&mut self, name: &str) {
        let least = Instant::now() + LEAST_GRACE;
        for ending in self
            .ending
            .iter_mut()
            .filter(|ending| ending.name == name && !ending.killed)
        {
            ending.kill_at = ending.kill_at.max(least);
        }
        if let Some(stopping) = self.stopping.as_mut().filter(|stopping| !stopping.killed) {
            stopping.kill_at = stopping.kill_at.max(least);
        }
    }

    /// What a container had wanted done is done no more; why its hook had failed, if it had.
    pub(super) fn forget_hooks(&mut self, name: &str) -> Option<LaunchError> {
        self.attended.remove(name);
        self.starting_hooks.remove(name);
        self.ending_hooks.remove(name);
        self.failed_hooks.remove(name)
    }

    /// How a container that cannot be created once more goes on: as if it had failed.
    pub(super) fn could_not_run_again(&mut self, name: &str, error: &LaunchError) {
        let code = Exit::exited(super::changes::CANNOT_START);
        if self.stopping.is_none() && self.lifecycle(name).runs_again(&code) {
            self.will_run_again(name, Duration::ZERO, &error.to_string());
        }
    }
}
