//! The program [`PROGRAM`](crate::PROGRAM), as far as it is for single containers (`magikrun --runtime krun`).
//!
//! What engines see is a native container whose program is the machine's supervisor, made from what `prepare` answers; its
//! directory holds what is in a pod's state directory and sandbox. The supervisor boots the guest as a pod's does, with a plan of one
//! container, and is that container's streams, signals and exit code. Commands to a running one (`client`) go through its
//! control service.
//!
//! ```text
//! DIR/control.sock, status.json   as a pod has them
//!     started                     a pipe: the supervisor says whether the program runs
//!     root/                       what the supervisor starts on, before it enters its jail
//!     sandbox/                    seen by the guest: machine.json, plan.json, guest.json, bundle/
//!     data/                       the guest's scratch space has its path
//! ```

mod bundle;
mod client;
mod mounts;
mod prepare;
mod session;
mod supervisor;

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write},
    os::fd::{BorrowedFd, OwnedFd},
    path::Path,
    process::ExitCode,
};

use magik_infra::{ControlError, LaunchError, LaunchStep};
use rustix::fs::{Mode, OFlags};

use crate::words::{ALL, EXEC, PREPARE, Report, SIGNAL, TERMINAL};

/// Where the supervisor finds the host's root, before it enters its jail.
const HOST: &str = "/host";
/// Seen by the guest.
const SANDBOX: &str = "sandbox";
const DATA: &str = "data";
const ROOT: &str = "root";
const PLAN: &str = "plan.json";
/// In the sandbox: the container's bundle as the guest has it.
const BUNDLE: &str = "bundle";

/// The first argument of a container's supervisor.
const SUPERVISE: &str = "container";

/// The exit code of a program that was not started, and of a process that has an [`Error`].
pub const FAILED: u8 = 255;

/// The standard streams of the process, which are the container's or lead to who asked: what is written to them is a program's
/// output or an answer. What failed is `main`'s to say.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// Descriptor 0.
    pub input: BorrowedFd<'static>,
    /// Descriptor 1.
    pub output: BorrowedFd<'static>,
    /// Descriptor 2.
    pub errors: BorrowedFd<'static>,
}

/// What a process of a container has to say when it ends; it exits with [`FAILED`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It does not understand what it was asked.
    #[error("magikrun-vm: it is of another version than magikrun")]
    Version,
    /// There is no supervisor.
    #[error("magikrun: {0}")]
    Supervisor(#[source] io::Error),
    /// The machine ended while the program ran.
    #[error("magikrun: the machine is lost: {0}")]
    Lost(String),
    /// A signal was not sent.
    #[error(transparent)]
    Signal(ControlError),
}

/// Runs this process as what its first argument says; `None`: it is none of a container's.
///
/// `main` calls it before it has made a thread or opened anything, says what the error is, and exits.
#[must_use]
pub fn run_if_asked(streams: Streams) -> Option<Result<ExitCode, Error>> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let (first, rest) = arguments.split_first()?;
    let rest: Vec<&OsStr> = rest.iter().map(OsString::as_os_str).collect();
    Some(match (first.to_str()?, rest.as_slice()) {
        (PREPARE, [bundle, id, dir, state]) => Ok(prepare::run(
            bundle.as_ref(),
            id,
            dir.as_ref(),
            state.as_ref(),
            streams,
        )),
        (SUPERVISE, [dir]) => supervisor::run(dir.as_ref(), streams),
        (EXEC, [dir, id, process, started, terminal]) => {
            let terminal = *terminal == TERMINAL;
            Ok(client::exec(
                dir.as_ref(),
                id,
                process,
                started,
                terminal,
                streams,
            ))
        }
        (SIGNAL, [dir, id, number, to]) => client::signal(dir.as_ref(), id, number, *to == ALL)
            .map(|()| ExitCode::SUCCESS)
            .map_err(Error::Signal),
        (PREPARE | SUPERVISE | EXEC | SIGNAL, _) => Err(Error::Version),
        _ => return None,
    })
}

/// Where it is said whether a program runs.
struct Reporter(Option<OwnedFd>);

impl Reporter {
    /// Opens it for writing; without somebody who reads it, nothing is said.
    fn open(path: &Path) -> Self {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Self(rustix::fs::open(path, flags, Mode::empty()).ok())
    }

    fn say(&mut self, report: &Report) {
        if let (Some(pipe), Ok(mut line)) = (self.0.take(), serde_json::to_vec(report)) {
            line.push(b'\n');
            let _ = fs::File::from(pipe).write_all(&line);
        }
    }

    fn started(&mut self) {
        self.say(&Report::Started);
    }

    fn failed(&mut self, error: &ControlError) {
        let program = match error {
            ControlError::Launch(LaunchError { program, .. }) => program.as_deref(),
            ControlError::CannotExecute { why, .. } => Some(why),
            _ => None,
        };
        if let Some(why) = program {
            return self.say(&Report::CannotExecute {
                program: why.program.clone(),
                failure: why.failure,
                reason: why.reason.clone(),
            });
        }
        let text = match error {
            // The container is the only one, and who reads this knows which.
            ControlError::Launch(error) if matches!(error.step, LaunchStep::Start | LaunchStep::Create) => {
                error.message.clone()
            }
            ControlError::Launch(error) => format!("{}: {}", error.step, error.message),
            other => other.to_string(),
        };
        self.say(&Report::Failed(text));
    }
}

fn text(argument: &OsStr) -> io::Result<&str> {
    let no_text = || io::Error::other(format!("{}: is no text", argument.display()));
    argument.to_str().ok_or_else(no_text)
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |e| io::Error::new(e.kind(), format!("{path}: {e}"))
}
