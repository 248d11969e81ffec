//! Containers in a guest: what is done with them is asked of its init.
//!
//! Windows and acknowledgements go through from end to end, so that nothing is held here beyond what
//! each connection's meter allows.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use magik_oci::{ContainerId, Signal, Stats};
use protobuf::Message;
use tokio::time::timeout;
use ttrpc::{
    Code,
    r#async::{CSReceiver, CSSender, ClientStream, SSReceiver, SSSender, ServerStream},
    context,
};

use super::{Containers, Duplex, ExecStream, PortStream, StreamCall, names_of_running};
use crate::{
    CannotExecute,
    client::{CALL_TIMEOUT, ControlClient, clean, size},
    data::Staged,
    error::{ControlError, refused},
    guest::Guest,
    processes::Process,
    rpc::control as proto,
    shared::Shared,
    status::PodStatus,
    wire::Meter,
};

/// Those of a guest.
#[derive(Debug)]
pub(crate) struct InGuest(pub(crate) Arc<dyn Guest>);

/// A client on a connection of its own, which a guest that dials no other does not keep waiting.
pub(crate) async fn connect(guest: &dyn Guest) -> Result<ControlClient, ControlError> {
    let stream = timeout(CALL_TIMEOUT, guest.connection()).await;
    let stream = stream.map_err(|_| ControlError::Timeout(CALL_TIMEOUT))?;
    let stream = stream.ok_or(ControlError::Disconnected)?;
    ControlClient::over(stream).await
}

fn unreachable(error: &ControlError) -> ttrpc::Error {
    refused(Code::UNAVAILABLE, format!("the guest cannot be reached: {error}"))
}

impl InGuest {
    async fn client(&self) -> ttrpc::Result<ControlClient> {
        connect(&*self.0).await.map_err(|e| unreachable(&e))
    }
}

#[async_trait]
impl Containers for InGuest {
    async fn exec(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()> {
        let client = self.client().await?;
        let (calls, meter) = client.raw();
        let there = calls.exec(context::with_timeout(0)).await?;
        both_ways(call, stream, meter, there).await
    }

    async fn attach(&self, call: StreamCall<'_>, stream: ExecStream) -> ttrpc::Result<()> {
        let containers = call.pod.plan().into_iter().flat_map(|plan| &plan.containers);
        if containers.into_iter().any(|container| container.attach.is_some()) {
            let why = "the streams of this guest's container are its supervisor's";
            return Err(refused(Code::PERMISSION_DENIED, why));
        }
        let client = self.client().await?;
        let (calls, meter) = client.raw();
        let there = calls.attach(context::with_timeout(0)).await?;
        both_ways(call, stream, meter, there).await
    }

    async fn signal(&self, id: &ContainerId, signal: Signal, all: bool) -> ttrpc::Result<()> {
        let client = self.client().await?;
        let (calls, _) = client.raw();
        let mut request = proto::SignalRequest::new();
        request.container = id.to_string();
        request.signal = signal.0;
        request.all = all;
        let sent = calls.signal(context::with_timeout(0), &request);
        match timeout(CALL_TIMEOUT, sent).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ttrpc::Error::RpcStatus(failed))) => Err(passed_on(&failed)),
            Ok(Err(_)) | Err(_) => Err(refused(Code::UNAVAILABLE, "the guest does not answer")),
        }
    }

    /// Those that the pod does not have are left out.
    async fn stats(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Stats>> {
        let mut all = self.client().await?.stats().await.map_err(|e| unreachable(&e))?;
        all.retain(|name, _| names_of_running(pod).any(|running| running == name));
        Ok(all)
    }

    async fn update_files(&self, _: &Shared, staged: Staged) -> ttrpc::Result<()> {
        let client = self.client().await?;
        let updated = async {
            client.stage_all(&staged).await?;
            client.update_files().await
        };
        let failed = |e: ControlError| match e {
            ControlError::NotFound(message) => refused(Code::NOT_FOUND, message),
            ControlError::Refused(message) => refused(Code::INTERNAL, message),
            other => unreachable(&other),
        };
        updated.await.map_err(failed)
    }

    async fn processes(&self, pod: &PodStatus) -> ttrpc::Result<BTreeMap<String, Vec<Process>>> {
        let asked = self.client().await?.processes().await;
        let mut all = asked.map_err(|e| match e {
            // An init of another version.
            ControlError::Unsupported(why) => refused(Code::UNIMPLEMENTED, why),
            other => unreachable(&other),
        })?;
        all.retain(|name, _| names_of_running(pod).any(|running| running == name));
        Ok(all)
    }

    async fn port_forward(&self, call: StreamCall<'_>, stream: PortStream) -> ttrpc::Result<()> {
        let client = self.client().await?;
        let (calls, meter) = client.raw();
        let there = calls.port_forward(context::with_timeout(0)).await?;
        both_ways(call, stream, meter, there).await
    }

    async fn connect(&self, client: Box<dyn Duplex>, port: u16) {
        let copied = async {
            let forward = connect(&*self.0).await?.port_forward(port).await?;
            forward.copy(client).await
        };
        if let Err(error) = copied.await {
            tracing::debug!(port, %error, "the connection into the guest ended");
        }
    }
}

/// An error of the guest's, fit to be passed on.
fn passed_on(failed: &ttrpc::Status) -> ttrpc::Error {
    let code = failed.code.enum_value_or(Code::UNKNOWN);
    let mut error = ttrpc::get_status(code, clean(&failed.message));
    // Read and written anew: nothing else that the guest puts there passes.
    let why = CannotExecute::from_details(&failed.details);
    error.details.extend(why.map(|why| why.to_detail()));
    ttrpc::Error::RpcStatus(error)
}

/// Moves messages until the guest has answered, or the client has given up.
async fn both_ways<Up: Message, Down: Message>(
    call: StreamCall<'_>,
    here: ServerStream<Down, Up>,
    guest_meter: &Meter,
    there: ClientStream<Up, Down>,
) -> ttrpc::Result<()> {
    let StreamCall { meter, number, .. } = call;
    let (to_client, from_client) = here.split();
    let (to_guest, from_guest) = there.split();
    tokio::select! {
        answered = downwards(guest_meter, from_guest, &to_client) => answered,
        () = upwards(meter, number, from_client, &to_guest) => Err(ttrpc::Error::Eof),
        () = meter.closed() => Err(ttrpc::Error::Eof),
    }
}

/// Ends when the client has given up.
async fn upwards<M: Message>(meter: &Meter, call: u32, mut from: SSReceiver<M>, to: &CSSender<M>) {
    while let Ok(Some(message)) = from.recv().await {
        let sent = to.send(&message).await;
        meter.release(Some(call), size(&message));
        if sent.is_err() {
            // What became of the call is said by the other direction.
            std::future::pending::<()>().await;
        }
    }
}

async fn downwards<M: Message>(
    meter: &Meter,
    mut from: CSReceiver<M>,
    to: &SSSender<M>,
) -> ttrpc::Result<()> {
    loop {
        match from.recv().await {
            Ok(message) => {
                let bytes = size(&message);
                meter.release(None, bytes);
                // The call's end comes as a message without contents.
                if bytes > 0 {
                    to.send(&message).await?;
                }
            }
            Err(ttrpc::Error::RemoteClosed) => return Ok(()),
            Err(ttrpc::Error::RpcStatus(failed)) => {
                return Err(passed_on(&failed));
            }
            Err(_) => return Err(refused(Code::UNAVAILABLE, "the connection to the guest ended")),
        }
    }
}
