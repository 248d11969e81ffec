//! The commands for those who only list them: help, completions and manual pages.

use clap::{Command, CommandFactory as _};

use super::args::{
    CheckpointArgs, CreateArgs, DeleteArgs, EventsArgs, ExecArgs, FeaturesArgs, KillArgs, ListArgs,
    PauseArgs, PsArgs, RestoreArgs, ResumeArgs, RunArgs, SpecArgs, StartArgs, StateArgs, UpdateArgs,
};

/// The options that stand before a command; how they are read is `route.rs`.
const GLOBALS: &str = "\
Options that stand before the command: --root DIR (the state of these containers; default: oci in the
state directory), --state-dir DIR, --log FILE, --log-format text|json, --debug, --systemd-cgroup,
--cgroup-manager cgroupfs|systemd|disabled, --runtime native|krun|wasm";

/// The OCI runtime's commands, `create` and the like, as clap knows them. They take no option of
/// the other commands.
#[must_use]
pub fn commands() -> Vec<Command> {
    let all = [
        ("checkpoint", CheckpointArgs::command()),
        ("create", CreateArgs::command()),
        ("delete", DeleteArgs::command()),
        ("events", EventsArgs::command()),
        ("exec", ExecArgs::command()),
        ("features", FeaturesArgs::command()),
        ("kill", KillArgs::command()),
        ("list", ListArgs::command()),
        ("pause", PauseArgs::command()),
        ("ps", PsArgs::command()),
        ("restore", RestoreArgs::command()),
        ("resume", ResumeArgs::command()),
        ("run", RunArgs::command()),
        ("spec", SpecArgs::command()),
        ("start", StartArgs::command()),
        ("state", StateArgs::command()),
        ("update", UpdateArgs::command()),
    ];
    // The parsers' own names have the program's before them.
    let listed = all.map(|(name, command)| {
        let bin = format!("magikrun {name}");
        let display = format!("magikrun-{name}");
        let command = command.name(name).bin_name(bin).display_name(display);
        let mut command = command.no_binary_name(false).after_help(GLOBALS);
        command.build();
        command
    });
    listed.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::route::COMMANDS;

    #[test]
    fn every_command_is_listed() {
        let mut listed: Vec<String> = commands().iter().map(|c| c.get_name().to_owned()).collect();
        let mut known = COMMANDS.map(str::to_owned);
        listed.sort();
        known.sort();
        assert_eq!(listed, known);
    }
}
