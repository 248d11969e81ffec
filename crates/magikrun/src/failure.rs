//! How a command fails: one line on standard error and an exit code.

use std::{fmt, io, process::ExitCode};

use crate::output::{self, StdoutClosed};

/// magikrun's own failure in a command that else exits with its program's code, as in docker.
pub const OWN_FAILURE: u8 = 125;
/// A command line that makes no sense.
pub const USAGE: u8 = 2;

/// An error with the exit code it ends the process with.
#[derive(Debug)]
pub struct WithCode {
    code: u8,
    error: anyhow::Error,
}

impl fmt::Display for WithCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&self.error))
    }
}

impl std::error::Error for WithCode {}

/// Several mistakes of one command, each of which is said in a line of its own.
#[derive(Debug)]
pub struct Several(Vec<String>);

impl Several {
    /// An error of these lines. Not empty.
    #[must_use]
    pub const fn new(lines: Vec<String>) -> Self {
        Self(lines)
    }
}

impl fmt::Display for Several {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Several {}

/// A command line that makes no sense, in one line.
#[derive(Debug)]
pub struct Misused(String);

impl Misused {
    /// clap's answer, of which `command` has help.
    #[must_use]
    pub fn new(text: &str, command: &str) -> Self {
        Self(usage_line(text, command))
    }
}

impl fmt::Display for Misused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Misused {}

/// The error changed, with the exit code that it had.
pub fn map(error: anyhow::Error, change: impl FnOnce(anyhow::Error) -> anyhow::Error) -> anyhow::Error {
    match error.downcast::<WithCode>() {
        Ok(WithCode { code, error }) => with_code(code, change(error)),
        Err(error) => change(error),
    }
}

/// Gives an error an exit code other than 1.
pub fn with_code(code: u8, error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = error.into();
    // The innermost decision stands: it is the most specific.
    if error.is::<WithCode>() || error.is::<StdoutClosed>() {
        error
    } else {
        WithCode { code, error }.into()
    }
}

/// Whether the error has an exit code of its own, as an interruption has.
#[must_use]
pub fn has_code(error: &anyhow::Error) -> bool {
    error.is::<WithCode>()
}

/// Prints the error and gives the exit code that goes with it.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if error.chain().any(<dyn std::error::Error>::is::<StdoutClosed>) {
        return ExitCode::SUCCESS;
    }
    let inner = error.downcast_ref::<WithCode>().map_or(error, |e| &e.error);
    match inner.downcast_ref::<Several>() {
        Some(Several(lines)) => lines.iter().for_each(print),
        None => match hint(inner) {
            Some(hint) => print(format!("{}: {hint}", chain(error))),
            None => print(chain(error)),
        },
    }
    code(error)
}

/// What to do about an answer of the system's, which says what and where, but not that.
fn hint(error: &anyhow::Error) -> Option<&'static str> {
    let io = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<io::Error>())?;
    Some(match io.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "this takes root, or rights to that file",
        io::ErrorKind::AlreadyExists => "choose another path, or remove that one",
        io::ErrorKind::NotADirectory => "a part of the path is a file, choose another one",
        io::ErrorKind::IsADirectory => "give a file in it",
        io::ErrorKind::StorageFull => {
            "make room there ('magikrun system prune'), or choose another file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => "choose a path that can be written",
        io::ErrorKind::ConnectionRefused | io::ErrorKind::TimedOut => {
            "nothing answers there: check name, port and network"
        }
        _ => return None,
    })
}

/// The exit code that goes with the error.
pub fn code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.downcast_ref::<WithCode>().map_or(1, |e| e.code))
}

/// Prints one line to standard error; if that fails, it cannot be reported.
pub fn print(message: impl fmt::Display) {
    let text = format!("magikrun: {message}");
    let _ = output::write_stderr(format!("{}\n", output::printable(&text)).as_bytes());
}

/// The error and its causes in one line; a text that ends with its source's says that once.
pub fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |mut text, cause| {
            let cause = cause.trim();
            if text.is_empty() {
                text.push_str(cause);
            } else if !text.ends_with(cause) {
                text.push_str(": ");
                text.push_str(cause);
            }
            text
        })
}

/// clap's several lines as one: what is wrong, its tip if it has one, and that `command` has help.
pub fn usage_line(text: &str, command: &str) -> String {
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(tip) = rest.lines().find_map(|l| l.trim().strip_prefix("tip: ")) {
        line.push_str("; ");
        line.push_str(tip);
    }
    format!("{line}: see '{command} --help'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_the_text_already_ends_with_is_not_repeated() {
        let inner = anyhow!("no such file");
        let error = inner.context("open /a: no such file").context("image web");
        assert_eq!(chain(&error), "image web: open /a: no such file");
    }

    #[test]
    fn the_first_exit_code_stands() {
        let error = with_code(OWN_FAILURE, with_code(127, anyhow!("x")));
        assert_eq!(error.downcast_ref::<WithCode>().map(|e| e.code), Some(127));
    }
}
