//! From the control service's sessions to those of the trait: tasks that carry data until either side ends.

use std::future::Future;

use magik_infra::{
    ControlError, Event, ExecEvent, LogOutput, PortForward, PortReader,
    logs::{self, LogReader},
};
use tokio::sync::mpsc;

use crate::{
    Error, EventStream, ExecInput, ExecOutput, ExecSession, LogChunk, LogStream, PortSession, Result,
    StdStream,
};

/// How many messages may wait for the caller.
const QUEUE: usize = 8;

/// Makes errors of one operation on one pod.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) pod: String,
    pub(crate) operation: &'static str,
}

impl Context {
    pub(crate) fn error(&self, error: &ControlError) -> Error {
        match error {
            ControlError::NotFound(reason) => Error::Container {
                pod: self.pod.clone(),
                reason: reason.clone(),
            },
            ControlError::CannotExecute { message, why } => Error::CannotExecute {
                pod: self.pod.clone(),
                failure: why.failure,
                reason: message.clone(),
            },
            ControlError::Unsupported(why) => Error::Unsupported {
                what: format!("{} in pod {}", self.operation, self.pod),
                why: why.clone(),
            },
            other => Error::Control {
                pod: self.pod.clone(),
                operation: self.operation,
                reason: other.to_string(),
            },
        }
    }
}

/// What gives one item after the other.
trait Source: Send + 'static {
    type Item: Send + 'static;
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Item>, ControlError>> + Send;
}

impl Source for magik_infra::EventStream {
    type Item = Event;
    async fn next(&mut self) -> Result<Option<Event>, ControlError> {
        Self::next(self).await
    }
}

impl Source for LogOutput {
    type Item = LogChunk;
    async fn next(&mut self) -> Result<Option<LogChunk>, ControlError> {
        Ok(Self::next(self).await?.map(chunk))
    }
}

impl Source for magik_infra::ExecOutput {
    type Item = ExecOutput;
    async fn next(&mut self) -> Result<Option<ExecOutput>, ControlError> {
        Ok(Self::next(self).await?.map(|event| match event {
            ExecEvent::Stdout(bytes) => ExecOutput::Stdout(bytes),
            ExecEvent::Stderr(bytes) => ExecOutput::Stderr(bytes),
            ExecEvent::Exited(code) => ExecOutput::Exited(code),
        }))
    }
}

impl Source for PortReader {
    type Item = Vec<u8>;
    async fn next(&mut self) -> Result<Option<Vec<u8>>, ControlError> {
        Self::next(self).await
    }
}

fn chunk(chunk: logs::LogChunk) -> LogChunk {
    let stream = match chunk.stream {
        logs::LogStream::Stdout => StdStream::Stdout,
        logs::LogStream::Stderr => StdStream::Stderr,
    };
    LogChunk {
        stream,
        data: chunk.data,
    }
}

/// Carries items into a queue, until their end, an error, or nobody listens.
async fn carry<S: Source>(mut source: S, queue: mpsc::Sender<Result<S::Item>>, context: Context) {
    loop {
        let item = tokio::select! {
            item = source.next() => item,
            () = queue.closed() => return,
        };
        let item = match item {
            Ok(Some(item)) => Ok(item),
            Ok(None) => return,
            Err(e) => Err(context.error(&e)),
        };
        let last = item.is_err();
        if queue.send(item).await.is_err() || last {
            return;
        }
    }
}

fn stream<S: Source>(source: S, context: Context) -> mpsc::Receiver<Result<S::Item>> {
    let (queue, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(carry(source, queue, context));
    receiver
}

pub(crate) fn events(source: magik_infra::EventStream, context: Context) -> EventStream {
    stream(source, context)
}

/// Follows a log. A pod that ends before it has answered says nothing more, but by then `file` has all of the log.
pub(crate) fn live_log(
    mut source: LogOutput,
    context: Context,
    file: impl FnOnce() -> Result<LogStream> + Send + 'static,
) -> LogStream {
    let (queue, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        let first = tokio::select! {
            first = Source::next(&mut source) => first,
            () = queue.closed() => return,
        };
        match first {
            Ok(Some(first)) => {
                if queue.send(Ok(first)).await.is_ok() {
                    carry(source, queue, context).await;
                }
            }
            Ok(None) => {}
            Err(ControlError::Disconnected) => pass_on(file(), queue).await,
            // Nobody listens if it fails.
            Err(e) => drop(queue.send(Err(context.error(&e))).await),
        }
    });
    receiver
}

async fn pass_on(log: Result<LogStream>, queue: mpsc::Sender<Result<LogChunk>>) {
    let mut log = match log {
        Ok(log) => log,
        Err(e) => return drop(queue.send(Err(e)).await),
    };
    while let Some(item) = log.recv().await {
        if queue.send(item).await.is_err() {
            return;
        }
    }
}

/// Reads what is in a log's files now.
pub(crate) fn log_file(mut reader: LogReader, pod: String) -> LogStream {
    let (queue, receiver) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        loop {
            let item = match reader.next_chunk() {
                Ok(Some(item)) => Ok(chunk(item)),
                Ok(None) => return,
                Err(e) => Err(Error::io(format!("pod {pod}: read its log"))(e)),
            };
            let last = item.is_err();
            if queue.blocking_send(item).is_err() || last {
                return;
            }
        }
    });
    receiver
}

pub(crate) fn exec(session: magik_infra::ExecSession, context: Context) -> ExecSession {
    let (input, mut inputs) = mpsc::channel(QUEUE);
    let (queue, output) = mpsc::channel(QUEUE);
    let magik_infra::ExecSession {
        pid,
        input: to_program,
        output: from_program,
    } = session;
    // While there is output to come, the program must not be taken for given up because its input has ended.
    let connected = to_program.clone();
    tokio::spawn(async move {
        while let Some(message) = inputs.recv().await {
            let sent = match message {
                ExecInput::Stdin(bytes) => to_program.write(&bytes).await,
                ExecInput::Eof => to_program.close().await,
                ExecInput::Resize(size) => to_program.resize(size.rows, size.columns).await,
            };
            // What became of the program is said by its output.
            if sent.is_err() {
                return;
            }
        }
        let _ = to_program.close().await;
    });
    tokio::spawn(async move {
        if queue.send(Ok(ExecOutput::Started(pid))).await.is_ok() {
            carry(from_program, queue, context).await;
        }
        drop(connected);
    });
    ExecSession { input, output }
}

pub(crate) fn port(forward: PortForward, context: Context) -> PortSession {
    let (input, mut inputs) = mpsc::channel::<Vec<u8>>(QUEUE);
    let PortForward { reader, writer } = forward;
    let output = stream(reader, context);
    tokio::spawn(async move {
        while let Some(bytes) = inputs.recv().await {
            if writer.write(&bytes).await.is_err() {
                return;
            }
        }
        let _ = writer.close().await;
    });
    PortSession { input, output }
}
