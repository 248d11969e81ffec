//! A program in the guest, connected to this process's streams and signals.

use std::{io, os::fd::BorrowedFd};

use magik_infra::{ControlError, ExecEvent, ExecInput, ExecOutput, ExecSession};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::Signal,
    termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Streams;

/// How much of standard input is read at once, in bytes.
const INPUT_CHUNK: usize = 32 << 10;
/// Signals that are about this process: its own faults, its children, its own reads and writes; and what cannot be caught.
const OURS: [i32; 12] = [4, 5, 7, 8, 9, 11, 13, 17, 19, 21, 22, 31];
/// Those that the C library keeps for itself.
const OF_LIBRARY: [i32; 2] = [32, 33];

/// Signals to this process that are for the program. Those that come before there is one wait.
#[derive(Debug)]
pub(super) struct Signals(mpsc::Receiver<i32>);

impl Signals {
    /// From now on they wait here.
    pub(super) fn catch() -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel(64);
        let ours = |n: &i32| OURS.contains(n) || OF_LIBRARY.contains(n);
        for number in (1..=64).filter(|n| !ours(n)) {
            let mut signals = signal(SignalKind::from_raw(number))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if sender.send(number).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self(receiver))
    }

    /// Passes them on for as long as it is awaited.
    async fn pass_on(&mut self, input: &ExecInput, terminal: Option<BorrowedFd<'_>>) {
        while let Some(number) = self.0.recv().await {
            // That the program has ended is heard of elsewhere.
            let terminal = terminal.filter(|_| number == Signal::WINCH.as_raw());
            let _ = match terminal.and_then(size) {
                Some((rows, columns)) => input.resize(rows, columns).await,
                None => input.signal(number).await,
            };
        }
        std::future::pending::<()>().await;
    }
}

/// Has the terminal pass everything on, as it comes: the program has one of its own, which does the rest.
///
/// # Errors
/// It is none.
pub(super) fn raw_terminal(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut settings = tcgetattr(terminal)?;
    settings.make_raw();
    Ok(tcsetattr(terminal, OptionalActions::Now, &settings)?)
}

/// Rows and columns of a terminal, if it is one that has a size.
pub(super) fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Is the program's streams until it ends, and gives its exit code.
///
/// # Errors
/// The connection to the guest ended before.
pub(super) async fn carry(
    session: ExecSession,
    terminal: bool,
    signals: &mut Signals,
    streams: Streams,
) -> Result<i32, ControlError> {
    let ExecSession { input, output, .. } = session;
    tokio::spawn(feed(input.clone(), streams.input));
    let window = terminal.then_some(streams.input);
    tokio::select! {
        code = write_all(output, streams) => code,
        () = signals.pass_on(&input, window) => Err(ControlError::Disconnected),
    }
}

async fn feed(input: ExecInput, from: BorrowedFd<'static>) {
    let (sender, mut read) = mpsc::channel(1);
    // A read cannot be given up, so nobody may have to wait for it.
    std::thread::spawn(move || read_all(from, &sender));
    while let Some(bytes) = read.recv().await {
        if input.write(&bytes).await.is_err() {
            return;
        }
    }
    let _ = input.close().await;
}

fn read_all(from: BorrowedFd<'_>, sender: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        match rustix::io::read(from, &mut buffer) {
            Ok(0) => return,
            Ok(n) if sender.blocking_send(buffer[..n].to_vec()).is_err() => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until(from, PollFlags::IN),
            Err(_) => return,
        }
    }
}

fn wait_until(fd: BorrowedFd<'_>, flags: PollFlags) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None);
}

async fn write_all(mut output: ExecOutput, streams: Streams) -> Result<i32, ControlError> {
    // Whose reader has gone away is written to no more: the program goes on.
    let (mut out, mut err) = (true, true);
    loop {
        match output.next().await? {
            Some(ExecEvent::Stdout(bytes)) => out = out && write(streams.output, bytes).await,
            Some(ExecEvent::Stderr(bytes)) => err = err && write(streams.errors, bytes).await,
            Some(ExecEvent::Exited(code)) => return Ok(code),
            None => return Err(ControlError::Disconnected),
        }
    }
}

/// Writes in a thread of its own: who reads may take any time. Past std's buffers, for the descriptor may be non-blocking, shared with
/// whoever gave it to us.
async fn write(to: BorrowedFd<'static>, bytes: Vec<u8>) -> bool {
    let write = move || {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_until(to, PollFlags::OUT),
                Err(_) => return false,
            }
        }
        true
    };
    tokio::task::spawn_blocking(write).await.unwrap_or(false)
}
