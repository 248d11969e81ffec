//! Extensions of the pod init, each contained by a timeout.

use std::{
    fmt::Debug,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

use crate::{
    error::{LaunchError, LaunchStep},
    events::{Event, EventHub, EventKind},
    plan::PodPlan,
    shared::Shared,
    status::PodStatus,
};

/// How long one call of an extension may take by default.
pub const EXTENSION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many events may wait for one extension; more are dropped, and reported once.
pub const EXTENSION_QUEUE: usize = 64;
/// An extension that fails on so many events in a row gets no more of them.
const MAX_CONSECUTIVE_FAILURES: u32 = 5;

/// Why an extension failed.
pub type ExtensionError = Box<dyn std::error::Error + Send + Sync>;

/// Makes an extension from its configuration in the pod's plan.
pub type ExtensionConstructor = fn(&serde_json::Value) -> Result<Box<dyn InfraExtension>, ExtensionError>;

/// The extensions that a program can make, by their names in a plan.
pub type ExtensionRegistry = &'static [(&'static str, ExtensionConstructor)];

/// What an extension learns of its pod, and does along with it.
#[derive(Debug, Clone)]
pub struct PodContext {
    plan: Arc<PodPlan>,
    shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl PodContext {
    fn new(shared: &Arc<Shared>, plan: &Arc<PodPlan>) -> Self {
        Self {
            plan: plan.clone(),
            shared: shared.clone(),
            tasks: Arc::default(),
        }
    }

    /// The pod as it was planned: id, name, labels, annotations, the containers that it begins with.
    #[must_use]
    pub fn plan(&self) -> &PodPlan {
        &self.plan
    }

    /// The pod as it stands, with the containers that it has now.
    #[must_use]
    pub fn status(&self) -> PodStatus {
        let pending = || PodStatus::pending(&self.plan, &self.shared.runtime_class);
        self.shared.status().unwrap_or_else(pending)
    }

    /// Runs a task in the init's one thread, which it must not block, until the pod is over.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

/// Code that runs along with a pod, inside its init.
///
/// The init has one thread: a call may wait, but must not block. Every call is bounded by
/// [`EXTENSION_TIMEOUT`] (or what the init's options say). One that fails, panics or hangs is reported as the event
/// `extension.failed`, and fails the pod only if [`required`](Self::required) says so. In a program that aborts on a panic, as
/// release builds of magikrun do, a panic ends the init and with it the pod, whose reason is then `InitDied`.
///
/// ```
/// use async_trait::async_trait;
/// use magik_infra::{Event, ExtensionError, InfraExtension};
///
/// #[derive(Debug)]
/// struct Audit;
///
/// #[async_trait]
/// impl InfraExtension for Audit {
///     fn name(&self) -> &str {
///         "audit"
///     }
///     async fn on_event(&self, event: &Event) -> Result<(), ExtensionError> {
///         tracing::info!(kind = %event.kind, container = event.container, "event");
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait InfraExtension: Send + Sync + Debug {
    /// The name it is reported under.
    fn name(&self) -> &str;

    /// Whether the pod fails when this extension does.
    fn required(&self) -> bool {
        false
    }

    /// The pod's file systems are mounted, no container exists yet. After a failure here nothing else is called.
    async fn on_start(&self, pod: &PodContext) -> Result<(), ExtensionError> {
        let _ = pod;
        Ok(())
    }

    /// Every container was started; the pod is not yet reported as running.
    async fn on_ready(&self, pod: &PodContext) -> Result<(), ExtensionError> {
        let _ = pod;
        Ok(())
    }

    /// Something happened. Events come in order, from a queue of [`EXTENSION_QUEUE`]; failures of extensions are not
    /// among them.
    async fn on_event(&self, event: &Event) -> Result<(), ExtensionError> {
        let _ = event;
        Ok(())
    }

    /// Nothing of the pod runs any more; the init ends after this.
    async fn on_stop(&self, pod: &PodContext) -> Result<(), ExtensionError> {
        let _ = pod;
        Ok(())
    }
}

impl Entry {
    fn new(extension: Box<dyn InfraExtension>) -> Self {
        Self {
            extension: extension.into(),
            queue: None,
            delivery: None,
            overflowed: false,
        }
    }
}

impl From<RequiredExtensionFailed> for LaunchError {
    fn from(error: RequiredExtensionFailed) -> Self {
        Self::pod(LaunchStep::Extension, &error)
    }
}

/// A required extension failed: what it is called and how.
#[derive(Debug, Clone, thiserror::Error)]
#[error("required extension {name}: {reason}")]
pub(crate) struct RequiredExtensionFailed {
    name: String,
    reason: String,
}

/// Which call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hook {
    Start,
    Ready,
    Stop,
}

impl Hook {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "on_start",
            Self::Ready => "on_ready",
            Self::Stop => "on_stop",
        }
    }
}

/// The extensions of one pod.
#[derive(Debug)]
pub(crate) struct Extensions {
    list: Vec<Entry>,
    registry: ExtensionRegistry,
    limit: Duration,
    /// Once the pod is being started.
    pod: Option<PodContext>,
}

#[derive(Debug)]
struct Entry {
    extension: Arc<dyn InfraExtension>,
    /// Absent before on_start and after its failure.
    queue: Option<mpsc::Sender<Arc<Event>>>,
    delivery: Option<JoinHandle<()>>,
    overflowed: bool,
}

impl Extensions {
    /// Those of the program; those of the plan are made by `registry`.
    pub(crate) fn new(
        list: Vec<Box<dyn InfraExtension>>,
        registry: ExtensionRegistry,
        limit: Duration,
    ) -> Self {
        Self {
            list: list.into_iter().map(Entry::new).collect(),
            registry,
            limit,
            pod: None,
        }
    }

    /// Makes those that the plan asks for.
    fn make(&mut self, plan: &PodPlan) -> Result<(), LaunchError> {
        let failed = |message: &str| LaunchError::pod(LaunchStep::Extension, message);
        for asked in &plan.extensions {
            let name = &asked.name;
            let known = self.registry.iter().find(|(known, _)| known == name);
            let Some((_, constructor)) = known else {
                let all: Vec<_> = self.registry.iter().map(|(name, _)| *name).collect();
                let all = all.join(", ");
                return Err(failed(&format!(
                    "this init has no extension {name:?}: it has [{all}]"
                )));
            };
            let made = constructor(&asked.config);
            let extension = made.map_err(|e| failed(&format!("extension {name}: {e}")))?;
            self.list.push(Entry::new(extension));
        }
        Ok(())
    }

    /// Calls `on_start` of each in order. Those that succeed get events and further calls.
    ///
    /// A required extension that fails on an event later is reported over `failed`.
    pub(crate) async fn start(
        &mut self,
        shared: &Arc<Shared>,
        plan: &Arc<PodPlan>,
        failed: &mpsc::Sender<RequiredExtensionFailed>,
    ) -> Result<(), LaunchError> {
        self.make(plan)?;
        let (limit, hub) = (self.limit, &shared.events);
        let pod = self.pod.insert(PodContext::new(shared, plan));
        for entry in &mut self.list {
            match call(&entry.extension, Hook::Start, pod, limit).await {
                Ok(()) => {
                    let (queue, events) = mpsc::channel(EXTENSION_QUEUE);
                    let (extension, hub, failed) = (entry.extension.clone(), hub.clone(), failed.clone());
                    entry.delivery = Some(tokio::spawn(deliver(extension, events, hub, failed, limit)));
                    entry.queue = Some(queue);
                }
                Err(reason) => report(hub, &*entry.extension, &reason)?,
            }
        }
        Ok(())
    }

    /// Calls `on_ready` of each in order.
    pub(crate) async fn ready(&self, hub: &EventHub) -> Result<(), LaunchError> {
        let Some(pod) = &self.pod else { return Ok(()) };
        for entry in self.list.iter().filter(|e| e.queue.is_some()) {
            if let Err(reason) = call(&entry.extension, Hook::Ready, pod, self.limit).await {
                report(hub, &*entry.extension, &reason)?;
            }
        }
        Ok(())
    }

    /// Waits until the queued events are delivered, then calls `on_stop` of each, all within their limits.
    pub(crate) async fn stop(&mut self, hub: &EventHub) {
        let limit = self.limit;
        let Some(pod) = self.pod.take() else { return };
        for entry in &mut self.list {
            if entry.queue.take().is_none() {
                continue;
            }
            if let Some(mut delivery) = entry.delivery.take()
                && timeout(limit, &mut delivery).await.is_err()
            {
                delivery.abort();
            }
            if let Err(reason) = call(&entry.extension, Hook::Stop, &pod, limit).await {
                // The pod is over: whether it is required no longer matters.
                let _ = report(hub, &*entry.extension, &reason);
            }
        }
    }

    /// Queues an event for each; never waits.
    pub(crate) fn event(&mut self, event: &Arc<Event>, hub: &EventHub) {
        for entry in &mut self.list {
            let Some(queue) = &entry.queue else { continue };
            if let Err(mpsc::error::TrySendError::Full(_)) = queue.try_send(event.clone())
                && !entry.overflowed
            {
                entry.overflowed = true;
                let reason = format!(
                    "on_event is too slow: of more than {EXTENSION_QUEUE} waiting events some are lost"
                );
                let _ = report(hub, &*entry.extension, &reason);
            }
        }
    }
}

/// Hands events to one extension, one after the other.
async fn deliver(
    extension: Arc<dyn InfraExtension>,
    mut events: mpsc::Receiver<Arc<Event>>,
    hub: Arc<EventHub>,
    failed: mpsc::Sender<RequiredExtensionFailed>,
    limit: Duration,
) {
    let mut failures = 0;
    while let Some(event) = events.recv().await {
        let target = extension.clone();
        let Err(reason) = contained("on_event", limit, async move { target.on_event(&event).await }).await
        else {
            failures = 0;
            continue;
        };
        failures += 1;
        if let Err(required) = report(&hub, &*extension, &reason) {
            // Nobody listens once the pod is being stopped.
            let _ = failed.try_send(required);
            return;
        }
        if failures == MAX_CONSECUTIVE_FAILURES {
            let _ = report(
                &hub,
                &*extension,
                "on_event failed too often: it gets no more events",
            );
            return;
        }
    }
}

async fn call(
    extension: &Arc<dyn InfraExtension>,
    hook: Hook,
    pod: &PodContext,
    limit: Duration,
) -> Result<(), String> {
    let (target, pod) = (extension.clone(), pod.clone());
    contained(hook.name(), limit, async move {
        match hook {
            Hook::Start => target.on_start(&pod).await,
            Hook::Ready => target.on_ready(&pod).await,
            Hook::Stop => target.on_stop(&pod).await,
        }
    })
    .await
}

/// Runs a call in a task of its own, so that a hang goes no further, nor a panic where it unwinds.
async fn contained(
    what: &'static str,
    limit: Duration,
    call: impl Future<Output = Result<(), ExtensionError>> + Send + 'static,
) -> Result<(), String> {
    let mut task = tokio::spawn(call);
    match timeout(limit, &mut task).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(e))) => Err(format!("{what}: {e}")),
        Ok(Err(_)) => Err(format!("{what}: panicked")),
        Err(_) => {
            task.abort();
            Err(format!("{what}: no answer within {limit:?}"))
        }
    }
}

/// Reports a failure; an error if the extension is required.
fn report(
    hub: &EventHub,
    extension: &dyn InfraExtension,
    reason: &str,
) -> Result<(), RequiredExtensionFailed> {
    let name = extension.name();
    tracing::warn!(extension = name, reason, "extension failed");
    hub.add(Arc::new(Event::now(
        EventKind::ExtensionFailed,
        "",
        format!("{name}: {reason}"),
    )));
    if extension.required() {
        return Err(RequiredExtensionFailed {
            name: name.to_owned(),
            reason: reason.to_owned(),
        });
    }
    Ok(())
}
