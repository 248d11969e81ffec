//! `magikrun-engine`: the pod, image and system commands. `magikrun` becomes it for every command but an OCI runtime's.
//!
//! The roles that other processes start (libcontainer workers, the pod init) need a process with a single thread and
//! nothing opened: [`main`] looks for them before anything else.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[cfg(feature = "registry")]
mod ask;
mod cli;
mod completions;
mod config;
mod habits;
mod image;
mod image_limits;
#[cfg(feature = "registry")]
mod login;
mod manual;
mod notices;
mod output;
mod pod;
mod progress;
mod roots;
mod signals;
mod system;
mod terminal;
#[cfg(target_os = "linux")]
mod volume;

use std::{env, error::Error as _, ffi::OsString, io, num::ParseIntError, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{
    CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use magik_image::{reference::InvalidReference, source::InvalidSource};
use magikrun::failure;

use tracing::level_filters::LevelFilter;

use crate::{
    cli::{Cli, Command},
    config::Config,
    roots::GlobalArgs,
};

/// The inits that this program is where those programs are not installed that are nothing else.
#[cfg(target_os = "linux")]
const ROLES: &[magik_pri::Role] = &[
    #[cfg(feature = "native")]
    magik_pri::native::ROLE,
    #[cfg(feature = "krun")]
    magik_pri::microvm::ROLE,
];

fn main() -> ExitCode {
    #[cfg(all(feature = "native", target_os = "linux"))]
    oci_native::run_worker_if_asked();

    #[cfg(target_os = "linux")]
    if let Some(ended) = magik_pri::run_role_if_asked(ROLES) {
        return ended;
    }
    client().unwrap_or_else(|error| failure::report(&failure::map(error, advise)))
}

/// The error with what to do about it on this command line.
fn advise(error: anyhow::Error) -> anyhow::Error {
    #[cfg(feature = "registry")]
    use magik_image::registry::Problem;
    use magik_image::{Error, policy::PolicyError};
    let advice = match error.downcast_ref() {
        #[cfg(feature = "registry")]
        Some(Error::Registry(registry)) => match &registry.problem {
            Problem::SetUp(_) => "check --cert-dir and certs.d",
            Problem::Connection { .. } => "check the registry's name and port, and the network",
            _ => return error,
        },
        Some(Error::Policy(PolicyError::File { .. })) => "mend it, or give another with --signature-policy",
        _ => return error,
    };
    anyhow::anyhow!("{}: {advice}", failure::chain(&error))
}

/// The commands a person types.
fn client() -> Result<ExitCode> {
    let parsed = Cli::command().try_get_matches().and_then(|matches| {
        let cli = Cli::from_arg_matches(&matches)?;
        Ok((cli, matches))
    });
    let (mut cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return Ok(usage(&error)),
    };
    if cli.command.is_configured() {
        let config = Config::load().map_err(|error| cli.command.own_failure(error))?;
        cli.global.complete(config, &matches);
    }
    log_to_stderr(&cli.global);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("tokio")?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Pod(args) => pod::run(&cli.global, *args).await,
            Command::Image(command) => image::run(&cli.global, &command)
                .await
                .map(|()| ExitCode::SUCCESS),
            #[cfg(target_os = "linux")]
            Command::Volume(command) => volume::run(&cli.global, &command).map(|()| ExitCode::SUCCESS),
            Command::System(command) => system::run(&cli.global, &command).await,
            Command::Completions(args) => completions::run(&args, cli::whole()).map(|()| ExitCode::SUCCESS),
            Command::Manual(args) => manual::run(&args, &cli::whole()).map(|()| ExitCode::SUCCESS),
            #[cfg(feature = "registry")]
            Command::Login(args) => login::login(&cli.global, &args).await.map(|()| ExitCode::SUCCESS),
            #[cfg(feature = "registry")]
            Command::Logout(args) => login::logout(&args).await.map(|()| ExitCode::SUCCESS),
        }
    });
    // Nobody waits for threads that are still busy with what was given up.
    runtime.shutdown_background();
    result
}

/// Help as clap prints it, a mistake as one line.
fn usage(error: &clap::Error) -> ExitCode {
    // Where help goes, nothing is to be done about a closed stream.
    match error.kind() {
        ErrorKind::DisplayHelp => {
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        ErrorKind::MissingSubcommand => {
            let _ = output::write_stderr(
                named_command(env::args_os())
                    .1
                    .render_help()
                    .to_string()
                    .as_bytes(),
            );
        }
        // As git and kubectl have it: `magikrun help pod run`, `magikrun pod help`.
        ErrorKind::InvalidSubcommand if is_help(error) => {
            let named = env::args_os().filter(|arg| arg != HELP);
            let (_, mut command) = named_command(named);
            let _ = output::write(command.render_long_help().to_string().as_bytes());
            return ExitCode::SUCCESS;
        }
        _ => failure::print(
            habit(error, env::args_os()).unwrap_or_else(|| usage_line(&mistake(error), env::args_os())),
        ),
    }
    ExitCode::from(failure::USAGE)
}

/// The command that other tools have for `--help`.
const HELP: &str = "help";

fn is_help(error: &clap::Error) -> bool {
    let unknown = error.get(ContextKind::InvalidSubcommand);
    matches!(unknown, Some(ContextValue::String(word)) if word == HELP)
}

/// clap's words for a mistake, or ours where those say nothing to a person.
fn mistake(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let advice = error.source().and_then(|cause| {
        if cause.is::<ParseIntError>() {
            return Some("give a whole number");
        }
        let name = match cause.downcast_ref::<InvalidSource>() {
            Some(InvalidSource::Reference(name)) => Some(name),
            _ => cause.downcast_ref::<InvalidReference>(),
        };
        match name? {
            InvalidReference::Empty => Some("give one, such as nginx:1.27"),
            InvalidReference::Registry(..) => Some("write a name as localhost:5000/app:1, without http://"),
            InvalidReference::LooksLikeId(_) => Some("give the name, such as nginx:1.27"),
            _ => None,
        }
    });
    let (Some(advice), Some(cause)) = (advice, error.source()) else {
        return text;
    };
    let value = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (value, option) = (value(ContextKind::InvalidValue), value(ContextKind::InvalidArg));
    if cause.is::<ParseIntError>() {
        format!("invalid value '{value}' for '{option}': {advice}")
    } else {
        format!("invalid value '{value}' for '{option}': {cause}: {advice}")
    }
}

/// The answer to a command or an option that other tools have.
fn habit(error: &clap::Error, args: impl IntoIterator<Item = OsString>) -> Option<String> {
    let args: Vec<String> = args
        .into_iter()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let named = |args: &[String]| named_command(args.iter().map(Into::into)).0;
    if let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidSubcommand) {
        let from = args.iter().position(|arg| arg == unknown)?;
        let known = named(&args[..from]);
        // It came here because of an option that an OCI runtime does not have.
        if known == "magikrun" && cli::oci_commands().iter().any(|c| c.get_name() == unknown) {
            return Some(format!(
                "'{unknown}' is an OCI runtime's command, and takes no option of the others before it: see 'magikrun {unknown} --help'"
            ));
        }
        let words = known.split(' ').skip(1);
        return habits::answer(words.chain(args[from..].iter().map(String::as_str)));
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(unknown)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    // What stands behind the option may be the value of one.
    let end = args.iter().position(|arg| arg.starts_with(unknown.as_str()));
    let known = named(&args[..end.unwrap_or(args.len())]);
    if known == "magikrun" {
        return habits::answer_behind_options(args.iter().skip(1).map(String::as_str));
    }
    habits::option(&known, unknown)
}

fn usage_line(text: &str, args: impl IntoIterator<Item = OsString>) -> String {
    failure::usage_line(text, &named_command(args).0)
}

/// The command as far as it was named, `magikrun image pull`, and what clap knows of it.
fn named_command(args: impl IntoIterator<Item = OsString>) -> (String, clap::Command) {
    let mut root = Cli::command();
    // Gives every command its whole name.
    root.build();
    let (mut path, mut command) = (String::from("magikrun"), &root);
    for arg in args.into_iter().skip(1) {
        if let Some(found) = arg.to_str().and_then(|word| command.find_subcommand(word)) {
            path = format!("{path} {}", found.get_name());
            command = found;
        }
    }
    (path, command.clone())
}

/// Warnings are for who types the command; more, with times and places, is for who looks for a fault.
fn log_to_stderr(global: &GlobalArgs) {
    use tracing_subscriber::EnvFilter;
    let level = global.log_level();
    let chosen = EnvFilter::try_from_default_env();
    let in_detail = level > LevelFilter::WARN || chosen.is_ok();
    let filter = chosen.unwrap_or_else(|_| EnvFilter::new(level.to_string()));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false);
    if in_detail {
        log.init();
    } else {
        log.event_format(notices::Notices).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn the_command_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_line_that_names_the_command_whose_help_to_read() {
        for (args, expected) in [
            (
                &["magikrun", "image", "pull", "--platfrom", "x"][..],
                "unexpected argument '--platfrom' found; a similar argument exists: '--platform': see 'magikrun image pull --help'",
            ),
            (
                &["magikrun", "pod", "craete"],
                "unrecognized subcommand 'craete': see 'magikrun pod --help'",
            ),
            (
                &["magikrun", "image", "ls", "--format", "x"],
                "invalid value 'x' for '--format <FORMAT>' [possible values: table, wide, json, yaml, name]: see 'magikrun image ls --help'",
            ),
            (
                &["magikrun", "image", "inspect"],
                "the following required arguments were not provided: <IMAGE>: see 'magikrun image inspect --help'",
            ),
        ] {
            let error = Cli::try_parse_from(args).unwrap_err();
            let line = usage_line(&error.render().to_string(), args.iter().map(Into::into));
            assert!(line.starts_with(expected), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_habit_is_answered_wherever_options_stand() {
        for (line, expected) in [
            ("magikrun --data-dir /x images -q", Some("image ls")),
            (
                "magikrun pod --debug start web",
                Some("pod run --replace -f FILE"),
            ),
            ("magikrun get -n shop pods", Some("pod ls")),
            ("magikrun frobnicate images", None),
        ] {
            let args = || line.split(' ').map(OsString::from);
            let error = Cli::try_parse_from(args()).unwrap_err();
            let answer = habit(&error, args());
            let ours = answer
                .as_deref()
                .and_then(|answer| answer.split("'magikrun ").nth(1));
            assert_eq!(
                ours.map(|ours| ours.trim_end_matches("' does that")),
                expected,
                "{line}"
            );
        }
    }

    /// A screen has 24 lines at least; every command shows an example.
    #[test]
    fn help_fits_a_screen_and_has_an_example() {
        fn check(command: &mut clap::Command, path: &str) {
            let help = command.render_help().to_string();
            assert!(
                help.lines().count() <= 34,
                "{path}: {} lines",
                help.lines().count()
            );
            let subcommands: Vec<String> = command
                .get_subcommands()
                .map(|c| c.get_name().to_owned())
                .collect();
            if subcommands.is_empty() {
                assert!(
                    help.contains("Example") && help.contains(" magikrun "),
                    "{path} has no example"
                );
            }
            for name in subcommands {
                check(
                    command.find_subcommand_mut(&name).unwrap(),
                    &format!("{path} {name}"),
                );
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&mut command, "magikrun");
    }
}
