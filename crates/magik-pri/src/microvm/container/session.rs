//! A program in the guest, connected to this process's own streams and signals.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use magik_infra::{ControlError, ExecEvent, ExecInput, ExecOutput, ExecSession};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

/// How much of standard input is read at once, in bytes.
const INPUT_CHUNK: usize = 32 << 10;
const SIGWINCH: i32 = 28;
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
    async fn pass_on(&mut self, input: &ExecInput, terminal: bool) {
        while let Some(number) = self.0.recv().await {
            // That the program has ended is heard of elsewhere.
            let _ = match size().filter(|_| terminal && number == SIGWINCH) {
                Some((rows, columns)) => input.resize(rows, columns).await,
                None => input.signal(number).await,
            };
        }
        std::future::pending::<()>().await;
    }
}

/// Has the terminal on standard input pass everything on, as it comes: the program has one of its own, which does the rest.
///
/// # Errors
/// Standard input is no terminal.
pub(super) fn raw_terminal() -> io::Result<()> {
    let stdin = io::stdin();
    let mut settings = tcgetattr(&stdin)?;
    settings.make_raw();
    Ok(tcsetattr(&stdin, OptionalActions::Now, &settings)?)
}

/// Rows and columns of the terminal on standard input, if it is one that has a size.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
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
) -> Result<i32, ControlError> {
    let ExecSession { input, output, .. } = session;
    tokio::spawn(feed(input.clone()));
    tokio::select! {
        code = write_all(output) => code,
        () = signals.pass_on(&input, terminal) => Err(ControlError::Disconnected),
    }
}

async fn feed(input: ExecInput) {
    let (sender, mut read) = mpsc::channel(1);
    // A read cannot be given up, so nobody may have to wait for it.
    std::thread::spawn(move || read_stdin(&sender));
    while let Some(bytes) = read.recv().await {
        if input.write(&bytes).await.is_err() {
            return;
        }
    }
    let _ = input.close().await;
}

fn read_stdin(sender: &mpsc::Sender<Vec<u8>>) {
    let stdin = io::stdin();
    let mut buffer = vec![0; INPUT_CHUNK];
    loop {
        match rustix::io::read(&stdin, &mut buffer) {
            Ok(0) => return,
            Ok(n) if sender.blocking_send(buffer[..n].to_vec()).is_err() => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until(stdin.as_fd(), PollFlags::IN),
            Err(_) => return,
        }
    }
}

fn wait_until(fd: BorrowedFd<'_>, flags: PollFlags) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None);
}

async fn write_all(mut output: ExecOutput) -> Result<i32, ControlError> {
    // Whose reader has gone away is written to no more: the program goes on.
    let (mut out, mut err) = (true, true);
    loop {
        match output.next().await? {
            Some(ExecEvent::Stdout(bytes)) => out = out && write(false, bytes).await,
            Some(ExecEvent::Stderr(bytes)) => err = err && write(true, bytes).await,
            Some(ExecEvent::Exited(code)) => return Ok(code),
            None => return Err(ControlError::Disconnected),
        }
    }
}

/// Writes in a thread of its own: who reads may take any time. Past std's buffers, for the descriptor may be non-blocking, shared with
/// whoever gave it to us.
async fn write(stderr: bool, bytes: Vec<u8>) -> bool {
    let write = move || {
        let (out, err) = (io::stdout(), io::stderr());
        let fd = if stderr { err.as_fd() } else { out.as_fd() };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(fd, rest) {
                Ok(n) => rest = &rest[n..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_until(fd, PollFlags::OUT),
                Err(_) => return false,
            }
        }
        true
    };
    tokio::task::spawn_blocking(write).await.unwrap_or(false)
}
