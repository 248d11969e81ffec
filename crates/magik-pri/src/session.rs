//! A pod's logs, which outlive its init. All else that goes in and out of a pod are the sessions of
//! its init's control service ([`magik_infra::ControlClient`]).

use std::path::PathBuf;

use jiff::Timestamp;
use magik_infra::{
    ControlError, LogOutput,
    logs::{self, LogChunk, LogReader},
};
use tokio::sync::mpsc;

use crate::{Error, Result};

/// How many pieces of a log file are read ahead.
const QUEUE: usize = 8;

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

impl LogOptions {
    /// What a reader is told.
    pub(crate) fn of_reader(&self) -> logs::LogOptions {
        logs::LogOptions {
            tail: self.tail,
            since: self.since,
            timestamps: self.timestamps,
        }
    }
}

/// A log file of a pod.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) pod: String,
    pub(crate) path: PathBuf,
    pub(crate) options: logs::LogOptions,
}

impl LogFile {
    /// Reads what is in it now, on a thread of its own.
    pub(crate) fn read(self) -> LogStream {
        let (queue, receiver) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let failed = || Error::io(format!("pod {}: read {}", self.pod, self.path.display()));
            let reader = LogReader::open(&self.path, self.options.clone()).map_err(failed());
            let mut reader = match reader {
                Ok(reader) => reader,
                Err(e) => return drop(queue.blocking_send(Err(e))),
            };
            while let Some(chunk) = reader.next_chunk().map_err(failed()).transpose() {
                let last = chunk.is_err();
                if queue.blocking_send(chunk).is_err() || last {
                    return;
                }
            }
        });
        LogStream(Source::File(receiver))
    }
}

/// A log.
#[derive(Debug)]
pub struct LogStream(Source);

#[derive(Debug)]
enum Source {
    File(mpsc::Receiver<Result<LogChunk>>),
    /// What the init says, and the file for the case that it ends before it has said anything.
    Init(Box<LogOutput>, Option<LogFile>, String),
}

impl LogStream {
    /// Follows a log as the pod's init sees it grow.
    pub(crate) fn live(output: LogOutput, file: LogFile) -> Self {
        let pod = file.pod.clone();
        Self(Source::Init(Box::new(output), Some(file), pod))
    }

    /// What comes next; `None`: the end of the log.
    ///
    /// # Errors
    /// The log cannot be read, or the connection to the pod's init ended before the log did.
    pub async fn next(&mut self) -> Result<Option<LogChunk>> {
        loop {
            match &mut self.0 {
                Source::File(chunks) => return chunks.recv().await.transpose(),
                Source::Init(output, file, pod) => match (output.next().await, file.take()) {
                    (Ok(chunk), _) => return Ok(chunk),
                    // By now the file has all of it.
                    (Err(ControlError::Disconnected), Some(file)) => *self = file.read(),
                    (Err(e), _) => return Err(Error::control(pod, "logs", &e)),
                },
            }
        }
    }
}

/// What a sweep removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// The ids of pods whose `run_pod` had not come to its end.
    pub pods: Vec<String>,
    /// Files, directories, control groups and leases that belonged to no pod.
    pub leftovers: usize,
}
