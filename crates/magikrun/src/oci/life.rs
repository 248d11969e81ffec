//! `create`, `run` and `exec`: what starts processes.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use magik_oci::{ContainerId, ContainerState, CreateOptions, Error, ExecIo, ExecOptions, Exit, Stdio};

use super::{
    args::{CreateArgs, ExecArgs, InitArgs, RunArgs},
    backend::Backend,
    config::Config,
    foreground::{Signals, attend},
    keyring,
    notify::{self, Notify},
    process,
    route::Globals,
    terminal::{Foreground, console},
};
use crate::failure;

/// runc's exit code of an `exec` that could not start its program.
const EXEC_FAILED: u8 = 255;
/// runc's exit code of every other command that could not do what it was asked.
const FAILED: u8 = 1;

/// `create`.
pub(super) fn create(backend: &Backend, args: &CreateArgs, config: &Config) -> Result<()> {
    let id = ContainerId::new(args.id.as_str())?;
    create_with(backend, &id, &args.init, config, true)
        .map(drop)
        .map_err(coded(FAILED))
}

/// Creates the container; returns the socket for its terminal's master, if that is ours.
fn create_with(
    backend: &Backend,
    id: &ContainerId,
    init: &InitArgs,
    config: &Config,
    detach: bool,
) -> Result<(ContainerState, Option<OwnedFd>)> {
    let (console, ours) = console(config.terminal(), detach, init.console_socket.as_deref())?;
    if !init.no_new_keyring {
        keyring::join(id)?;
    }
    let stdio = if console.is_some() {
        Stdio::default()
    } else {
        own_streams()?
    };
    let mut options = CreateOptions::default();
    options.pid_file = init.pid_file.as_deref().map(absolute).transpose()?;
    options.console = console;
    options.preserve_fds = init.preserve_fds;
    options.no_pivot = init.no_pivot;
    hand_down_sockets(&mut options);
    notify::prepare(&mut options, backend.root(), id)?;
    let bundle = init
        .bundle
        .canonicalize()
        .with_context(|| format!("--bundle {}", init.bundle.display()))?;
    let created = backend.block_on(backend.runtime().create(id, &bundle, stdio, options));
    if !matches!(created, Ok(_) | Err(Error::AlreadyExists(_))) {
        notify::remove(backend.root(), id);
    }
    Ok((created?, ours))
}

/// `run`.
pub(super) fn run(backend: &Backend, args: &RunArgs, config: &Config) -> Result<ExitCode> {
    run_container(backend, args, config).map_err(coded(FAILED))
}

fn run_container(backend: &Backend, args: &RunArgs, config: &Config) -> Result<ExitCode> {
    let id = ContainerId::new(args.id.as_str())?;
    let (state, console) = create_with(backend, &id, &args.init, config, args.detach)?;
    let ran = start_and_wait(backend, &id, &state, console.as_ref(), args.detach);
    if ran.is_err() || !(args.detach || args.keep) {
        let deleted = delete(backend, &id, true);
        if ran.is_ok() {
            deleted?;
        }
    }
    ran
}

fn start_and_wait(
    backend: &Backend,
    id: &ContainerId,
    state: &ContainerState,
    console: Option<&OwnedFd>,
    detach: bool,
) -> Result<ExitCode> {
    if detach {
        start(backend, id)?;
        return Ok(ExitCode::SUCCESS);
    }
    let runtime = backend.runtime();
    let notify = Notify::listen(backend.root(), id)?;
    let pid = state
        .pid
        .with_context(|| format!("container {id} has no process"))?;
    // The init process exists, so it does not inherit the mask; no signal is lost before start.
    let signals = Signals::hold()?;
    let terminal = console.map(Foreground::receive).transpose()?;
    backend.block_on(runtime.start(id))?;
    attend(pid, &signals, terminal, notify)?;
    Ok(code(backend.block_on(runtime.wait(id))?))
}

/// `start`: with `NOTIFY_SOCKET`, returns when the container is ready.
pub(super) fn start(backend: &Backend, id: &ContainerId) -> Result<()> {
    start_and_notify(backend, id).map_err(coded(FAILED))
}

fn start_and_notify(backend: &Backend, id: &ContainerId) -> Result<()> {
    let notify = Notify::listen(backend.root(), id)?;
    backend.block_on(backend.runtime().start(id))?;
    if let Some(notify) = notify {
        let state = backend.block_on(backend.runtime().state(id))?;
        // Without a process it has ended already.
        notify.wait(state.pid.unwrap_or(0))?;
    }
    Ok(())
}

/// `delete`.
pub(super) fn delete(backend: &Backend, id: &ContainerId, force: bool) -> Result<()> {
    backend.block_on(backend.runtime().delete(id, force))?;
    notify::remove(backend.root(), id);
    Ok(())
}

/// The preserved descriptors must be open before we open any: ours would get their numbers and pass
/// to the container.
pub(super) fn check_preserved(count: u32) -> Result<()> {
    let end = i32::try_from(count).ok().and_then(|n| n.checked_add(3));
    let end = end.with_context(|| format!("--preserve-fds {count}: too many"))?;
    match (3..end).find(|number| !is_open(*number)) {
        None => Ok(()),
        Some(number) => bail!("--preserve-fds {count}: descriptor {number} is not open"),
    }
}

#[allow(unsafe_code, reason = "the descriptor is known by number only")]
fn is_open(number: RawFd) -> bool {
    // SAFETY: borrowed for one call, which answers EBADF for a number that is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(fd).is_ok()
}

/// sd_listen_fds(3): the caller's sockets are the first of the descriptors to preserve.
fn hand_down_sockets(options: &mut CreateOptions) {
    let variable = |name| std::env::var(name).ok();
    let ours = variable("LISTEN_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let Some(count) = variable("LISTEN_FDS")
        .and_then(|n| n.parse::<u32>().ok())
        .filter(|n| *n > 0 && ours)
    else {
        return;
    };
    options.preserve_fds = options.preserve_fds.saturating_add(count);
    options
        .env
        .extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".to_owned()]);
    options
        .env
        .extend(variable("LISTEN_FDNAMES").map(|names| format!("LISTEN_FDNAMES={names}")));
}

/// `exec`.
pub(super) fn exec(globals: &Globals, args: &ExecArgs) -> Result<ExitCode> {
    let exec = || {
        let id = ContainerId::new(args.id.as_str())?;
        exec_in(&Backend::of(globals, &id)?, args, &id)
    };
    exec().map_err(coded(EXEC_FAILED))
}

fn exec_in(backend: &Backend, args: &ExecArgs, id: &ContainerId) -> Result<ExitCode> {
    let runtime = backend.runtime();
    let state = backend.block_on(runtime.state(id))?;
    let process = process::build(args, &state, backend.root_of(&state).as_deref())?;
    let terminal = process.terminal().unwrap_or(false);
    let (console, ours) = console(terminal, args.detach, args.console_socket.as_deref())?;
    // runc has no --no-new-keyring for exec: it joins the keyring that create made.
    keyring::join(id)?;
    let io = match console {
        Some(console) => ExecIo::Terminal { console },
        None => ExecIo::Pipes(own_streams()?),
    };
    let mut options = ExecOptions::default();
    options.pid_file = args.pid_file.as_deref().map(absolute).transpose()?;
    options.preserve_fds = args.preserve_fds;
    let pid = backend.block_on(runtime.exec(id, &process, io, options))?;
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::hold()?;
    let terminal = ours.as_ref().map(Foreground::receive).transpose()?;
    attend(pid, &signals, terminal, None)?;
    Ok(code(backend.block_on(runtime.wait_exec(id, pid))?))
}

/// Gives an error 127 and 126 as in a shell (program missing, or not executable), else runc's code.
fn coded(otherwise: u8) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| {
        let code = match error.downcast_ref::<Error>() {
            Some(Error::CannotExecute { failure, .. }) => failure.exit_code(),
            _ => otherwise,
        };
        failure::with_code(code, error)
    }
}

fn code(exit: Exit) -> ExitCode {
    // Codes are 0 to 255, signals included.
    ExitCode::from(u8::try_from(exit.code).unwrap_or(EXEC_FAILED))
}

/// Our own standard streams, for the process to have.
fn own_streams() -> Result<Stdio> {
    fn dup(fd: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
        match rustix::io::fcntl_dupfd_cloexec(fd, 3) {
            Ok(fd) => Ok(Some(fd)),
            // Closed: the process gets /dev/null.
            Err(rustix::io::Errno::BADF) => Ok(None),
            Err(e) => bail!("standard stream: {e}"),
        }
    }
    Ok(Stdio {
        stdin: dup(std::io::stdin().as_fd())?,
        stdout: dup(std::io::stdout().as_fd())?,
        stderr: dup(std::io::stderr().as_fd())?,
    })
}

/// Paths are the caller's: the backend may work from another directory.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| path.display().to_string())
}
