//! The terminal magikrun itself sits on.

use std::{
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result};
use rustix::termios::{self, OptionalActions, Termios};

/// Standard input in raw mode: every key goes to the program in the pod, Ctrl-C too. Dropping it restores the mode.
#[derive(Debug)]
pub(crate) struct RawMode {
    terminal: OwnedFd,
    before: Termios,
}

impl RawMode {
    /// Puts the terminal on standard input into raw mode.
    pub(crate) fn enter() -> Result<Self> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).context("stdin")?;
        let before = termios::tcgetattr(&terminal).context("stdin: read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&terminal, OptionalActions::Drain, &raw).context("stdin: set raw mode")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before) {
            tracing::debug!(%error, "the terminal's mode could not be restored");
        }
    }
}

/// Rows and columns of the terminal on standard input or output, if there is one.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = termios::tcgetwinsize(io::stdin())
        .or_else(|_| termios::tcgetwinsize(io::stdout()))
        .ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_one() -> bool {
    io::stdin().is_terminal()
}
