//! A container's log, carried out of the guest into a file of the host while it is written.
//!
//! Entries get the time at which they arrive: the guest's clock, like everything the guest says, is not relied on.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio::sync::watch;

use crate::{
    containers,
    error::ControlError,
    guest::Guest,
    logs::{LineCutter, LogStream, LogWriter, format_time},
};

/// One container's log.
#[derive(Debug)]
pub(super) struct Carried {
    pub(super) container: String,
    /// The file on the host.
    pub(super) path: PathBuf,
    /// The size at which that is rotated, in bytes.
    pub(super) max_size: u64,
    /// Told when the log grows; `true`: it is complete.
    pub(super) signal: watch::Sender<bool>,
}

impl Carried {
    /// Carries the log to its end, or to the end of the guest.
    pub(super) async fn carry(self, guest: &dyn Guest) {
        if let Err(error) = self.copy(guest).await {
            tracing::warn!(container = self.container, %error, "the log is not complete");
        }
        self.signal.send_replace(true);
    }

    async fn copy(&self, guest: &dyn Guest) -> Result<(), ControlError> {
        let mut writer = LogWriter::open(&self.path, self.max_size)
            .map_err(|e| ControlError::Refused(format!("{}: {e}", self.path.display())))?;
        let client = containers::connect(guest).await?;
        let mut output = client.logs_of_all_runs(&self.container).await?;
        let mut stdout = LineCutter::new(LogStream::Stdout);
        let mut stderr = LineCutter::new(LogStream::Stderr);
        let mut entries = Vec::new();
        let ended = loop {
            let chunk = match output.next().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            let time = format_time(Timestamp::now());
            let complete = chunk.data.is_empty();
            if complete {
                stdout.finish(&time, &mut entries);
                stderr.finish(&time, &mut entries);
            } else {
                let cutter = match chunk.stream {
                    LogStream::Stdout => &mut stdout,
                    LogStream::Stderr => &mut stderr,
                };
                cutter.push(&chunk.data, &time, &mut entries);
            }
            writer.write(&entries);
            entries.clear();
            self.signal.send_replace(complete);
        };
        let time = format_time(Timestamp::now());
        stdout.finish(&time, &mut entries);
        stderr.finish(&time, &mut entries);
        writer.write(&entries);
        ended
    }
}
