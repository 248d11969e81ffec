//! Which command lines are the OCI runtime's. This is decided first, because these commands run
//! several times per container and should not build the parser of the others.

use std::{ffi::OsString, path::PathBuf};

/// The commands of an OCI runtime, as runc names them.
pub(crate) const COMMANDS: [&str; 17] = [
    "create",
    "start",
    "state",
    "kill",
    "delete",
    "run",
    "exec",
    "ps",
    "list",
    "pause",
    "resume",
    "update",
    "events",
    "spec",
    "features",
    "checkpoint",
    "restore",
];

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LogFormat {
    /// `time="…" level=error msg="…"`.
    #[default]
    Text,
    /// `{"time":…,"level":…,"msg":…}`, one object per line.
    Json,
}

/// The options that come before the command.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Globals {
    /// Where container state is kept.
    pub(crate) root: Option<PathBuf>,
    /// The state directory of all of magikrun; the OCI commands use `oci` in it.
    pub(crate) state_dir: Option<PathBuf>,
    /// Where log lines go instead of standard error.
    pub(crate) log: Option<PathBuf>,
    /// How they are written.
    pub(crate) log_format: LogFormat,
    /// Whether to log what is being done, not only what failed.
    pub(crate) debug: bool,
    /// Whether `cgroupsPath` is a systemd `slice:prefix:name`.
    pub(crate) systemd_cgroup: bool,
    /// crun's `--cgroup-manager`: `cgroupfs`, `systemd` or `disabled`.
    pub(crate) cgroup_manager: Option<String>,
    /// The backend: `native`, `krun` or `wasm`.
    pub(crate) runtime: Option<String>,
}

/// What a command line is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Not ours: the pod, image and system commands parse it.
    Other,
    /// `--version`.
    Version,
    /// An OCI command.
    Command {
        /// The options before it.
        globals: Globals,
        /// The command, one of [`COMMANDS`].
        command: &'static str,
        /// Everything after it.
        rest: Vec<OsString>,
    },
    /// An OCI command with a global option that makes no sense.
    Invalid {
        /// The options that did.
        globals: Globals,
        /// What is wrong.
        reason: String,
    },
}

/// Decides what the command line (without the program's name) is.
///
/// It is ours if its first non-option is an OCI command, and all before it are options we know.
pub(crate) fn route(args: &[OsString]) -> Route {
    let mut globals = Globals::default();
    let mut invalid = None;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let Some(arg) = arg.to_str() else {
            return Route::Other;
        };
        let Some(long) = arg.strip_prefix("--") else {
            match arg {
                "-v" | "-V" => return Route::Version,
                option if option.starts_with('-') => return Route::Other,
                word => {
                    let Some(command) = COMMANDS.iter().find(|c| **c == word) else {
                        return Route::Other;
                    };
                    return match invalid {
                        Some(reason) => Route::Invalid { globals, reason },
                        None => Route::Command {
                            globals,
                            command,
                            rest: args.cloned().collect(),
                        },
                    };
                }
            }
        };
        let (name, inline) = match long.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (long, None),
        };
        if name == "version" {
            return Route::Version;
        }
        let Some(takes_value) = takes_value(name) else {
            return Route::Other;
        };
        let value = match (takes_value, inline) {
            (true, None) => match args.next() {
                Some(value) => value.clone(),
                None => return Route::Other,
            },
            (_, Some(value)) => value,
            (false, None) => "true".into(),
        };
        if let Err(reason) = globals.set(name, value) {
            invalid.get_or_insert(reason);
        }
    }
    Route::Other
}

/// Whether a global option takes a value; `None`: there is no such option.
fn takes_value(name: &str) -> Option<bool> {
    match name {
        "debug" | "systemd-cgroup" => Some(false),
        "root" | "state-dir" | "log" | "log-format" | "cgroup-manager" | "runtime" => Some(true),
        // runc's: accepted, because callers pass them, and without effect.
        "rootless" | "criu" => Some(true),
        _ => None,
    }
}

impl Globals {
    /// Sets a global option that has a meaning here.
    fn set(&mut self, name: &str, value: OsString) -> Result<(), String> {
        let text = value.to_string_lossy().into_owned();
        match (name, text.as_str()) {
            ("root", _) => self.root = Some(value.into()),
            ("state-dir", _) => self.state_dir = Some(value.into()),
            // runc's callers may pass an empty --log, which means none.
            ("log", _) => self.log = Some(PathBuf::from(value)).filter(|p| !p.as_os_str().is_empty()),
            ("log-format", "text" | "") => self.log_format = LogFormat::Text,
            ("log-format", "json") => self.log_format = LogFormat::Json,
            ("log-format", _) => return Err(format!("--log-format {text:?}: use text or json")),
            ("cgroup-manager", "cgroupfs" | "systemd" | "disabled") => self.cgroup_manager = Some(text),
            ("cgroup-manager", _) => {
                let message = format!("--cgroup-manager {text:?}: use cgroupfs, systemd or disabled");
                return Err(message);
            }
            ("runtime", "native" | "krun" | "wasm") => self.runtime = Some(text),
            ("runtime", _) => return Err(format!("--runtime {text:?}: use native, krun or wasm")),
            ("debug", _) => self.debug = text != "false",
            ("systemd-cgroup", _) => self.systemd_cgroup = text != "false",
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Route {
        route(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    fn command(line: &str) -> (Globals, &'static str, Vec<OsString>) {
        match of(line) {
            Route::Command {
                globals,
                command,
                rest,
            } => (globals, command, rest),
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn takes_over_every_oci_command_and_leaves_its_arguments_alone() {
        for name in COMMANDS {
            let (globals, found, rest) = command(&format!("{name} --bundle /b c1 --debug"));
            assert_eq!((found, globals), (name, Globals::default()));
            assert_eq!(rest, ["--bundle", "/b", "c1", "--debug"].map(OsString::from));
        }
    }

    #[test]
    fn reads_what_containerd_podman_and_docker_put_before_the_command() {
        let (globals, name, _) =
            command("--root /r --log /l.json --log-format json --systemd-cgroup create --bundle /b c1");
        assert_eq!(name, "create");
        assert_eq!(globals.root, Some("/r".into()));
        assert_eq!(globals.log, Some("/l.json".into()));
        assert_eq!(globals.log_format, LogFormat::Json);
        assert!(globals.systemd_cgroup && !globals.debug);

        let (globals, ..) =
            command("--log-format=json --log=/l --cgroup-manager disabled --debug --rootless auto state c");
        assert_eq!(globals.log, Some("/l".into()));
        assert_eq!(globals.cgroup_manager.as_deref(), Some("disabled"));
        assert!(globals.debug);
        assert_eq!(
            command("--criu /c --runtime krun list").0.runtime.as_deref(),
            Some("krun")
        );
    }

    #[test]
    fn leaves_every_other_command_line_to_its_own_parser() {
        for line in [
            "",
            "pod run",
            "image ls",
            "--root /r pod ls",
            "--help",
            "--unknown create c",
            "--root",
            "-x create",
            "--",
            "createx",
        ] {
            assert_eq!(of(line), Route::Other, "{line}");
        }
        // The value of an option is not the command.
        assert_eq!(of("--root create"), Route::Other);
        assert_eq!(of("--root create pod"), Route::Other);
    }

    #[test]
    fn the_version_may_be_asked_for_after_other_options() {
        for line in ["--version", "-v", "-V", "--root /r --version"] {
            assert_eq!(of(line), Route::Version, "{line}");
        }
        assert!(matches!(of("run --version"), Route::Command { .. }));
    }

    #[test]
    fn a_global_option_without_sense_is_an_error_of_ours_only_for_our_commands() {
        for line in ["--log-format yaml", "--runtime runc", "--cgroup-manager x"] {
            assert!(
                matches!(of(&format!("{line} list")), Route::Invalid { .. }),
                "{line}"
            );
            assert_eq!(of(&format!("{line} pod ls")), Route::Other, "{line}");
        }
    }
}
