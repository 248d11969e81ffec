//! Writing and reading single entries; pure.

use std::fmt;

use jiff::Timestamp;

/// The longest line that is kept in one piece, in bytes; as containerd and CRI-O have it.
pub const MAX_LINE: usize = 16 << 10;

/// Which of a container's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl fmt::Display for LogStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        })
    }
}

/// One entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// The time, as it was written.
    pub time: &'a str,
    /// The stream.
    pub stream: LogStream,
    /// Whether the line goes on in the stream's next entry.
    pub partial: bool,
    /// The text, without a line end.
    pub text: &'a [u8],
}

impl LogEntry<'_> {
    /// When it was written; `None` if the time cannot be read.
    #[must_use]
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Reads one line of a log file, without its line end; `None` if it is not in the CRI format.
///
/// ```
/// use magik_infra::logs::{LogStream, parse_entry};
/// let entry = parse_entry(b"2024-05-01T10:00:00.000000001Z stderr F hello world").unwrap();
/// assert_eq!((entry.stream, entry.partial, entry.text), (LogStream::Stderr, false, &b"hello world"[..]));
/// ```
#[must_use]
pub fn parse_entry(line: &[u8]) -> Option<LogEntry<'_>> {
    let mut fields = line.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => LogStream::Stdout,
        b"stderr" => LogStream::Stderr,
        _ => return None,
    };
    // Tags are separated by colons; the first says whether the line is complete (CRI, "Log format").
    let partial = match fields.next()?.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    let plausible = time.len() >= 20 && time.as_bytes()[0].is_ascii_digit();
    plausible.then_some(LogEntry {
        time,
        stream,
        partial,
        text: fields.next().unwrap_or_default(),
    })
}

/// Cuts a stream of bytes into entries and appends them to `out` in the CRI format.
#[derive(Debug)]
pub(crate) struct LineCutter {
    stream: LogStream,
    /// The line that has not ended yet, at most [`MAX_LINE`] bytes.
    open: Vec<u8>,
    /// Whether a piece of the open line was already written.
    continued: bool,
}

impl LineCutter {
    pub(crate) const fn new(stream: LogStream) -> Self {
        Self {
            stream,
            open: Vec::new(),
            continued: false,
        }
    }

    /// Takes what was read at `time`.
    pub(crate) fn push(&mut self, bytes: &[u8], time: &str, out: &mut Vec<u8>) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = MAX_LINE - self.open.len();
            let end = rest.iter().take(room + 1).position(|b| *b == b'\n');
            if let Some(end) = end {
                self.entry(time, false, &rest[..end], out);
                rest = &rest[end + 1..];
            } else if rest.len() > room {
                self.entry(time, true, &rest[..room], out);
                rest = &rest[room..];
            } else {
                self.open.extend_from_slice(rest);
                return;
            }
        }
    }

    /// The stream has ended: a last line without a line end is written as a whole one.
    pub(crate) fn finish(&mut self, time: &str, out: &mut Vec<u8>) {
        if !self.open.is_empty() || self.continued {
            self.entry(time, false, b"", out);
        }
    }

    fn entry(&mut self, time: &str, partial: bool, tail: &[u8], out: &mut Vec<u8>) {
        use std::io::Write;
        let tag = if partial { 'P' } else { 'F' };
        // Writing to a Vec does not fail.
        let _ = write!(out, "{time} {} {tag} ", self.stream);
        out.extend_from_slice(&self.open);
        out.extend_from_slice(tail);
        out.push(b'\n');
        // Most lines are short; a long one must not keep its memory.
        self.open = Vec::new();
        self.continued = partial;
    }
}

/// The time as log entries have it: always nine digits, so that entries sort as text.
pub(crate) fn format_time(time: Timestamp) -> String {
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: &str = "2024-05-01T10:00:00.000000001Z";

    fn cut(pieces: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let (mut cutter, mut out) = (LineCutter::new(LogStream::Stdout), Vec::new());
        for piece in pieces {
            cutter.push(piece, T, &mut out);
        }
        cutter.finish(T, &mut out);
        let mut lines: Vec<_> = out.split(|b| *b == b'\n').collect();
        assert_eq!(lines.pop(), Some(&b""[..]));
        lines
            .iter()
            .map(|l| parse_entry(l).map(|e| (e.partial, e.text.to_vec())).unwrap())
            .collect()
    }

    #[test]
    fn cuts_lines_however_they_arrive() {
        let expected = vec![
            (false, b"one".to_vec()),
            (false, Vec::new()),
            (false, b"two".to_vec()),
        ];
        assert_eq!(cut(&[b"one\n\ntwo\n"]), expected);
        assert_eq!(cut(&[b"o", b"ne\n", b"\ntw", b"o"]), expected);
    }

    #[test]
    fn a_line_at_the_bound_is_whole_and_one_past_it_is_two() {
        let line = |n: usize| [vec![b'x'; n], b"\n".to_vec()].concat();
        assert_eq!(cut(&[&line(MAX_LINE)]), [(false, vec![b'x'; MAX_LINE])]);
        assert_eq!(
            cut(&[&line(MAX_LINE + 1)]),
            [(true, vec![b'x'; MAX_LINE]), (false, b"x".to_vec())]
        );
        assert_eq!(
            cut(&[&vec![b'x'; MAX_LINE], b"\n"]),
            [(false, vec![b'x'; MAX_LINE])]
        );
    }

    #[test]
    fn text_is_kept_byte_for_byte() {
        let text = b"a b  c \xff\x00 F P stdout";
        assert_eq!(cut(&[text, b"\n"]), [(false, text.to_vec())]);
    }

    #[test]
    fn times_have_nine_digits() {
        assert_eq!(
            format_time("2024-05-01T10:00:00Z".parse().unwrap()),
            "2024-05-01T10:00:00.000000000Z"
        );
    }

    #[test]
    fn reads_what_containerd_writes() {
        let e = parse_entry(b"2016-10-06T00:17:09.669794202Z stdout P:TAG1:TAG2 log content 1").unwrap();
        assert!(e.partial && e.text == b"log content 1" && e.timestamp().is_some());
        let empty = parse_entry(b"2016-10-06T00:17:09.669794202Z stdout F ").unwrap();
        assert_eq!(empty.text, b"");
    }

    #[test]
    fn refuses_garbage() {
        for line in [
            &b""[..],
            b" ",
            b"x",
            b"   ",
            b"2016-10-06T00:17:09.66Z",
            b"2016-10-06T00:17:09.66Z stdin F x",
            b"2016-10-06T00:17:09.66Z stdout X x",
            b"\xff\xfe stdout F x",
            b"now stdout F x",
        ] {
            assert_eq!(parse_entry(line), None, "{line:?}");
        }
    }
}
