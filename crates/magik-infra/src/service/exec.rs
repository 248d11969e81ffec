//! Another process in a running container, connected to the client.

use std::{sync::Arc, time::Duration};

use magik_oci::{ContainerId, Exit, OciRuntime};
use tokio::{sync::watch, time::timeout};
use ttrpc::{
    Code,
    r#async::{SSReceiver, SSSender, ServerStream},
};

use self::io::{Input, Output, Streams};
use super::status;
use crate::{init::shared::Shared, rpc::control as proto, status::ContainerPhase, wire::Meter};

mod io;
mod process;

/// How many exec'd processes may run at once.
pub const MAX_EXECS: usize = 32;
/// How long an exec'd process has to end after SIGHUP when its client is gone, before SIGKILL.
const HANGUP_GRACE: Duration = Duration::from_secs(1);

type Sender = SSSender<proto::ExecOutput>;
type Receiver = SSReceiver<proto::ExecInput>;

/// Why the inputs ended.
enum InputEnd {
    /// The client will send no more, or the process takes no more.
    Finished,
    /// The client gave the call up.
    GaveUp,
}

pub(super) async fn exec(
    runtime: &dyn OciRuntime,
    shared: &Arc<Shared>,
    meter: &Meter,
    call: u32,
    stream: ServerStream<proto::ExecOutput, proto::ExecInput>,
) -> ttrpc::Result<()> {
    let (sender, mut receiver) = stream.split();
    // ttrpc does not end a waiting handler with its connection.
    let first = tokio::select! {
        first = receiver.recv() => first?,
        () = meter.closed() => None,
    };
    let start = match first {
        Some(first) if first.has_start() => {
            meter.release(Some(call), 0);
            first.start().clone()
        }
        Some(_) => {
            return Err(status(
                Code::INVALID_ARGUMENT,
                "the first message of an exec must be its start",
            ));
        }
        None => return Ok(()),
    };
    let _place = shared.execs.clone().try_acquire_owned().map_err(|_| {
        status(
            Code::RESOURCE_EXHAUSTED,
            format!("{MAX_EXECS} exec'd processes run already: wait for one to end"),
        )
    })?;
    let unknown = || {
        status(
            Code::NOT_FOUND,
            format!("the pod has no container {:?}", start.container),
        )
    };
    let container = shared.container(&start.container).ok_or_else(unknown)?;
    if !matches!(
        shared.container_status(&start.container),
        Some(ContainerPhase::Running { .. })
    ) {
        return Err(status(
            Code::FAILED_PRECONDITION,
            format!("container {} is not running", start.container),
        ));
    }
    let id = ContainerId::new(&container.name).map_err(|e| status(Code::INVALID_ARGUMENT, e.to_string()))?;
    let process = process::process(&container.bundle, &start)
        .map_err(|e| status(Code::INVALID_ARGUMENT, e.to_string()))?;

    let broken = |e: std::io::Error| status(Code::INTERNAL, format!("exec in container {id}: {e}"));
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
    let mut wait = runtime.wait_exec(&id, pid);

    // The client's side, until the process ends and everything it wrote is sent, or the client is gone.
    let exited = watch::Sender::new(false);
    let served = {
        let serve = async {
            sender.send(&output(|o| o.set_pid(pid))).await?;
            send_outputs(&sender, outputs, &exited).await
        };
        let inputs = take_inputs(meter, call, &sender, &mut receiver, input);
        tokio::pin!(serve, inputs);
        let (mut exit, mut drained, mut reading) = (None, false, true);
        loop {
            if let (Some(exit), true) = (exit, drained) {
                break Some(exit);
            }
            tokio::select! {
                ended = &mut wait, if exit.is_none() => {
                    exit = Some(ended.unwrap_or_else(|error| {
                        tracing::error!(container = %id, pid, %error, "cannot wait for the exec'd process");
                        Exit::exited(255)
                    }));
                    exited.send_replace(true);
                }
                sent = &mut serve, if !drained => match sent {
                    Ok(()) => drained = true,
                    Err(_) => break None,
                },
                end = &mut inputs, if reading => match end {
                    InputEnd::Finished => reading = false,
                    InputEnd::GaveUp => break None,
                },
                () = meter.closed() => break None,
            }
        }
    };
    let Some(exit) = served else {
        if !*exited.borrow() {
            signal(handle.as_ref(), rustix::process::Signal::HUP);
            if timeout(HANGUP_GRACE, &mut wait).await.is_err() {
                signal(handle.as_ref(), rustix::process::Signal::KILL);
                let _ = wait.await;
            }
        }
        return Ok(());
    };
    sender.send(&output(|o| o.set_exit_code(exit.code))).await
}

/// Hands what the client sends to the process, and says how much was taken.
async fn take_inputs(
    meter: &Meter,
    call: u32,
    sender: &Sender,
    receiver: &mut Receiver,
    mut input: Input,
) -> InputEnd {
    loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return InputEnd::GaveUp,
        };
        match message.input {
            Some(proto::exec_input::Input::Stdin(bytes)) => {
                input.write(&bytes).await;
                meter.release(Some(call), bytes.len());
                let taken = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
                if sender.send(&output(|o| o.set_stdin_taken(taken))).await.is_err() {
                    return InputEnd::GaveUp;
                }
            }
            Some(proto::exec_input::Input::StdinEof(_)) => {
                input.close().await;
                meter.release(Some(call), 0);
            }
            Some(proto::exec_input::Input::Resize(size)) => {
                input.resize(size.rows, size.columns);
                meter.release(Some(call), 0);
            }
            Some(_) | None => return InputEnd::Finished,
        }
    }
}

/// Sends what the process writes, both streams at once, until both have ended.
async fn send_outputs(
    sender: &Sender,
    outputs: (Output, Option<Output>),
    exited: &watch::Sender<bool>,
) -> ttrpc::Result<()> {
    let (first, second) = outputs;
    let stdout = async {
        while let Some(bytes) = first.read(exited).await {
            sender.send(&output(|o| o.set_stdout(bytes))).await?;
        }
        Ok::<_, ttrpc::Error>(())
    };
    let stderr = async {
        let Some(second) = second else { return Ok(()) };
        while let Some(bytes) = second.read(exited).await {
            sender.send(&output(|o| o.set_stderr(bytes))).await?;
        }
        Ok::<_, ttrpc::Error>(())
    };
    tokio::try_join!(stdout, stderr).map(|((), ())| ())
}

fn output(set: impl FnOnce(&mut proto::ExecOutput)) -> proto::ExecOutput {
    let mut message = proto::ExecOutput::new();
    set(&mut message);
    message
}

fn signal(process: Option<&std::os::fd::OwnedFd>, signal: rustix::process::Signal) {
    if let Some(process) = process {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(process, signal);
    }
}

fn refusal(container: &str, error: &magik_oci::Error) -> ttrpc::Error {
    match error {
        magik_oci::Error::CannotExecute { program, reason, .. } => status(
            Code::ABORTED,
            format!("container {container}: cannot execute {program}: {reason}"),
        ),
        magik_oci::Error::NotFound(_) | magik_oci::Error::WrongState { .. } => status(
            Code::FAILED_PRECONDITION,
            format!("container {container} is not running"),
        ),
        magik_oci::Error::Unsupported { .. } => status(Code::UNIMPLEMENTED, error.to_string()),
        _ => status(Code::INTERNAL, error.to_string()),
    }
}
