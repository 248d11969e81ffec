//! `pod exec`.

use std::{
    io::{self, Read},
    process::ExitCode,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_pri::{ControlError, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecSession};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
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
fn exec_failure(error: &anyhow::Error) -> u8 {
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
        read_stdin(input.clone());
    }
    let resizes = if args.tty {
        Some((signal(SignalKind::window_change())?, input))
    } else {
        None
    };
    let exited = pass_on(output, resizes).await;
    drop(raw_mode);
    exited.map(super::program_exit)
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
fn read_stdin(input: ExecInput) {
    let (sender, mut pieces) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut stdin = io::stdin().lock();
        let mut buffer = vec![0; INPUT_CHUNK];
        loop {
            match stdin.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Ok(n @ 1..) if sender.blocking_send(buffer[..n].to_vec()).is_ok() => {}
                _ => return,
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

/// Writes what the program writes until it ends, and gives its exit code.
async fn pass_on(mut output: ExecOutput, mut resizes: Option<(Signal, ExecInput)>) -> Result<i32> {
    // In raw mode Ctrl-C is a key of the program's. A signal is somebody who wants us to end, with the terminal restored.
    let mut signals = Signals::new()?;
    loop {
        tokio::select! {
            biased;
            message = output.next() => match message {
                Ok(Some(ExecEvent::Stdout(data))) => output::write(&data)?,
                Ok(Some(ExecEvent::Stderr(data))) => output::write_stderr(&data)?,
                Ok(Some(ExecEvent::Exited(code))) => return Ok(code),
                Ok(None) | Err(ControlError::Disconnected) => {
                    bail!("exec: the connection to the pod ended before the program did: see 'magikrun pod status'")
                }
                Err(error) => return Err(error).context("exec"),
            },
            () = resized(&mut resizes) => {}
            signal = signals.next() => {
                let error = anyhow!("exec: interrupted: the program may still run");
                return Err(failure::with_code(signal.exit_code(), error));
            }
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
