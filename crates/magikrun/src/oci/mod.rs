//! The OCI runtime's commands: `magikrun create|start|state|kill|delete|run|exec|…`, as in runc.
//!
//! podman, containerd, Docker and CRI-O call these commands several times per container. So they
//! start fast: one thread, only the command's own parser, and no log unless asked for.

mod args;
mod backend;
mod cgroup;
mod checkpoint;
mod config;
mod events;
mod features;
mod foreground;
mod habits;
mod keyring;
mod life;
mod listing;
mod log;
mod notify;
mod process;
mod route;
mod show;
#[cfg(feature = "native")]
mod sibling;
mod spec;
mod terminal;
mod update;
mod users;
#[cfg(feature = "native")]
mod wasm;

use std::{ffi::OsString, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, error::ErrorKind};
use magik_oci::{ContainerId, Signal};

pub use self::listing::commands;
use self::{
    args::{
        CheckpointArgs, CreateArgs, DeleteArgs, EventsArgs, ExecArgs, FeaturesArgs, KillArgs, ListArgs,
        PauseArgs, PsArgs, RestoreArgs, ResumeArgs, RunArgs, SpecArgs, StartArgs, StateArgs, UpdateArgs,
    },
    backend::Backend,
    config::Config,
    log::Log,
    route::{Globals, Route},
};
use crate::{failure, output};

/// Runs the command line (without the program's name) if it is an OCI command or `--version`.
pub(crate) fn dispatch(args: &[OsString]) -> Option<ExitCode> {
    match route::route(args) {
        Route::Other => None,
        Route::Version => Some(match output::write(crate::VERSION.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure::report(&error),
        }),
        Route::Invalid { globals, reason } => {
            Log::new(&globals).error(&reason);
            Some(ExitCode::FAILURE)
        }
        Route::Command {
            globals,
            command,
            rest,
        } => Some(command_line(&globals, command, &rest)),
    }
}

fn command_line(globals: &Globals, command: &str, rest: &[OsString]) -> ExitCode {
    let log = Log::new(globals);
    let done = if globals.debug {
        log.install_debug().context("--log")
    } else {
        Ok(())
    };
    match done.and_then(|()| run(globals, command, rest)) {
        Ok(code) => code,
        Err(error) if error.is::<output::StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            let error = failure::map(error, |error| habits::advise(globals, command, rest, error));
            log.error(&failure::chain(&error));
            failure::code(&error)
        }
    }
}

fn run(globals: &Globals, command: &str, rest: &[OsString]) -> Result<ExitCode> {
    if matches!(command, "create" | "run" | "exec" | "restore") {
        backend::seal()?;
    }
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        "create" => parsed(rest, |args: CreateArgs| {
            life::check_preserved(args.init.preserve_fds)?;
            let config = Config::read(&args.init.bundle)?;
            let backend = Backend::for_new(globals, &config, &args.init.bundle)?;
            done(life::create(&backend, &args, &config))
        }),
        "run" => parsed(rest, |args: RunArgs| {
            life::check_preserved(args.init.preserve_fds)?;
            let config = Config::read(&args.init.bundle)?;
            let backend = Backend::for_new(globals, &config, &args.init.bundle)?;
            life::run(&backend, &args, &config)
        }),
        "exec" => parsed(rest, |args: ExecArgs| {
            life::check_preserved(args.preserve_fds)?;
            life::exec(globals, &args)
        }),
        "list" => parsed(rest, |args: ListArgs| {
            let backend = Backend::open(globals)?;
            let states = backend.block_on(backend.runtime().list())?;
            done(show::list(&args, &states, backend.root()))
        }),
        "spec" => parsed(rest, |args: SpecArgs| done(spec::run(&args))),
        "features" => parsed(rest, |_: FeaturesArgs| done(output::json(&features::document()))),
        _ => operate(globals, command, rest),
    }
}

/// An operation on one container.
fn operate(globals: &Globals, command: &str, rest: &[OsString]) -> Result<ExitCode> {
    match command {
        "start" => parsed(rest, |args: StartArgs| on(globals, &args.id, life::start)),
        "state" => parsed(rest, |args: StateArgs| {
            on(globals, &args.id, |backend, id| {
                show::state(&backend.block_on(backend.runtime().state(id))?, backend.root())
            })
        }),
        "kill" => parsed(rest, |args: KillArgs| {
            let signal: Signal = args.signal.parse()?;
            on(globals, &args.id, |backend, id| {
                Ok(backend.block_on(backend.runtime().kill(id, signal, args.all))?)
            })
        }),
        "delete" => parsed(rest, |args: DeleteArgs| {
            on(globals, &args.id, |backend, id| {
                habits::check_no_manifest(backend, id)?;
                life::delete(backend, id, args.force)
            })
        }),
        "pause" => parsed(rest, |args: PauseArgs| {
            on(globals, &args.id, |backend, id| {
                Ok(backend.block_on(backend.runtime().pause(id))?)
            })
        }),
        "resume" => parsed(rest, |args: ResumeArgs| {
            on(globals, &args.id, |backend, id| {
                Ok(backend.block_on(backend.runtime().resume(id))?)
            })
        }),
        "update" => parsed(rest, |args: UpdateArgs| {
            let resources = update::resources(&args)?;
            on(globals, &args.id, |backend, id| {
                Ok(backend.block_on(backend.runtime().update(id, &resources))?)
            })
        }),
        "events" => parsed(rest, |args: EventsArgs| {
            on(globals, &args.id, |backend, id| {
                events::run(&args, &backend.block_on(backend.runtime().state(id))?)
            })
        }),
        "ps" => parsed(rest, |args: PsArgs| {
            on(globals, &args.id, |backend, id| {
                show::ps(&args, &backend.block_on(backend.runtime().processes(id))?)
            })
        }),
        "checkpoint" => parsed(rest, |args: CheckpointArgs| {
            on(globals, &args.id, |backend, id| {
                checkpoint::checkpoint(backend, id, &args)
            })
        }),
        _ => parsed(rest, |args: RestoreArgs| {
            on(globals, &args.id, |_, id| checkpoint::restore(id, &args))
        }),
    }
}

/// Parses the command's arguments and runs it; help is clap's, an error is one line.
fn parsed<T: Parser>(rest: &[OsString], then: impl FnOnce(T) -> Result<ExitCode>) -> Result<ExitCode> {
    match T::try_parse_from(rest) {
        Ok(args) => then(args),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // Nothing to do about a closed standard output.
            let _ = error.print();
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            let text = error.render().to_string();
            Err(failure::Misused::new(&text, T::command().get_name()).into())
        }
    }
}

/// Runs an operation; the id is checked before anything is touched.
fn on(
    globals: &Globals,
    id: &str,
    operation: impl FnOnce(&Backend, &ContainerId) -> Result<()>,
) -> Result<ExitCode> {
    let id = ContainerId::new(id)?;
    operation(&Backend::of(globals, &id)?, &id)?;
    Ok(ExitCode::SUCCESS)
}
