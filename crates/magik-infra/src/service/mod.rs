//! The server side of the control service.

mod connections;
mod logs;

pub(crate) use connections::Connections;
pub use connections::{Acceptor, MAX_CONNECTIONS};

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use magik_oci::Signal;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use ttrpc::{
    Code, Result,
    r#async::{ServerStreamSender, TtrpcContext},
};

use crate::{
    client::{MAJOR, MINOR},
    containers::{Containers, ExecStream, PortStream, StreamCall, running},
    data::Staged,
    error::{LaunchError, refused},
    events::Event,
    plan::{ContainerPlan, PodPlan},
    processes::Process,
    rpc::{control as proto, control_ttrpc::Control},
    shared::{Change, ChangeError, Command, LaunchUpdate, Shared, Update, Updates},
    wire::Meter,
};

/// The service as one connection sees it.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    containers: Arc<dyn Containers>,
    meter: Arc<Meter>,
    /// Whether StartSandbox and Commit are allowed.
    is_launch: bool,
    greeted: AtomicBool,
    /// Files that were handed over and are not used yet.
    staged: Mutex<Staged>,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        containers: Arc<dyn Containers>,
        meter: Arc<Meter>,
        is_launch: bool,
    ) -> Self {
        Self {
            shared,
            containers,
            meter,
            is_launch,
            greeted: AtomicBool::new(false),
            staged: Mutex::default(),
        }
    }

    fn check_greeted(&self) -> Result<()> {
        if self.greeted.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(refused(
            Code::FAILED_PRECONDITION,
            "the first call on a connection must be Hello",
        ))
    }

    fn check_launch(&self) -> Result<()> {
        self.check_greeted()?;
        if self.is_launch {
            return Ok(());
        }
        Err(refused(
            Code::PERMISSION_DENIED,
            "only the launcher's connection may launch and commit",
        ))
    }

    async fn command(&self, command: Command) -> Result<()> {
        self.shared
            .commands
            .send(command)
            .await
            .map_err(|_| refused(Code::UNAVAILABLE, "the pod is over"))
    }

    /// Waits until the supervisor has done what was asked; ends with the connection.
    async fn done(&self, done: oneshot::Receiver<()>) -> Result<()> {
        tokio::select! {
            // An error means that the supervisor has ended: the pod is over, which is what was
            // asked for.
            _ = done => Ok(()),
            () = self.meter.closed() => Err(ttrpc::Error::Eof),
        }
    }

    /// Has the supervisor change a container, and waits until it has.
    async fn change(&self, container: String, change: Change) -> Result<proto::StatusResponse> {
        self.check_greeted()?;
        let (answer, answered) = oneshot::channel();
        self.command(Command::Change {
            container,
            change,
            answer,
        })
        .await?;
        tokio::select! {
            answer = answered => match answer {
                Ok(answer) => answer.map_err(|e| unchanged(&e))?,
                Err(_) => return Err(refused(Code::UNAVAILABLE, "the pod is over")),
            },
            () = self.meter.closed() => return Err(ttrpc::Error::Eof),
        }
        self.status_response()
    }

    fn status_response(&self) -> Result<proto::StatusResponse> {
        let mut response = proto::StatusResponse::new();
        response.status = self.shared.status_json().ok_or_else(Self::not_launched)?;
        Ok(response)
    }

    fn take_staged(&self) -> Staged {
        std::mem::take(&mut *self.staged.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stream_call(&self, context: &TtrpcContext) -> StreamCall<'_> {
        StreamCall {
            pod: &self.shared,
            meter: &self.meter,
            number: context.mh.stream_id,
        }
    }

    fn not_launched() -> ttrpc::Error {
        refused(Code::FAILED_PRECONDITION, "the pod has not been launched yet")
    }
}

#[async_trait]
impl Control for Connection {
    async fn hello(&self, _: &TtrpcContext, request: proto::HelloRequest) -> Result<proto::HelloResponse> {
        if request.major != MAJOR {
            let message = format!(
                "version {}.{} of the control service was asked for, the pod init speaks {MAJOR}.{MINOR}: use the program that started the pod",
                request.major, request.minor
            );
            return Err(refused(Code::FAILED_PRECONDITION, message));
        }
        self.greeted.store(true, Ordering::Relaxed);
        let mut response = proto::HelloResponse::new();
        response.major = MAJOR;
        response.minor = MINOR;
        response.pod_id = self.shared.plan().map(|p| p.id.clone()).unwrap_or_default();
        Ok(response)
    }

    async fn stage_files(
        &self,
        _: &TtrpcContext,
        request: proto::StageFilesRequest,
    ) -> Result<proto::StageFilesResponse> {
        self.check_greeted()?;
        let mut staged = self.staged.lock().unwrap_or_else(PoisonError::into_inner);
        let added = staged.add(request);
        added.map_err(|e| refused(e.code(), e.to_string()))?;
        Ok(proto::StageFilesResponse::new())
    }

    async fn update_files(
        &self,
        _: &TtrpcContext,
        _: proto::UpdateFilesRequest,
    ) -> Result<proto::UpdateFilesResponse> {
        self.check_greeted()?;
        let staged = self.take_staged();
        self.containers.update_files(&self.shared, staged).await?;
        Ok(proto::UpdateFilesResponse::new())
    }

    async fn start_sandbox(
        &self,
        _: &TtrpcContext,
        request: proto::StartSandboxRequest,
        stream: ServerStreamSender<proto::LaunchEvent>,
    ) -> Result<()> {
        self.check_launch()?;
        let plan: PodPlan = document("pod plan", &request.plan)?;
        let (updates, mut received) = Updates::new();
        self.command(Command::Launch {
            plan: Box::new(plan),
            data: self.take_staged(),
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

    async fn commit(&self, _: &TtrpcContext, _: proto::CommitRequest) -> Result<proto::CommitResponse> {
        self.check_launch()?;
        let (done, wait) = oneshot::channel();
        self.command(Command::Commit { done }).await?;
        self.done(wait).await?;
        Ok(proto::CommitResponse::new())
    }

    async fn status(&self, _: &TtrpcContext, _: proto::StatusRequest) -> Result<proto::StatusResponse> {
        self.check_greeted()?;
        self.status_response()
    }

    async fn exec(&self, context: &TtrpcContext, stream: ExecStream) -> Result<()> {
        self.check_greeted()?;
        self.containers.exec(self.stream_call(context), stream).await
    }

    async fn attach(&self, context: &TtrpcContext, stream: ExecStream) -> Result<()> {
        self.check_greeted()?;
        self.containers.attach(self.stream_call(context), stream).await
    }

    async fn signal(&self, _: &TtrpcContext, request: proto::SignalRequest) -> Result<proto::SignalResponse> {
        self.check_greeted()?;
        if !(1..=64).contains(&request.signal) {
            let message = format!("there is no signal {}", request.signal);
            return Err(refused(Code::INVALID_ARGUMENT, message));
        }
        let (_, id) = running(&self.shared, &request.container)?;
        let signal = Signal(request.signal);
        self.containers.signal(&id, signal, request.all).await?;
        Ok(proto::SignalResponse::new())
    }

    async fn logs(
        &self,
        _: &TtrpcContext,
        request: proto::LogsRequest,
        stream: ServerStreamSender<proto::LogsChunk>,
    ) -> Result<()> {
        self.check_greeted()?;
        logs::logs(&self.shared, &self.meter, &request, &stream).await
    }

    async fn stats(&self, _: &TtrpcContext, _: proto::StatsRequest) -> Result<proto::StatsResponse> {
        self.check_greeted()?;
        let pod = self.shared.status().ok_or_else(Self::not_launched)?;
        let all = self.containers.stats(&pod).await?;
        let mut response = proto::StatsResponse::new();
        response.stats = serde_json::to_vec(&all).map_err(|e| refused(Code::INTERNAL, e.to_string()))?;
        Ok(response)
    }

    async fn processes(
        &self,
        _: &TtrpcContext,
        _: proto::ProcessesRequest,
    ) -> Result<proto::ProcessesResponse> {
        self.check_greeted()?;
        let pod = self.shared.status().ok_or_else(Self::not_launched)?;
        let mut response = proto::ProcessesResponse::new();
        for (name, processes) in self.containers.processes(&pod).await? {
            let mut container = proto::ContainerProcesses::new();
            container.container = name;
            container.processes = processes.into_iter().map(Process::into_message).collect();
            response.containers.push(container);
        }
        Ok(response)
    }

    async fn events(
        &self,
        _: &TtrpcContext,
        request: proto::EventsRequest,
        stream: ServerStreamSender<proto::Event>,
    ) -> Result<()> {
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

    async fn stop(&self, _: &TtrpcContext, request: proto::StopRequest) -> Result<proto::StopResponse> {
        self.check_greeted()?;
        let grace = request.grace_ms.map(Duration::from_millis);
        let (done, wait) = oneshot::channel();
        // A pod that is over already is stopped: the same answer.
        if self.command(Command::Stop { grace, done }).await.is_ok() {
            self.done(wait).await?;
        }
        let mut response = proto::StopResponse::new();
        response.status = self.shared.status_json().ok_or_else(Self::not_launched)?;
        Ok(response)
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: proto::CreateContainerRequest,
    ) -> Result<proto::StatusResponse> {
        self.check_greeted()?;
        let plan: ContainerPlan = document("container's plan", &request.plan)?;
        let name = plan.name.clone();
        self.change(name, Change::Create(Box::new(plan))).await
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> Result<proto::StatusResponse> {
        self.change(request.container, Change::Start).await
    }

    async fn stop_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> Result<proto::StatusResponse> {
        let change = Change::Stop(grace(&request));
        self.change(request.container, change).await
    }

    async fn restart_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> Result<proto::StatusResponse> {
        let change = Change::Restart(grace(&request));
        self.change(request.container, change).await
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: proto::ContainerRequest,
    ) -> Result<proto::StatusResponse> {
        self.change(request.container, Change::Remove).await
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: proto::UpdateContainerRequest,
    ) -> Result<proto::StatusResponse> {
        self.check_greeted()?;
        let resources = document("resources", &request.resources)?;
        let shown = match request.shown.as_slice() {
            [] => None,
            shown => Some(document("amounts", shown)?),
        };
        let change = Change::Update(Box::new(Update { resources, shown }));
        self.change(request.container, change).await
    }

    async fn port_forward(&self, context: &TtrpcContext, stream: PortStream) -> Result<()> {
        self.check_greeted()?;
        self.containers
            .port_forward(self.stream_call(context), stream)
            .await
    }
}

/// Reads a JSON document of a client; its size is bounded by the longest frame.
fn document<T: DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    let malformed = |e| refused(Code::INVALID_ARGUMENT, format!("the {what} cannot be read: {e}"));
    serde_json::from_slice(json).map_err(malformed)
}

fn grace(request: &proto::ContainerRequest) -> Option<Duration> {
    request.grace_ms.map(Duration::from_millis)
}

fn unchanged(error: &ChangeError) -> ttrpc::Error {
    let code = match error {
        ChangeError::Unknown(_) => Code::NOT_FOUND,
        ChangeError::State { .. } | ChangeError::NotNow(_) => Code::FAILED_PRECONDITION,
        ChangeError::Refused(_) => Code::INVALID_ARGUMENT,
        ChangeError::Unsupported(_) => Code::UNIMPLEMENTED,
        ChangeError::Unreachable(_) => Code::UNAVAILABLE,
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
    refused(code, error.to_string())
}

fn launch_event(update: LaunchUpdate) -> (proto::LaunchEvent, bool) {
    let mut event = proto::LaunchEvent::new();
    let last = match update {
        LaunchUpdate::Progress { step, container } => {
            let mut progress = proto::LaunchProgress::new();
            progress.step = step.to_message();
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
            failed.step = error.step.to_message();
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
