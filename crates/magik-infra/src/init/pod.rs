//! The supervisor: starts a pod's containers and follows them to their end.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jiff::Timestamp;
use magik_oci::{ContainerId, Exit, OciRuntime, Signal};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Before,
    container::{self, Created, ExitReport, Output, Watched},
    inputs::{Inputs, Interrupt},
    rootfs,
    shared::{Attachable, LaunchUpdate, Shared},
};
use crate::{
    error::LaunchError,
    events::{Event, EventKind},
    extension::{Extensions, RequiredExtensionFailed},
    plan::{ContainerPlan, PodPlan},
    status::{ContainerPhase, ContainerStatus, Phase, PodStatus},
};

/// How long a process may outlive SIGKILL (stuck in the kernel) before the pod is called over all the same.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Pod {
    runtime: Arc<dyn OciRuntime>,
    shared: Arc<Shared>,
    plan: Arc<PodPlan>,
    extensions: Extensions,
    extension_failed: mpsc::Sender<RequiredExtensionFailed>,
    extension_failures: Option<mpsc::Receiver<RequiredExtensionFailed>>,
    updates: mpsc::UnboundedSender<LaunchUpdate>,
    exits: mpsc::UnboundedReceiver<ExitReport>,
    exited: mpsc::UnboundedSender<ExitReport>,
    launched_at: Instant,
    /// Whether the root file systems of all containers are mounted already.
    mounted: bool,
    /// Containers being removed at the runtime.
    deletions: JoinSet<()>,
    /// Containers that are not started before somebody attaches.
    waiting: Vec<Waiting>,
}

/// A container that waits for somebody to attach.
#[derive(Debug)]
struct Waiting {
    index: usize,
    attached: oneshot::Receiver<()>,
    started: oneshot::Sender<i32>,
}

/// A stop under way.
#[derive(Debug)]
struct Stopping {
    kill_at: Instant,
    killed: bool,
}

impl Pod {
    pub(crate) fn new(
        runtime: Arc<dyn OciRuntime>,
        shared: Arc<Shared>,
        plan: Arc<PodPlan>,
        extensions: Extensions,
        updates: mpsc::UnboundedSender<LaunchUpdate>,
    ) -> Self {
        let (exited, exits) = mpsc::unbounded_channel();
        let (extension_failed, failures) = mpsc::channel(1);
        shared.begin(PodStatus::pending(&plan, &shared.runtime_class));
        Self {
            runtime,
            shared,
            plan,
            extensions,
            extension_failed,
            extension_failures: Some(failures),
            updates,
            exits,
            exited,
            launched_at: Instant::now(),
            mounted: false,
            deletions: JoinSet::new(),
            waiting: Vec::new(),
        }
    }

    /// When the pod must be over; counted from its launch, as kubelet does.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.plan
            .active_deadline_s
            .and_then(|s| self.launched_at.checked_add(Duration::from_secs(s)))
    }

    /// Where required extensions report their failures; to be taken once.
    pub(crate) fn extension_failures(&mut self) -> Option<mpsc::Receiver<RequiredExtensionFailed>> {
        self.extension_failures.take()
    }

    /// Starts the pod: mounts, init containers one after the other, then all app containers.
    pub(super) async fn launch(&mut self, before: Before) -> Result<(), LaunchError> {
        let plan = self.plan.clone();
        #[cfg(target_os = "linux")]
        if let Some(dir) = before.shared_processes {
            let started = crate::pause::start(&dir).await;
            started.map_err(|e| LaunchError::pod("process-namespace", &e))?;
        }
        self.progress("mounts", "");
        for tmpfs in &plan.tmpfs {
            rootfs::mount_tmpfs(tmpfs).map_err(|e| LaunchError::pod("mounts", &e))?;
        }
        if let Some(preparation) = before.preparation {
            for container in plan.init_containers.iter().chain(&plan.containers) {
                container::mount(container)?;
            }
            self.mounted = true;
            preparation(plan.clone()).await?;
        }
        let extension = |e: RequiredExtensionFailed| LaunchError::pod("extension", &e);
        self.extensions
            .start(&plan, &self.shared.events, &self.extension_failed)
            .await
            .map_err(extension)?;

        for (index, container) in plan.init_containers.iter().enumerate() {
            self.progress("init-container", &container.name);
            self.run_init_container(index, container).await?;
        }
        self.start_containers(&plan).await?;

        self.extensions
            .ready(&plan, &self.shared.events)
            .await
            .map_err(extension)?;
        // Whoever asks for a pod that runs finds it by this file.
        let written = self.shared.try_publish(|status| {
            status.phase = Phase::Running;
            status.started_at = Some(Timestamp::now());
        });
        written.map_err(|e| LaunchError::pod("status", &e))?;
        self.event(Event::now(EventKind::PodReady, "", ""));
        let _ = self.updates.send(LaunchUpdate::Ready);
        Ok(())
    }

    async fn run_init_container(&mut self, index: usize, plan: &ContainerPlan) -> Result<(), LaunchError> {
        if plan.attach.is_some() {
            let why = "nobody can attach to an init container";
            return Err(LaunchError::container(&plan.name, "plan", why));
        }
        let (runtime, size) = (self.runtime.clone(), self.shared.max_log_size);
        let created = container::create(&*runtime, plan, size, self.log(plan), !self.mounted).await?;
        let (id, pid) = self.created(index, plan, created);
        self.start(index, plan, &id, pid).await?;
        let Some(report) = self.exits.recv().await else {
            return Err(LaunchError::container(
                &plan.name,
                "init-container",
                "its end was not seen",
            ));
        };
        self.ended(&report);
        self.delete(&report);
        let ending = match report {
            ExitReport {
                exit: Exit { code: 0, .. },
                unknown: None,
                ..
            } => return Ok(()),
            ExitReport {
                unknown: Some(why), ..
            } => why,
            ExitReport {
                exit: Exit { oom_killed: true, .. },
                ..
            } => "killed: out of memory".to_owned(),
            ExitReport {
                exit: Exit { signal: Some(n), .. },
                ..
            } => format!("killed by signal {n}"),
            ExitReport { exit, .. } => format!("exit code {}", exit.code),
        };
        let message = if report.last_line.is_empty() {
            ending
        } else {
            format!("{ending}: {}", report.last_line)
        };
        Err(LaunchError::container(&plan.name, "init-container", &message))
    }

    /// Creates the app containers, as many at a time as there are processors, and starts them in order once all of
    /// them are there: a container that cannot be created means that none was started.
    async fn start_containers(&mut self, plan: &PodPlan) -> Result<(), LaunchError> {
        let parallel = std::thread::available_parallelism().map_or(1, usize::from);
        let (runtime, size) = (self.runtime.clone(), self.shared.max_log_size);
        let jobs: Vec<_> = plan
            .containers
            .iter()
            .map(|c| container::create(&*runtime, c, size, self.log(c), !self.mounted))
            .collect();
        let mut jobs = stream::iter(jobs).buffered(parallel);
        let mut created = Vec::new();
        for (container, index) in plan.containers.iter().zip(plan.init_containers.len()..) {
            self.progress("container", &container.name);
            let Some(result) = jobs.next().await else { break };
            created.push((container, index, self.created(index, container, result?)));
        }
        for (container, index, (id, pid)) in created {
            self.start(index, container, &id, pid).await?;
        }
        Ok(())
    }

    /// From now on the container's output is kept and its end is seen.
    fn created(
        &mut self,
        index: usize,
        plan: &ContainerPlan,
        created: Created,
    ) -> (ContainerId, Option<i32>) {
        let Created { id, pid, output } = created;
        let watched = match output {
            Output::Log(pump) => Watched::Log(Box::new(pump)),
            Output::Attached(streams) => {
                let (exited, exit) = watch::channel(None);
                let (attached, is_attached) = oneshot::channel();
                let (started, is_started) = oneshot::channel();
                self.waiting.push(Waiting {
                    index,
                    attached: is_attached,
                    started,
                });
                let attachable = Attachable {
                    streams,
                    attached,
                    started: is_started,
                    exit,
                };
                self.shared.offer(&plan.name, attachable);
                Watched::Attached(exited)
            }
        };
        let watching = container::watch(
            self.runtime.clone(),
            id.clone(),
            index,
            watched,
            self.exited.clone(),
        );
        tokio::spawn(watching);
        self.event(Event::now(EventKind::ContainerCreated, &plan.name, ""));
        (id, pid)
    }

    async fn start(
        &mut self,
        index: usize,
        plan: &ContainerPlan,
        id: &ContainerId,
        pid: Option<i32>,
    ) -> Result<(), LaunchError> {
        let waiting = self.waiting.iter().position(|waiting| waiting.index == index);
        let started = match waiting.map(|place| self.waiting.swap_remove(place)) {
            Some(Waiting {
                attached, started, ..
            }) => {
                let nobody = |_| LaunchError::container(&plan.name, "start", "nobody has attached to it");
                attached.await.map_err(nobody)?;
                Some(started)
            }
            None => None,
        };
        let started_at = Timestamp::now();
        self.runtime
            .start(id)
            .await
            .map_err(|e| LaunchError::runtime(&plan.name, "start", &e))?;
        self.shared.publish(|status| {
            container_of(status, index).state = ContainerPhase::Running { started_at, pid };
        });
        self.event(Event::now(EventKind::ContainerStarted, &plan.name, ""));
        if let Some(started) = started {
            // Who has attached may be gone: what comes of that is told by the container's end.
            let _ = started.send(pid.unwrap_or_default());
        }
        Ok(())
    }

    /// The pod did not start: says so everywhere. What was started dies with the init.
    pub(crate) async fn launch_failed(&mut self, error: &LaunchError) {
        self.shared.publish(|status| {
            status.phase = Phase::Failed;
            status.reason = Some("LaunchFailed".to_owned());
            status.message = Some(error.to_string());
            status.finished_at = Some(Timestamp::now());
        });
        self.extensions.stop(&self.plan, &self.shared.events).await;
        let _ = self.updates.send(LaunchUpdate::Failed(error.clone()));
    }

    /// Follows the running pod to its end; `None`: it was abandoned before the commit.
    pub(crate) async fn supervise(&mut self, inputs: &mut Inputs) -> Option<PodStatus> {
        let mut stopping: Option<Stopping> = None;
        let mut reason: Option<(&'static str, String)> = None;
        while self.any_alive() {
            let interrupt = tokio::select! {
                Some(report) = self.exits.recv() => {
                    self.ended(&report);
                    // A pod that is going down is removed as a whole.
                    if stopping.is_none() {
                        self.delete(&report);
                    }
                    continue;
                }
                interrupt = inputs.interrupt(&self.shared) => interrupt,
                () = kill_time(stopping.as_ref()) => {
                    if stopping.as_ref().is_some_and(|s| s.killed) {
                        reason = Some(("NotKilled", self.survivors()));
                        break;
                    }
                    stopping = Some(self.kill_all().await);
                    continue;
                }
            };
            match interrupt {
                Interrupt::Abandoned => return None,
                Interrupt::Stop { grace } => {
                    reason.get_or_insert(("Stopped", String::new()));
                    let grace = grace.unwrap_or(Duration::from_secs(self.plan.grace_period_s));
                    stopping = Some(self.stop(stopping, grace).await);
                }
                Interrupt::Deadline => {
                    let seconds = self.plan.active_deadline_s.unwrap_or_default();
                    let message = format!("the pod ran longer than its activeDeadlineSeconds of {seconds}");
                    reason = Some(("DeadlineExceeded", message));
                    stopping = Some(self.kill_all().await);
                }
                Interrupt::ExtensionFailed(error) => {
                    reason.get_or_insert(("ExtensionFailed", error.to_string()));
                    stopping = Some(
                        self.stop(stopping, Duration::from_secs(self.plan.grace_period_s))
                            .await,
                    );
                }
            }
        }
        if stopping.is_none() {
            while self.deletions.join_next().await.is_some() {}
        }
        Some(self.finish(reason).await)
    }

    /// Asks every container to end, in the reverse of the order they were started in. A stop that is already under
    /// way is only ever made shorter.
    async fn stop(&mut self, under_way: Option<Stopping>, grace: Duration) -> Stopping {
        // An absurd grace period is as good as a year.
        let year = Duration::from_secs(365 * 24 * 3600);
        let kill_at = Instant::now() + grace.min(year);
        match under_way {
            Some(stopping) if stopping.killed || stopping.kill_at <= kill_at => return stopping,
            Some(stopping) if !grace.is_zero() => return Stopping { kill_at, ..stopping },
            _ if grace.is_zero() => return self.kill_all().await,
            _ => {}
        }
        self.event(Event::now(
            EventKind::PodStopping,
            "",
            format!("grace period {grace:?}"),
        ));
        for index in self.alive().into_iter().rev() {
            self.kill(index, Signal::TERM, false).await;
        }
        Stopping {
            kill_at,
            killed: false,
        }
    }

    async fn kill_all(&mut self) -> Stopping {
        for index in self.alive().into_iter().rev() {
            self.kill(index, Signal::KILL, true).await;
        }
        Stopping {
            kill_at: Instant::now() + KILL_TIMEOUT,
            killed: true,
        }
    }

    async fn kill(&self, index: usize, signal: Signal, all: bool) {
        let Some(plan) = self.container(index) else { return };
        let Ok(id) = ContainerId::new(&plan.name) else {
            return;
        };
        match self.runtime.kill(&id, signal, all).await {
            // It ended by itself meanwhile.
            Ok(()) | Err(magik_oci::Error::NotFound(_) | magik_oci::Error::WrongState { .. }) => {}
            Err(error) => tracing::warn!(container = %id, %error, "cannot signal the container"),
        }
    }

    /// A container ended: status, then events.
    fn ended(&mut self, report: &ExitReport) {
        let now = Timestamp::now();
        self.shared.publish(|status| {
            let container = container_of(status, report.index);
            let started_at = match container.state {
                ContainerPhase::Running { started_at, .. } | ContainerPhase::Exited { started_at, .. } => {
                    started_at
                }
                ContainerPhase::Waiting => now,
            };
            container.state = ContainerPhase::Exited {
                started_at,
                finished_at: now,
                exit: report.exit,
            };
        });
        let name = self
            .container(report.index)
            .map(|c| c.name.clone())
            .unwrap_or_default();
        if report.exit.oom_killed {
            self.event(Event::now(EventKind::ContainerOom, &name, ""));
        }
        let detail = report.unknown.clone().unwrap_or_default();
        let event = Event::now(EventKind::ContainerExited, name, detail);
        self.event(Event {
            exit_code: Some(report.exit.code),
            ..event
        });
    }

    /// Removes a container that ended at the runtime, in the background: its cgroup goes, its status stays.
    fn delete(&mut self, report: &ExitReport) {
        let Some(plan) = self.container(report.index) else {
            return;
        };
        let Ok(id) = ContainerId::new(&plan.name) else {
            return;
        };
        let runtime = self.runtime.clone();
        self.deletions.spawn(async move {
            // By force: with a shared pid namespace its other processes may have outlived the first.
            if let Err(error) = runtime.delete(&id, true).await {
                tracing::warn!(container = %id, %error, "cannot remove the ended container");
            }
        });
        while self.deletions.try_join_next().is_some() {}
    }

    /// Nothing runs any more: the final status is written, then the extensions are told.
    async fn finish(&mut self, reason: Option<(&'static str, String)>) -> PodStatus {
        self.shared.publish(|status| {
            let succeeded = |c: &ContainerStatus| matches!(c.state, ContainerPhase::Exited { exit, .. } if exit.code == 0);
            let ended_well = matches!(reason, None | Some(("Stopped", _)));
            let phase = if ended_well && status.containers.iter().all(succeeded) { Phase::Succeeded } else { Phase::Failed };
            status.phase = phase;
            status.finished_at = Some(Timestamp::now());
            if let Some((reason, message)) = reason {
                status.reason = Some(reason.to_owned());
                status.message = Some(message).filter(|m| !m.is_empty());
            }
        });
        self.event(Event::now(EventKind::PodStopped, "", ""));
        self.extensions.stop(&self.plan, &self.shared.events).await;
        self.shared
            .status()
            .unwrap_or_else(|| unreachable!("the first status was published by Pod::new"))
    }

    /// The app containers that have not ended, in starting order.
    fn alive(&self) -> Vec<usize> {
        let Some(status) = self.shared.status() else {
            return Vec::new();
        };
        let first = status.init_containers.len();
        let ended = |c: &ContainerStatus| matches!(c.state, ContainerPhase::Exited { .. });
        (first..)
            .zip(&status.containers)
            .filter(|(_, c)| !ended(c))
            .map(|(index, _)| index)
            .collect()
    }

    fn any_alive(&self) -> bool {
        !self.alive().is_empty()
    }

    fn survivors(&self) -> String {
        let names: Vec<_> = self
            .alive()
            .into_iter()
            .filter_map(|i| self.container(i))
            .map(|c| c.name.as_str())
            .collect();
        format!("did not end after SIGKILL: {}", names.join(", "))
    }

    fn container(&self, index: usize) -> Option<&ContainerPlan> {
        self.plan
            .init_containers
            .iter()
            .chain(&self.plan.containers)
            .nth(index)
    }

    fn log(&self, plan: &ContainerPlan) -> tokio::sync::watch::Sender<bool> {
        self.shared
            .log_signal(&plan.name)
            .cloned()
            .unwrap_or_else(|| tokio::sync::watch::Sender::new(false))
    }

    fn progress(&self, step: &'static str, container: &str) {
        let _ = self.updates.send(LaunchUpdate::Progress {
            step,
            container: container.to_owned(),
        });
    }

    fn event(&mut self, event: Event) {
        let event = Arc::new(event);
        tracing::info!(kind = %event.kind, container = event.container, exit_code = event.exit_code, "event");
        self.shared.events.add(event.clone());
        self.extensions.event(&event, &self.shared.events);
    }
}

async fn kill_time(stopping: Option<&Stopping>) {
    match stopping {
        Some(stopping) => sleep_until(stopping.kill_at).await,
        None => std::future::pending().await,
    }
}

/// A container's status by its place, init containers first.
fn container_of(status: &mut PodStatus, index: usize) -> &mut ContainerStatus {
    let first = status.init_containers.len();
    if index < first {
        &mut status.init_containers[index]
    } else {
        &mut status.containers[index - first]
    }
}
