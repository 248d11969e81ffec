//! The streams of a container's first process, for who attaches to them: some are started by that.

use magik_oci::{Exit, OciRuntime, Signal};
use tokio::sync::watch;
use ttrpc::Code;

use super::{
    console,
    session::{Call, Target, kill, output, serve},
};
use crate::{
    containers::{ExecStream, StreamCall, known},
    error::refused,
    shared::Attachable,
};

pub(super) async fn attach(
    runtime: &dyn OciRuntime,
    call: StreamCall<'_>,
    stream: ExecStream,
) -> ttrpc::Result<()> {
    let (shared, meter) = (call.pod, call.meter);
    let (sender, mut receiver) = stream.split();
    let call = Call::new(call, &sender);
    let Some(start) = call.start(&mut receiver, "attach").await? else {
        return Ok(());
    };
    let name = &start.container;
    let not_now = |why: &str| refused(Code::FAILED_PRECONDITION, format!("container {name}: {why}"));
    let (container, id) = known(shared, name)?;
    if container.attach.is_none() {
        return console::attach(&call, shared, &start, &mut receiver).await;
    }
    // It may still be being created.
    let offered = tokio::select! {
        offered = shared.take_offered(name) => offered,
        () = meter.closed() => return Ok(()),
        () = shared.until_over() => None,
    };
    let Attachable {
        streams,
        attached,
        started,
        mut exit,
    } = offered.ok_or_else(|| not_now("somebody has attached to it already"))?;
    let size = start.size.as_ref().map(|s| (s.rows, s.columns));
    let connected = streams.connect(size).await;
    let connected =
        connected.map_err(|e| refused(Code::INTERNAL, format!("container {name}: its streams: {e}")))?;
    let _ = attached.send(());
    let pid = tokio::select! {
        pid = started => pid.map_err(|_| not_now("it was not started"))?,
        () = meter.closed() => return Ok(()),
    };
    let ended = async {
        let end = exit.wait_for(Option::is_some).await;
        end.ok().and_then(|end| *end).unwrap_or(Exit::exited(255))
    };
    tokio::pin!(ended);
    let exited = watch::Sender::new(false);
    let served = serve(
        &call,
        &mut receiver,
        pid,
        connected,
        &mut ended,
        &exited,
        Target::Container(runtime, &id),
    );
    let Some(exit) = served.await else {
        // Nobody is left to whom it matters.
        kill(runtime, &id, Signal::KILL, true).await;
        return Ok(());
    };
    // Its host may take the machine away as soon as it knows: what was written to files is in this kernel's memory only.
    let _ = tokio::task::spawn_blocking(rustix::fs::sync).await;
    sender.send(&output(|o| o.set_exit_code(exit.code))).await
}
