//! Another process in a running container, connected to the client.

use std::time::Duration;

use magik_oci::{Exit, OciRuntime};
use tokio::{sync::watch, time::timeout};
use ttrpc::Code;

use super::{
    process,
    session::{Call, Target, output, serve, signal},
};
use crate::{
    CannotExecute,
    containers::{ExecStream, StreamCall, running},
    error::refused,
    shared::MAX_EXECS,
    streams::Streams,
};

/// How long an exec'd process has to end after SIGHUP when its client is gone, before SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_secs(1);

pub(super) async fn exec(
    runtime: &dyn OciRuntime,
    call: StreamCall<'_>,
    stream: ExecStream,
) -> ttrpc::Result<()> {
    let shared = call.pod;
    let (sender, mut receiver) = stream.split();
    let call = Call::new(call, &sender);
    let Some(start) = call.start(&mut receiver, "exec").await? else {
        return Ok(());
    };
    let _place = shared.execs.clone().try_acquire_owned().map_err(|_| {
        refused(
            Code::RESOURCE_EXHAUSTED,
            format!("{MAX_EXECS} exec'd processes run already: wait for one to end"),
        )
    })?;
    let (container, id) = running(shared, &start.container)?;
    let process = process::process(&container.bundle, &start)
        .map_err(|e| refused(Code::INVALID_ARGUMENT, e.to_string()))?;

    let broken = |e: std::io::Error| refused(Code::INTERNAL, format!("exec in container {id}: {e}"));
    let (streams, theirs) = Streams::open(start.tty, start.stdin).map_err(broken)?;
    let size = start.size.as_ref().map(|s| (s.rows, s.columns));
    // The terminal arrives while the process is being started: it should have its size before anybody asks.
    let starting = runtime.exec(&id, &process, theirs, magik_oci::ExecOptions::default());
    let (started, connected) = tokio::join!(starting, streams.connect(size));
    let pid = started.map_err(|error| refusal(&start.container, &error))?;
    // Opened before anybody waits for the process: the pid cannot have been given to another one yet.
    let handle = rustix::process::Pid::from_raw(pid)
        .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
    let (input, outputs) = match connected {
        Ok(connected) => connected,
        Err(e) => {
            signal(handle.as_ref(), rustix::process::Signal::KILL);
            let _ = runtime.wait_exec(&id, pid).await;
            return Err(broken(e));
        }
    };
    let wait = async {
        runtime.wait_exec(&id, pid).await.unwrap_or_else(|error| {
            tracing::error!(container = %id, pid, %error, "cannot wait for the exec'd process");
            Exit::exited(255)
        })
    };
    tokio::pin!(wait);
    let exited = watch::Sender::new(false);
    let served = serve(
        &call,
        &mut receiver,
        pid,
        (input, outputs),
        &mut wait,
        &exited,
        Target::Process(handle.as_ref()),
    );
    let Some(exit) = served.await else {
        if !*exited.borrow() {
            signal(handle.as_ref(), rustix::process::Signal::HUP);
            if timeout(HANGUP_GRACE, &mut wait).await.is_err() {
                signal(handle.as_ref(), rustix::process::Signal::KILL);
                wait.await;
            }
        }
        return Ok(());
    };
    sender.send(&output(|o| o.set_exit_code(exit.code))).await
}

fn refusal(container: &str, error: &magik_oci::Error) -> ttrpc::Error {
    if let Some(why) = CannotExecute::of(error) {
        let mut status = ttrpc::get_status(Code::ABORTED, format!("container {container}: {why}"));
        status.details.push(why.to_detail());
        return ttrpc::Error::RpcStatus(status);
    }
    match error {
        magik_oci::Error::NotFound(_) | magik_oci::Error::WrongState { .. } => refused(
            Code::FAILED_PRECONDITION,
            format!("container {container} is not running"),
        ),
        magik_oci::Error::Unsupported { .. } => refused(Code::UNIMPLEMENTED, error.to_string()),
        _ => refused(Code::INTERNAL, error.to_string()),
    }
}
