//! Answers that come bit by bit: launch, logs, events.

use std::sync::Arc;

use ttrpc::r#async::ClientStreamReceiver;

use super::{ControlClient, Result, clean, error};
use crate::{
    CannotExecute,
    error::{ControlError, LaunchError, LaunchStep},
    events::{Event, EventKind},
    logs::{LogChunk, LogStream},
    rpc::control as proto,
    wire::Meter,
};

/// How far a launch has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchProgress {
    /// [`Mounts`](LaunchStep::Mounts), [`InitContainer`](LaunchStep::InitContainer) or
    /// [`Create`](LaunchStep::Create).
    pub step: LaunchStep,
    /// The container; empty: the pod itself.
    pub container: String,
}

/// The messages of one call.
pub(super) struct Messages<M> {
    stream: ClientStreamReceiver<M>,
    meter: Arc<Meter>,
}

impl<M> std::fmt::Debug for Messages<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Messages").finish_non_exhaustive()
    }
}

impl<M: protobuf::Message> Messages<M> {
    pub(super) fn new(stream: ClientStreamReceiver<M>, meter: &Arc<Meter>) -> Self {
        let meter = meter.clone();
        Self { stream, meter }
    }

    async fn next(&mut self) -> Result<Option<M>> {
        let message = self.stream.recv().await.map_err(error)?;
        if let Some(message) = &message {
            self.meter.release(None, size(message));
        }
        Ok(message)
    }
}

/// A pod being started.
#[derive(Debug)]
pub struct Launch {
    messages: Messages<proto::LaunchEvent>,
    ready: bool,
}

impl Launch {
    pub(super) fn new(messages: Messages<proto::LaunchEvent>) -> Self {
        let ready = false;
        Self { messages, ready }
    }

    /// The next step; `None`: every container was started.
    ///
    /// # Errors
    /// [`ControlError::Launch`] says what failed, and in which container.
    pub async fn next(&mut self) -> Result<Option<LaunchProgress>> {
        if self.ready {
            return Ok(None);
        }
        let message = self.messages.next().await?;
        let message = message.ok_or(ControlError::Disconnected)?;
        match message.event {
            Some(proto::launch_event::Event::Progress(p)) => Ok(Some(LaunchProgress {
                step: LaunchStep::from_message(p.step),
                container: clean(&p.container),
            })),
            Some(proto::launch_event::Event::Ready(_)) => {
                self.ready = true;
                Ok(None)
            }
            Some(proto::launch_event::Event::Failed(f)) => Err(ControlError::Launch(LaunchError {
                container: Some(clean(&f.container)).filter(|c| !c.is_empty()),
                step: LaunchStep::from_message(f.step),
                message: clean(&f.message),
                program: f
                    .program
                    .as_ref()
                    .map(|p| Box::new(CannotExecute::from_message(p))),
            })),
            None => Err(ControlError::Protocol(
                "a launch event of an unknown kind".to_owned(),
            )),
        }
    }

    /// Waits until every container was started.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn ready(mut self) -> Result<()> {
        while self.next().await?.is_some() {}
        Ok(())
    }
}

/// A container's log, as it comes.
#[derive(Debug)]
pub struct LogOutput {
    messages: Messages<proto::LogsChunk>,
    _client: ControlClient,
}

impl LogOutput {
    pub(super) fn new(messages: Messages<proto::LogsChunk>, client: ControlClient) -> Self {
        Self {
            messages,
            _client: client,
        }
    }

    /// The next piece; `None`: the end.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container.
    pub async fn next(&mut self) -> Result<Option<LogChunk>> {
        let Some(message) = self.messages.next().await? else {
            return Ok(None);
        };
        let stream = if message.is_stderr {
            LogStream::Stderr
        } else {
            LogStream::Stdout
        };
        Ok(Some(LogChunk {
            stream,
            data: message.data,
        }))
    }
}

/// What happens in a pod, or happened in one that is over.
#[derive(Debug)]
pub struct EventStream(Events);

#[derive(Debug)]
enum Events {
    Coming {
        messages: Messages<proto::Event>,
        _client: ControlClient,
    },
    Past(std::vec::IntoIter<Event>),
}

impl EventStream {
    pub(super) fn new(messages: Messages<proto::Event>, client: ControlClient) -> Self {
        let _client = client;
        Self(Events::Coming { messages, _client })
    }

    /// Those of a pod that is over, as its [`EVENTS_FILE`](crate::EVENTS_FILE) has them.
    ///
    /// # Errors
    /// That is no such document.
    pub fn of_past(document: &[u8]) -> serde_json::Result<Self> {
        let mut events: Vec<Event> = serde_json::from_slice(document)?;
        events.iter_mut().for_each(make_clean);
        Ok(Self(Events::Past(events.into_iter())))
    }

    /// The next event; `None`: the end.
    ///
    /// # Errors
    /// The connection ended, or what came is no event.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        let messages = match &mut self.0 {
            Events::Coming { messages, .. } => messages,
            Events::Past(events) => return Ok(events.next()),
        };
        let Some(message) = messages.next().await? else {
            return Ok(None);
        };
        let time = message
            .time
            .parse()
            .map_err(|_| ControlError::Protocol(clean(&format!("event time {:?}", message.time))))?;
        let mut event = Event {
            time,
            kind: EventKind::from(message.kind.as_str()),
            container: message.container,
            detail: message.detail,
            exit_code: message.exit_code,
        };
        make_clean(&mut event);
        Ok(Some(event))
    }
}

/// What a pod's processes say is shown on terminals.
fn make_clean(event: &mut Event) {
    if let EventKind::Other(kind) = &mut event.kind {
        *kind = clean(kind);
    }
    event.container = clean(&event.container);
    event.detail = clean(&event.detail);
}

/// A message's size on the wire.
pub(crate) fn size(message: &impl protobuf::Message) -> usize {
    usize::try_from(message.compute_size()).unwrap_or(usize::MAX)
}
