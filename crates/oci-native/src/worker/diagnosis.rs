//! What libcontainer logs of its errors.
//!
//! Its processes tell each other only the outermost error ("failed to prepare rootfs"); the cause is logged, in a process
//! that is about to end. A worker and all it forks log their errors into one anonymous file, whose first line is the
//! innermost cause.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    sync::Arc,
};

use rustix::fs::MemfdFlags;
use tracing::{Event, Level, Metadata, Subscriber, span};

/// The most that is shown of a cause, in bytes.
const MAX_CAUSE: u64 = 400;

/// Collects the errors of this thread, and of what it forks, until it is dropped.
pub(super) struct Diagnosis {
    file: Option<Arc<File>>,
    _default: tracing::subscriber::DefaultGuard,
}

impl Diagnosis {
    /// Begins to collect; also keeps what would log into the caller's descriptors, which a worker has closed, from it.
    pub(super) fn begin() -> Self {
        let file = rustix::fs::memfd_create(c"diagnosis", MemfdFlags::CLOEXEC)
            .ok()
            .map(|fd| Arc::new(File::from(fd)));
        let _default = match &file {
            Some(file) => tracing::subscriber::set_default(Errors(Arc::clone(file))),
            None => tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new()),
        };
        Self { file, _default }
    }

    /// The innermost cause, if one was logged.
    pub(super) fn cause(&self) -> Option<String> {
        let mut file = self.file.as_deref()?;
        file.rewind().ok()?;
        let mut text = Vec::new();
        file.take(MAX_CAUSE).read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .next()
            .map(str::to_owned)
            .filter(|line| !line.is_empty())
    }
}

/// Makes a panic of libcontainer's an error that is collected like others, rather than a trace on the container's stderr.
/// In the processes it forks it ends there: unwinding would close what the worker owns.
pub(super) fn contain_panics() {
    let worker = rustix::process::getpid();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("libcontainer panicked: {panic}");
        if rustix::process::getpid() != worker {
            super::inside::exit(101);
        }
    }));
}

/// Writes errors as lines.
struct Errors(Arc<File>);

impl Subscriber for Errors {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() == Level::ERROR
    }

    fn event(&self, event: &Event<'_>) {
        let text = magik_oci::event_text(event).replace('\n', " ");
        // One write, so that lines of several processes stay whole: they share the file's position.
        let _ = (&*self.0).write_all(format!("{text}\n").as_bytes());
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cause_is_the_first_error_that_was_logged() {
        let diagnosis = Diagnosis::begin();
        assert_eq!(diagnosis.cause(), None);
        tracing::warn!("not an error");
        tracing::error!(path = "/x", "cannot mount");
        tracing::error!("failed to prepare rootfs");
        assert_eq!(diagnosis.cause().as_deref(), Some("cannot mount path=\"/x\""));
    }
}
