//! Container logs in the CRI format: `<RFC3339Nano UTC> stdout|stderr F|P <line>`.
//!
//! `F` ends a line, `P` is a piece of one that was longer than [`MAX_LINE`]. A log is one file that is renamed to
//! `<name>.1` when it reaches [`MAX_LOG_SIZE`], replacing the one before: at most [`MAX_LOG_FILES`] files per container,
//! as kubelet's `containerLogMaxSize` and `containerLogMaxFiles` do it.

mod format;
mod listener;
mod pump;
mod reader;
mod writer;

pub(crate) use format::{LineCutter, format_time};
pub use format::{LogEntry, LogStream, MAX_LINE, parse_entry};
pub(crate) use listener::Listener;
pub(crate) use pump::{LastWords, LogPump};
pub use reader::{LogChunk, LogOptions, LogReader};
pub(crate) use writer::LogWriter;
pub use writer::{MAX_LOG_FILES, MAX_LOG_SIZE};

use std::path::{Path, PathBuf};

/// Where a log goes when it is rotated.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Removes a log, as far as it can be removed: the rest goes with the pod.
pub(crate) fn remove(path: &Path) {
    for file in [path, &rotated(path)] {
        let _ = std::fs::remove_file(file);
    }
}
