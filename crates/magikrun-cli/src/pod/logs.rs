//! `pod logs`.

use std::process::ExitCode;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use magik_pri::{LogChunk, LogOptions, LogStream, PodRuntime, StdStream, status::PodStatus};
use tokio::sync::mpsc;

use super::advise;
use crate::{output, pod::backend, roots::GlobalArgs};

pub(crate) const EXAMPLE: &str = "\
Examples: magikrun pod logs -f web
          magikrun pod logs --since 10m --all-containers web";

#[derive(Debug, clap::Args)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last N lines
    #[arg(long, value_name = "N")]
    tail: Option<u64>,
    /// Only what is younger: 10m, 2h, or a time as 2026-01-31T12:00:00Z
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    since: Option<Timestamp>,
    /// The container [default: the pod's default-container annotation, else the first]
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_containers")]
    container: Option<String>,
    /// Every container, each line with its container's name in front, in colour on a terminal
    #[arg(long)]
    all_containers: bool,
    /// The container's name in front of each line
    #[arg(long)]
    prefix: bool,
    /// Each line with its time in front
    #[arg(long)]
    timestamps: bool,
    /// Name, namespace/name, id or the start of an id
    pub(super) pod: String,
}

/// A time, or how long ago that is.
pub(super) fn parse_since(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let ago = text.parse::<SignedDuration>().ok().filter(|d| !d.is_negative());
    ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .ok_or_else(|| "give it as 10m, 2h or 2026-01-31T12:00:00Z".into())
}

pub(super) async fn run(global: &GlobalArgs, args: &LogsArgs) -> Result<ExitCode> {
    let runtime = backend::pods(global)?;
    let options = LogOptions {
        container: None,
        follow: args.follow,
        tail: args.tail,
        since: args.since,
        timestamps: args.timestamps,
    };
    if args.all_containers {
        let pod = runtime.pod_status(&args.pod).await.map_err(advise)?;
        all(runtime.as_ref(), &pod.id, &names(&pod), &options).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let container = super::container(runtime.as_ref(), &args.pod, args.container.as_deref()).await?;
    if args.prefix {
        all(runtime.as_ref(), &args.pod, &[container], &options).await?;
    } else {
        one(runtime.as_ref(), &args.pod, container, options).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Shows what containers of a pod write, from the beginning or with `tail` only the last lines, until they end.
pub(super) async fn follow(
    runtime: &dyn PodRuntime,
    pod: &str,
    containers: &[String],
    tail: Option<u64>,
) -> Result<()> {
    let options = LogOptions {
        follow: true,
        tail,
        ..LogOptions::default()
    };
    match containers {
        [only] => one(runtime, pod, only.clone(), options).await,
        several => all(runtime, pod, several, &options).await,
    }
}

/// The names of all containers, in order.
pub(super) fn names(pod: &PodStatus) -> Vec<String> {
    let containers = pod.init_containers.iter().chain(&pod.containers);
    containers.map(|container| container.name.clone()).collect()
}

/// One container, as it writes.
async fn one(runtime: &dyn PodRuntime, pod: &str, container: String, options: LogOptions) -> Result<()> {
    let options = LogOptions {
        container: Some(container),
        ..options
    };
    let mut log = runtime.logs(pod, options).await.map_err(advise)?;
    while let Some(LogChunk { stream, data }) = log.next().await? {
        write(stream, &data)?;
    }
    Ok(())
}

/// Several containers, by lines with their names in front: at once where they are followed, else one after the other.
async fn all(runtime: &dyn PodRuntime, pod: &str, containers: &[String], options: &LogOptions) -> Result<()> {
    let coloured = output::is_coloured();
    let (sender, mut lines) = mpsc::channel(16);
    for (at, container) in containers.iter().enumerate() {
        let options = LogOptions {
            container: Some(container.clone()),
            ..options.clone()
        };
        let follow = options.follow;
        let log = runtime.logs(pod, options).await.map_err(advise)?;
        let name = label(container, coloured.then_some(at));
        if follow {
            tokio::spawn(prefix(log, name, sender.clone()));
        } else {
            let (sender, mut lines) = mpsc::channel(16);
            tokio::spawn(prefix(log, name, sender));
            write_all(&mut lines).await?;
        }
    }
    drop(sender);
    write_all(&mut lines).await
}

/// A container's name before its lines, in the colour of its place.
fn label(name: &str, colour: Option<usize>) -> String {
    /// Those of ANSI that can be read on black and on white: cyan, yellow, green, magenta, blue, red.
    const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
    match colour {
        Some(at) => format!("\x1b[{}m[{name}]\x1b[0m ", COLOURS[at % COLOURS.len()]),
        None => format!("[{name}] "),
    }
}

async fn write_all(lines: &mut mpsc::Receiver<magik_pri::Result<LogChunk>>) -> Result<()> {
    while let Some(line) = lines.recv().await {
        let LogChunk { stream, data } = line?;
        write(stream, &data)?;
    }
    Ok(())
}

/// Passes whole lines on, with a label in front.
async fn prefix(mut log: LogStream, label: String, lines: mpsc::Sender<magik_pri::Result<LogChunk>>) {
    let mut pending = [
        (StdStream::Stdout, Lines::default()),
        (StdStream::Stderr, Lines::default()),
    ];
    while let Some(chunk) = log.next().await.transpose() {
        let failed = chunk.is_err();
        let found = match chunk {
            Ok(LogChunk { stream, data }) => {
                let of_stream = pending.iter_mut().find(|(s, _)| *s == stream);
                let whole = of_stream.and_then(|(_, lines)| lines.add(&label, &data));
                whole.map(|data| Ok(LogChunk { stream, data }))
            }
            Err(error) => Some(Err(error)),
        };
        if let Some(found) = found
            && (lines.send(found).await.is_err() || failed)
        {
            return;
        }
    }
    for (stream, rest) in pending {
        if let Some(data) = rest.end(&label) {
            // The reader is gone: so are we.
            let _ = lines.send(Ok(LogChunk { stream, data })).await;
        }
    }
}

/// The longest line that is kept together with its prefix.
const MAX_LINE: usize = 64 << 10;

/// Cuts a stream into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// Adds data and gives the lines that are whole now.
    fn add(&mut self, label: &str, data: &[u8]) -> Option<Vec<u8>> {
        let mut whole = Vec::new();
        for piece in data.split_inclusive(|b| *b == b'\n') {
            self.partial.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.partial.len() >= MAX_LINE {
                whole.extend_from_slice(label.as_bytes());
                whole.append(&mut self.partial);
                if !whole.ends_with(b"\n") {
                    whole.push(b'\n');
                }
            }
        }
        Some(whole).filter(|w| !w.is_empty())
    }

    /// What is left when the stream ends, made a line.
    fn end(mut self, label: &str) -> Option<Vec<u8>> {
        if self.partial.is_empty() {
            None
        } else {
            self.add(label, b"\n")
        }
    }
}

fn write(stream: StdStream, data: &[u8]) -> Result<()> {
    match stream {
        StdStream::Stdout => output::write(data),
        StdStream::Stderr => output::write_stderr(data),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cut_anywhere_get_one_prefix_each() {
        let mut lines = Lines::default();
        assert_eq!(lines.add("[a] ", b"on"), None);
        assert_eq!(
            lines.add("[a] ", b"e\ntwo\nth").as_deref(),
            Some(&b"[a] one\n[a] two\n"[..])
        );
        assert_eq!(lines.end("[a] ").as_deref(), Some(&b"[a] th\n"[..]));
        assert_eq!(Lines::default().end("[a] "), None);
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        assert!(lines.add("[a] ", &vec![b'x'; MAX_LINE - 1]).is_none());
        assert_eq!(
            lines.add("[a] ", b"x").map(|l| l.len()),
            Some("[a] ".len() + MAX_LINE + 1)
        );
    }

    #[test]
    fn since_is_a_time_or_an_age() {
        assert_eq!(
            parse_since("2026-01-31T12:00:00Z").unwrap(),
            "2026-01-31T12:00:00Z".parse().unwrap()
        );
        let since = parse_since("90m").unwrap();
        assert!(Timestamp::now().duration_since(since).as_secs() >= 5400);
        for wrong in ["", "yesterday", "-5m", "10"] {
            assert!(parse_since(wrong).is_err(), "{wrong}");
        }
    }
}
