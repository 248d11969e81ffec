//! The state of one pod: what its supervisor and the control service have in common.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use magik_oci::Exit;
use oci_spec::runtime::LinuxResources;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

use crate::{
    console::Console,
    data::Staged,
    error::{LaunchError, LaunchStep},
    events::EventHub,
    plan::{ContainerPlan, PodPlan},
    state_dir::StateDir,
    status::{ContainerPhase, ContainerStatus, PodStatus, Resized},
    streams::Streams,
    table::{Entry, Kind, Table},
};

/// How many exec'd processes of a pod may run at once.
pub const MAX_EXECS: usize = 32;

/// What the launcher is told while the pod starts.
#[derive(Debug)]
pub(crate) enum LaunchUpdate {
    Progress { step: LaunchStep, container: String },
    Ready,
    Failed(LaunchError),
}

/// How many updates wait for a launcher that is slow.
const UPDATES: usize = 64;

/// Where what the launcher is told goes. Who tells never waits: of a launcher that is slow, or of a
/// guest that says too much, some progress is left out, and never the last word.
#[derive(Debug, Clone)]
pub(crate) struct Updates(mpsc::Sender<LaunchUpdate>);

impl Updates {
    pub(crate) fn new() -> (Self, mpsc::Receiver<LaunchUpdate>) {
        let (sender, updates) = mpsc::channel(UPDATES);
        (Self(sender), updates)
    }

    pub(crate) fn progress(&self, step: LaunchStep, container: &str) {
        // The last place is the last word's.
        if self.0.capacity() > 1 {
            let container = container.to_owned();
            let _ = self.0.try_send(LaunchUpdate::Progress { step, container });
        }
    }

    /// Nobody may listen any more.
    pub(crate) fn ready(&self) {
        let _ = self.0.try_send(LaunchUpdate::Ready);
    }

    pub(crate) fn failed(&self, error: &LaunchError) {
        let _ = self.0.try_send(LaunchUpdate::Failed(error.clone()));
    }
}

/// What the control service asks of the supervisor.
#[derive(Debug)]
pub(crate) enum Command {
    Launch {
        plan: Box<PodPlan>,
        /// The files of its volumes.
        data: Staged,
        updates: Updates,
    },
    Commit {
        done: oneshot::Sender<()>,
    },
    Stop {
        grace: Option<Duration>,
        done: oneshot::Sender<()>,
    },
    /// Of one container.
    Change {
        container: String,
        change: Change,
        answer: Answer,
    },
}

/// What is asked for a container of a pod that runs.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// It is one of the pod's from now on, and is created.
    Create(Box<ContainerPlan>),
    /// It was created, and is run.
    Start,
    /// SIGTERM, and SIGKILL after so long; absent: the pod's own grace period.
    Stop(Option<Duration>),
    /// The same, and then it is run again; one that has ended is only run again.
    Restart(Option<Duration>),
    /// It is no longer one of the pod's. It does not run.
    Remove,
    /// Its limits; what is absent stays as it is.
    Update(Box<Update>),
}

/// Other limits of a container.
#[derive(Debug, Clone)]
pub(crate) struct Update {
    pub(crate) resources: LinuxResources,
    /// What the status says of them.
    pub(crate) shown: Option<Resized>,
}

/// Why that was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ChangeError {
    #[error("the pod has no container {0:?}")]
    Unknown(String),
    #[error("container {name}: {why}")]
    State { name: String, why: &'static str },
    #[error("{0}")]
    Unsupported(String),
    /// As a guest says it.
    #[error("{0}")]
    NotNow(String),
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Failed(LaunchError),
    #[error("the guest cannot be reached: {0}")]
    Unreachable(String),
}

/// Who waits until it is done.
pub(crate) type Answer = oneshot::Sender<Result<(), ChangeError>>;

/// A container that is started by who attaches to its streams.
#[derive(Debug)]
pub(crate) struct Attachable {
    pub(crate) streams: Streams,
    /// To be told that somebody has them.
    pub(crate) attached: oneshot::Sender<()>,
    /// Its pid once it is started; nothing if it cannot be.
    pub(crate) started: oneshot::Receiver<i32>,
    pub(crate) exit: watch::Receiver<Option<Exit>>,
}

/// Containers that wait for somebody to attach, by name; without their streams once somebody has them.
type Attachables = Vec<(String, Option<Attachable>)>;

/// One pod's state.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state_dir: StateDir,
    pub(crate) runtime_class: String,
    pub(crate) max_log_size: u64,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) events: Arc<EventHub>,
    pub(crate) execs: Arc<Semaphore>,
    plan: OnceLock<Arc<PodPlan>>,
    /// The files that the plan's volumes begin with, until they are written.
    data: Mutex<Staged>,
    containers: Mutex<Table>,
    status: Mutex<Option<PodStatus>>,
    /// The highest revision of containers that were removed: what is heard late of them is older than
    /// whatever is heard of a container that has their name.
    last_revision: AtomicU64,
    over: watch::Sender<bool>,
    attachables: watch::Sender<Attachables>,
    /// The streams of the last run of each container.
    consoles: Mutex<HashMap<String, Arc<Console>>>,
}

impl Shared {
    pub(crate) fn new(
        state_dir: StateDir,
        runtime_class: String,
        max_log_size: u64,
        commands: mpsc::Sender<Command>,
    ) -> Self {
        Self {
            state_dir,
            runtime_class,
            max_log_size,
            commands,
            events: Arc::new(EventHub::new()),
            execs: Arc::new(Semaphore::new(MAX_EXECS)),
            plan: OnceLock::new(),
            data: Mutex::default(),
            containers: Mutex::default(),
            status: Mutex::new(None),
            last_revision: AtomicU64::new(0),
            over: watch::Sender::new(false),
            attachables: watch::Sender::new(Vec::new()),
            consoles: Mutex::default(),
        }
    }

    /// The pod's plan is known.
    pub(crate) fn planned(&self, plan: Arc<PodPlan>) {
        *self.table() = Table::of(&plan);
        let _ = self.plan.set(plan);
    }

    /// The files of its volumes are there.
    pub(crate) fn stage(&self, data: Staged) {
        *self.data.lock().unwrap_or_else(PoisonError::into_inner) = data;
    }

    /// Takes the files that its volumes begin with.
    pub(crate) fn take_data(&self) -> Staged {
        std::mem::take(&mut *self.data.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn plan(&self) -> Option<&Arc<PodPlan>> {
        self.plan.get()
    }

    /// A container by name.
    pub(crate) fn container(&self, name: &str) -> Option<Entry> {
        self.table().get(name).cloned()
    }

    /// All containers of a kind, in the order they are started in.
    pub(crate) fn containers(&self, kind: Kind) -> Vec<Entry> {
        self.table().all(kind).cloned().collect()
    }

    /// A container is one of the pod's from now on; `false`: it has one of that name.
    pub(crate) fn add(&self, plan: ContainerPlan) -> bool {
        let mut status = ContainerStatus::waiting(&plan);
        status.revision = self.last_revision.load(Ordering::Relaxed).saturating_add(1);
        let is_ephemeral = plan.ephemeral.is_some();
        let added = self.table().add(plan);
        if added {
            self.note(|pod| match is_ephemeral {
                true => pod.ephemeral_containers.push(status),
                false => pod.containers.push(status),
            });
        }
        added
    }

    /// A container is no longer one of the pod's.
    pub(crate) fn remove(&self, name: &str) {
        self.consoles().remove(name);
        if self.table().remove(name) {
            self.publish(|status| {
                for list in [&mut status.containers, &mut status.ephemeral_containers] {
                    for ContainerStatus { revision, .. } in list.extract_if(.., |c| c.name == name) {
                        self.last_revision.fetch_max(revision, Ordering::Relaxed);
                    }
                }
            });
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container's phase by name.
    pub(crate) fn phase(&self, name: &str) -> Option<ContainerPhase> {
        let status = self.lock();
        let container = status.as_ref()?.container(name);
        container.map(|container| container.state.clone())
    }

    /// Whether nothing of the pod runs any more, by its status.
    pub(crate) fn is_final(&self) -> bool {
        self.lock().as_ref().is_some_and(|status| status.phase.is_final())
    }

    pub(crate) fn status(&self) -> Option<PodStatus> {
        self.lock().clone()
    }

    /// The status as JSON; `None` before the launch.
    pub(crate) fn status_json(&self) -> Option<Vec<u8>> {
        self.lock()
            .as_ref()
            .and_then(|status| serde_json::to_vec(status).ok())
    }

    /// Changes the status and writes it, if that can be done: the service tells the truth in any case, so that the pod goes on.
    pub(crate) fn publish(&self, change: impl FnOnce(&mut PodStatus)) {
        if let Err(error) = self.try_publish(change) {
            tracing::error!(%error, "cannot write status.json");
        }
    }

    /// Changes the status and writes it.
    ///
    /// # Errors
    /// The file cannot be written; the status is changed all the same.
    pub(crate) fn try_publish(&self, change: impl FnOnce(&mut PodStatus)) -> std::io::Result<()> {
        let mut status = self.lock();
        let Some(status) = status.as_mut() else {
            return Ok(());
        };
        change(status);
        self.state_dir.write_status(status)
    }

    /// Changes the status, which is written with the next change that is.
    pub(crate) fn note(&self, change: impl FnOnce(&mut PodStatus)) {
        if let Some(status) = self.lock().as_mut() {
            change(status);
        }
    }

    /// The first status; it is written with the first change.
    pub(crate) fn begin(&self, status: PodStatus) {
        *self.lock() = Some(status);
    }

    fn lock(&self) -> MutexGuard<'_, Option<PodStatus>> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A container was created: who attaches to it finds its streams here.
    pub(crate) fn opened(&self, name: &str, console: Arc<Console>) {
        self.consoles().insert(name.to_owned(), console);
    }

    /// The streams of the last run of a container.
    pub(crate) fn console(&self, name: &str) -> Option<Arc<Console>> {
        self.consoles().get(name).cloned()
    }

    fn consoles(&self) -> MutexGuard<'_, HashMap<String, Arc<Console>>> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody may attach to this container from now on.
    pub(crate) fn offer(&self, name: &str, attachable: Attachable) {
        self.attachables
            .send_modify(|all| all.push((name.to_owned(), Some(attachable))));
    }

    /// Waits until a container may be attached to, and takes its streams; `None`: somebody has them already.
    pub(crate) async fn take_offered(&self, name: &str) -> Option<Attachable> {
        let is_it = |(other, _): &(String, Option<Attachable>)| other == name;
        let mut offered = self.attachables.subscribe();
        offered.wait_for(|all| all.iter().any(is_it)).await.ok()?;
        let mut taken = None;
        self.attachables.send_modify(|all| {
            let found = all.iter_mut().find(|one| is_it(one));
            taken = found.and_then(|(_, attachable)| attachable.take());
        });
        taken
    }

    /// The pod is over: followers end.
    pub(crate) fn over(&self) {
        self.events.close();
        self.over.send_replace(true);
    }

    /// Waits until the pod is over.
    pub(crate) async fn until_over(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }
}
