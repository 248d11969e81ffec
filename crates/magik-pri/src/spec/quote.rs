//! Labels and annotations as lines of a file.

use std::{collections::BTreeMap, fmt::Write as _};

/// Labels or annotations as the files of a downwardAPI volume have them: `KEY="VALUE"`, a line each,
/// with values quoted as Go does.
pub(super) fn pairs(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map
        .iter()
        .map(|(key, value)| format!("{key}={}", quoted(value)))
        .collect();
    lines.join("\n")
}

/// As Go's `%q`.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if is_printed(c) => out.push(c),
            c if c.is_ascii() => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c if u32::from(c) <= 0xffff => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}

/// Whether a character is written as it is: Rust and Go agree on that, but for marks at the beginning
/// of a text.
fn is_printed(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    let text = String::from_iter(['a', c]);
    text.escape_debug().to_string() == text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_as_go_does() {
        // What strconv.Quote answers.
        for (text, quoted_text) in [
            ("", r#""""#),
            ("plain it's", r#""plain it's""#),
            ("a\"b\\c", r#""a\"b\\c""#),
            ("1\n2\t3\r", r#""1\n2\t3\r""#),
            ("\u{7}\u{8}\u{b}\u{c}", r#""\a\b\v\f""#),
            ("\0\u{1b}\u{7f}", r#""\x00\x1b\x7f""#),
            ("ä€𝄞", r#""ä€𝄞""#),
            ("e\u{301}", "\"e\u{301}\""),
            ("\u{200b}\u{feff}\u{e0001}", r#""\u200b\ufeff\U000e0001""#),
        ] {
            assert_eq!(quoted(text), quoted_text, "{text:?}");
        }
    }
}
