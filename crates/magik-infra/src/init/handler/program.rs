//! A program in the container, of which the exit code matters and the last words are kept.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use magik_oci::{ContainerId, ExecIo, ExecOptions, OciRuntime, Stdio};
use rustix::{
    pipe::PipeFlags,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{net::unix::pipe, time::sleep};

use super::{HandlerError, Subject};
use crate::containers::own_process;

/// How much of what it writes is kept, in bytes, as the kubelet does it.
const MAX_OUTPUT: usize = 10 << 10;
/// How long nothing is read once that is full.
const PAUSE: Duration = Duration::from_millis(20);
/// How much of that goes into a message, in characters.
const MAX_MESSAGE: usize = 256;

impl Subject {
    /// Runs it; it is killed where this is dropped. What it has started in the background goes on, but
    /// nobody listens to it any more: it holds none of our memory (CVE-2026-53495).
    pub(super) async fn run(&self, command: &[String]) -> Result<(), HandlerError> {
        let cannot = |e: &dyn std::fmt::Display| HandlerError::Program(e.to_string());
        let own = self
            .process
            .get_or_try_init(|| async { own_process(&self.bundle) });
        let mut process = own.await.map_err(|e| cannot(&e))?.clone();
        process.set_args(Some(command.to_vec()));
        process.set_terminal(Some(false));
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|e| cannot(&e))?;
        let output = pipe::Receiver::from_owned_fd(read)?;
        let stdio = Stdio {
            stdin: None,
            stderr: Some(write.try_clone()?),
            stdout: Some(write),
        };
        let started = self
            .runtime
            .exec(&self.id, &process, ExecIo::Pipes(stdio), ExecOptions::default());
        let pid = started.await.map_err(|e| cannot(&e))?;
        // Opened before anybody waits for it: the pid cannot have been given to another one yet.
        let handle = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        let running = Running {
            runtime: self.runtime.clone(),
            id: self.id.clone(),
            pid,
            handle,
        };
        let mut kept = Vec::new();
        let mut wait = self.runtime.wait_exec(&self.id, pid);
        let exit = tokio::select! {
            exit = &mut wait => exit,
            () = listen(&output, &mut kept) => wait.await,
        };
        running.has_ended();
        let exit = exit.map_err(|e| cannot(&e))?;
        if exit.code == 0 {
            return Ok(());
        }
        keep(&output, &mut kept);
        Err(HandlerError::Exit {
            code: exit.code,
            output: message(&kept),
        })
    }
}

/// One that runs, and is killed when nobody waits for it any more.
struct Running {
    runtime: Arc<dyn OciRuntime>,
    id: ContainerId,
    pid: i32,
    handle: Option<OwnedFd>,
}

impl Running {
    fn has_ended(mut self) {
        self.handle = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(handle) = self.handle.take() else { return };
        // It may have ended by itself.
        let _ = pidfd_send_signal(&handle, Signal::KILL);
        // The runtime remembers it until its end was asked for.
        let (runtime, id, pid) = (self.runtime.clone(), self.id.clone(), self.pid);
        if let Ok(tasks) = tokio::runtime::Handle::try_current() {
            tasks.spawn(async move { drop(runtime.wait_exec(&id, pid).await) });
        }
    }
}

/// Keeps what is written, and drops what is too much, until nobody can write any more.
async fn listen(output: &pipe::Receiver, kept: &mut Vec<u8>) {
    while output.readable().await.is_ok() {
        if keep(output, kept) {
            return;
        }
        if kept.len() >= MAX_OUTPUT {
            // Who writes on waits for us: what is too much is worth no processor of the host's.
            sleep(PAUSE).await;
        }
    }
}

/// Keeps what is there; whether that was all there will be.
fn keep(output: &pipe::Receiver, kept: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match output.try_read(&mut buffer) {
            Ok(0) => return true,
            Ok(n) => {
                let room = MAX_OUTPUT.saturating_sub(kept.len());
                kept.extend_from_slice(&buffer[..n.min(room)]);
                if n > room {
                    return false;
                }
            }
            Err(e) => return e.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// The beginning of it in one line.
fn message(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars()
        .filter(|c| !c.is_control())
        .take(MAX_MESSAGE)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_a_beginning_and_no_more() {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let output = pipe::Receiver::from_owned_fd(read).unwrap();
        let writer = std::thread::spawn(move || {
            for _ in 0..100 {
                let mut rest: &[u8] = &[b'x'; 4096];
                while !rest.is_empty() {
                    let n = rustix::io::write(&write, rest).unwrap();
                    rest = &rest[n..];
                }
            }
        });
        let mut kept = Vec::new();
        listen(&output, &mut kept).await;
        writer.join().unwrap();
        assert_eq!(kept.len(), MAX_OUTPUT);
        assert_eq!(message(&kept).len(), MAX_MESSAGE);
        assert_eq!(message(b"a\n b\x1b[31m\xff\n"), "a b[31m\u{fffd}");
    }
}
