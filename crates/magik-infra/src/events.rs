//! What happened in the pod: a bounded memory of events that any number of readers follow.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::watch;

/// How many events the pod init remembers.
pub const MAX_REMEMBERED_EVENTS: usize = 256;

/// What an event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// A container was created.
    ContainerCreated,
    /// A container's program was started.
    ContainerStarted,
    /// A container's program ended.
    ContainerExited,
    /// The kernel's OOM killer ended a container.
    ContainerOom,
    /// A container has become ready.
    ContainerReady,
    /// A container is ready no longer.
    ContainerUnready,
    /// A probe or a hook of a container has failed.
    ContainerUnhealthy,
    /// A container has ended, and waits to be run again.
    ContainerBackOff,
    /// A container's startup probe has succeeded.
    ContainerHealthy,
    /// Every container was started.
    PodReady,
    /// The pod is being stopped.
    PodStopping,
    /// Nothing of the pod runs any more.
    PodStopped,
    /// An extension failed or hung.
    ExtensionFailed,
    /// A kind this version does not know.
    Other(String),
}

impl EventKind {
    /// The kind as it crosses the wire, e.g. `container.exited`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::ContainerCreated => "container.created",
            Self::ContainerStarted => "container.started",
            Self::ContainerExited => "container.exited",
            Self::ContainerOom => "container.oom",
            Self::ContainerReady => "container.ready",
            Self::ContainerUnready => "container.unready",
            Self::ContainerUnhealthy => "container.unhealthy",
            Self::ContainerBackOff => "container.back-off",
            Self::ContainerHealthy => "container.healthy",
            Self::PodReady => "pod.ready",
            Self::PodStopping => "pod.stopping",
            Self::PodStopped => "pod.stopped",
            Self::ExtensionFailed => "extension.failed",
            Self::Other(kind) => kind,
        }
    }
}

impl From<&str> for EventKind {
    fn from(kind: &str) -> Self {
        match kind {
            "container.created" => Self::ContainerCreated,
            "container.started" => Self::ContainerStarted,
            "container.exited" => Self::ContainerExited,
            "container.oom" => Self::ContainerOom,
            "container.ready" => Self::ContainerReady,
            "container.unready" => Self::ContainerUnready,
            "container.unhealthy" => Self::ContainerUnhealthy,
            "container.back-off" => Self::ContainerBackOff,
            "container.healthy" => Self::ContainerHealthy,
            "pod.ready" => Self::PodReady,
            "pod.stopping" => Self::PodStopping,
            "pod.stopped" => Self::PodStopped,
            "extension.failed" => Self::ExtensionFailed,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for EventKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for EventKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::from(String::deserialize(deserializer)?.as_str()))
    }
}

/// Something that happened in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What.
    pub kind: EventKind,
    /// The container it is about; empty: the pod.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// More, for a person.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// The exit code, of `container.exited`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

impl Event {
    /// An event of now.
    pub(crate) fn now(kind: EventKind, container: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            time: Timestamp::now(),
            kind,
            container: container.into(),
            detail: detail.into(),
            exit_code: None,
        }
    }
}

/// The memory of events.
#[derive(Debug)]
pub(crate) struct EventHub {
    ring: Mutex<Ring>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Ring {
    events: VecDeque<Arc<Event>>,
    /// The number of the first remembered event.
    first: u64,
    closed: bool,
}

impl EventHub {
    pub(crate) fn new() -> Self {
        Self {
            ring: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn add(&self, event: Arc<Event>) {
        {
            let mut ring = self.lock();
            if ring.events.len() == MAX_REMEMBERED_EVENTS {
                ring.events.pop_front();
                ring.first += 1;
            }
            ring.events.push_back(event);
        }
        self.changed.send_replace(());
    }

    /// Those that are remembered.
    pub(crate) fn all(&self) -> Vec<Arc<Event>> {
        self.lock().events.iter().cloned().collect()
    }

    /// No more events will come: readers end.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.send_replace(());
    }

    /// A reader from the first remembered event on.
    pub(crate) fn reader(&self) -> EventReader<'_> {
        EventReader {
            hub: self,
            changed: self.changed.subscribe(),
            next: 0,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads events in order; one that is slower than the memory is long misses some.
#[derive(Debug)]
pub(crate) struct EventReader<'a> {
    hub: &'a EventHub,
    changed: watch::Receiver<()>,
    next: u64,
}

impl EventReader<'_> {
    /// The next event that is there, and whether there can be more later.
    pub(crate) fn try_next(&mut self) -> (Option<Arc<Event>>, bool) {
        self.changed.borrow_and_update();
        let ring = self.hub.lock();
        self.next = self.next.max(ring.first);
        let index = usize::try_from(self.next - ring.first).unwrap_or(usize::MAX);
        let event = ring.events.get(index).cloned();
        self.next += u64::from(event.is_some());
        (event, !ring.closed)
    }

    /// The next event, waited for; `None`: there will be no more.
    pub(crate) async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            match self.try_next() {
                (Some(event), _) => return Some(event),
                (None, false) => return None,
                (None, true) => self.changed.changed().await.ok()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(n: usize) -> Arc<Event> {
        Arc::new(Event::now(EventKind::Other("test".into()), "", n.to_string()))
    }

    #[tokio::test]
    async fn followers_see_what_is_remembered_then_what_comes_then_the_end() {
        let hub = EventHub::new();
        hub.add(numbered(1));
        let mut reader = hub.reader();
        assert_eq!(reader.next().await.unwrap().detail, "1");
        let (next, ()) = tokio::join!(reader.next(), async {
            tokio::task::yield_now().await;
            hub.add(numbered(2));
        });
        assert_eq!(next.unwrap().detail, "2");
        hub.close();
        assert!(reader.next().await.is_none());
    }

    #[test]
    fn remembers_no_more_than_its_bound() {
        let hub = EventHub::new();
        for n in 0..=MAX_REMEMBERED_EVENTS {
            hub.add(numbered(n));
        }
        let mut reader = hub.reader();
        let all: Vec<_> = std::iter::from_fn(|| reader.try_next().0).collect();
        assert_eq!(all.len(), MAX_REMEMBERED_EVENTS);
        assert_eq!(all[0].detail, "1");
    }

    #[test]
    fn kinds_read_back_as_written() {
        for kind in [
            "container.created",
            "container.started",
            "container.exited",
            "container.oom",
            "pod.ready",
            "pod.stopping",
            "pod.stopped",
            "extension.failed",
            "new.kind",
        ] {
            assert_eq!(EventKind::from(kind).as_str(), kind);
        }
    }
}
