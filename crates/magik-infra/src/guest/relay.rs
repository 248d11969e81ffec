//! The pod init's place on the host, where the real one runs in a guest.
//!
//! It serves the same control service to the same clients. Status, events and logs are kept here, from what the guest
//! says, so that they outlive it and so that a guest can lie about nothing but its own containers: ids, names, labels and
//! times of the pod are the host's. Exec, stats and ports are passed on.

use std::{collections::BTreeSet, fmt::Debug, io, net::TcpListener, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

use super::{forward, logs::Carried};
use crate::{
    client::{ControlClient, clean},
    error::{ControlError, LaunchError},
    events::{Event, EventKind},
    init::{
        CommitCheck, PodOutcome,
        changes::ChangeError,
        inputs::{Inputs, Interrupt},
        pod::reached,
        serve,
        shared::{LaunchUpdate, Place, Shared},
        table::{Entry, Kind},
    },
    logs::MAX_LOG_SIZE,
    plan::PodPlan,
    publish,
    service::Acceptor,
    state_dir::StateDir,
    status::{ContainerPhase, Phase, PodStatus},
};

/// How much longer than agreed the guest may take to stop its pod before its machine is taken away.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// How long a container's log may take to arrive once the container has ended.
const LOG_TIME: Duration = Duration::from_secs(5);
/// How long the last event may take to arrive once the pod is over.
const LAST_EVENT_TIME: Duration = Duration::from_secs(5);
/// How long a machine may take to be seen to end after its connections have, which end with it.
const DEATH_TIME: Duration = Duration::from_secs(3);
/// Events that wait to be dealt with.
const EVENTS: usize = 64;

/// A guest that runs a pod.
#[async_trait]
pub trait Guest: Send + Sync + Debug + 'static {
    /// Starts it, waits until it is up, and returns the launch connection and the plan as the guest sees it. Called once.
    ///
    /// # Errors
    /// In one line, why it will not be up.
    async fn boot(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), String>;

    /// Another connection to its init; `None`: there will be none.
    async fn connection(&self) -> Option<UnixStream>;

    /// Waits until its machine has ended, and says how.
    async fn ended(&self) -> String;
}

/// Stands in for the pod init of a guest.
///
/// The process must exit when [`run`](Self::run) returns, and the guest's machine with it.
pub struct Relay {
    guest: Arc<dyn Guest>,
    state_dir: StateDir,
    runtime_class: String,
    listeners: Vec<TcpListener>,
    committed: CommitCheck,
    signals: bool,
}

impl Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("guest", &self.guest)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay that keeps its status in `state_dir`, and looks there whether the pod was committed. The runtime class is for
    /// the status.
    #[must_use]
    pub fn new(guest: Arc<dyn Guest>, state_dir: StateDir, runtime_class: String) -> Self {
        Self {
            guest,
            state_dir,
            runtime_class,
            listeners: Vec::new(),
            committed: Box::new(|dir| matches!(dir.is_pending(), Ok(false))),
            signals: true,
        }
    }

    /// SIGTERM and SIGINT of this process do not stop the pod: somebody passes them on to its program.
    #[must_use]
    pub fn without_signals(self) -> Self {
        Self {
            signals: false,
            ..self
        }
    }

    /// Listeners of the host for the plan's [`published`](PodPlan::published) ports, in that order. They are served once the
    /// pod has started.
    #[must_use]
    pub fn publish(mut self, listeners: Vec<TcpListener>) -> Self {
        self.listeners = listeners;
        self
    }

    /// Serves the launch connection and the control connections until the pod is over.
    ///
    /// # Errors
    /// The process cannot take signals. Everything else is an outcome.
    pub async fn run<S, A>(self, launch: S, control: A) -> io::Result<PodOutcome>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        A: Acceptor,
    {
        let (commands, receiver) = mpsc::channel(16);
        let shared = Arc::new(Shared::new(
            Place::Guest(self.guest.clone()),
            self.state_dir,
            self.runtime_class,
            MAX_LOG_SIZE,
            commands,
        ));
        let inputs = Inputs::new(receiver, self.committed, self.signals)?;
        let (guest, listeners) = (self.guest, self.listeners);
        let life =
            async |shared: &Arc<Shared>, inputs: &mut Inputs| live(guest, shared, inputs, listeners).await;
        Ok(serve(&shared, inputs, launch, control, life).await)
    }
}

/// A pod's whole life, as the host sees it.
async fn live(
    guest: Arc<dyn Guest>,
    shared: &Arc<Shared>,
    inputs: &mut Inputs,
    listeners: Vec<TcpListener>,
) -> PodOutcome {
    let Some((plan, updates)) = inputs.launch_request(shared).await else {
        return PodOutcome::Abandoned;
    };
    shared.begin(PodStatus::pending(&plan, &shared.runtime_class));
    // The guest keeps the deadline; the host sees to it that it does.
    inputs.deadline = plan
        .active_deadline_s
        .and_then(|s| Instant::now().checked_add(Duration::from_secs(s).saturating_add(STOP_MARGIN)));
    let mut pod = RemotePod {
        guest,
        shared: shared.clone(),
        plan,
        updates,
        tasks: JoinSet::new(),
        carrying: Vec::new(),
    };
    let launched = tokio::select! {
        launched = pod.launch() => launched,
        interrupt = inputs.interrupt(shared) => match interrupt.before_ready() {
            None => return PodOutcome::Abandoned,
            Some(error) => Err(error),
        },
    };
    let (client, events) = match launched {
        Ok(launched) => launched,
        Err(error) => {
            shared.publish(|status| end(status, "LaunchFailed", error.to_string()));
            let _ = pod.updates.send(LaunchUpdate::Failed(error.clone()));
            return PodOutcome::Failed(error);
        }
    };
    let _published = publish::serve(listeners, &pod.plan.published, &shared.place);
    match pod.supervise(&client, events, inputs).await {
        Some(status) if inputs.settled(shared).await => PodOutcome::Finished(Box::new(status)),
        _ => PodOutcome::Abandoned,
    }
}

/// The pod has ended in a way its guest has not told, unless it had ended before.
fn end(status: &mut PodStatus, reason: &str, message: String) {
    if status.phase.is_final() {
        return;
    }
    status.phase = Phase::Failed;
    status.reason = Some(reason.to_owned());
    status.message = Some(message);
    status.finished_at = Some(Timestamp::now());
}

struct RemotePod {
    guest: Arc<dyn Guest>,
    shared: Arc<Shared>,
    plan: Arc<PodPlan>,
    updates: mpsc::UnboundedSender<LaunchUpdate>,
    tasks: JoinSet<()>,
    /// The logs that are being carried, by container.
    carrying: Vec<(String, AbortHandle)>,
}

impl RemotePod {
    /// Has the guest start the pod.
    async fn launch(&mut self) -> Result<(Arc<ControlClient>, mpsc::Receiver<Event>), LaunchError> {
        let guest = self.guest.clone();
        let boot = |e: &str| LaunchError::pod("boot", e);
        tokio::select! {
            // What the guest has still said before its end is looked at first.
            biased;
            launched = self.launch_in_guest() => match launched {
                Ok(launched) => Ok(launched),
                Err(ControlError::Launch(error)) => Err(error),
                Err(lost) => Err(match timeout(DEATH_TIME, guest.ended()).await {
                    Ok(why) => boot(&why),
                    Err(_) => LaunchError::pod("guest", &lost),
                }),
            },
            why = guest.ended() => Err(boot(&why)),
        }
    }

    async fn launch_in_guest(&mut self) -> Result<(Arc<ControlClient>, mpsc::Receiver<Event>), ControlError> {
        let booted = self.guest.boot(&self.plan).await;
        let (stream, plan) = booted.map_err(|e| ControlError::Launch(LaunchError::pod("boot", &e)))?;
        let client = Arc::new(ControlClient::over(stream).await?);
        let mut launch = client.launch(&plan).await?;
        let early = !self.plan.init_containers.is_empty();
        while let Some(progress) = launch.next().await? {
            // Init containers may run, and write, for long.
            if early {
                self.carry_logs();
            }
            let step = match progress.step.as_str() {
                "mounts" => "mounts",
                "init-container" => "init-container",
                _ => "container",
            };
            let container = progress.container;
            let _ = self.updates.send(LaunchUpdate::Progress { step, container });
        }
        self.carry_logs();
        let events = self.follow_events();
        // The guest has nobody to ask whether the pod was committed, and ends with this process anyway.
        client.commit().await?;
        let status = client.status().await?;
        let written = self.shared.try_publish(|ours| adopt(ours, status));
        written.map_err(|e| ControlError::Launch(LaunchError::pod("status", &e)))?;
        let _ = self.updates.send(LaunchUpdate::Ready);
        Ok((client, events))
    }

    /// Begins to carry all logs to the host, once.
    fn carry_logs(&mut self) {
        if !self.carrying.is_empty() {
            return;
        }
        let all = [Kind::Init, Kind::App].map(|kind| self.shared.containers(kind));
        for container in all.into_iter().flatten() {
            let Entry { plan, log, .. } = container;
            if plan.attach.is_some() {
                log.send_replace(true);
                continue;
            }
            let carried = Carried {
                container: plan.name.clone(),
                path: plan.log.clone(),
                signal: log,
            };
            let guest = self.guest.clone();
            let task = self.tasks.spawn(async move { carried.carry(&*guest).await });
            self.carrying.push((plan.name.clone(), task));
        }
    }

    /// The guest's events, from the first on.
    fn follow_events(&mut self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let guest = self.guest.clone();
        self.tasks.spawn(async move {
            let follow = async {
                let mut events = forward::connect(&*guest).await?.events(true).await?;
                while let Some(event) = events.next().await? {
                    if sender.send(event).await.is_err() {
                        break;
                    }
                }
                Ok::<_, ControlError>(())
            };
            if let Err(error) = follow.await {
                tracing::warn!(%error, "the guest's events cannot be followed");
            }
        });
        receiver
    }

    /// Follows the running pod to its end; `None`: it was abandoned before the commit.
    async fn supervise(
        &mut self,
        client: &Arc<ControlClient>,
        mut events: mpsc::Receiver<Event>,
        inputs: &mut Inputs,
    ) -> Option<PodStatus> {
        let shared = self.shared.clone();
        let guest = self.guest.clone();
        let mut kill_at: Option<Instant> = None;
        // What has happened, and is not told yet.
        let mut news: Vec<Event> = Vec::new();
        loop {
            let interrupt = tokio::select! {
                // A guest that floods the host with events, or answers nothing, does not keep it from being stopped.
                biased;
                interrupt = inputs.interrupt(&shared) => interrupt,
                () = reached(kill_at) => {
                    shared.publish(|s| end(s, "NotStopped", "the guest did not stop its pod in time".to_owned()));
                    break;
                }
                status = self.status_after(client, &news), if !news.is_empty() => {
                    if let Some(status) = status {
                        shared.publish(|ours| adopt(ours, status));
                    }
                    let last = news.iter().any(|event| event.kind == EventKind::PodStopped);
                    for event in news.drain(..) {
                        shared.events.add(Arc::new(event));
                    }
                    if last {
                        break;
                    }
                    if shared.status().is_some_and(|status| status.phase.is_final()) {
                        let at = Instant::now() + LAST_EVENT_TIME;
                        kill_at = Some(kill_at.map_or(at, |kill_at| kill_at.min(at)));
                    }
                    continue;
                }
                event = events.recv(), if news.is_empty() => {
                    let Some(event) = event else {
                        let died = timeout(DEATH_TIME, guest.ended()).await;
                        shared.publish(|status| match died {
                            Ok(why) => end(status, "GuestDied", why),
                            Err(_) => end(status, "GuestLost", "the connection to the guest ended".to_owned()),
                        });
                        break;
                    };
                    news.push(event);
                    while news.len() < EVENTS && let Ok(event) = events.try_recv() {
                        news.push(event);
                    }
                    continue;
                }
                why = guest.ended() => {
                    shared.publish(|status| end(status, "GuestDied", why));
                    break;
                }
            };
            match interrupt {
                Interrupt::Abandoned => return None,
                Interrupt::Stop { grace } => {
                    let grace_or_own = grace.unwrap_or(Duration::from_secs(self.plan.grace_period_s));
                    let at = Instant::now().checked_add(grace_or_own.saturating_add(STOP_MARGIN));
                    kill_at = [kill_at, at].into_iter().flatten().min();
                    let client = client.clone();
                    // Its answer is the end of the pod, which is heard of as an event.
                    self.tasks.spawn(async move { drop(client.stop(grace).await) });
                }
                Interrupt::Deadline => {
                    let seconds = self.plan.active_deadline_s.unwrap_or_default();
                    let message = format!("the pod ran longer than its activeDeadlineSeconds of {seconds}");
                    shared.publish(|status| end(status, "DeadlineExceeded", message));
                    break;
                }
                // The guest's own affair.
                Interrupt::ExtensionFailed(_) => {}
                Interrupt::Change { answer, .. } => {
                    let _ = answer.send(Err(ChangeError::Unsupported));
                }
            }
        }
        let logs = self.carrying.iter().map(|(name, _)| self.log_is_complete(name));
        join_all(logs).await;
        shared.status()
    }

    /// The guest's status, once something has happened there; it is published before the event. A container's log is complete
    /// before its end is told. May be dropped and called again.
    async fn status_after(&self, client: &ControlClient, news: &[Event]) -> Option<PodStatus> {
        let ended = news
            .iter()
            .filter(|event| event.kind == EventKind::ContainerExited);
        let ended: BTreeSet<&str> = ended.map(|event| event.container.as_str()).collect();
        join_all(ended.into_iter().map(|container| self.log_is_complete(container))).await;
        let status = client.status().await;
        status
            .inspect_err(|error| tracing::warn!(%error, "the guest does not tell its status"))
            .ok()
    }

    async fn log_is_complete(&self, container: &str) {
        let Some(entry) = self.shared.container(container) else {
            return;
        };
        let mut signal = entry.log.subscribe();
        if timeout(LOG_TIME, signal.wait_for(|complete| *complete))
            .await
            .is_err()
        {
            tracing::warn!(container, "the end of the log does not arrive");
        }
    }
}

/// Takes from the guest's status what the guest can know: how its containers are.
fn adopt(ours: &mut PodStatus, theirs: PodStatus) {
    if ours.phase.is_final() || theirs.phase == Phase::Pending {
        return;
    }
    let of_guest = theirs.init_containers.into_iter().chain(theirs.containers);
    for container in of_guest {
        if let Some(known) = ours.container_mut(&container.name)
            // What has ended does not run again.
            && !matches!(known.state, ContainerPhase::Exited { .. })
        {
            known.state = container.state;
        }
    }
    ours.phase = theirs.phase;
    ours.reason = theirs.reason.map(|reason| clean(&reason));
    ours.message = theirs.message.map(|message| clean(&message));
    if ours.started_at.is_none() {
        ours.started_at = Some(Timestamp::now());
    }
    if ours.phase.is_final() {
        ours.finished_at = Some(Timestamp::now());
    }
}
