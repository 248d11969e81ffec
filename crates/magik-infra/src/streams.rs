//! The streams of a process: three pipes, or a terminal.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use magik_oci::{ExecIo, Stdio};
use magik_sys::socket::receive_descriptor;
use rustix::{net::RecvFlags, pipe::PipeFlags, termios::Winsize};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::unix::pipe,
    sync::watch,
    time::timeout,
};

/// How much is read at once, in bytes; one message to the client.
const READ_SIZE: usize = 8 << 10;
/// How long a terminal may take to arrive after the process was started.
const CONSOLE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after the process's end its output may still be held open by a process that outlived
/// it.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
/// Ctrl-D: what ends the input of a terminal.
const END_OF_TRANSMISSION: u8 = 4;

/// Our ends of the streams, before the process is started.
#[derive(Debug)]
pub(crate) enum Streams {
    Pipes {
        stdin: Option<pipe::Sender>,
        stdout: pipe::Receiver,
        stderr: pipe::Receiver,
    },
    Console(UnixStream),
}

impl Streams {
    /// Makes the streams; the second value is what the process gets.
    pub(crate) fn open(tty: bool, stdin: bool) -> io::Result<(Self, ExecIo)> {
        if tty {
            let (ours, theirs) = UnixStream::pair()?;
            let console = theirs.into();
            return Ok((Self::Console(ours), ExecIo::Terminal { console }));
        }
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
        let (stdin, stdin_end) = if stdin {
            let (read, write) = pipe()?;
            (Some(pipe::Sender::from_owned_fd(write)?), Some(read))
        } else {
            (None, None)
        };
        let (stdout, stdout_end) = pipe()?;
        let (stderr, stderr_end) = pipe()?;
        let stdio = Stdio {
            stdin: stdin_end,
            stdout: Some(stdout_end),
            stderr: Some(stderr_end),
        };
        let (stdout, stderr) = (
            pipe::Receiver::from_owned_fd(stdout)?,
            pipe::Receiver::from_owned_fd(stderr)?,
        );
        Ok((
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            },
            ExecIo::Pipes(stdio),
        ))
    }

    /// The process was started: with a terminal, its master is received.
    pub(crate) async fn connect(
        self,
        size: Option<(u32, u32)>,
    ) -> io::Result<(Input, (Output, Option<Output>))> {
        match self {
            Self::Pipes {
                stdin,
                stdout,
                stderr,
            } => Ok((
                Input {
                    sender: stdin,
                    is_terminal: false,
                },
                (Output(stdout), Some(Output(stderr))),
            )),
            Self::Console(socket) => {
                let master = timeout(CONSOLE_TIMEOUT, receive_master(socket))
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the terminal was not sent"))??;
                rustix::io::ioctl_fionbio(&master, true)?;
                let reading = rustix::io::fcntl_dupfd_cloexec(&master, 3)?;
                // Not pipes, but descriptors that are read and written in the same way.
                let output = pipe::Receiver::from_owned_fd_unchecked(reading)?;
                let input = Input {
                    sender: Some(pipe::Sender::from_owned_fd_unchecked(master)?),
                    is_terminal: true,
                };
                if let Some((rows, columns)) = size {
                    input.resize(rows, columns);
                }
                Ok((input, (Output(output), None)))
            }
        }
    }
}

/// Takes one descriptor from the socket (SCM_RIGHTS).
async fn receive_master(socket: UnixStream) -> io::Result<OwnedFd> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::UnixStream::from_std(socket)?;
    socket
        .async_io(Interest::READABLE, || {
            // The message names the terminal; only the descriptor matters.
            receive_descriptor(&socket, RecvFlags::empty())
        })
        .await
}

/// Where the client's input goes.
#[derive(Debug)]
pub(crate) struct Input {
    /// `None`: there is none, or it was closed.
    sender: Option<pipe::Sender>,
    is_terminal: bool,
}

impl Input {
    /// Writes all of it; a process that takes no more loses it.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        if let Some(sender) = &mut self.sender
            && sender.write_all(bytes).await.is_err()
        {
            self.sender = None;
        }
    }

    /// The client's input has ended.
    pub(crate) async fn close(&mut self) {
        if self.is_terminal {
            self.write(&[END_OF_TRANSMISSION]).await;
        } else {
            self.sender = None;
        }
    }

    /// Changes the terminal's size.
    pub(crate) fn resize(&self, rows: u32, columns: u32) {
        if let Some(terminal) = self.sender.as_ref().filter(|_| self.is_terminal) {
            resize(terminal, rows, columns);
        }
    }

    /// The terminal, if it is one.
    pub(crate) fn terminal(&self) -> Option<OwnedFd> {
        let terminal = self.sender.as_ref().filter(|_| self.is_terminal)?;
        rustix::io::fcntl_dupfd_cloexec(terminal, 3).ok()
    }

    #[cfg(test)]
    pub(crate) fn of_pipe(sender: pipe::Sender) -> Self {
        Self {
            sender: Some(sender),
            is_terminal: false,
        }
    }
}

/// Changes the size of a terminal.
pub(crate) fn resize(terminal: impl AsFd, rows: u32, columns: u32) {
    let clamp = |n| u16::try_from(n).unwrap_or(u16::MAX);
    let size = Winsize {
        ws_row: clamp(rows),
        ws_col: clamp(columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
        tracing::debug!(%error, "cannot resize the terminal");
    }
}

/// Where the process's output comes from.
#[derive(Debug)]
pub(crate) struct Output(pipe::Receiver);

impl Output {
    /// What is read.
    pub(crate) fn into_source(self) -> pipe::Receiver {
        self.0
    }

    /// What comes next; `None`: the end. Once the process has ended (`exited`), silence is an end
    /// too: a background process may hold the stream open.
    pub(crate) async fn read(&self, exited: &watch::Sender<bool>) -> Option<Vec<u8>> {
        let silence = async {
            let _ = exited.subscribe().wait_for(|exited| *exited).await;
            tokio::time::sleep(DRAIN_GRACE).await;
        };
        tokio::select! {
            biased;
            bytes = self.next() => bytes,
            () = silence => None,
        }
    }

    async fn next(&self) -> Option<Vec<u8>> {
        loop {
            self.0.readable().await.ok()?;
            // On the stack: an idle session holds no buffer.
            let mut buffer = [0; READ_SIZE];
            match self.0.try_read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => return Some(buffer[..n].to_vec()),
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // EIO: the terminal's last user has closed it.
                Err(_) => return None,
            }
        }
    }
}
