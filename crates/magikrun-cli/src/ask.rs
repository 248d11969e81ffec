//! Questions to the person at the terminal.

use std::{
    io::{self, BufRead as _, Read as _},
    os::fd::OwnedFd,
};

use anyhow::{Context as _, Result, anyhow, bail};
use magikrun::failure;
use rustix::termios::{self, LocalModes, OptionalActions, Termios};

use crate::{output, signals::Signals, terminal};

/// The longest password that is read from standard input, in bytes.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Asks for a line.
pub(crate) async fn line(question: &str, otherwise: &str) -> Result<String> {
    answer(question, otherwise).await
}

/// Asks for a line that is not shown while it is typed.
pub(crate) async fn secret(question: &str, otherwise: &str) -> Result<String> {
    if !terminal::stdin_is_one() {
        return answer(question, otherwise).await;
    }
    let hidden = Hidden::enter()?;
    let answer = answer(question, otherwise).await;
    drop(hidden);
    // The return key was not shown either.
    output::write_stderr(b"\n")?;
    answer
}

/// All of standard input, which is a password, without the end of its line.
pub(crate) fn password_from_stdin() -> Result<String> {
    let mut text = String::new();
    let mut input = io::stdin().lock().take(MAX_PASSWORD + 1);
    input
        .read_to_string(&mut text)
        .context("stdin: read a password")?;
    if text.len() as u64 > MAX_PASSWORD {
        bail!("stdin: a password may have {MAX_PASSWORD} bytes");
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// `otherwise` says what to do without a terminal.
async fn answer(question: &str, otherwise: &str) -> Result<String> {
    if !terminal::stdin_is_one() {
        bail!("stdin: is no terminal to ask for a user name or password: {otherwise}");
    }
    output::write_stderr(question.as_bytes())?;
    let mut signals = Signals::new()?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line).map(|_| line)
    });
    let line = tokio::select! {
        line = read => line.context("stdin")?.context("stdin")?,
        signal = signals.next() => {
            return Err(failure::with_code(signal.exit_code(), anyhow!("interrupted")));
        }
    };
    if line.is_empty() {
        bail!("stdin: ended without an answer");
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that shows nothing of what is typed; dropping it restores the mode.
#[derive(Debug)]
struct Hidden {
    terminal: OwnedFd,
    before: Termios,
}

impl Hidden {
    fn enter() -> Result<Self> {
        let terminal = rustix::io::fcntl_dupfd_cloexec(io::stdin(), 3).context("stdin")?;
        let before = termios::tcgetattr(&terminal).context("stdin: read the terminal's mode")?;
        let mut mode = before.clone();
        mode.local_modes.remove(LocalModes::ECHO);
        termios::tcsetattr(&terminal, OptionalActions::Drain, &mode).context("stdin: hide what is typed")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = termios::tcsetattr(&self.terminal, OptionalActions::Drain, &self.before) {
            tracing::debug!(%error, "the terminal's mode could not be restored");
        }
    }
}
