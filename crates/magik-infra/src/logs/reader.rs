//! Reading a container's log: tail, since, and on through rotations.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};

use super::{LogStream, format::MAX_LINE, parse_entry, rotated};

/// How much is read at once, in bytes.
const BLOCK: usize = 16 << 10;
/// A line longer than any entry is no entry: it is skipped.
const MAX_ENTRY: usize = MAX_LINE + 256;
/// Enough of an entry's start to see its tag.
const ENTRY_HEAD: usize = 64;

/// What to read of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Only so many of the last lines.
    pub tail: Option<u64>,
    /// Only what was written at this time or later.
    pub since: Option<Timestamp>,
    /// Put the time and a space before each line.
    pub timestamps: bool,
}

/// Some consecutive output of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// The stream.
    pub stream: LogStream,
    /// The text, with line ends; about 16 KiB at most.
    pub data: Vec<u8>,
}

/// Reads a log, of a running pod as of a dead one.
///
/// ```no_run
/// use magik_infra::logs::{LogOptions, LogReader};
/// let mut reader = LogReader::open("/var/lib/magikrun/pods/x/logs/web.log".as_ref(), LogOptions::default())?;
/// while let Some(chunk) = reader.next_chunk()? {
///     std::io::Write::write_all(&mut std::io::stdout(), &chunk.data)?;
/// }
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    options: LogOptions,
    file: Option<File>,
    /// What was read and not yet handed out: whole and partial entries.
    buffer: Vec<u8>,
    /// How much of `buffer` was handed out.
    taken: usize,
    /// Inside of a line that is too long to be an entry.
    skipping: bool,
    /// Whether the next entry of stdout and of stderr starts a line (and so gets a time).
    line_start: [bool; 2],
}

impl LogReader {
    /// Opens the log at `path`, with the file that was rotated out before it. A log that does not
    /// exist is empty.
    ///
    /// # Errors
    /// A file exists and cannot be read.
    pub fn open(path: &Path, options: LogOptions) -> io::Result<Self> {
        let current = open(path)?;
        let file = match (options.tail, open(&rotated(path))?) {
            (None, older) => older.or(current),
            (Some(lines), older) => {
                let mut wanted = lines;
                let from = current
                    .as_ref()
                    .map_or(Ok(None), |f| tail_start(f, &mut wanted))?;
                match (from, older) {
                    (None, Some(older)) if wanted > 0 => {
                        let start = tail_start(&older, &mut wanted)?.unwrap_or(0);
                        Some(from_there(older, start)?)
                    }
                    _ => current
                        .map(|file| from_there(file, from.unwrap_or(0)))
                        .transpose()?,
                }
            }
        };
        Ok(Self {
            path: path.to_owned(),
            options,
            file,
            buffer: Vec::new(),
            taken: 0,
            skipping: false,
            line_start: [true; 2],
        })
    }

    /// What comes next; `None`: nothing for now. May be called again when the log has grown.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn next_chunk(&mut self) -> io::Result<Option<LogChunk>> {
        loop {
            if let Some(chunk) = self.buffered() {
                return Ok(Some(chunk));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Entries of one stream that are in the buffer.
    fn buffered(&mut self) -> Option<LogChunk> {
        let mut chunk: Option<LogChunk> = None;
        while let Some(end) = self.buffer[self.taken..].iter().position(|b| *b == b'\n') {
            let line = &self.buffer[self.taken..self.taken + end];
            let entry = if self.skipping { None } else { parse_entry(line) };
            if let (Some(entry), Some(chunk)) = (&entry, &chunk)
                && (entry.stream != chunk.stream || chunk.data.len() >= BLOCK)
            {
                break;
            }
            self.taken += end + 1;
            self.skipping = false;
            let Some(entry) = entry else { continue };
            if let Some(since) = self.options.since
                && entry.timestamp().is_none_or(|t| t < since)
            {
                continue;
            }
            let data = &mut chunk
                .get_or_insert_with(|| LogChunk {
                    stream: entry.stream,
                    data: Vec::new(),
                })
                .data;
            let line_start = &mut self.line_start[usize::from(entry.stream == LogStream::Stderr)];
            if self.options.timestamps && *line_start {
                data.extend_from_slice(entry.time.as_bytes());
                data.push(b' ');
            }
            data.extend_from_slice(entry.text);
            *line_start = !entry.partial;
            if !entry.partial {
                data.push(b'\n');
            }
        }
        chunk
    }

    /// Reads on; `false`: nothing there.
    fn fill(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        if self.buffer.len() > MAX_ENTRY {
            self.skipping = true;
            self.buffer.clear();
        }
        loop {
            let Some(file) = &mut self.file else {
                self.file = open(&self.path)?;
                if self.file.is_none() {
                    return Ok(false);
                }
                continue;
            };
            let old = self.buffer.len();
            self.buffer.resize(old + BLOCK, 0);
            let n = file.read(&mut self.buffer[old..]);
            self.buffer.truncate(old + n.as_ref().copied().unwrap_or(0));
            if n? > 0 {
                return Ok(true);
            }
            // At the end: of the file being written, or of one that was rotated out meanwhile?
            let here = file.metadata()?;
            match open(&self.path)? {
                Some(current)
                    if (current.metadata()?.dev(), current.metadata()?.ino()) != (here.dev(), here.ino()) =>
                {
                    self.file = Some(current);
                    // Entries are written whole: an incomplete one at a file's end will never be
                    // completed.
                    self.buffer.clear();
                    self.skipping = false;
                }
                _ => return Ok(false),
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(rustix::io::Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The file, to be read from there on.
fn from_there(mut file: File, from: u64) -> io::Result<File> {
    file.seek(SeekFrom::Start(from))?;
    Ok(file)
}

/// Where the last `wanted` lines of a file start, read from its end; `None` if it has no more than
/// these, and then `wanted` is how many are missing. A line is an `F` entry with the `P` entries
/// right before it.
fn tail_start(file: &File, wanted: &mut u64) -> io::Result<Option<u64>> {
    let size = file.metadata()?.len();
    if *wanted == 0 {
        return Ok(Some(size));
    }
    let mut block = vec![0; BLOCK + ENTRY_HEAD];
    // Where the entry after the one looked at starts.
    let mut next_entry = size;
    let mut full = 0;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        // Also what follows the block: an entry may start at its very end.
        let length = usize::try_from(size.min(end + ENTRY_HEAD as u64) - start).unwrap_or(usize::MAX);
        file.read_exact_at(&mut block[..length], start)?;
        let own = usize::try_from(end - start).unwrap_or(usize::MAX);
        for i in (0..own).rev() {
            let at = start + i as u64;
            // The start of an entry: right after a line end, or the start of the file.
            let first = at == 0;
            if block[i] != b'\n' && !first {
                continue;
            }
            let head_at = if block[i] == b'\n' { i + 1 } else { i };
            let position = start + head_at as u64;
            if position < size && is_whole(&block[head_at..length]) {
                if full == *wanted {
                    return Ok(Some(next_entry));
                }
                full += 1;
            }
            next_entry = position;
        }
        end = start;
    }
    *wanted -= full;
    Ok(if *wanted == 0 { Some(0) } else { None })
}

/// Whether the entry that starts here ends a line.
fn is_whole(head: &[u8]) -> bool {
    let head = &head[..head.len().min(ENTRY_HEAD)];
    let line = head.split(|b| *b == b'\n').next().unwrap_or_default();
    parse_entry(line).is_some_and(|entry| !entry.partial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logs::{format::LineCutter, writer::LogWriter};

    const T: &str = "2024-05-01T10:00:00.000000000Z";

    struct Log {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    fn log(files: &[(&str, &[u8])]) -> Log {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        Log {
            path: dir.path().join("log"),
            _dir: dir,
        }
    }

    fn lines(from: usize, to: usize) -> Vec<u8> {
        (from..to)
            .flat_map(|n| format!("{T} stdout F line {n}\n").into_bytes())
            .collect()
    }

    fn text(from: usize, to: usize) -> String {
        (from..to).map(|n| format!("line {n}\n")).collect()
    }

    fn read(log: &Log, options: LogOptions) -> String {
        let mut reader = LogReader::open(&log.path, options).unwrap();
        rest(&mut reader)
    }

    fn rest(reader: &mut LogReader) -> String {
        let mut all = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            all.extend(chunk.data);
        }
        String::from_utf8(all).unwrap()
    }

    fn tail(lines: u64) -> LogOptions {
        LogOptions {
            tail: Some(lines),
            ..LogOptions::default()
        }
    }

    #[test]
    fn a_log_that_does_not_exist_is_empty_until_it_does() {
        let log = log(&[]);
        let mut reader = LogReader::open(&log.path, LogOptions::default()).unwrap();
        assert_eq!(reader.next_chunk().unwrap(), None);
        std::fs::write(&log.path, lines(0, 2)).unwrap();
        assert_eq!(rest(&mut reader), text(0, 2));
    }

    #[test]
    fn reads_the_rotated_file_first() {
        let log = log(&[("log.1", &lines(0, 5)), ("log", &lines(5, 9))]);
        assert_eq!(read(&log, LogOptions::default()), text(0, 9));
    }

    #[test]
    fn tails_across_blocks_and_files() {
        let log = log(&[("log.1", &lines(0, 3000)), ("log", &lines(3000, 6000))]);
        for n in [0, 1, 2, 999, 2999, 3000, 3001, 5999, 6000, 9999] {
            let expected = text(6000 - 6000.min(n), 6000);
            let got = read(&log, tail(n as u64));
            assert!(got == expected, "tail {n}: {} lines", got.lines().count());
        }
    }

    #[test]
    fn a_tail_line_keeps_its_pieces() {
        let mut bytes = lines(0, 2);
        let mut cutter = LineCutter::new(LogStream::Stdout);
        let long = format!("{}\n", "x".repeat(2 * MAX_LINE + 5));
        cutter.push(long.as_bytes(), T, &mut bytes);
        let log = log(&[("log", &bytes)]);
        assert!(read(&log, tail(1)) == long);
        assert!(read(&log, tail(2)) == format!("line 1\n{long}"));
        assert!(
            read(
                &log,
                LogOptions {
                    timestamps: true,
                    ..tail(1)
                }
            ) == format!("{T} {long}")
        );
    }

    #[test]
    fn since_is_inclusive() {
        let bytes = b"2024-05-01T10:00:00.0Z stdout F a\n2024-05-01T10:00:01.0Z stdout F b\n2024-05-01T10:00:02.0Z stderr F c\n";
        let log = log(&[("log", bytes)]);
        let since = |t: &str| LogOptions {
            since: Some(t.parse().unwrap()),
            ..LogOptions::default()
        };
        assert_eq!(read(&log, since("2024-05-01T10:00:01Z")), "b\nc\n");
        assert_eq!(read(&log, since("2024-05-01T10:00:01.000000001Z")), "c\n");
    }

    #[test]
    fn follows_through_rotation() {
        let log = log(&[]);
        let mut writer = LogWriter::open(&log.path, 1000).unwrap();
        let mut reader = LogReader::open(&log.path, LogOptions::default()).unwrap();
        let mut got = String::new();
        for n in 0..200 {
            writer.write(&lines(n, n + 1));
            if n % 7 == 0 {
                got += &rest(&mut reader);
            }
        }
        got += &rest(&mut reader);
        assert_eq!(got, text(0, 200));
        assert!(rotated(&log.path).exists());
    }

    #[test]
    fn streams_come_apart_and_in_order() {
        let bytes = format!("{T} stdout F a\n{T} stderr F b\n{T} stderr F c\n{T} stdout F d\n");
        let log = log(&[("log", bytes.as_bytes())]);
        let mut reader = LogReader::open(&log.path, LogOptions::default()).unwrap();
        let chunks: Vec<_> = std::iter::from_fn(|| reader.next_chunk().unwrap()).collect();
        let chunk = |stream, data: &[u8]| LogChunk {
            stream,
            data: data.to_vec(),
        };
        assert_eq!(
            chunks,
            [
                chunk(LogStream::Stdout, b"a\n"),
                chunk(LogStream::Stderr, b"b\nc\n"),
                chunk(LogStream::Stdout, b"d\n")
            ]
        );
    }

    #[test]
    fn garbage_is_skipped_and_does_not_stop_the_reader() {
        let mut bytes = b"\n\n\xff\xfe no entry\n".to_vec();
        bytes.extend(vec![b'z'; 100_000]);
        bytes.extend(b"\n");
        bytes.extend(lines(0, 1));
        bytes.extend(vec![0; 5000]);
        bytes.extend(b"\n");
        bytes.extend(lines(1, 2));
        bytes.extend(b"2024-05-01T10:00:00.0Z stdout F cut off");
        let log = log(&[("log", &bytes)]);
        assert_eq!(read(&log, LogOptions::default()), text(0, 2));
        for n in 0..4 {
            assert!(read(&log, tail(n)).len() <= text(0, 2).len());
        }
        assert_eq!(read(&log, tail(9)), text(0, 2));
    }

    #[test]
    fn refuses_a_symlink() {
        let log = log(&[]);
        std::os::unix::fs::symlink("/etc/passwd", &log.path).unwrap();
        assert!(LogReader::open(&log.path, LogOptions::default()).is_err());
    }
}
