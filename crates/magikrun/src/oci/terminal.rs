//! Terminals: `--console-socket`, and the terminal of a `run -t` or `exec -t` in the foreground.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

use anyhow::{Context as _, Result, bail};
use magik_sys::socket;
use rustix::{
    event::{PollFd, PollFlags},
    fs::OFlags,
    io::Errno,
    net::RecvFlags,
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize},
};

/// Bytes that are copied at once.
const CHUNK: usize = 16 << 10;

/// What the master of a new terminal is sent over, and the end that we receive it at, if it is
/// ours.
pub(super) type Console = (Option<OwnedFd>, Option<OwnedFd>);

/// Decides who gets the master of a new terminal as runc does, and refuses what runc refuses.
pub(super) fn console(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<Console> {
    match (terminal, detach, socket) {
        (true, _, Some(path)) => {
            let callers =
                UnixStream::connect(path).with_context(|| format!("--console-socket {}", path.display()))?;
            Ok((Some(callers.into()), None))
        }
        (true, true, None) => bail!("a detached process with a terminal needs --console-socket"),
        (true, false, None) => {
            let (theirs, ours) = UnixStream::pair().context("socketpair")?;
            Ok((Some(theirs.into()), Some(ours.into())))
        }
        (false, _, Some(path)) => {
            bail!("--console-socket {}: the process has no terminal", path.display())
        }
        (false, _, None) => Ok((None, None)),
    }
}

/// A process's terminal, connected to our own standard streams.
#[derive(Debug)]
pub(super) struct Foreground {
    master: OwnedFd,
    /// Our own terminal's settings, to be restored.
    saved: Option<Termios>,
    /// What was read from standard input and the terminal has not taken yet.
    pending: Vec<u8>,
    stdin_open: bool,
    output_open: bool,
}

impl Foreground {
    /// Receives the master, and makes our own terminal (if we have one) pass everything on.
    pub(super) fn receive(socket: &OwnedFd) -> Result<Self> {
        let master =
            socket::receive_descriptor(socket, RecvFlags::empty()).context("receive the terminal")?;
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
        let stdin = io::stdin();
        let saved = if isatty(&stdin) {
            let saved = tcgetattr(&stdin).context("standard input")?;
            let mut raw = saved.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw).context("standard input")?;
            Some(saved)
        } else {
            None
        };
        let terminal = Self {
            master,
            saved,
            pending: Vec::new(),
            stdin_open: true,
            output_open: true,
        };
        terminal.resize();
        Ok(terminal)
    }

    /// Gives the terminal the size of ours.
    pub(super) fn resize(&self) {
        if self.saved.is_some()
            && let Ok(size) = tcgetwinsize(io::stdin())
        {
            // A terminal that is gone needs no size.
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    /// What to wait for on the terminal, if anything.
    pub(super) fn poll_master(&self) -> Option<PollFd<'_>> {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::IN, self.output_open);
        interest.set(PollFlags::OUT, !self.pending.is_empty());
        // Polled for no event, it would report its hangup for ever.
        (!interest.is_empty()).then(|| PollFd::new(&self.master, interest))
    }

    /// Whether there is room for more of standard input.
    pub(super) fn wants_stdin(&self) -> bool {
        self.stdin_open && self.pending.is_empty()
    }

    /// Moves what can be moved without waiting.
    pub(super) fn pump(&mut self, stdin_ready: bool) -> Result<()> {
        self.copy_output()?;
        if stdin_ready && self.wants_stdin() {
            let mut buffer = [0; CHUNK];
            match rustix::io::read(io::stdin(), &mut buffer) {
                Ok(0) => self.stdin_open = false,
                Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.stdin_open = false,
            }
        }
        while !self.pending.is_empty() {
            match rustix::io::write(&self.master, &self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => {
                    self.pending.clear();
                    self.stdin_open = false;
                }
            }
        }
        Ok(())
    }

    /// Copies what the terminal holds to standard output.
    fn copy_output(&mut self) -> Result<()> {
        let mut buffer = [0; CHUNK];
        while self.output_open {
            match rustix::io::read(&self.master, &mut buffer) {
                // EIO: no process has the terminal open any more.
                Ok(0) | Err(Errno::IO) => self.output_open = false,
                Ok(n) => write_all(&buffer[..n])?,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e).context("read the terminal"),
            }
        }
        Ok(())
    }

    /// Copies the rest once the process has ended.
    pub(super) fn finish(mut self) -> Result<()> {
        self.copy_output()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // On failure no reader is left to tell.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, saved);
        }
    }
}

/// Writes past std's buffer: the descriptor may be non-blocking, shared with our caller.
fn write_all(mut bytes: &[u8]) -> Result<()> {
    let stdout = io::stdout();
    while !bytes.is_empty() {
        match rustix::io::write(&stdout, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::OUT)];
                let _ = rustix::event::poll(&mut fds, None);
            }
            // The reader went away: the process goes on all the same, as with runc.
            Err(Errno::PIPE) => return Ok(()),
            Err(e) => return Err(e).context("standard output"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_needs_somebody_to_take_it() {
        let error = console(true, true, None).unwrap_err().to_string();
        assert!(error.contains("--console-socket"), "{error}");
        let error = console(false, false, Some(Path::new("/s"))).unwrap_err();
        assert!(error.to_string().contains("/s"), "{error}");
        assert!(matches!(console(true, false, None).unwrap(), (Some(_), Some(_))));
        assert!(matches!(console(false, true, None).unwrap(), (None, None)));
    }

    #[test]
    fn the_master_comes_over_the_socket() {
        let (Some(theirs), Some(ours)) = console(true, false, None).unwrap() else {
            panic!()
        };
        let file = tempfile::tempfile().unwrap();
        socket::send(&theirs, b"x", &[file.as_fd()]).unwrap();
        drop(theirs);
        socket::receive_descriptor(&ours, RecvFlags::empty()).unwrap();
        assert!(socket::receive_descriptor(&ours, RecvFlags::empty()).is_err());
    }
}
