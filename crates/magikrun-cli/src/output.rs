//! How the engine's commands print: `--format`, and figures for people.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use anyhow::Result;
use clap::ValueEnum;
use jiff::Timestamp;
pub(crate) use magikrun::output::{
    StdoutClosed, columns, fields, json, json_line, line, printable, table, write, write_stderr,
};
use serde::Serialize;

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns or lines for a person.
    #[default]
    Table,
    /// JSON, whose fields only ever grow.
    Json,
    /// The same fields as YAML.
    Yaml,
}

impl Format {
    /// How it is printed, if it is for programs.
    pub(crate) fn document(self) -> Option<Document> {
        match self {
            Self::Table => None,
            Self::Json => Some(Document::Json),
            Self::Yaml => Some(Document::Yaml),
        }
    }
}

/// How a document is printed, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Document {
    /// YAML.
    Yaml,
    /// JSON.
    Json,
}

impl Document {
    /// Prints it.
    pub(crate) fn print(self, value: &impl Serialize) -> Result<()> {
        match self {
            Self::Json => json(value),
            Self::Yaml => write(serde_saphyr::to_string(value)?.as_bytes()),
        }
    }

    /// Prints one of several that follow each other: a line of JSON, or a document of YAML.
    pub(crate) fn item(self, value: &impl Serialize) -> Result<()> {
        match self {
            Self::Json => json_line(value),
            Self::Yaml => {
                line("---")?;
                self.print(value)
            }
        }
    }
}

/// `--format`, for every command that shows something.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FormatArg {
    /// How to print it
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    pub(crate) format: Format,
}

impl FormatArg {
    /// How it is printed, if it is for programs.
    pub(crate) fn document(self) -> Option<Document> {
        self.format.document()
    }
}

/// `--format` of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ListFormat {
    /// Columns for a person.
    #[default]
    Table,
    /// More of them.
    Wide,
    /// JSON, whose fields only ever grow.
    Json,
    /// The same fields as YAML.
    Yaml,
    /// The names only.
    Name,
}

impl ListFormat {
    /// How it is printed, if it is for programs.
    pub(crate) fn document(self) -> Option<Document> {
        match self {
            Self::Json => Some(Document::Json),
            Self::Yaml => Some(Document::Yaml),
            Self::Table | Self::Wide | Self::Name => None,
        }
    }
}

// Not a doc comment: it would take the place of each command's own help.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Print the ids only
    #[arg(short, long, conflicts_with = "format")]
    pub(crate) quiet: bool,
    /// How to print it
    #[arg(
        short = 'o',
        long,
        visible_alias = "output",
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    pub(crate) format: ListFormat,
}

/// Whether colours are wanted on standard output: it is a terminal, and NO_COLOR (no-color.org) is
/// not set.
pub(crate) fn is_coloured() -> bool {
    io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether more than ASCII can be printed, as the locale says.
pub(crate) fn is_utf8() -> bool {
    let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    locale.is_some_and(|locale| locale.to_lowercase().replace('-', "").contains("utf8"))
}

/// Tells a person something that is no failure.
pub(crate) fn note(text: &str) {
    // Who cannot be told misses nothing that matters.
    let _ = write_stderr(format!("magikrun: {}\n", printable(text)).as_bytes());
}

/// A size in bytes for a person, in binary units as `podman stats` has them.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// How long ago something was, with one unit: `42s`, `7m`, `3h`, `12d`.
pub(crate) fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        for (since, text) in [
            ("2026-01-10T00:00:05Z", "0s"),
            ("2026-01-09T23:58:01Z", "119s"),
            ("2026-01-09T23:58:00Z", "2m"),
            ("2026-01-09T22:00:00Z", "2h"),
            ("2026-01-01T00:00:00Z", "9d"),
        ] {
            assert_eq!(age(since.parse().unwrap(), now), text, "{since}");
        }
    }
}
