//! Attaching to a container that runs, or was created: its output from now on, and its input.

use std::sync::Arc;

use tokio::time::timeout;
use ttrpc::Code;

use super::session::{Call, Receiver, output};
use crate::{
    console::{Attached, Console, MAX_ATTACHED},
    error::refused,
    logs::LogStream,
    rpc::control as proto,
    shared::Shared,
    status::ContainerPhase,
};

/// How long one whose container has ended is waited for to be told so.
const LAST_WORD: std::time::Duration = std::time::Duration::from_secs(1);

/// Serves one who attaches until the container has ended, or they have gone. The container goes on.
pub(super) async fn attach(
    call: &Call<'_>,
    pod: &Shared,
    start: &proto::ExecStart,
    receiver: &mut Receiver,
) -> ttrpc::Result<()> {
    let name = &start.container;
    let not_now = |why: &str| refused(Code::FAILED_PRECONDITION, format!("container {name}: {why}"));
    let lives = matches!(
        pod.phase(name),
        Some(ContainerPhase::Running { .. } | ContainerPhase::Created)
    );
    let console = pod.console(name).filter(|_| lives);
    let console = console.ok_or_else(|| not_now("is not running"))?;
    if start.stdin && !console.plan.stdin {
        return Err(not_now("has no standard input: it says no stdin: true"));
    }
    if start.stdin && !console.takes_input().await {
        return Err(not_now(
            "its standard input has ended with the first who attached (stdinOnce)",
        ));
    }
    let many = || {
        refused(
            Code::RESOURCE_EXHAUSTED,
            format!("{MAX_ATTACHED} are attached to container {name} already: wait for one to leave"),
        )
    };
    let attached = console.attach(start.from_start).ok_or_else(many)?;
    if let Some(size) = start.size.as_ref() {
        console.resize(size.rows, size.columns);
    }
    let served = serve(call, pod, &console, attached, start, receiver).await;
    if start.stdin && console.plan.stdin_once {
        // It may take nothing, and then nobody waits for it.
        tokio::spawn(async move { console.close_input().await });
    }
    served
}

async fn serve(
    call: &Call<'_>,
    pod: &Shared,
    console: &Arc<Console>,
    mut attached: Attached,
    start: &proto::ExecStart,
    receiver: &mut Receiver,
) -> ttrpc::Result<()> {
    let pid = match pod.phase(&start.container) {
        Some(ContainerPhase::Running { pid, .. }) => pid.unwrap_or_default(),
        _ => 0,
    };
    let outputs = async {
        call.sender.send(&output(|o| o.set_pid(pid))).await?;
        while let Some((stream, bytes)) = attached.next().await {
            let message = output(|o| match stream {
                LogStream::Stdout => o.set_stdout(bytes),
                LogStream::Stderr => o.set_stderr(bytes),
            });
            call.sender.send(&message).await?;
        }
        Ok::<_, ttrpc::Error>(())
    };
    let inputs = take_inputs(call, console, start.stdin, receiver);
    tokio::pin!(outputs, inputs);
    let mut reading = true;
    loop {
        tokio::select! {
            sent = &mut outputs => {
                sent?;
                break;
            }
            gone = &mut inputs, if reading => match gone {
                true => return Ok(()),
                false => reading = false,
            },
            () = call.meter.closed() => return Ok(()),
        }
    }
    match console.exit() {
        Some(exit) => {
            let message = output(|o| o.set_exit_code(exit.code));
            let told = call.sender.send(&message);
            timeout(LAST_WORD, told).await.unwrap_or(Ok(()))
        }
        None => Err(refused(
            Code::RESOURCE_EXHAUSTED,
            format!(
                "container {}: its output was not taken for too long",
                start.container
            ),
        )),
    }
}

/// Hands on what somebody types; whether they have gone.
async fn take_inputs(call: &Call<'_>, console: &Console, stdin: bool, receiver: &mut Receiver) -> bool {
    loop {
        let message = match receiver.recv().await {
            Ok(Some(message)) => message,
            Ok(None) | Err(_) => return true,
        };
        let mut size = 0;
        match message.input {
            Some(proto::exec_input::Input::Stdin(bytes)) => {
                if stdin {
                    console.write(&bytes).await;
                }
                size = bytes.len();
                let taken = u32::try_from(size).unwrap_or(u32::MAX);
                if call
                    .sender
                    .send(&output(|o| o.set_stdin_taken(taken)))
                    .await
                    .is_err()
                {
                    return true;
                }
            }
            // Without stdinOnce it stays open for the next who attaches.
            Some(proto::exec_input::Input::StdinEof(_)) if stdin && console.plan.stdin_once => {
                console.close_input().await;
            }
            Some(proto::exec_input::Input::Resize(size)) => console.resize(size.rows, size.columns),
            Some(proto::exec_input::Input::StdinEof(_)) => {}
            // Signals are sent by a call of their own.
            Some(proto::exec_input::Input::Signal(_)) => {}
            Some(_) | None => return false,
        }
        call.meter.release(Some(call.call), size);
    }
}
