//! Further programs and signals for a container that runs: what `magikrun exec` and `magikrun kill` start.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use magik_infra::{CONTROL_SOCKET, ControlClient, ControlError, ExecRequest};
use rustix::{
    fs::{Mode, OFlags},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::tcsetwinsize,
};

use super::{
    FAILED, Reporter, Streams,
    session::{Signals, carry, raw_terminal, size},
    text,
};

/// The longest process that is read, in bytes: it goes into one message.
const MAX_PROCESS: u64 = 512 << 10;

/// Runs a program in a container. `process` and `started` are numbers of descriptors: the process as JSON, and where it is said
/// that it runs. With `terminal`, standard input is the socket that gets the terminal's master.
pub(super) fn exec(
    dir: &Path,
    id: &OsStr,
    process: &OsStr,
    started: &OsStr,
    terminal: bool,
    streams: Streams,
) -> ExitCode {
    let descriptor = |number: &OsStr| PathBuf::from("/proc/self/fd").join(number);
    let mut started = Reporter::open(&descriptor(started));
    let ran = request(id, &descriptor(process), terminal, streams)
        .map_err(|e| ControlError::Refused(e.to_string()))
        .and_then(|request| {
            let tokio = runtime()?;
            let code = tokio.block_on(run(dir, &request, &mut started, streams));
            tokio.shutdown_background();
            code
        });
    match ran {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(FAILED)),
        Err(error) => {
            // Said only if the program has not been started.
            started.failed(&error);
            ExitCode::from(FAILED)
        }
    }
}

fn request(id: &OsStr, process: &Path, terminal: bool, streams: Streams) -> io::Result<ExecRequest> {
    // A process of its own, whoever is told to end around it.
    let _ = rustix::process::setsid();
    let mut json = Vec::new();
    fs::File::open(process)?
        .take(MAX_PROCESS + 1)
        .read_to_end(&mut json)?;
    if json.len() as u64 > MAX_PROCESS {
        return Err(io::Error::other(format!(
            "the process has more than {MAX_PROCESS} bytes"
        )));
    }
    if terminal {
        own_terminal(&json, streams)?;
        raw_terminal(streams.input)?;
    }
    Ok(ExecRequest {
        container: text(id)?.to_owned(),
        process: Some(json),
        tty: terminal,
        stdin: true,
        size: size(streams.input).filter(|_| terminal),
        ..ExecRequest::default()
    })
}

async fn run(
    dir: &Path,
    request: &ExecRequest,
    started: &mut Reporter,
    streams: Streams,
) -> Result<i32, ControlError> {
    let mut signals = Signals::catch().map_err(|e| ControlError::Refused(e.to_string()))?;
    let client = ControlClient::connect(&dir.join(CONTROL_SOCKET)).await?;
    let session = client.exec(request).await?;
    started.started();
    carry(session, request.tty, &mut signals, streams).await
}

/// Makes a terminal and sends its master to who asked for it; the other end is this process's own streams.
fn own_terminal(process: &[u8], streams: Streams) -> io::Result<()> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let slave: OwnedFd = rustix::fs::open(&name, flags, Mode::empty())?;
    let process: oci_spec::runtime::Process = serde_json::from_slice(process)?;
    if let Some(size) = process.console_size() {
        let narrow = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
        let mut window = rustix::termios::tcgetwinsize(&slave)?;
        (window.ws_row, window.ws_col) = (narrow(size.height()), narrow(size.width()));
        tcsetwinsize(&slave, window)?;
    }
    magik_sys::socket::send(streams.input, name.as_bytes(), &[master.as_fd()])?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    Ok(rustix::stdio::dup2_stderr(&slave)?)
}

/// Sends a container a signal.
pub(super) fn signal(dir: &Path, id: &OsStr, number: &OsStr, all: bool) -> Result<(), ControlError> {
    let malformed = |e: String| ControlError::Refused(e);
    let id = text(id).map_err(|e| malformed(e.to_string()))?;
    let number = text(number).map_err(|e| malformed(e.to_string()))?;
    let number = number
        .parse()
        .map_err(|_| malformed(format!("{number}: no signal")))?;
    runtime()?.block_on(async {
        let client = ControlClient::connect(&dir.join(CONTROL_SOCKET)).await?;
        client.signal(id, number, all).await
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, ControlError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|e| ControlError::Refused(e.to_string()))
}
