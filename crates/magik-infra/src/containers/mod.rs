//! What clients do with a pod's containers, wherever these are: below this process, or in a guest.

mod guest;
mod local;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use async_trait::async_trait;
use magik_oci::{ContainerId, Signal, Stats};
use tokio::io::{AsyncRead, AsyncWrite};
use ttrpc::{Code, r#async::ServerStream};

pub(crate) use self::{
    guest::{InGuest, connect},
    local::{Local, own_process},
};
use crate::{
    data::Staged,
    error::refused,
    plan::ContainerPlan,
    processes::Process,
    rpc::control as proto,
    shared::Shared,
    status::{ContainerPhase, PodStatus},
    wire::Meter,
};

pub(crate) type ExecStream = ServerStream<proto::ExecOutput, proto::ExecInput>;
pub(crate) type PortStream = ServerStream<proto::PortData, proto::PortData>;

/// A connection that is read and written.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A call that has streams, and the pod it is about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamCall<'a> {
    pub(crate) pod: &'a Arc<Shared>,
    /// The connection it came over, and its number there.
    pub(crate) meter: &'a Meter,
    pub(crate) number: u32,
}

/// The containers of one pod.
#[async_trait]
pub(crate) trait Containers: Debug + Send + Sync + 'static {
    /// Another process in one that runs.
    async fn exec(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()>;

    /// Starts one that waits for that, and is its streams.
    async fn attach(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()>;

    /// Sends a signal to the first process of one, or to all of them.
    async fn signal(&self, id: &ContainerId, signal: Signal, all: bool) -> ttrpc::Result<()>;

    /// What those that run use, by name.
    async fn stats(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Stats>>;

    /// The processes of those that run, by name.
    async fn processes(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Vec<Process>>>;

    /// Writes another version of the pod's volumes of data.
    async fn update_files(&self, pod: &Shared, staged: Staged) -> ttrpc::Result<()>;

    /// A client's connection to a port of their loopback.
    async fn port_forward(&self, call: StreamCall<'_>, stream: PortStream) -> ttrpc::Result<()>;

    /// Connects somebody to a port of their loopback, until one of the two has enough.
    async fn connect(&self, client: Box<dyn Duplex>, port: u16);
}

/// A container of the pod, and its id at the runtime.
fn known(pod: &Shared, name: &str) -> ttrpc::Result<(Arc<ContainerPlan>, ContainerId)> {
    let unknown = || refused(Code::NOT_FOUND, format!("the pod has no container {name:?}"));
    let container = pod.container(name).ok_or_else(unknown)?.plan;
    let id = ContainerId::new(&container.name).map_err(|e| refused(Code::INVALID_ARGUMENT, e.to_string()))?;
    Ok((container, id))
}

/// The names of those that run.
fn names_of_running(pod: &PodStatus) -> impl Iterator<Item = &str> {
    let running = pod
        .all_containers()
        .filter(|c| matches!(c.state, ContainerPhase::Running { .. }));
    running.map(|container| container.name.as_str())
}

/// One that runs.
pub(crate) fn running(pod: &Shared, name: &str) -> ttrpc::Result<(Arc<ContainerPlan>, ContainerId)> {
    let found = known(pod, name)?;
    if !matches!(pod.phase(name), Some(ContainerPhase::Running { .. })) {
        let message = format!("container {name} is not running");
        return Err(refused(Code::FAILED_PRECONDITION, message));
    }
    Ok(found)
}
