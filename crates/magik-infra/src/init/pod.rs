//! The supervisor's state, and what every step of a pod's life needs.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use magik_oci::{ContainerId, OciRuntime};
use oci_spec::runtime::LinuxResources;
use tokio::{
    sync::{RwLock, mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep},
};

use super::{
    Over, Preparation,
    container::{self, Created, ExitReport, Output, Watched},
    ending::{Ending, Made, Stopping},
    happening::Waits,
    measuring,
    probes::{self, Told},
    rootfs,
};
use crate::{
    console::Console,
    data,
    error::{LaunchError, LaunchStep},
    events::{Event, EventKind},
    extension::{Extensions, RequiredExtensionFailed},
    plan::{ContainerPlan, PodPlan},
    shared::{Attachable, Shared, Updates},
    status::{ContainerPhase, ContainerStatus, MAX_MESSAGE, Phase, bounded},
};

/// The launch's last steps, status and commit, come after the pod is ready.
const SETTLE: Duration = Duration::from_millis(100);

/// How a pod is started and followed.
pub(super) struct Before {
    /// The directory of the process namespace that the containers share.
    pub(super) shared_processes: Option<PathBuf>,
    pub(super) preparation: Option<Preparation>,
    /// A moment after the last one was started.
    pub(super) when_ready: Option<fn()>,
    /// Once no container runs any more.
    pub(super) when_over: Option<Over>,
    /// See [`InitOptions::own_files`](super::InitOptions::own_files).
    pub(super) own_files: bool,
}

pub(super) struct Pod {
    pub(super) runtime: Arc<dyn OciRuntime>,
    pub(super) shared: Arc<Shared>,
    pub(super) plan: Arc<PodPlan>,
    pub(super) extensions: Extensions,
    extension_failed: mpsc::Sender<RequiredExtensionFailed>,
    pub(super) extension_failures: Option<mpsc::Receiver<RequiredExtensionFailed>>,
    pub(super) updates: Updates,
    /// What is done before the first container is taken by the launch.
    pub(super) before: Before,
    pub(super) exits: mpsc::UnboundedReceiver<ExitReport>,
    exited: mpsc::UnboundedSender<ExitReport>,
    /// Whether this process can mount nothing any more: the containers' roots are mounted already.
    pub(super) confined: bool,
    /// Containers that were asked to end, by themselves.
    pub(super) ending: Vec<Ending>,
    /// Containers being created to be run again.
    pub(super) making: JoinSet<Made>,
    /// Containers being removed at the runtime.
    pub(super) deletions: JoinSet<()>,
    /// Held by each of them: who makes a container waits, so that none is removed in its place.
    pub(super) deleting: Arc<RwLock<()>>,
    /// The number of the run of each container that was created and not removed at the runtime:
    /// what is heard of an earlier one is not about this.
    pub(super) runs: HashMap<String, u64>,
    next_run: u64,
    /// The first processes of containers that were created and not started yet.
    pub(super) pids: HashMap<String, Option<i32>>,
    /// Containers that are not started before somebody attaches.
    waiting: Vec<Waiting>,
    /// The stop of the whole pod, if one is under way.
    pub(super) stopping: Option<Stopping>,
    /// The sidecars that were asked to end by it.
    pub(super) asked_sidecars: HashSet<String>,
    /// The limits of containers that were given others, for their next runs.
    pub(super) updated: HashMap<String, LinuxResources>,
    /// All containers are to end, and to be run again then.
    pub(super) restarting: Option<Instant>,
    /// When containers are run again.
    pub(super) waits: Waits,
    /// Who asks of the containers that run.
    pub(super) attended: HashMap<String, Attended>,
    pub(super) teller: mpsc::UnboundedSender<Told>,
    pub(super) told: mpsc::UnboundedReceiver<Told>,
    /// What is too large on disk.
    pub(super) exceeded: (mpsc::Sender<String>, mpsc::Receiver<String>),
    /// The containers whose `postStart`, or `preStop`, is under way.
    pub(super) starting_hooks: HashSet<String>,
    pub(super) ending_hooks: HashSet<String>,
    /// Why containers are ended that their hook has failed for.
    pub(super) failed_hooks: HashMap<String, LaunchError>,
}

/// A task that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Attended(AbortHandle);

impl Drop for Attended {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A container that waits for somebody to attach.
#[derive(Debug)]
struct Waiting {
    name: String,
    attached: oneshot::Receiver<()>,
    started: oneshot::Sender<i32>,
}

impl Pod {
    pub(super) fn new(
        runtime: Arc<dyn OciRuntime>,
        shared: Arc<Shared>,
        plan: Arc<PodPlan>,
        extensions: Extensions,
        updates: Updates,
        before: Before,
    ) -> Self {
        let (exited, exits) = mpsc::unbounded_channel();
        let (extension_failed, failures) = mpsc::channel(1);
        let (teller, told) = mpsc::unbounded_channel();
        Self {
            runtime,
            shared,
            plan,
            extensions,
            extension_failed,
            extension_failures: Some(failures),
            updates,
            before,
            exits,
            exited,
            confined: false,
            ending: Vec::new(),
            making: JoinSet::new(),
            deletions: JoinSet::new(),
            deleting: Arc::default(),
            runs: HashMap::new(),
            next_run: 0,
            pids: HashMap::new(),
            waiting: Vec::new(),
            stopping: None,
            asked_sidecars: HashSet::new(),
            updated: HashMap::new(),
            restarting: None,
            waits: Waits::default(),
            attended: HashMap::new(),
            teller,
            told,
            exceeded: mpsc::channel(1),
            starting_hooks: HashSet::new(),
            ending_hooks: HashSet::new(),
            failed_hooks: HashMap::new(),
        }
    }

    /// What is done before the first container: the process namespace, file systems, extensions.
    pub(super) async fn make_ready(&mut self) -> Result<(), LaunchError> {
        let plan = self.plan.clone();
        #[cfg(target_os = "linux")]
        if let Some(dir) = self.before.shared_processes.take() {
            let all = plan.init_containers.iter().chain(&plan.containers);
            let names: Vec<&str> = all.map(|container| container.name.as_str()).collect();
            let started = crate::pause::start(&dir, &names).await;
            started.map_err(|e| LaunchError::pod(LaunchStep::ProcessNamespace, &e))?;
        }
        self.progress(LaunchStep::Mounts, "");
        for tmpfs in &plan.tmpfs {
            rootfs::mount_tmpfs(tmpfs).map_err(|e| LaunchError::pod(LaunchStep::Mounts, &e))?;
        }
        let data = self.shared.take_data();
        let written = data::mount_all(&plan.data, &data);
        written.map_err(|e| LaunchError::pod(LaunchStep::Mounts, &e))?;
        drop(data);
        for image in &plan.images {
            let mounted = rootfs::mount_layers(&image.layers, &image.target);
            mounted.map_err(|e| LaunchError::pod(LaunchStep::Mounts, &e))?;
        }
        for volume in &plan.shared {
            rootfs::share(volume).map_err(|e| LaunchError::pod(LaunchStep::Mounts, &e))?;
        }
        if !plan.disk_limits.is_empty() {
            let (limits, sender) = (plan.disk_limits.clone(), self.exceeded.0.clone());
            tokio::spawn(measuring::measure(limits, sender));
        }
        if let Some(preparation) = self.before.preparation.take() {
            for container in plan.init_containers.iter().chain(&plan.containers) {
                container::mount(container)?;
            }
            self.confined = true;
            preparation(plan.clone()).await?;
        }
        let started = self.extensions.start(&self.shared, &plan, &self.extension_failed);
        started.await
    }

    /// Every container was started: says so.
    pub(super) async fn ready(&mut self) -> Result<(), LaunchError> {
        self.extensions.ready(&self.shared.events).await?;
        // Whoever asks for a pod that runs finds it by this file.
        let written = self.shared.try_publish(|status| {
            status.phase = Phase::Running;
            status.started_at = Some(Timestamp::now());
        });
        written.map_err(|e| LaunchError::pod(LaunchStep::Status, &e))?;
        self.event(Event::now(EventKind::PodReady, "", ""));
        self.updates.ready();
        if let Some(call) = self.before.when_ready {
            tokio::spawn(async move {
                sleep(SETTLE).await;
                call();
            });
        }
        Ok(())
    }

    /// The size at which a container's log is rotated.
    pub(super) fn log_size(&self) -> u64 {
        self.plan.max_log_size.unwrap_or(self.shared.max_log_size)
    }

    /// From now on the container's output is kept and its end is seen.
    pub(super) fn created(
        &mut self,
        plan: &Arc<ContainerPlan>,
        created: Created,
    ) -> (ContainerId, Option<i32>) {
        let Created { id, pid, output } = created;
        let watched = match output {
            Output::Log(mut pump, input) => {
                let console = Arc::new(Console::new(plan.console, input));
                pump.tell(console.clone());
                self.shared.opened(&plan.name, console.clone());
                Watched::Log(pump, console)
            }
            Output::Attached(streams) => {
                let (exited, exit) = watch::channel(None);
                let (attached, is_attached) = oneshot::channel();
                let (started, is_started) = oneshot::channel();
                self.waiting.push(Waiting {
                    name: plan.name.clone(),
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
        self.next_run += 1;
        self.runs.insert(plan.name.clone(), self.next_run);
        let (runtime, exited) = (self.runtime.clone(), self.exited.clone());
        let watching = container::watch(runtime, id.clone(), self.next_run, watched, plan.clone(), exited);
        tokio::spawn(watching);
        // Written with what comes next: that it runs, or whatever it was created for.
        self.shared.note(|pod| {
            if let Some(container) = pod.container_mut(&plan.name) {
                container.created();
            }
        });
        self.event(Event::now(EventKind::ContainerCreated, &plan.name, ""));
        (id, pid)
    }

    /// Runs the program of one that was created.
    pub(super) async fn start(
        &mut self,
        plan: &ContainerPlan,
        id: &ContainerId,
        pid: Option<i32>,
    ) -> Result<(), LaunchError> {
        let waiting = self.waiting.iter().position(|waiting| waiting.name == plan.name);
        let started = match waiting.map(|place| self.waiting.swap_remove(place)) {
            Some(Waiting {
                attached, started, ..
            }) => {
                let nobody =
                    |_| LaunchError::container(&plan.name, LaunchStep::Start, "nobody has attached to it");
                attached.await.map_err(nobody)?;
                Some(started)
            }
            None => None,
        };
        if let Some(resources) = self.updated.get(&plan.name) {
            let updated = self.runtime.update(id, resources).await;
            updated.map_err(|e| LaunchError::runtime(&plan.name, LaunchStep::Start, &e))?;
        }
        let started_at = Timestamp::now();
        self.runtime
            .start(id)
            .await
            .map_err(|e| LaunchError::runtime(&plan.name, LaunchStep::Start, &e))?;
        let lifecycle = &plan.lifecycle;
        let has_started = lifecycle.post_start.is_none() && lifecycle.startup.is_none();
        self.change(&plan.name, |container| {
            container.runs(started_at, pid);
            container.answers(has_started, has_started && lifecycle.readiness.is_none());
        });
        self.event(Event::now(EventKind::ContainerStarted, &plan.name, ""));
        self.attend(plan);
        if let Some(started) = started {
            // Who has attached may be gone: what comes of that is told by the container's end.
            let _ = started.send(pid.unwrap_or_default());
        }
        Ok(())
    }

    /// Does what a container that was started wants done, and asks it what is to be asked.
    fn attend(&mut self, plan: &ContainerPlan) {
        let lifecycle = &plan.lifecycle;
        if lifecycle.post_start.is_none() && lifecycle.probes().next().is_none() {
            return;
        }
        if let Some((subject, teller)) = self.subject(&plan.name) {
            if lifecycle.post_start.is_some() {
                self.starting_hooks.insert(plan.name.clone());
            }
            let task = tokio::spawn(probes::attend(subject, lifecycle.clone(), teller));
            let attended = Attended(task.abort_handle());
            self.attended.insert(plan.name.clone(), attended);
        }
    }

    /// Whether that is about the container that has the name now.
    pub(super) fn is_of_now(&self, report: &ExitReport) -> bool {
        self.runs.get(&report.name) == Some(&report.run)
    }

    /// A container ended: status, then events; how long it ran.
    pub(super) fn ended(&mut self, report: &ExitReport) -> Duration {
        if self.shared.phase(&report.name) == Some(ContainerPhase::Created) {
            // Its process was killed before it was started.
            self.pids.remove(&report.name);
            self.change(&report.name, |container| container.cannot_start(report.exit));
            return Duration::ZERO;
        }
        let now = Timestamp::now();
        let mut ran_for = Duration::ZERO;
        let most = self.shared.status().map_or(MAX_MESSAGE, |pod| pod.max_message());
        let message = report.message.clone().map(|message| bounded(message, most));
        self.change(&report.name, |container| {
            let started_at = match container.state {
                ContainerPhase::Running { started_at, .. } | ContainerPhase::Exited { started_at, .. } => {
                    started_at
                }
                ContainerPhase::Waiting | ContainerPhase::Created => now,
            };
            ran_for = now.duration_since(started_at).unsigned_abs();
            container.is(ContainerPhase::Exited {
                started_at,
                finished_at: now,
                exit: report.exit,
                message,
            });
        });
        let name = &report.name;
        if report.exit.oom_killed {
            self.event(Event::now(EventKind::ContainerOom, name, ""));
        }
        let detail = report.unknown.clone().unwrap_or_default();
        let event = Event::now(EventKind::ContainerExited, name, detail);
        self.event(Event {
            exit_code: Some(report.exit.code),
            ..event
        });
        ran_for
    }

    /// Removes a container at the runtime, in the background: its cgroup goes, its status stays.
    pub(super) fn delete(&mut self, name: &str) {
        self.runs.remove(name);
        let (runtime, Ok(id)) = (self.runtime.clone(), ContainerId::new(name)) else {
            return;
        };
        let early = self.deleting.clone().try_read_owned();
        let deleting = self.deleting.clone();
        self.deletions.spawn(async move {
            let _under_way = match early {
                Ok(under_way) => under_way,
                Err(_) => deleting.read_owned().await,
            };
            // By force: with a shared pid namespace its other processes may have outlived the
            // first.
            if let Err(error) = runtime.delete(&id, true).await {
                tracing::warn!(container = %id, %error, "cannot remove the ended container");
            }
        });
        while self.deletions.try_join_next().is_some() {}
    }

    /// Changes a container's status.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.shared.publish(|status| {
            if let Some(container) = status.container_mut(name) {
                change(container);
            }
        });
    }

    pub(super) fn progress(&self, step: LaunchStep, container: &str) {
        self.updates.progress(step, container);
    }

    pub(super) fn event(&mut self, event: Event) {
        let event = Arc::new(event);
        tracing::info!(kind = %event.kind, container = event.container, exit_code = event.exit_code, "event");
        self.shared.events.add(event.clone());
        self.extensions.event(&event, &self.shared.events);
    }
}
