//! `manual`: the manual pages, and docs/reference/commands.md, made from the command line's tree.
//! Hidden: `cargo xtask install` and who changes a command call it.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Arg, Command};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun manual --dir /usr/share/man/man1
          magikrun manual --markdown docs/reference/commands.md";

/// How wide help is on the page.
const WIDTH: usize = 100;

#[derive(Debug, clap::Args)]
pub(crate) struct ManualArgs {
    /// Write manual pages, one for each command, into this directory
    #[arg(long, value_name = "DIR", required_unless_present = "markdown")]
    dir: Option<PathBuf>,
    /// Write all commands as one page in Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Writes what is asked for of the command line `of`, whose tree is built.
pub(crate) fn run(args: &ManualArgs, of: &Command) -> Result<()> {
    if let Some(dir) = &args.dir {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        pages(of, dir)?;
    }
    if let Some(file) = &args.markdown {
        fs::write(file, markdown(of)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// The commands below one that are for users.
fn below(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|below| !below.is_hide_set())
}

/// The same in every environment. On paper there is room for the options of all commands that help
/// leaves out.
fn documented(arg: Arg) -> Arg {
    let hidden = arg.is_hide_set() && !(arg.is_global_set() && arg.get_help().is_some());
    arg.hide(hidden)
        .hide_short_help(false)
        .hide_env(false)
        .hide_env_values(true)
}

fn pages(command: &Command, dir: &Path) -> Result<()> {
    let name = command.get_display_name().unwrap_or("magikrun").to_owned();
    let page = clap_mangen::Man::new(command.clone().mut_args(documented))
        .title(&name)
        .source(format!("magikrun {}", env!("CARGO_PKG_VERSION")))
        .manual("magikrun");
    let path = dir.join(format!("{name}.1"));
    let mut text = Vec::new();
    let written = page.render(&mut text).and_then(|()| fs::write(&path, &text));
    written.with_context(|| path.display().to_string())?;
    below(command).try_for_each(|below| pages(below, dir))
}

fn markdown(of: &Command) -> String {
    let mut text = String::from(
        "# Commands\n\n\
         What `--help` says of each command. The options of all commands stand at the first one.\n\
         `magikrun manual --markdown docs/reference/commands.md` makes this page.\n",
    );
    section(of, true, &mut text);
    text
}

fn section(command: &Command, first: bool, text: &mut String) {
    let name = command.get_bin_name().unwrap_or("magikrun").to_owned();
    let shown = command.clone().term_width(WIDTH).mut_args(|arg| {
        let arg = documented(arg);
        let elsewhere = !first && arg.is_global_set() && arg.get_id() != "namespace";
        let hidden = arg.is_hide_set() || elsewhere || arg.get_id() == "help";
        arg.hide(hidden)
    });
    let help = { shown }.render_help().to_string();
    // Writing to a String does not fail.
    let _ = write!(text, "\n## {name}\n\n```text\n{}\n```\n", help.trim_end());
    for below in below(command) {
        section(below, false, text);
    }
}
