//! What goes to standard output: tables for people, JSON for programs.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use comfy_table::{Table, presets};
use serde::Serialize;

/// The reader of our standard output has gone (`magikrun … | head`): not worth a message.
#[derive(Debug)]
pub struct StdoutClosed;

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for StdoutClosed {}

/// Writes to standard output and flushes.
pub fn write(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stream_result(stdout.write_all(bytes).and_then(|()| stdout.flush()), "stdout")
}

/// Writes to standard error and flushes: for a program's own standard error, not for messages.
pub fn write_stderr(bytes: &[u8]) -> Result<()> {
    stream_result(io::stderr().lock().write_all(bytes), "stderr")
}

fn stream_result(result: io::Result<()>, name: &'static str) -> Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        other => other.context(name),
    }
}

/// Writes one line to standard output.
pub fn line(text: impl fmt::Display) -> Result<()> {
    write(format!("{text}\n").as_bytes())
}

/// Writes a value as indented JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string_pretty(value).context("output as JSON")?)
}

/// Writes a value as one line of JSON, for streams of values.
pub fn json_line(value: &impl Serialize) -> Result<()> {
    line(serde_json::to_string(value).context("output as JSON")?)
}

/// Writes columns under a header.
pub fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> Result<()> {
    line(columns(header, rows))
}

/// Columns under a header, as text without a final newline.
pub fn columns<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
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
pub fn fields<const N: usize>(fields: [(&str, Option<String>); N]) -> String {
    let given = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|v| !v.is_empty())?)));
    given
        .map(|(name, value)| format!("{:<12}{}\n", format!("{name}:"), printable(&value)))
        .collect()
}

/// Text from an image, a manifest or a guest made safe for a terminal and for a single line:
/// control characters become spaces, so no escape sequence and no forged line gets through.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.replace(char::is_control, " ").into()
    } else {
        text.into()
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
}
