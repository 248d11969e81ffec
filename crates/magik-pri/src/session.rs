//! What goes in and out of a pod: exec, logs, events, forwarded ports. The same for every backend.

use std::collections::BTreeMap;

use jiff::Timestamp;
use magik_infra::Event;
use tokio::sync::mpsc;

use crate::Result;

/// A program to run in a container.
#[derive(Debug, Clone, Default)]
pub struct ExecRequest {
    /// The container; may be left out where there is only one.
    pub container: Option<String>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Variables on top of the container's own.
    pub env: BTreeMap<String, String>,
    /// The working directory; absent: the container's.
    pub cwd: Option<String>,
    /// `uid[:gid]`; absent: the container's.
    pub user: Option<String>,
    /// Gives the program a terminal of this size.
    pub tty: Option<TerminalSize>,
    /// Whether input will be sent; without it, the program reads an empty input.
    pub stdin: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters per line.
    pub columns: u16,
}

/// What is sent to a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecInput {
    /// Bytes for its standard input.
    Stdin(Vec<u8>),
    /// The end of its standard input.
    Eof,
    /// Its terminal has another size now.
    Resize(TerminalSize),
}

/// What comes from a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecOutput {
    /// It was started, with this pid as the pod's init numbers it; comes first.
    Started(i32),
    /// Bytes of its standard output, or of its terminal.
    Stdout(Vec<u8>),
    /// Bytes of its standard error.
    Stderr(Vec<u8>),
    /// It has ended, all output was seen; 128 + n after signal n. Comes last.
    Exited(i32),
}

/// A program that runs in a container. Dropping both ends detaches from it.
#[derive(Debug)]
pub struct ExecSession {
    /// Takes its input; dropping it ends the input.
    pub input: mpsc::Sender<ExecInput>,
    /// Gives its output, in order.
    pub output: mpsc::Receiver<Result<ExecOutput>>,
}

/// Which part of a container's log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// The container; may be left out where there is only one.
    pub container: Option<String>,
    /// Go on until the container has ended.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only what was written at that time or later.
    pub since: Option<Timestamp>,
    /// The time before each line, RFC 3339.
    pub timestamps: bool,
}

/// One of a program's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StdStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where it came from.
    pub stream: StdStream,
    /// The text, without the log format around it.
    pub data: Vec<u8>,
}

/// A log; ends where the log ends.
pub type LogStream = mpsc::Receiver<Result<LogChunk>>;

/// Events; ends when there will be no more.
pub type EventStream = mpsc::Receiver<Result<Event>>;

/// A connection to a port in the pod.
#[derive(Debug)]
pub struct PortSession {
    /// Takes what is sent; dropping it ends that direction.
    pub input: mpsc::Sender<Vec<u8>>,
    /// Gives what is received; ends with the connection.
    pub output: mpsc::Receiver<Result<Vec<u8>>>,
}

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The ids of pods whose `run_pod` had not come to its end.
    pub pods: Vec<String>,
    /// Files, directories, control groups and leases that belonged to no pod.
    pub leftovers: usize,
}
