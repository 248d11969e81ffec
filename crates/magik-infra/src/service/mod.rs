//! The server side of the control service.

mod connections;
mod exec;
mod logs;
mod port_forward;

pub(crate) use connections::Connections;
pub use connections::{Acceptor, MAX_CONNECTIONS};
pub use exec::MAX_EXECS;
pub(crate) use exec::Streams;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use magik_oci::{ContainerId, Signal};
use tokio::sync::{mpsc, oneshot};
use ttrpc::{
    Code,
    r#async::{ServerStream, ServerStreamSender, TtrpcContext},
};

use crate::{
    client::{MAJOR, MINOR},
    error::LaunchError,
    events::Event,
    guest::forward,
    init::{
        changes::{Change, ChangeError},
        shared::{Command, LaunchUpdate, Place, Shared},
    },
    plan::{ContainerPlan, PodPlan},
    rpc::{control as proto, control_ttrpc::Control},
    status::ContainerPhase,
    wire::Meter,
};

/// An answer that is an error.
pub(crate) fn status(code: Code, message: impl Into<String>) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(code, message.into()))
}

/// A container of the pod, and its id at the runtime.
fn known(shared: &Shared, name: &str) -> ttrpc::Result<(Arc<ContainerPlan>, ContainerId)> {
    let unknown = || status(Code::NOT_FOUND, format!("the pod has no container {name:?}"));
    let container = shared.container(name).ok_or_else(unknown)?.plan;
    let id = ContainerId::new(&container.name).map_err(|e| status(Code::INVALID_ARGUMENT, e.to_string()))?;
    Ok((container, id))
}

/// One that runs.
fn running(shared: &Shared, name: &str) -> ttrpc::Result<(Arc<ContainerPlan>, ContainerId)> {
    let found = known(shared, name)?;
    if !matches!(shared.phase(name), Some(ContainerPhase::Running { .. })) {
        let message = format!("container {name} is not running");
        return Err(status(Code::FAILED_PRECONDITION, message));
    }
    Ok(found)
}

/// The service as one connection sees it.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    /// Whether Launch and Commit are allowed.
    is_launch: bool,
    greeted: AtomicBool,
}

impl Connection {
    pub(crate) fn new(shared: Arc<Shared>, meter: Arc<Meter>, is_launch: bool) -> Self {
        Self {
            shared,
            meter,
            is_launch,
            greeted: AtomicBool::new(false),
        }
    }

    fn check_greeted(&self) -> ttrpc::Result<()> {
        if self.greeted.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(status(
            Code::FAILED_PRECONDITION,
            "the first call on a connection must be Hello",
        ))
    }

    fn check_launch(&self) -> ttrpc::Result<()> {
        self.check_greeted()?;
        if self.is_launch {
            return Ok(());
        }
        Err(status(
            Code::PERMISSION_DENIED,
            "only the launcher's connection may launch and commit",
        ))
    }

    async fn command(&self, command: Command) -> ttrpc::Result<()> {
        self.shared
            .commands
            .send(command)
            .await
            .map_err(|_| status(Code::UNAVAILABLE, "the pod is over"))
    }

    /// Waits until the supervisor has done what was asked; ends with the connection.
    async fn done(&self, done: oneshot::Receiver<()>) -> ttrpc::Result<()> {
        tokio::select! {
            // An error means that the supervisor has ended: the pod is over, which is what was asked for.
            _ = done => Ok(()),
            () = self.meter.closed() => Err(ttrpc::Error::Eof),
        }
    }

    /// Has the supervisor change a container, and waits until it has.
    async fn change(
        &self,
        request: &proto::ContainerRequest,
        change: Change,
    ) -> ttrpc::Result<proto::StatusResponse> {
        self.check_greeted()?;
        let (answer, answered) = oneshot::channel();
        let container = request.container.clone();
        self.command(Command::Change {
            container,
            change,
            answer,
        })
        .await?;
        tokio::select! {
            answer = answered => match answer {
                Ok(answer) => answer.map_err(|e| unchanged(&e))?,
                Err(_) => return Err(status(Code::UNAVAILABLE, "the pod is over")),
            },
            () = self.meter.closed() => return Err(ttrpc::Error::Eof),
        }
        let mut response = proto::StatusResponse::new();
        response.status = self.shared.status_json().ok_or_else(Self::not_launched)?;
        Ok(response)
    }

    fn not_launched() -> ttrpc::Error {
        status(Code::FAILED_PRECONDITION, "the pod has not been launched yet")
    }
}

#[async_trait]
impl Control for Connection {
    async fn hello(
        &self,
        _: &TtrpcContext,
        request: proto::HelloRequest,
    ) -> ttrpc::Result<proto::HelloResponse> {
        if request.major != MAJOR {
            let message = format!(
                "version {}.{} of the control service was asked for, the pod init speaks {MAJOR}.{MINOR}: use the program that started the pod",
                request.major, request.minor
            );
            return Err(status(Code::FAILED_PRECONDITION, message));
        }
        self.greeted.store(true, Ordering::Relaxed);
        let mut response = proto::HelloResponse::new();
        response.major = MAJOR;
        response.minor = MINOR;
        response.pod_id = self.shared.plan().map(|p| p.id.clone()).unwrap_or_default();
        Ok(response)
    }

    async fn launch(
        &self,
        _: &TtrpcContext,
        request: proto::LaunchRequest,
        stream: ServerStreamSender<proto::LaunchEvent>,
    ) -> ttrpc::Result<()> {
        self.check_launch()?;
        let plan: PodPlan = serde_json::from_slice(&request.plan).map_err(|e| {
            status(
                Code::INVALID_ARGUMENT,
                format!("the pod plan cannot be read: {e}"),
            )
        })?;
        let (updates, mut received) = mpsc::unbounded_channel();
        self.command(Command::Launch {
            plan: Box::new(plan),
            updates,
        })
        .await?;
        while let Some(update) = received.recv().await {
            let (event, last) = launch_event(update);
            stream.send(&event).await?;
            if last {
                break;
            }
        }
        Ok(())
    }

    async fn commit(
        &self,
        _: &TtrpcContext,
        _: proto::CommitRequest,
    ) -> ttrpc::Result<proto::CommitResponse> {
        self.check_launch()?;
        let (done, wait) = oneshot::channel();
        self.command(Command::Commit { done }).await?;
        self.done(wait).await?;
        Ok(proto::CommitResponse::new())
    }

    async fn status(
        &self,
        _: &TtrpcContext,
        _: proto::StatusRequest,
    ) -> ttrpc::Result<proto::StatusResponse> {
        self.check_greeted()?;
        let mut response = proto::StatusResponse::new();
        response.status = self.shared.status_json().ok_or_else(Self::not_launched)?;
        Ok(response)
    }

    async fn exec(
        &self,
        context: &TtrpcContext,
        stream: ServerStream<proto::ExecOutput, proto::ExecInput>,
    ) -> ttrpc::Result<()> {
        self.check_greeted()?;
        match &self.shared.place {
            Place::Here(runtime) => {
                exec::exec(
                    &**runtime,
                    &self.shared,
                    &self.meter,
                    context.mh.stream_id,
                    stream,
                )
                .await
            }
            Place::Guest(guest) => forward::exec(&**guest, &self.meter, context.mh.stream_id, stream).await,
        }
    }

    async fn attach(
        &self,
        context: &TtrpcContext,
        stream: ServerStream<proto::ExecOutput, proto::ExecInput>,
    ) -> ttrpc::Result<()> {
        self.check_greeted()?;
        match &self.shared.place {
            Place::Here(runtime) => {
                exec::attach::attach(
                    &**runtime,
                    &self.shared,
                    &self.meter,
                    context.mh.stream_id,
                    stream,
                )
                .await
            }
            Place::Guest(_) => Err(status(
                Code::PERMISSION_DENIED,
                "the streams of a guest's container are its supervisor's",
            )),
        }
    }

    async fn signal(
        &self,
        _: &TtrpcContext,
        request: proto::SignalRequest,
    ) -> ttrpc::Result<proto::SignalResponse> {
        self.check_greeted()?;
        let name = &request.container;
        if !(1..=64).contains(&request.signal) {
            let message = format!("there is no signal {}", request.signal);
            return Err(status(Code::INVALID_ARGUMENT, message));
        }
        let (_, id) = running(&self.shared, name)?;
        match &self.shared.place {
            Place::Here(runtime) => {
                let sent = runtime.kill(&id, Signal(request.signal), request.all).await;
                sent.map_err(|e| status(Code::FAILED_PRECONDITION, e.to_string()))?;
            }
            Place::Guest(guest) => forward::signal(&**guest, &request).await?,
        }
        Ok(proto::SignalResponse::new())
    }

    async fn logs(
        &self,
        _: &TtrpcContext,
        request: proto::LogsRequest,
        stream: ServerStreamSender<proto::LogsChunk>,
    ) -> ttrpc::Result<()> {
        self.check_greeted()?;
        logs::logs(&self.shared, &self.meter, &request, &stream).await
    }

    async fn stats(&self, _: &TtrpcContext, _: proto::StatsRequest) -> ttrpc::Result<proto::StatsResponse> {
        self.check_greeted()?;
        let pod = self.shared.status().ok_or_else(Self::not_launched)?;
        let runtime = match &self.shared.place {
            Place::Here(runtime) => runtime,
            Place::Guest(guest) => return forward::stats(&**guest, &pod).await,
        };
        let mut all = BTreeMap::new();
        for container in pod.init_containers.into_iter().chain(pod.containers) {
            if !matches!(container.state, ContainerPhase::Running { .. }) {
                continue;
            }
            let Ok(id) = ContainerId::new(&container.name) else {
                continue;
            };
            match runtime.stats(&id).await {
                Ok(stats) => {
                    all.insert(container.name, stats);
                }
                // It may have ended meanwhile.
                Err(error) => tracing::debug!(container = %id, %error, "no stats"),
            }
        }
        let mut response = proto::StatsResponse::new();
        response.stats = serde_json::to_vec(&all).map_err(|e| status(Code::INTERNAL, e.to_string()))?;
        Ok(response)
    }

    async fn events(
        &self,
        _: &TtrpcContext,
        request: proto::EventsRequest,
        stream: ServerStreamSender<proto::Event>,
    ) -> ttrpc::Result<()> {
        self.check_greeted()?;
        let mut reader = self.shared.events.reader();
        loop {
            let event = if request.follow {
                tokio::select! {
                    event = reader.next() => event,
                    () = self.meter.closed() => None,
                }
            } else {
                reader.try_next().0
            };
            let Some(event) = event else { return Ok(()) };
            stream.send(&event_message(&event)).await?;
        }
    }

    async fn stop(
        &self,
        _: &TtrpcContext,
        request: proto::StopRequest,
    ) -> ttrpc::Result<proto::StopResponse> {
        self.check_greeted()?;
        let grace = request.grace_ms.map(Duration::from_millis);
        let (done, wait) = oneshot::channel();
        // A pod that is over already is stopped: the same answer.
        if self
            .shared
            .commands
            .send(Command::Stop { grace, done })
            .await
            .is_ok()
        {
            self.done(wait).await?;
        }
        let mut response = proto::StopResponse::new();
        response.status = self.shared.status_json().ok_or_else(Self::not_launched)?;
        Ok(response)
    }

    async fn stop_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> ttrpc::Result<proto::StatusResponse> {
        self.change(&request, Change::Stop(grace(&request))).await
    }

    async fn restart_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> ttrpc::Result<proto::StatusResponse> {
        self.change(&request, Change::Restart(grace(&request))).await
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> ttrpc::Result<proto::StatusResponse> {
        self.change(&request, Change::Remove).await
    }

    async fn port_forward(
        &self,
        context: &TtrpcContext,
        stream: ServerStream<proto::PortData, proto::PortData>,
    ) -> ttrpc::Result<()> {
        self.check_greeted()?;
        match &self.shared.place {
            Place::Here(_) => port_forward::port_forward(&self.meter, context.mh.stream_id, stream).await,
            Place::Guest(guest) => {
                forward::port_forward(&**guest, &self.meter, context.mh.stream_id, stream).await
            }
        }
    }
}

fn grace(request: &proto::ContainerRequest) -> Option<Duration> {
    request.grace_ms.map(Duration::from_millis)
}

fn unchanged(error: &ChangeError) -> ttrpc::Error {
    let code = match error {
        ChangeError::Unknown(_) => Code::NOT_FOUND,
        ChangeError::State { .. } => Code::FAILED_PRECONDITION,
        ChangeError::Unsupported => Code::UNIMPLEMENTED,
        ChangeError::Failed(LaunchError {
            program: Some(program),
            ..
        }) => {
            let mut status = ttrpc::get_status(Code::ABORTED, error.to_string());
            status.details.push(program.to_detail());
            return ttrpc::Error::RpcStatus(status);
        }
        ChangeError::Failed(_) => Code::INTERNAL,
    };
    status(code, error.to_string())
}

fn launch_event(update: LaunchUpdate) -> (proto::LaunchEvent, bool) {
    let mut event = proto::LaunchEvent::new();
    let last = match update {
        LaunchUpdate::Progress { step, container } => {
            let mut progress = proto::LaunchProgress::new();
            progress.step = step.to_owned();
            progress.container = container;
            event.set_progress(progress);
            false
        }
        LaunchUpdate::Ready => {
            event.set_ready(proto::LaunchReady::new());
            true
        }
        LaunchUpdate::Failed(error) => {
            let mut failed = proto::LaunchFailed::new();
            failed.container = error.container.unwrap_or_default();
            failed.step = error.step;
            failed.message = error.message;
            failed.program = error.program.map(|p| p.to_message()).into();
            event.set_failed(failed);
            true
        }
    };
    (event, last)
}

fn event_message(event: &Event) -> proto::Event {
    let mut message = proto::Event::new();
    message.time = format!("{:.9}", event.time);
    message.kind = event.kind.as_str().to_owned();
    message.container.clone_from(&event.container);
    message.detail.clone_from(&event.detail);
    message.exit_code = event.exit_code;
    message
}
