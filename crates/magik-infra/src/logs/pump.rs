//! Moves a container's output from its two pipes into its log.

use std::{io, sync::Arc, time::Duration};

use jiff::Timestamp;
use tokio::{net::unix::pipe, sync::watch, time::timeout};

use super::{
    Listener, LogStream,
    format::{LineCutter, format_time},
    writer::LogWriter,
};

/// How much is read at once, in bytes; on the stack, so that an idle container costs nothing.
const READ_SIZE: usize = 16 << 10;
/// How long after a container's end its output may still be held open by a process that outlived it.
const DRAIN_GRACE: Duration = Duration::from_millis(250);
/// How much of the last line is kept for error messages, in bytes.
const LAST_LINE: usize = 256;

/// The reading ends of a container's output, and its log.
#[derive(Debug)]
pub(crate) struct LogPump {
    stdout: Source,
    stderr: Source,
    writer: LogWriter,
    /// The ends of the last lines of stdout and of stderr.
    last_lines: [Vec<u8>; 2],
    /// The end of what it wrote, if that is kept.
    tail: Option<Tail>,
    /// Who hears it, too.
    listener: Option<Arc<dyn Listener>>,
    /// Whether who hears it is waited for.
    waits: bool,
    /// Tells followers that there is more; `true`: there will be no more.
    signal: watch::Sender<bool>,
}

/// What a container wrote last.
#[derive(Debug, Default)]
pub(crate) struct LastWords {
    /// The last line of standard error, else of standard output.
    pub(crate) line: String,
    /// The last lines of both, if they were kept.
    pub(crate) tail: Vec<u8>,
}

/// The end of what a container writes in one run.
#[derive(Debug, Default)]
struct Tail(Vec<u8>);

impl Tail {
    /// In bytes; the kubelet's.
    const MAX_SIZE: usize = 2048;
    /// In lines; the kubelet's.
    const MAX_LINES: usize = 80;

    fn push(&mut self, bytes: &[u8]) {
        let bytes = &bytes[bytes.len().saturating_sub(Self::MAX_SIZE)..];
        let excess = (self.0.len() + bytes.len()).saturating_sub(Self::MAX_SIZE);
        self.0.drain(..excess);
        self.0.extend_from_slice(bytes);
    }

    fn finish(self) -> Vec<u8> {
        let ended = self.0.strip_suffix(b"\n").unwrap_or(&self.0);
        let breaks = ended.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
        let first = breaks.map(|(place, _)| place + 1).nth(Self::MAX_LINES - 1);
        self.0[first.unwrap_or(0)..].to_vec()
    }
}

#[derive(Debug)]
struct Source {
    /// `None` once it has ended.
    pipe: Option<pipe::Receiver>,
    cutter: LineCutter,
}

impl LogPump {
    /// From the reading ends of a container's output, of which a terminal has one, to its log.
    pub(crate) fn new(
        writer: LogWriter,
        signal: watch::Sender<bool>,
        stdout: pipe::Receiver,
        stderr: Option<pipe::Receiver>,
    ) -> Self {
        Self {
            stdout: Source::new(LogStream::Stdout, Some(stdout)),
            stderr: Source::new(LogStream::Stderr, stderr),
            writer,
            last_lines: Default::default(),
            tail: None,
            listener: None,
            waits: true,
            signal,
        }
    }

    /// Tells somebody, too.
    pub(crate) fn tell(&mut self, listener: Arc<dyn Listener>) {
        self.listener = Some(listener);
    }

    /// Keeps the end of what the container writes, for [`LastWords::tail`].
    pub(crate) fn keep_tail(&mut self) {
        self.tail = Some(Tail::default());
    }

    /// Moves output until both streams have ended. May be dropped and called again at any await.
    pub(crate) async fn run(&mut self) {
        while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
            if let Some(listener) = self
                .listener
                .as_ref()
                .filter(|listener| self.waits && listener.is_full())
            {
                listener.taken().await;
            }
            let stream = tokio::select! {
                () = self.stdout.readable() => LogStream::Stdout,
                () = self.stderr.readable() => LogStream::Stderr,
            };
            self.take(stream);
        }
    }

    /// The container has ended: what it wrote is written to the log before this returns. Nobody is
    /// waited for.
    pub(crate) async fn finish(mut self: Box<Self>) -> LastWords {
        self.waits = false;
        let _ = timeout(DRAIN_GRACE, self.run()).await;
        let time = format_time(Timestamp::now());
        let mut out = Vec::new();
        self.stdout.cutter.finish(&time, &mut out);
        self.stderr.cutter.finish(&time, &mut out);
        self.write(&out);
        self.signal.send_replace(true);
        let [stdout, stderr] = &self.last_lines;
        let last = if stderr.is_empty() { stdout } else { stderr };
        LastWords {
            line: String::from_utf8_lossy(last).trim().to_owned(),
            tail: self.tail.take().map(Tail::finish).unwrap_or_default(),
        }
    }

    /// Reads once what is there.
    fn take(&mut self, stream: LogStream) {
        let source = match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        };
        let Some(pipe) = &source.pipe else { return };
        let mut buffer = [0; READ_SIZE];
        match pipe.try_read(&mut buffer) {
            Ok(n) if n > 0 => {
                if let Some(tail) = &mut self.tail {
                    tail.push(&buffer[..n]);
                }
                if let Some(listener) = &self.listener {
                    listener.wrote(stream, &buffer[..n]);
                }
                let mut out = Vec::with_capacity(n + 256);
                source
                    .cutter
                    .push(&buffer[..n], &format_time(Timestamp::now()), &mut out);
                self.write(&out);
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Ok(_) | Err(_) => source.pipe = None,
        }
    }

    fn write(&mut self, out: &[u8]) {
        if out.is_empty() {
            return;
        }
        self.writer.write(out);
        let line = out
            .trim_ascii_end()
            .rsplit(|b| *b == b'\n')
            .next()
            .unwrap_or_default();
        if let Some(entry) = super::parse_entry(line)
            && !entry.text.trim_ascii().is_empty()
        {
            let from = entry.text.len().saturating_sub(LAST_LINE);
            self.last_lines[usize::from(entry.stream == LogStream::Stderr)] = entry.text[from..].to_vec();
        }
        self.signal.send_replace(false);
    }
}

impl Source {
    fn new(stream: LogStream, pipe: Option<pipe::Receiver>) -> Self {
        Self {
            pipe,
            cutter: LineCutter::new(stream),
        }
    }

    /// Waits until there is something to read; forever once it has ended.
    async fn readable(&self) {
        match &self.pipe {
            Some(pipe) if pipe.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write, path::Path};

    use rustix::pipe::PipeFlags;

    use super::*;

    fn open(log: &Path, signal: watch::Sender<bool>) -> (LogPump, File, File) {
        let pipe = || {
            let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
            (pipe::Receiver::from_owned_fd(read).unwrap(), File::from(write))
        };
        let ((stdout, out), (stderr, err)) = (pipe(), pipe());
        let writer = LogWriter::open(log, 1 << 20).unwrap();
        (LogPump::new(writer, signal, stdout, Some(stderr)), out, err)
    }

    #[tokio::test]
    async fn everything_written_is_in_the_log_when_finished() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.log");
        let (signal, followed) = watch::channel(false);
        let (pump, mut stdout, mut stderr) = open(&path, signal);
        stdout.write_all(b"hello\nworld").unwrap();
        stderr.write_all(b"oops\n").unwrap();
        drop((stdout, stderr));
        assert_eq!(Box::new(pump).finish().await.line, "oops");
        assert!(*followed.borrow());
        let log = std::fs::read_to_string(&path).unwrap();
        for line in [" stdout F hello\n", " stdout F world\n", " stderr F oops\n"] {
            assert!(log.contains(line), "{log}");
        }
    }

    #[tokio::test]
    async fn a_process_that_keeps_the_pipe_does_not_keep_the_log_open() {
        let dir = tempfile::tempdir().unwrap();
        let (pump, mut stdout, _stderr) = open(&dir.path().join("c.log"), watch::Sender::new(false));
        stdout.write_all(b"last words\n").unwrap();
        assert_eq!(Box::new(pump).finish().await.line, "last words");
    }

    #[test]
    fn a_tail_is_the_last_lines_and_bytes() {
        let tail = |pieces: &[&str]| {
            let mut tail = Tail::default();
            pieces.iter().for_each(|piece| tail.push(piece.as_bytes()));
            String::from_utf8(tail.finish()).unwrap()
        };
        assert_eq!(tail(&[]), "");
        assert_eq!(tail(&["a", "b\nc\n"]), "ab\nc\n");
        let lines: String = (0..100).map(|n| format!("{n}\n")).collect();
        assert!(tail(&[&lines]).starts_with("20\n21\n") && tail(&[&lines]).ends_with("\n99\n"));
        assert!(tail(&[&lines, "end"]).starts_with("21\n"));
        let long = "x".repeat(3000);
        assert_eq!(tail(&["a\n", &long, "yz"]), format!("{}yz", "x".repeat(2046)));
    }
}
