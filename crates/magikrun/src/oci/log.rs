//! How failures are reported, and to whom.
//!
//! podman reads the whole `--log` file as one JSON object, containerd reads its last line. So a
//! failed command writes exactly one line there, and one that succeeds none without `--debug`.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use super::route::{Globals, LogFormat};
use crate::failure;

/// The log of one command.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
}

impl Log {
    pub(super) fn new(globals: &Globals) -> Self {
        Self {
            file: globals.log.clone(),
            format: globals.log_format,
        }
    }

    /// Sends what the libraries say to the log, down to debug level.
    ///
    /// # Errors
    /// The log file cannot be opened.
    pub(super) fn install_debug(&self) -> io::Result<()> {
        let builder = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .event_format(Lines(self.format));
        match &self.file {
            Some(path) => builder.with_writer(Mutex::new(open(path)?)).init(),
            None => builder.with_writer(io::stderr).init(),
        }
        Ok(())
    }

    /// Says why the command failed: to the log, and to standard error.
    pub(super) fn error(&self, message: &str) {
        let line = format_line(self.format, "error", message);
        match &self.file {
            Some(path) => {
                if let Err(error) = open(path).and_then(|mut file| file.write_all(line.as_bytes())) {
                    failure::print(format_args!("--log {}: {error}", path.display()));
                }
                failure::print(message);
            }
            // On failure no reader is left to tell.
            None if self.format == LogFormat::Json => drop(io::stderr().lock().write_all(line.as_bytes())),
            None => failure::print(message),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    // O_CLOEXEC is std's default; a terminal given as log must not become ours.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .custom_flags(rustix::fs::OFlags::NOCTTY.bits().cast_signed())
        .open(path)
}

/// One log line, with its newline.
fn format_line(format: LogFormat, level: &str, message: &str) -> String {
    let now = now();
    match format {
        LogFormat::Json => format!(
            "{}\n",
            serde_json::json!({"level": level, "msg": message, "time": now})
        ),
        LogFormat::Text => format!("time=\"{now}\" level={level} msg={message:?}\n"),
    }
}

/// RFC 3339, in seconds as logrus has it.
fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Second).unwrap_or(now).to_string()
}

/// tracing's events as our log lines.
#[derive(Debug, Clone, Copy)]
struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // logrus's names, which callers know.
        let level = match *event.metadata().level() {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            _ => "debug",
        };
        writer.write_str(&format_line(self.0, level, &magik_oci::event_text(event)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_one_json_object_as_podman_parses_the_whole_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.json");
        let log = Log::new(&Globals {
            log: Some(path.clone()),
            log_format: LogFormat::Json,
            ..Globals::default()
        });
        log.error("container \"a\"\ndoes not exist");
        let value: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!(value["msg"], "container \"a\"\ndoes not exist");
        assert_eq!(value["level"], "error");
        value["time"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap();
    }

    #[test]
    fn text_lines_are_logrus_and_stay_one_line() {
        let line = format_line(LogFormat::Text, "error", "a \"b\"\nc");
        assert!(line.starts_with("time=\"20"), "{line}");
        assert!(
            line.ends_with("Z\" level=error msg=\"a \\\"b\\\"\\nc\"\n"),
            "{line}"
        );
    }
}
