//! Calls that only the guest can answer, passed on to it: exec, stats, ports.
//!
//! Windows and acknowledgements go through from end to end, so that nothing is held here beyond what each connection's
//! meter allows.

use protobuf::Message;
use ttrpc::{
    Code,
    r#async::{CSReceiver, CSSender, ClientStream, SSReceiver, SSSender, ServerStream},
    context,
};

use super::Guest;
use crate::{
    CannotExecute,
    client::{CALL_TIMEOUT, ControlClient, clean, size},
    error::ControlError,
    rpc::control as proto,
    service::status,
    status::{ContainerPhase, PodStatus},
    wire::Meter,
};

type Exec = ServerStream<proto::ExecOutput, proto::ExecInput>;
type Port = ServerStream<proto::PortData, proto::PortData>;

/// A client on a connection of its own.
pub(crate) async fn connect(guest: &dyn Guest) -> Result<ControlClient, ControlError> {
    let stream = guest.connection().await.ok_or(ControlError::Disconnected)?;
    ControlClient::over(stream).await
}

fn unreachable(error: &ControlError) -> ttrpc::Error {
    status(Code::UNAVAILABLE, format!("the guest cannot be reached: {error}"))
}

pub(crate) async fn exec(guest: &dyn Guest, meter: &Meter, call: u32, stream: Exec) -> ttrpc::Result<()> {
    let client = connect(guest).await.map_err(|e| unreachable(&e))?;
    let (calls, guest_meter) = client.raw();
    let there = calls.exec(context::with_timeout(0)).await?;
    both_ways(meter, call, stream, guest_meter, there).await
}

pub(crate) async fn port_forward(
    guest: &dyn Guest,
    meter: &Meter,
    call: u32,
    stream: Port,
) -> ttrpc::Result<()> {
    let client = connect(guest).await.map_err(|e| unreachable(&e))?;
    let (calls, guest_meter) = client.raw();
    let there = calls.port_forward(context::with_timeout(0)).await?;
    both_ways(meter, call, stream, guest_meter, there).await
}

pub(crate) async fn signal(guest: &dyn Guest, request: &proto::SignalRequest) -> ttrpc::Result<()> {
    let client = connect(guest).await.map_err(|e| unreachable(&e))?;
    let (calls, _) = client.raw();
    let answer = tokio::time::timeout(CALL_TIMEOUT, calls.signal(context::with_timeout(0), request)).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(ttrpc::Error::RpcStatus(failed))) => Err(refused(&failed)),
        Ok(Err(_)) | Err(_) => Err(status(Code::UNAVAILABLE, "the guest does not answer")),
    }
}

/// An error of the guest's, fit to be passed on.
fn refused(failed: &ttrpc::Status) -> ttrpc::Error {
    let code = failed.code.enum_value_or(Code::UNKNOWN);
    let mut error = ttrpc::get_status(code, clean(&failed.message));
    // Read and written anew: nothing else that the guest puts there passes.
    let why = CannotExecute::from_details(&failed.details);
    error.details.extend(why.map(|why| why.to_detail()));
    ttrpc::Error::RpcStatus(error)
}

/// What the guest says its containers use; those that the pod does not have are left out.
pub(crate) async fn stats(guest: &dyn Guest, pod: &PodStatus) -> ttrpc::Result<proto::StatsResponse> {
    let client = connect(guest).await.map_err(|e| unreachable(&e))?;
    let mut all = client.stats().await.map_err(|e| unreachable(&e))?;
    all.retain(|name, _| {
        let container = pod.container(name);
        container.is_some_and(|c| matches!(c.state, ContainerPhase::Running { .. }))
    });
    let mut response = proto::StatsResponse::new();
    response.stats = serde_json::to_vec(&all).map_err(|e| status(Code::INTERNAL, e.to_string()))?;
    Ok(response)
}

/// Moves messages until the guest has answered, or the client has given up.
async fn both_ways<Up: Message, Down: Message>(
    meter: &Meter,
    call: u32,
    here: ServerStream<Down, Up>,
    guest_meter: &Meter,
    there: ClientStream<Up, Down>,
) -> ttrpc::Result<()> {
    let (to_client, from_client) = here.split();
    let (to_guest, from_guest) = there.split();
    tokio::select! {
        answered = downwards(guest_meter, from_guest, &to_client) => answered,
        () = upwards(meter, call, from_client, &to_guest) => Err(ttrpc::Error::Eof),
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
                return Err(refused(&failed));
            }
            Err(_) => return Err(status(Code::UNAVAILABLE, "the connection to the guest ended")),
        }
    }
}
