//! The client side of the control service. What the pod init says is not trusted: it may run in a
//! guest.

mod data;
mod exec;
mod port_forward;
mod streams;
mod window;

pub use exec::{AttachRequest, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecSession};
pub use port_forward::{PortForward, PortReader, PortWriter};
use streams::Messages;
pub(crate) use streams::size;
pub use streams::{EventStream, Launch, LaunchProgress, LogOutput};

use std::{
    collections::BTreeMap,
    future::Future,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use magik_oci::Stats;
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    time::timeout,
};
use ttrpc::{
    Code,
    r#async::{Client, transport::Socket},
    context::{self, Context},
};

use crate::{
    CannotExecute,
    error::ControlError,
    logs::LogOptions,
    plan::{ContainerPlan, PodPlan},
    processes::{self, Process},
    rpc::{control as proto, control_ttrpc},
    status::{PodStatus, Resized},
    wire::{Meter, Role, Wire},
};

/// The major version of the control service: both sides must have the same.
pub const MAJOR: u32 = 2;
/// The minor version of the control service: what was added since the major version.
pub const MINOR: u32 = 3;

/// How long a call that waits for nothing in the pod may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a message from the other side is shown, in characters.
const MAX_MESSAGE: usize = 4096;
/// The longest path a unix socket address holds, in bytes (sun_path with its final NUL).
const MAX_SOCKET_PATH: usize = 107;

type Result<T, E = ControlError> = std::result::Result<T, E>;

/// A connection to a pod init.
///
/// The calls with an answer of unknown length (`exec`, `logs`, `events`, `port_forward`) take the
/// client: each has its connection to itself, and dropping it ends the call on the other side too.
///
/// ```no_run
/// # async fn f() -> Result<(), magik_infra::ControlError> {
/// use magik_infra::ControlClient;
/// let client = ControlClient::connect("/run/magikrun/pods/web-1/control.sock".as_ref()).await?;
/// println!("{:?}", client.status().await?.phase);
/// # Ok(())
/// # }
/// ```
pub struct ControlClient {
    calls: control_ttrpc::ControlClient,
    meter: Arc<Meter>,
    pod_id: String,
    /// The other side's minor version.
    minor: u32,
}

impl std::fmt::Debug for ControlClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ControlClient")
            .field("pod_id", &self.pod_id)
            .finish_non_exhaustive()
    }
}

impl ControlClient {
    /// Connects to a control socket and says hello. The path may be longer than a socket address
    /// can hold.
    ///
    /// # Errors
    /// Nobody listens there, or not in this version.
    pub async fn connect(path: &Path) -> Result<Self> {
        let failed = |source| ControlError::Connect {
            path: path.to_owned(),
            source,
        };
        let stream = if path.as_os_str().len() <= MAX_SOCKET_PATH {
            UnixStream::connect(path).await.map_err(failed)?
        } else {
            let (directory, name) = path
                .parent()
                .zip(path.file_name())
                .ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory =
                rustix::fs::open(directory, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name);
            UnixStream::connect(short).await.map_err(failed)?
        };
        Self::over(stream).await
    }

    /// Says hello over a connected stream: a socket pair, vsock.
    ///
    /// # Errors
    /// The other side does not answer, or not in this version.
    pub async fn over<S>(stream: S) -> Result<Self>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let meter = Meter::new();
        let wire = Wire::new(stream, Role::Client, meter.clone(), ());
        let calls = control_ttrpc::ControlClient::new(Client::new(Socket::new(wire)));
        let mut request = proto::HelloRequest::new();
        request.major = MAJOR;
        request.minor = MINOR;
        request.client = concat!("magik-infra ", env!("CARGO_PKG_VERSION")).to_owned();
        let hello = soon(calls.hello(unbounded(), &request)).await?;
        if hello.major != MAJOR {
            return Err(ControlError::Version {
                major: hello.major,
                minor: hello.minor,
            });
        }
        Ok(Self {
            calls,
            meter,
            pod_id: clean(&hello.pod_id),
            minor: hello.minor,
        })
    }

    /// The calls themselves, for who passes them on.
    pub(crate) const fn raw(&self) -> (&control_ttrpc::ControlClient, &Arc<Meter>) {
        (&self.calls, &self.meter)
    }

    /// The pod's id as its init knows it; empty before the launch.
    #[must_use]
    pub fn pod_id(&self) -> &str {
        &self.pod_id
    }

    /// Starts the pod with the containers that it begins with; only on the launch connection. Read
    /// the result to its end.
    ///
    /// # Errors
    /// The plan cannot be sent.
    pub async fn start_sandbox(&self, plan: &PodPlan) -> Result<Launch> {
        let mut request = proto::StartSandboxRequest::new();
        request.plan = json(plan)?;
        let stream = self
            .calls
            .start_sandbox(unbounded(), &request)
            .await
            .map_err(error)?;
        Ok(Launch::new(Messages::new(stream, &self.meter)))
    }

    /// Commits the launched pod: from now on it does not depend on the launch connection.
    ///
    /// # Errors
    /// The pod is over already, or this is not the launch connection.
    pub async fn commit(&self) -> Result<()> {
        soon(self.calls.commit(unbounded(), &proto::CommitRequest::new())).await?;
        Ok(())
    }

    /// The pod's status.
    ///
    /// # Errors
    /// The pod init does not answer.
    pub async fn status(&self) -> Result<PodStatus> {
        let request = proto::StatusRequest::new();
        let response = soon(self.calls.status(unbounded(), &request)).await?;
        document("status", &response.status)
    }

    /// What each running container uses, by name.
    ///
    /// # Errors
    /// The pod init does not answer.
    pub async fn stats(&self) -> Result<BTreeMap<String, Stats>> {
        let request = proto::StatsRequest::new();
        let response = soon(self.calls.stats(unbounded(), &request)).await?;
        document("stats", &response.stats)
    }

    /// The processes of each running container, by its name.
    ///
    /// # Errors
    /// [`ControlError::Unsupported`]: the pod's programs are no processes, or its init is of a
    /// version that cannot say; the pod init does not answer.
    pub async fn processes(&self) -> Result<BTreeMap<String, Vec<Process>>> {
        processes::check_version(self.minor)?;
        let request = proto::ProcessesRequest::new();
        let response = soon(self.calls.processes(unbounded(), &request)).await?;
        Ok(processes::from_response(&response))
    }

    /// Stops the pod: SIGTERM, and SIGKILL after `grace` (`None`: the pod's own grace period).
    /// Answers with the final status once everything has ended; a pod that is being stopped already
    /// is only ever stopped sooner.
    ///
    /// # Errors
    /// The connection ended before the answer; the pod may be stopped all the same.
    pub async fn stop(&self, grace: Option<Duration>) -> Result<PodStatus> {
        let mut request = proto::StopRequest::new();
        request.grace_ms = grace.map(milliseconds);
        let response = self.calls.stop(unbounded(), &request).await.map_err(error)?;
        document("status", &response.status)
    }

    /// Creates one more app container in a pod that is committed; its program waits for
    /// [`start_container`](Self::start_container). After an error the pod has no container of that
    /// name, or the one that it had.
    ///
    /// # Errors
    /// [`ControlError::Refused`]: it has one of that name, or is being stopped;
    /// [`ControlError::CannotExecute`], [`ControlError::Refused`]: it cannot be created;
    /// [`ControlError::Unsupported`]: not in this kind of pod.
    pub async fn create_container(&self, plan: &ContainerPlan) -> Result<PodStatus> {
        let mut request = proto::CreateContainerRequest::new();
        request.plan = json(plan)?;
        changed(self.calls.create_container(unbounded(), &request)).await
    }

    /// Runs the program of a container that was created.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container; [`ControlError::Refused`]: it has been
    /// started; else it cannot be, and has ended. It may be restarted.
    pub async fn start_container(&self, container: &str) -> Result<PodStatus> {
        let request = container_request(container, None);
        changed(self.calls.start_container(unbounded(), &request)).await
    }

    /// Changes the limits of a container; what is absent stays as it is.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container; [`ControlError::Refused`]: it has ended, or
    /// the kernel does not take the limits; [`ControlError::Unsupported`]: not in this kind of pod.
    pub async fn update_container(&self, container: &str, resources: &LinuxResources) -> Result<PodStatus> {
        let mut request = proto::UpdateContainerRequest::new();
        request.container = container.to_owned();
        request.resources = json(resources)?;
        changed(self.calls.update_container(unbounded(), &request)).await
    }

    /// The same, and what the status says of it.
    ///
    /// # Errors
    /// As [`update_container`](Self::update_container).
    pub async fn resize_container(
        &self,
        container: &str,
        resources: &LinuxResources,
        shown: Option<Resized>,
    ) -> Result<PodStatus> {
        let mut request = proto::UpdateContainerRequest::new();
        request.container = container.to_owned();
        request.resources = json(resources)?;
        if let Some(shown) = shown {
            request.shown = json(&shown)?;
        }
        changed(self.calls.update_container(unbounded(), &request)).await
    }

    /// Stops one app container of a pod that is committed: SIGTERM, and SIGKILL after `grace`
    /// (`None`: the pod's own grace period). Answers with the pod's status once it has ended. A pod
    /// whose last container that is has ended then.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container; [`ControlError::Refused`]: not now;
    /// [`ControlError::Unsupported`]: not in this kind of pod.
    pub async fn stop_container(&self, container: &str, grace: Option<Duration>) -> Result<PodStatus> {
        let request = container_request(container, grace);
        changed(self.calls.stop_container(unbounded(), &request)).await
    }

    /// Stops it, if it runs, and runs it again with an empty writable layer. Answers once it was
    /// started.
    ///
    /// # Errors
    /// As [`stop_container`](Self::stop_container); and it cannot be run again, of which its status
    /// says how it ended before.
    pub async fn restart_container(&self, container: &str, grace: Option<Duration>) -> Result<PodStatus> {
        let request = container_request(container, grace);
        changed(self.calls.restart_container(unbounded(), &request)).await
    }

    /// Has the pod forget an app container that has ended.
    ///
    /// # Errors
    /// As [`stop_container`](Self::stop_container); it runs.
    pub async fn remove_container(&self, container: &str) -> Result<PodStatus> {
        let request = container_request(container, None);
        changed(self.calls.remove_container(unbounded(), &request)).await
    }

    /// Sends a signal, 1 to 64, to a container's first process, or to `all` of them.
    ///
    /// # Errors
    /// There is no such container, or it is not running.
    pub async fn signal(&self, container: &str, signal: i32, all: bool) -> Result<()> {
        let mut request = proto::SignalRequest::new();
        request.container = container.to_owned();
        request.signal = signal;
        request.all = all;
        soon(self.calls.signal(unbounded(), &request)).await.map(drop)
    }

    /// A container's log; with `follow`, until the container has ended.
    ///
    /// # Errors
    /// The request cannot be sent. An unknown container is an error of the first read.
    pub async fn logs(self, container: &str, options: &LogOptions, follow: bool) -> Result<LogOutput> {
        let mut request = proto::LogsRequest::new();
        request.container = container.to_owned();
        request.follow = follow;
        request.tail = options.tail;
        request.since = options.since.map(|t| t.to_string()).unwrap_or_default();
        request.timestamps = options.timestamps;
        self.log_output(&request).await
    }

    /// A container's log from its first run to its removal. A chunk without data says that all is
    /// there that it wrote before it ended; it may be run again.
    pub(crate) async fn logs_of_all_runs(self, container: &str) -> Result<LogOutput> {
        let mut request = proto::LogsRequest::new();
        request.container = container.to_owned();
        request.follow = true;
        request.restarts = true;
        self.log_output(&request).await
    }

    async fn log_output(self, request: &proto::LogsRequest) -> Result<LogOutput> {
        let stream = self.calls.logs(unbounded(), request).await.map_err(error)?;
        Ok(LogOutput::new(Messages::new(stream, &self.meter), self))
    }

    /// What happened in the pod so far; with `follow`, and what happens until it is over.
    ///
    /// # Errors
    /// The request cannot be sent.
    pub async fn events(self, follow: bool) -> Result<EventStream> {
        let mut request = proto::EventsRequest::new();
        request.follow = follow;
        let stream = self.calls.events(unbounded(), &request).await.map_err(error)?;
        Ok(EventStream::new(Messages::new(stream, &self.meter), self))
    }

    /// A connection to a TCP port on the pod's loopback.
    ///
    /// # Errors
    /// The request cannot be sent. A port where nobody listens is an error of the first read.
    pub async fn port_forward(self, port: u16) -> Result<PortForward> {
        let stream = self.calls.port_forward(unbounded()).await.map_err(error)?;
        PortForward::start(self, stream, port).await
    }
}

fn container_request(container: &str, grace: Option<Duration>) -> proto::ContainerRequest {
    let mut request = proto::ContainerRequest::new();
    request.container = container.to_owned();
    request.grace_ms = grace.map(milliseconds);
    request
}

fn milliseconds(grace: Duration) -> u64 {
    u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)
}

/// The pod's status after a change that is waited for as long as it takes.
async fn changed(call: impl Future<Output = ttrpc::Result<proto::StatusResponse>>) -> Result<PodStatus> {
    document("status", &call.await.map_err(error)?.status)
}

/// What ttrpc is told of a call: its time is limited here, if at all.
fn unbounded() -> Context {
    context::with_timeout(0)
}

/// The answer to a call that waits for nothing in the pod.
async fn soon<T>(call: impl Future<Output = ttrpc::Result<T>>) -> Result<T> {
    timeout(CALL_TIMEOUT, call)
        .await
        .map_err(|_| ControlError::Timeout(CALL_TIMEOUT))?
        .map_err(error)
}

fn json(document: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(document).map_err(|e| ControlError::Protocol(e.to_string()))
}

/// Reads a JSON document of the other side; its size is bounded by the longest frame.
fn document<T: DeserializeOwned>(what: &str, json: &[u8]) -> Result<T> {
    serde_json::from_slice(json).map_err(|e| ControlError::Protocol(clean(&format!("{what}: {e}"))))
}

/// How ttrpc 0.10 begins the message when a connection was over before it could send: it has no
/// variant for that.
const CLOSED: [&str; 3] = [
    "reserve channel capacity failed",
    "send to wire channel failed",
    "writer task dropped result channel",
];

/// What went wrong, by the status code that the service uses for it.
fn error(error: ttrpc::Error) -> ControlError {
    match error {
        ttrpc::Error::RpcStatus(status) => {
            let message = clean(status.message());
            match status.code() {
                Code::NOT_FOUND => ControlError::NotFound(message),
                Code::UNIMPLEMENTED => ControlError::Unsupported(message),
                Code::ABORTED => ControlError::CannotExecute {
                    why: CannotExecute::from_details(&status.details)
                        .unwrap_or_else(|| CannotExecute::untold(&message)),
                    message,
                },
                _ => ControlError::Refused(message),
            }
        }
        ttrpc::Error::Socket(_)
        | ttrpc::Error::Eof
        | ttrpc::Error::RemoteClosed
        | ttrpc::Error::LocalClosed => ControlError::Disconnected,
        ttrpc::Error::Others(message) if CLOSED.iter().any(|text| message.starts_with(text)) => {
            ControlError::Disconnected
        }
        other => ControlError::Protocol(clean(&other.to_string())),
    }
}

/// A text of the other side, fit to be shown on a terminal: bounded, in one line, without control
/// characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .take(MAX_MESSAGE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_over_is_told_from_a_wrong_answer_at_any_time() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let calls = control_ttrpc::ControlClient::new(Client::new(Socket::new(ours)));
        drop(theirs);
        // Before ttrpc has noticed, meanwhile, and after.
        for _ in 0..20 {
            let request = proto::HelloRequest::new();
            let answer = calls.hello(unbounded(), &request);
            let error = soon(answer).await.unwrap_err();
            assert!(matches!(error, ControlError::Disconnected), "{error}");
        }
    }

    #[test]
    fn messages_of_the_other_side_cannot_drive_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\nc"), "a [2Jb c");
        assert_eq!(clean(&"x".repeat(MAX_MESSAGE + 1)).len(), MAX_MESSAGE);
    }
}
