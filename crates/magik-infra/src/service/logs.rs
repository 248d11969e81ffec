//! Logs: what is there, then what comes.

use jiff::Timestamp;
use ttrpc::{Code, r#async::ServerStreamSender};

use crate::{
    error::refused,
    logs::{LogOptions, LogReader, LogStream},
    rpc::control as proto,
    shared::Shared,
    table::Entry,
    wire::Meter,
};

pub(super) async fn logs(
    shared: &Shared,
    meter: &Meter,
    request: &proto::LogsRequest,
    stream: &ServerStreamSender<proto::LogsChunk>,
) -> ttrpc::Result<()> {
    let unknown = || {
        refused(
            Code::NOT_FOUND,
            format!("the pod has no container {:?}", request.container),
        )
    };
    let entry = shared.container(&request.container).ok_or_else(unknown)?;
    let Entry {
        plan: container, log, ..
    } = entry;
    let mut signal = log.subscribe();
    // Who keeps it would never hear that the container was removed.
    drop(log);
    let since = match request.since.as_str() {
        "" => None,
        text => Some(text.parse::<Timestamp>().map_err(|e| {
            refused(
                Code::INVALID_ARGUMENT,
                format!("since {text:?} is no RFC 3339 time: {e}"),
            )
        })?),
    };
    let options = LogOptions {
        tail: request.tail,
        since,
        timestamps: request.timestamps,
    };
    let failed = |e: std::io::Error| {
        refused(
            Code::INTERNAL,
            format!("cannot read the log of container {}: {e}", container.name),
        )
    };
    let mut reader = LogReader::open(&container.log, options).map_err(failed)?;
    loop {
        // Looked at before reading: what is written afterwards is seen as a change.
        let complete = *signal.borrow_and_update();
        while let Some(chunk) = reader.next_chunk().map_err(failed)? {
            let mut message = proto::LogsChunk::new();
            message.is_stderr = chunk.stream == LogStream::Stderr;
            message.data = chunk.data;
            stream.send(&message).await?;
        }
        if !request.follow || complete && !request.restarts {
            return Ok(());
        }
        if complete {
            let mut message = proto::LogsChunk::new();
            message.complete = true;
            stream.send(&message).await?;
        }
        tokio::select! {
            changed = signal.changed() => if changed.is_err() { return Ok(()) },
            () = meter.closed() => return Ok(()),
            // A container that was never started has no end of its own.
            () = shared.until_over() => {
                if complete || !*signal.borrow() {
                    return Ok(());
                }
            }
        }
    }
}
