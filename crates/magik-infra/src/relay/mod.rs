//! The pod init's place on the host, where the real one runs in a guest.
//!
//! It serves the same control service to the same clients. Status, events and logs are kept here, from what the guest
//! says, so that they outlive it and so that a guest can lie about nothing but its own containers: ids, names, labels and
//! times of the pod are the host's. Exec, stats and ports are passed on.

mod logs;
mod told;

use std::{fmt::Debug, io, net::TcpListener, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout},
};

use self::{
    logs::Carried,
    told::{DEATH_TIME, adopt, end, log_is_complete, lost, status_after, tell},
};
use crate::{
    client::{ControlClient, LaunchProgress},
    containers::{self, InGuest},
    error::{ControlError, LaunchError, LaunchStep},
    events::Event,
    guest::Guest,
    life::{self, CommitCheck, Ends, Inputs, Interrupt, Life, PodOutcome, Supervisor, reached},
    logs::MAX_LOG_SIZE,
    plan::PodPlan,
    service::Acceptor,
    shared::{Answer, Change, ChangeError, Shared, Update, Updates},
    state_dir::StateDir,
    status::{ContainerPhase, PodReason, PodStatus},
    table::{Entry, Kind},
};

/// How much longer than agreed the guest may take to stop its pod before its machine is taken away.
const STOP_MARGIN: Duration = Duration::from_secs(15);
/// How long the last event may take to arrive once the pod is over.
const LAST_EVENT_TIME: Duration = Duration::from_secs(5);
/// How many changes of containers, and how many stops, the guest may be asked for at a time: it may
/// leave each of them without an answer.
const ASKED: usize = 24;
/// Events that wait to be dealt with.
const EVENTS: usize = 64;

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
        let life = Life {
            state_dir: self.state_dir,
            runtime_class: self.runtime_class,
            max_log_size: MAX_LOG_SIZE,
            committed: self.committed,
            signals: self.signals,
        };
        let ends = Ends {
            launch,
            control,
            listeners: self.listeners,
        };
        let containers = Arc::new(InGuest(self.guest.clone()));
        let guest = self.guest;
        let begin = |shared, plan, updates| RemotePod::new(guest, shared, plan, updates);
        life::run(life, containers, ends, begin).await
    }
}

struct RemotePod {
    guest: Arc<dyn Guest>,
    shared: Arc<Shared>,
    plan: Arc<PodPlan>,
    updates: Updates,
    /// The connection that launched it, and the guest's events; once it is launched.
    launched: Option<(Arc<ControlClient>, mpsc::Receiver<Event>)>,
    tasks: JoinSet<()>,
    /// Changes that the guest was asked for.
    changes: JoinSet<Changed>,
    /// The containers whose logs are being carried.
    carrying: Vec<String>,
}

/// What the guest answered to a change of one of its containers.
#[derive(Debug)]
struct Changed {
    container: String,
    change: Change,
    answer: Answer,
    /// How the guest's pod was afterwards.
    now: Option<PodStatus>,
    outcome: Result<(), ControlError>,
}

impl RemotePod {
    fn new(guest: Arc<dyn Guest>, shared: Arc<Shared>, plan: Arc<PodPlan>, updates: Updates) -> Self {
        Self {
            guest,
            shared,
            plan,
            updates,
            launched: None,
            tasks: JoinSet::new(),
            changes: JoinSet::new(),
            carrying: Vec::new(),
        }
    }

    async fn launch_in_guest(&mut self) -> Result<(Arc<ControlClient>, mpsc::Receiver<Event>), ControlError> {
        self.updates.progress(LaunchStep::Boot, "");
        let booted = self.guest.boot(&self.plan).await;
        let (stream, mut plan) =
            booted.map_err(|e| ControlError::Launch(LaunchError::pod(LaunchStep::Boot, &e)))?;
        // In the guest logs take memory: it has a size of its own for them.
        plan.max_log_size = None;
        plan.ignored = Vec::new();
        let client = Arc::new(ControlClient::over(stream).await?);
        client.stage_all(&self.shared.take_data()).await?;
        let mut launch = client.start_sandbox(&plan).await?;
        let early = !self.plan.init_containers.is_empty();
        while let Some(progress) = launch.next().await? {
            // Init containers may run, and write, for long.
            if early {
                self.carry_logs();
            }
            let LaunchProgress { step, container } = progress;
            self.updates.progress(step, &container);
        }
        self.carry_logs();
        let events = self.follow_events();
        // The guest has nobody to ask whether the pod was committed, and ends with this process anyway.
        client.commit().await?;
        let status = client.status().await?;
        let written = self.shared.try_publish(|ours| adopt(ours, status));
        written.map_err(|e| ControlError::Launch(LaunchError::pod(LaunchStep::Status, &e)))?;
        self.updates.ready();
        Ok((client, events))
    }

    /// Begins to carry all logs to the host, once.
    fn carry_logs(&mut self) {
        if !self.carrying.is_empty() {
            return;
        }
        let all = [Kind::Init, Kind::App].map(|kind| self.shared.containers(kind));
        for container in all.into_iter().flatten() {
            self.carry_log(container);
        }
    }

    /// Begins to carry a container's log to the host.
    fn carry_log(&mut self, container: Entry) {
        let Entry { plan, log, .. } = container;
        if plan.attach.is_some() {
            log.send_replace(true);
            return;
        }
        let carried = Carried {
            container: plan.name.clone(),
            path: plan.log.clone(),
            max_size: self.plan.max_log_size.unwrap_or(MAX_LOG_SIZE),
            signal: log,
        };
        let guest = self.guest.clone();
        self.tasks.spawn(async move { carried.carry(&*guest).await });
        self.carrying.push(plan.name.clone());
    }

    /// The guest's events, from the first on.
    fn follow_events(&mut self) -> mpsc::Receiver<Event> {
        let (sender, receiver) = mpsc::channel(EVENTS);
        let guest = self.guest.clone();
        self.tasks.spawn(async move {
            let follow = async {
                let mut events = containers::connect(&*guest).await?.events(true).await?;
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

    /// Asks the guest to stop its pod; by when it has to be done.
    fn ask_to_stop(
        &self,
        client: &Arc<ControlClient>,
        grace: Option<Duration>,
        stops: &mut JoinSet<()>,
    ) -> Option<Instant> {
        // Its answer is the end of the pod, which is heard of as an event.
        if stops.len() < ASKED {
            let client = client.clone();
            stops.spawn(async move { drop(client.stop(grace).await) });
        }
        let time = self.plan.grace(grace).saturating_add(STOP_MARGIN);
        Instant::now().checked_add(time)
    }

    /// Asks the guest for a change of one of its containers.
    fn change(&mut self, client: &Arc<ControlClient>, container: String, change: Change, answer: Answer) {
        if self.changes.len() >= ASKED {
            let why = format!("{ASKED} changes are under way in the guest: wait for one to end");
            let _ = answer.send(Err(ChangeError::NotNow(why)));
            if self.shared.container(&container).is_none() {
                // What it was shown for a container that does not come.
                self.guest.removed(&container);
            }
            return;
        }
        if let Change::Create(plan) = &change
            && !self.shared.add((**plan).clone())
        {
            let (name, why) = (container, "the pod has one of that name");
            let _ = answer.send(Err(ChangeError::State { name, why }));
            return;
        }
        let (client, shared) = (client.clone(), self.shared.clone());
        self.changes.spawn(async move {
            let name = container.as_str();
            let has_ended = |state: &ContainerPhase| matches!(state, ContainerPhase::Exited { .. });
            if let Change::Remove = change
                && shared.phase(name).as_ref().is_some_and(has_ended)
            {
                // The guest has it no longer then.
                log_is_complete(&shared, name).await;
            }
            let outcome = match &change {
                Change::Create(plan) => client.create_container(plan).await,
                Change::Start => client.start_container(name).await,
                Change::Stop(grace) => client.stop_container(name, *grace).await,
                Change::Restart(grace) => client.restart_container(name, *grace).await,
                Change::Remove => client.remove_container(name).await,
                Change::Update(update) => {
                    let Update { resources, shown } = &**update;
                    client.resize_container(name, resources, *shown).await
                }
            };
            // Also what was tried and came to nothing may have changed it.
            let now = match &outcome {
                Ok(status) => Some(status.clone()),
                Err(_) => client.status().await.ok(),
            };
            let container_now = now.as_ref().and_then(|status| status.container(name));
            if container_now.is_some_and(|container| has_ended(&container.state)) {
                log_is_complete(&shared, name).await;
            }
            Changed {
                container,
                change,
                answer,
                now,
                outcome: outcome.map(drop),
            }
        });
    }

    /// The guest has done what it was asked for, or has not.
    fn changed(&mut self, changed: Changed) {
        let Changed {
            container,
            change,
            answer,
            now,
            outcome,
        } = changed;
        if let Some(status) = now {
            self.shared.publish(|ours| adopt(ours, status));
        }
        let entry = self.shared.container(&container);
        match (&change, &outcome) {
            (Change::Remove, Ok(())) | (Change::Create(_), Err(_)) => {
                self.shared.remove(&container);
                self.carrying.retain(|name| *name != container);
                self.guest.removed(&container);
            }
            (Change::Create(_), Ok(())) => entry.into_iter().for_each(|entry| self.carry_log(entry)),
            (_, Ok(())) => {
                if let Some(entry) = entry
                    && let Some(ContainerPhase::Running { .. }) = self.shared.phase(&container)
                {
                    entry.log.send_replace(false);
                }
            }
            (_, Err(_)) => {}
        }
        let answered = match outcome {
            Ok(()) => Ok(()),
            Err(ControlError::NotFound(_)) => Err(ChangeError::Unknown(container)),
            Err(ControlError::Unsupported(why)) => Err(ChangeError::Unsupported(why)),
            Err(ControlError::Refused(why)) => Err(ChangeError::NotNow(why)),
            Err(ControlError::CannotExecute { why, .. }) => {
                let step = LaunchStep::Start;
                let mut error = LaunchError::container(&container, step, &why);
                error.program = Some(Box::new(why));
                Err(ChangeError::Failed(error))
            }
            Err(lost) => Err(ChangeError::Unreachable(lost.to_string())),
        };
        // Who asked may be gone.
        let _ = answer.send(answered);
    }
}

impl Supervisor for RemotePod {
    // The guest keeps the deadline; the host sees to it that it does.
    const DEADLINE_MARGIN: Duration = STOP_MARGIN;

    /// Has the guest start the pod.
    async fn launch(&mut self) -> Result<(), LaunchError> {
        let guest = self.guest.clone();
        let boot = |e: &str| LaunchError::pod(LaunchStep::Boot, e);
        tokio::select! {
            // What the guest has still said before its end is looked at first.
            biased;
            launched = self.launch_in_guest() => match launched {
                Ok(launched) => {
                    self.launched = Some(launched);
                    Ok(())
                }
                Err(ControlError::Launch(error)) => Err(error),
                Err(lost) => Err(match timeout(DEATH_TIME, guest.ended()).await {
                    Ok(why) => boot(&why),
                    Err(_) => LaunchError::pod(LaunchStep::Boot, &lost),
                }),
            },
            why = guest.ended() => Err(boot(&why)),
        }
    }

    async fn launch_failed(&mut self, error: &LaunchError) {
        let publish = |status: &mut PodStatus| end(status, PodReason::LaunchFailed, error.to_string());
        self.shared.publish(publish);
        self.updates.failed(error);
    }

    async fn supervise(&mut self, inputs: &mut Inputs) -> Option<PodStatus> {
        let (client, mut events) = self.launched.take()?;
        let shared = self.shared.clone();
        let guest = self.guest.clone();
        let mut kill_at: Option<Instant> = None;
        let mut over = false;
        // What has happened, and is not told yet.
        let mut news: Vec<Event> = Vec::new();
        let mut stops = JoinSet::new();
        loop {
            if shared.is_final() && !over {
                // Its last event is waited for, but not for long, whoever has told that it is over.
                let at = Instant::now() + LAST_EVENT_TIME;
                kill_at = Some(kill_at.map_or(at, |kill_at| kill_at.min(at)));
                over = true;
            }
            let interrupt = tokio::select! {
                // A guest that floods the host with events, or answers nothing, does not keep it from being stopped.
                biased;
                interrupt = inputs.interrupt(&shared) => interrupt,
                () = reached(kill_at) => {
                    shared.publish(|s| end(s, PodReason::NotStopped, "the guest did not stop its pod in time".to_owned()));
                    break;
                }
                Some(_) = stops.join_next() => continue,
                Some(changed) = self.changes.join_next() => {
                    if let Ok(changed) = changed {
                        self.changed(changed);
                    }
                    continue;
                }
                status = status_after(&shared, &client, &news), if !news.is_empty() => {
                    if tell(&shared, status, &mut news) {
                        break;
                    }
                    continue;
                }
                event = events.recv(), if news.is_empty() => {
                    let Some(event) = event else {
                        lost(&shared, &*guest).await;
                        break;
                    };
                    news.push(event);
                    while news.len() < EVENTS && let Ok(event) = events.try_recv() {
                        news.push(event);
                    }
                    continue;
                }
                why = guest.ended() => {
                    shared.publish(|status| end(status, PodReason::GuestDied, why));
                    break;
                }
            };
            match interrupt {
                Interrupt::Abandoned => return None,
                Interrupt::Stop { grace } => {
                    let at = self.ask_to_stop(&client, grace, &mut stops);
                    kill_at = [kill_at, at].into_iter().flatten().min();
                }
                Interrupt::Deadline => {
                    let message = self.plan.deadline_passed();
                    shared.publish(|status| end(status, PodReason::DeadlineExceeded, message));
                    break;
                }
                // The guest's own affair.
                Interrupt::ExtensionFailed(_) => {}
                Interrupt::Change {
                    container,
                    change,
                    answer,
                } => self.change(&client, container, change, answer),
            }
        }
        let logs = self.carrying.iter().map(|name| log_is_complete(&shared, name));
        join_all(logs).await;
        shared.status()
    }
}
