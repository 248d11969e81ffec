//! Texts that somebody else wrote, in messages.

/// The longest text of others that a message quotes, in characters.
const MAX_QUOTE: usize = 200;

/// A text that somebody else wrote, fit for a message: one line, no control characters, not long.
pub(crate) fn one_line(text: &str) -> String {
    let words = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_become_one_short_line() {
        assert_eq!(one_line("a\n\tb\u{1b}[31m  c"), "a b [31m c");
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), 201);
    }
}
