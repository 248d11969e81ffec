//! Extensions of the pod init, each contained by a timeout.

use std::{fmt::Debug, future::Future, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};

use crate::{
    events::{Event, EventHub, EventKind},
    plan::PodPlan,
};

/// How long one call of an extension may take by default.
pub const EXTENSION_TIMEOUT: Duration = Duration::from_secs(5);
/// How many events may wait for one extension; more are dropped, and reported once.
pub const EXTENSION_QUEUE: usize = 64;
/// An extension that fails on so many events in a row gets no more of them.
const MAX_CONSECUTIVE_FAILURES: u32 = 5;

/// Why an extension failed.
pub type ExtensionError = Box<dyn std::error::Error + Send + Sync>;

/// What an extension learns of its pod.
#[derive(Debug)]
pub struct PodContext {
    plan: Arc<PodPlan>,
}

impl PodContext {
    /// The pod as it was planned: id, name, labels, annotations, containers.
    #[must_use]
    pub fn plan(&self) -> &PodPlan {
        &self.plan
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
    limit: Duration,
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
    pub(crate) fn new(list: Vec<Box<dyn InfraExtension>>, limit: Duration) -> Self {
        let entry = |extension: Box<dyn InfraExtension>| Entry {
            extension: extension.into(),
            queue: None,
            delivery: None,
            overflowed: false,
        };
        Self {
            list: list.into_iter().map(entry).collect(),
            limit,
        }
    }

    /// Calls `on_start` of each in order. Those that succeed get events and further calls.
    ///
    /// A required extension that fails on an event later is reported over `failed`.
    pub(crate) async fn start(
        &mut self,
        plan: &Arc<PodPlan>,
        hub: &Arc<EventHub>,
        failed: &mpsc::Sender<RequiredExtensionFailed>,
    ) -> Result<(), RequiredExtensionFailed> {
        let limit = self.limit;
        for entry in &mut self.list {
            match call(&entry.extension, Hook::Start, plan, limit).await {
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
    pub(crate) async fn ready(
        &self,
        plan: &Arc<PodPlan>,
        hub: &EventHub,
    ) -> Result<(), RequiredExtensionFailed> {
        for entry in self.list.iter().filter(|e| e.queue.is_some()) {
            if let Err(reason) = call(&entry.extension, Hook::Ready, plan, self.limit).await {
                report(hub, &*entry.extension, &reason)?;
            }
        }
        Ok(())
    }

    /// Waits until the queued events are delivered, then calls `on_stop` of each, all within their limits.
    pub(crate) async fn stop(&mut self, plan: &Arc<PodPlan>, hub: &EventHub) {
        let limit = self.limit;
        for entry in &mut self.list {
            if entry.queue.take().is_none() {
                continue;
            }
            if let Some(mut delivery) = entry.delivery.take()
                && timeout(limit, &mut delivery).await.is_err()
            {
                delivery.abort();
            }
            if let Err(reason) = call(&entry.extension, Hook::Stop, plan, limit).await {
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
    plan: &Arc<PodPlan>,
    limit: Duration,
) -> Result<(), String> {
    let (target, pod) = (extension.clone(), PodContext { plan: plan.clone() });
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
