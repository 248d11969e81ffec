//! What goes to standard output: tables for people, JSON for programs.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde::Serialize;

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Columns or lines for a person.
    #[default]
    Table,
    /// JSON, whose fields only ever grow.
    Json,
}

/// `--format`, for every command that lists or shows.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct FormatArg {
    /// How to print it
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true
    )]
    pub(crate) format: Format,
}

impl FormatArg {
    pub(crate) fn json(self) -> bool {
        self.format == Format::Json
    }
}

/// Whoever read our standard output went away (`magikrun … | head`): not an error worth a message.
#[derive(Debug)]
pub(crate) struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Writes to standard output and flushes.
pub(crate) fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stream_result(stdout.write_all(bytes).and_then(|()| stdout.flush()), "stdout")
}

/// Writes to standard error and flushes: for a program's own standard error, not for messages.
pub(crate) fn write_stderr(bytes: &[u8]) -> Result<()> {
    stream_result(io::stderr().lock().write_all(bytes), "stderr")
}

fn stream_result(result: io::Result<()>, name: &'static str) -> Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => other.context(name),
    }
}

/// Writes one line to standard output.
pub(crate) fn line(text: impl fmt::Display) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value as indented JSON.
pub(crate) fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value).context("output as JSON")?)
}

/// Writes a value as one line of JSON, for streams of values.
pub(crate) fn json_line(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value).context("output as JSON")?)
}

/// Writes columns under a header.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> Result<()> {
    line(columns(header, rows))
}

/// Columns under a header, as text without a final newline.
pub(crate) fn columns<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row.map(|cell| printable(&cell).into_owned()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// `Name:      value` lines; what has no value, or an empty one, is left out.
pub(crate) fn fields<const N: usize>(fields: [(&str, Option<String>); N]) -> String {
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
    given
        .map(|(name, value)| format!("{:<12}{}\n", format!("{name}:"), printable(&value)))
        .collect()
}

/// Text from an image, a manifest or a guest made safe for a terminal and for a single line: control characters become
/// spaces, so no escape sequence and no forged line gets through.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.replace(char::is_control, " ").into()
    } else {
        text.into()
    }
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
    fn columns_have_no_trailing_blanks_and_no_escape_sequences() {
        let text = columns(
            ["NAME", "STATE"],
            [
                ["a".into(), "up".into()],
                ["longer".into(), "\x1b[31mred\nx".into()],
            ],
        );
        assert_eq!(text, "NAME    STATE\na       up\nlonger   [31mred x");
    }

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
