//! Containers below this process.

mod attach;
mod console;
mod exec;
mod port_forward;
mod process;
mod session;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use magik_oci::{ContainerId, OciRuntime, Signal, Stats};
use tokio::{io::copy_bidirectional_with_sizes, net::TcpStream};
use ttrpc::Code;

pub(crate) use self::process::own_process;
use super::{Containers, Duplex, ExecStream, PortStream, StreamCall, names_of_running};
use crate::{
    data::{self, Staged},
    error::refused,
    processes::{Process, Room},
    shared::Shared,
    status::{Phase, PodStatus},
};

/// [`OciRuntime::name`] of the runtime whose containers have no processes.
const WEBASSEMBLY: &str = "wasm";

/// How much of each direction of a connection is held, in bytes.
const BUFFER: usize = 8 << 10;

/// Those of a runtime.
#[derive(Debug)]
pub(crate) struct Local(pub(crate) Arc<dyn OciRuntime>);

#[async_trait]
impl Containers for Local {
    async fn exec(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()> {
        exec::exec(&*self.0, call, stream).await
    }

    async fn attach(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()> {
        attach::attach(&*self.0, call, stream).await
    }

    async fn signal(&self, id: &ContainerId, signal: Signal, all: bool) -> ttrpc::Result<()> {
        let sent = self.0.kill(id, signal, all).await;
        sent.map_err(|e| refused(Code::FAILED_PRECONDITION, e.to_string()))
    }

    async fn stats(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Stats>> {
        let mut all = BTreeMap::new();
        for name in names_of_running(pod) {
            let Ok(id) = ContainerId::new(name) else {
                continue;
            };
            match self.0.stats(&id).await {
                Ok(stats) => {
                    all.insert(name.to_owned(), stats);
                }
                // It may have ended meanwhile.
                Err(error) => tracing::debug!(container = %id, %error, "no stats"),
            }
        }
        Ok(all)
    }

    async fn update_files(&self, pod: &Shared, staged: Staged) -> ttrpc::Result<()> {
        let not_now = || refused(Code::FAILED_PRECONDITION, "the pod is not running");
        // Its volumes are mounted then.
        let runs = pod.status().is_some_and(|status| status.phase == Phase::Running);
        let plan = pod.plan().filter(|_| runs).ok_or_else(not_now)?;
        let updated = data::update(&plan.data, &staged);
        updated.map_err(|e| refused(e.code(), e.to_string()))
    }

    async fn processes(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Vec<Process>>> {
        if self.0.name() == WEBASSEMBLY {
            let why = "a WebAssembly program is no process: see 'magikrun pod stats'";
            return Err(refused(Code::UNIMPLEMENTED, why));
        }
        let (mut room, mut all) = (Room::new(), BTreeMap::new());
        for name in names_of_running(pod) {
            let Ok(id) = ContainerId::new(name) else {
                continue;
            };
            match self.0.processes(&id).await {
                Ok(pids) => {
                    all.insert(name.to_owned(), room.read(&pids).await);
                }
                // It may have ended meanwhile.
                Err(error) => tracing::debug!(container = %id, %error, "no processes"),
            }
        }
        Ok(all)
    }

    async fn port_forward(&self, call: StreamCall<'_>, stream: PortStream) -> ttrpc::Result<()> {
        port_forward::port_forward(call, stream).await
    }

    /// A client whose port nobody listens at is hung up on.
    async fn connect(&self, mut client: Box<dyn Duplex>, port: u16) {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(mut pod) => {
                // That one end broke the connection is told to the other one by the descriptors' end.
                let _ = copy_bidirectional_with_sizes(&mut client, &mut pod, BUFFER, BUFFER).await;
            }
            Err(error) => tracing::debug!(port, %error, "nobody is reached"),
        }
    }
}
