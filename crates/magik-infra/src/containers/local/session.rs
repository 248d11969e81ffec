//! The client's side of a process, from its start to its end.

use std::os::fd::OwnedFd;

use magik_oci::{ContainerId, Exit, OciRuntime, Signal};
use tokio::sync::watch;
use ttrpc::{
    Code,
    r#async::{SSReceiver, SSSender},
};

use crate::{
    containers::StreamCall,
    error::refused,
    rpc::control as proto,
    streams::{Input, Output},
    wire::Meter,
};

pub(super) type Sender = SSSender<proto::ExecOutput>;
pub(super) type Receiver = SSReceiver<proto::ExecInput>;

/// Why the inputs ended.
enum InputEnd {
    /// The client will send no more, or the process takes no more.
    Finished,
    /// The client gave the call up.
    GaveUp,
}

/// Where signals go.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target<'a> {
    /// To a process.
    Process(Option<&'a OwnedFd>),
    /// To a container's first process.
    Container(&'a dyn OciRuntime, &'a ContainerId),
}

impl Target<'_> {
    async fn signal(self, number: i32) {
        match self {
            Self::Process(process) => match rustix::process::Signal::from_named_raw(number) {
                Some(number) => signal(process, number),
                None => tracing::debug!(number, "no signal for an exec'd process"),
            },
            Self::Container(runtime, id) => kill(runtime, id, Signal(number), false).await,
        }
    }
}

pub(super) fn signal(process: Option<&OwnedFd>, signal: rustix::process::Signal) {
    if let Some(process) = process {
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(process, signal);
    }
}

pub(super) async fn kill(runtime: &dyn OciRuntime, id: &ContainerId, signal: Signal, all: bool) {
    if let Err(error) = runtime.kill(id, signal, all).await {
        tracing::debug!(container = %id, %error, "a signal did not arrive");
    }
}

/// One call.
pub(super) struct Call<'a> {
    pub(super) meter: &'a Meter,
    pub(super) call: u32,
    pub(super) sender: &'a Sender,
}

impl<'a> Call<'a> {
    pub(super) const fn new(call: StreamCall<'a>, sender: &'a Sender) -> Self {
        let StreamCall { meter, number, .. } = call;
        Self {
            meter,
            call: number,
            sender,
        }
    }

    /// The first message; `None`: the client is gone.
    pub(super) async fn start(
        &self,
        receiver: &mut Receiver,
        what: &str,
    ) -> ttrpc::Result<Option<proto::ExecStart>> {
        // ttrpc does not end a waiting handler with its connection.
        let first = tokio::select! {
            first = receiver.recv() => first?,
            () = self.meter.closed() => None,
        };
        match first {
            Some(first) if first.has_start() => {
                self.meter.release(Some(self.call), 0);
                Ok(Some(first.start().clone()))
            }
            Some(_) => Err(refused(
                Code::INVALID_ARGUMENT,
                format!("the first message of an {what} must be its start"),
            )),
            None => Ok(None),
        }
    }
}

/// Serves the client until the process has ended (`wait`) and everything it wrote is sent, which `exited` is told at once; `None`:
/// the client is gone.
pub(super) async fn serve(
    call: &Call<'_>,
    receiver: &mut Receiver,
    pid: i32,
    (input, outputs): (Input, (Output, Option<Output>)),
    wait: &mut (impl Future<Output = Exit> + Unpin),
    exited: &watch::Sender<bool>,
    target: Target<'_>,
) -> Option<Exit> {
    let serve = async {
        call.sender.send(&output(|o| o.set_pid(pid))).await?;
        send_outputs(call.sender, outputs, exited).await
    };
    let inputs = take_inputs(call, receiver, input, target);
    tokio::pin!(serve, inputs);
    let (mut exit, mut drained, mut reading) = (None, false, true);
    loop {
        if let (Some(exit), true) = (exit, drained) {
            return Some(exit);
        }
        tokio::select! {
            ended = &mut *wait, if exit.is_none() => {
                exit = Some(ended);
                exited.send_replace(true);
            }
            sent = &mut serve, if !drained => match sent {
                Ok(()) => drained = true,
                Err(_) => return None,
            },
            end = &mut inputs, if reading => match end {
                InputEnd::Finished => reading = false,
                InputEnd::GaveUp => return None,
            },
            () = call.meter.closed() => return None,
        }
    }
}

/// Hands what the client sends to the process, and says how much was taken.
async fn take_inputs(
    call: &Call<'_>,
    receiver: &mut Receiver,
    mut input: Input,
    target: Target<'_>,
) -> InputEnd {
    let Call { meter, call, sender } = *call;
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
            Some(proto::exec_input::Input::Signal(number)) => {
                target.signal(number).await;
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

pub(super) fn output(set: impl FnOnce(&mut proto::ExecOutput)) -> proto::ExecOutput {
    let mut message = proto::ExecOutput::new();
    set(&mut message);
    message
}
