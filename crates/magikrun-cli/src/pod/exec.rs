//! `pod exec`.

use std::{
    io::{self, Read},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_pri::{ControlError, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecSession};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::advise;
use crate::{
    failure, output,
    pod::backend,
    roots::GlobalArgs,
    signals::Signals,
    terminal::{self, RawMode},
};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod exec web -- nginx -t
          magikrun pod exec -it -c redis web -- sh
The exit code is the program's; 125: magikrun failed, 126: cannot be executed, 127: not found.";

/// How much of standard input is read at once, in bytes.
const INPUT_CHUNK: usize = 32 << 10;

#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Hand our standard input to the program
    #[arg(short, long)]
    interactive: bool,
    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,
    /// UID or UID:GID [default: the container's]
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Working directory [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Set a variable, on top of the container's environment
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = super::name_and_value)]
    env: Vec<(String, String)>,
    /// The container [default: the pod's default-container annotation, else the first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(global: &GlobalArgs, args: &ExecArgs) -> Result<ExitCode> {
    exec(global, args)
        .await
        .map_err(|e| failure::with_code(exec_failure(&e), e))
}

/// The exit code of a program that was not started, as shells have it, or of our own failure.
pub(super) fn exec_failure(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(magik_pri::Error::CannotExecute { failure, .. }) => failure.exit_code(),
        _ => failure::OWN_FAILURE,
    }
}

async fn exec(global: &GlobalArgs, args: &ExecArgs) -> Result<ExitCode> {
    if args.tty && args.interactive && !terminal::stdin_is_one() {
        bail!("stdin: is no terminal: leave -t out");
    }
    let runtime = backend::pods(global)?;
    let container = super::container(runtime.as_ref(), &args.pod, args.container.as_deref()).await?;
    let ExecSession { input, output, .. } = runtime
        .exec(&args.pod, args.request(&container))
        .await
        .map_err(advise)?;
    // Only once the program runs: an error is to be read on a terminal in its usual mode.
    let raw_mode = if args.tty && args.interactive {
        Some(RawMode::enter()?)
    } else {
        None
    };
    if args.interactive {
        read_stdin(input.clone(), None);
    }
    let resizes = if args.tty {
        Some((signal(SignalKind::window_change())?, input))
    } else {
        None
    };
    let ending = pass_on("exec", output, resizes, None).await;
    drop(raw_mode);
    match ending? {
        Ending::Exited(code) => Ok(super::program_exit(code)),
        Ending::Left => Ok(ExitCode::SUCCESS),
        Ending::Interrupted(code) => {
            let error = anyhow!("exec: interrupted: the program may still run");
            Err(failure::with_code(code, error))
        }
    }
}

impl ExecArgs {
    fn request(&self, container: &str) -> ExecRequest {
        ExecRequest {
            env: self
                .env
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            cwd: self.workdir.clone(),
            user: self.user.clone(),
            tty: self.tty,
            size: self.tty.then(terminal_size),
            stdin: self.interactive,
            ..ExecRequest::new(container, &self.command)
        }
    }
}

/// The size of our terminal, or that of a VT100.
fn terminal_size() -> (u16, u16) {
    terminal::size().unwrap_or((24, 80))
}

/// Reads standard input in a thread of its own: a read from a terminal cannot be given up, so nobody may have to wait for it.
/// Who types Ctrl-P Ctrl-Q is told of by `leave`.
pub(super) fn read_stdin(input: ExecInput, leave: Option<oneshot::Sender<()>>) {
    let (sender, mut pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; INPUT_CHUNK];
        let mut keys = leave.as_ref().map(|_| Keys::default());
        loop {
            let n = match stdin.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Ok(n @ 1..) => n,
                _ => return,
            };
            let (piece, leaves) = match &mut keys {
                Some(keys) => keys.typed(&buffer[..n]),
                None => (buffer[..n].to_vec(), false),
            };
            if leaves {
                if let Some(leave) = leave {
                    let _ = leave.send(());
                }
                return;
            }
            if sender.blocking_send(piece).is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some(piece) = pieces.recv().await {
            // What became of the program is said by its output.
            if input.write(&piece).await.is_err() {
                return;
            }
        }
        let _ = input.close().await;
    });
}

/// What is typed, in which Ctrl-P Ctrl-Q is looked for, as docker and podman have it.
#[derive(Debug, Default)]
struct Keys {
    /// Ctrl-P was typed last, and is held back.
    begun: bool,
}

impl Keys {
    const CTRL_P: u8 = 0x10;
    const CTRL_Q: u8 = 0x11;

    /// What goes on to the program, and whether who types it leaves.
    fn typed(&mut self, keys: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(keys.len() + 1);
        for key in keys {
            if std::mem::take(&mut self.begun) {
                if *key == Self::CTRL_Q {
                    return (passed, true);
                }
                passed.push(Self::CTRL_P);
            }
            if *key == Self::CTRL_P {
                self.begun = true;
            } else {
                passed.push(*key);
            }
        }
        (passed, false)
    }
}

/// How a session has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The program has, with this exit code.
    Exited(i32),
    /// Who sat at the terminal has left.
    Left,
    /// By a signal: what the exit code is then.
    Interrupted(u8),
}

/// Writes what the program writes until it ends, or somebody has enough.
pub(super) async fn pass_on(
    what: &'static str,
    mut output: ExecOutput,
    mut resizes: Option<(Signal, ExecInput)>,
    left: Option<oneshot::Receiver<()>>,
) -> Result<Ending> {
    // In raw mode Ctrl-C is a key of the program's. A signal is somebody who wants us to end, with the terminal restored.
    let mut signals = Signals::new()?;
    let left = async {
        let has_left = match left {
            Some(left) => left.await.is_ok(),
            None => false,
        };
        if !has_left {
            std::future::pending::<()>().await;
        }
    };
    tokio::pin!(left);
    loop {
        tokio::select! {
            biased;
            message = output.next() => match message {
                Ok(Some(ExecEvent::Stdout(data))) => output::write(&data)?,
                Ok(Some(ExecEvent::Stderr(data))) => output::write_stderr(&data)?,
                Ok(Some(ExecEvent::Exited(code))) => return Ok(Ending::Exited(code)),
                Ok(None) | Err(ControlError::Disconnected) => {
                    bail!("{what}: the connection to the pod ended before the program did: see 'magikrun pod status'")
                }
                Err(error) => return Err(error).context(what),
            },
            () = resized(&mut resizes) => {}
            () = &mut left => return Ok(Ending::Left),
            signal = signals.next() => return Ok(Ending::Interrupted(signal.exit_code())),
        }
    }
}

/// Waits for a change of our terminal's size and passes it on.
async fn resized(resizes: &mut Option<(Signal, ExecInput)>) {
    match resizes {
        Some((changes, input)) => {
            changes.recv().await;
            // Its receiver is gone when the program ends, which the output says.
            let (rows, columns) = terminal_size();
            let _ = input.resize(rows, columns).await;
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ctrl_p_ctrl_q_leaves_and_ctrl_p_alone_is_a_key() {
        let mut keys = Keys::default();
        assert_eq!(keys.typed(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.typed(b"b\x11"), (b"\x10b\x11".to_vec(), false));
        assert_eq!(keys.typed(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.typed(b"\x11c"), (b"".to_vec(), true));
        assert_eq!(keys.typed(b"x\x10\x11"), (b"x".to_vec(), true));
    }
}
