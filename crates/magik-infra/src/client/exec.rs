//! Running a program in a container, from the client's side.

use std::sync::Arc;

use ttrpc::r#async::{CSReceiver, CSSender, ClientStream};

use super::{ControlClient, Result, error, streams::size, unbounded, window::Window};
use crate::{error::ControlError, rpc::control as proto};

/// A program to run in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// The container's name.
    pub container: String,
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`, on top of the container's own environment.
    pub env: Vec<String>,
    /// The working directory; `None`: the container's.
    pub cwd: Option<String>,
    /// `uid[:gid]`; `None`: the container's.
    pub user: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether it gets input; without, it reads `/dev/null`. A terminal always has input.
    pub stdin: bool,
    /// The terminal's rows and columns.
    pub size: Option<(u16, u16)>,
    /// The whole process as the runtime-spec has it, in JSON, in place of `args`, `env`, `cwd` and `user`.
    pub process: Option<Vec<u8>>,
}

impl ExecRequest {
    /// `args` in `container`, without input and terminal.
    pub fn new(container: impl Into<String>, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            container: container.into(),
            args: args.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

impl ControlClient {
    /// Runs another program in a running container.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container; [`ControlError::CannotExecute`]: no such
    /// program; [`ControlError::Refused`]: it does not run, or the request is malformed.
    pub async fn exec(self, request: &ExecRequest) -> Result<ExecSession> {
        let stream = self.calls.exec(unbounded()).await.map_err(error)?;
        ExecSession::start(self, stream, request).await
    }

    /// Starts a container whose plan has `attach`, and takes its streams; `size` is that of its
    /// terminal. The session's end kills it. Only on a connection to the init itself: nothing
    /// passes it on.
    ///
    /// # Errors
    /// [`ControlError::Refused`]: there is nothing to attach to, or it was not started, which its
    /// launch tells more of.
    pub async fn attach(self, container: &str, size: Option<(u16, u16)>) -> Result<ExecSession> {
        let stream = self.calls.attach(unbounded()).await.map_err(error)?;
        let request = ExecRequest {
            container: container.to_owned(),
            size,
            ..ExecRequest::default()
        };
        ExecSession::start(self, stream, &request).await
    }

    /// Attaches to a container that runs or was created: what it writes from now on, and its input.
    /// The session's end does not end it. The pid of the session is 0 where the container is not
    /// started yet.
    ///
    /// # Errors
    /// [`ControlError::NotFound`]: no such container; [`ControlError::Refused`]: it does not run, or has
    /// no input, or none any more, or too many have attached to it.
    pub async fn attach_to(self, request: &AttachRequest) -> Result<ExecSession> {
        let stream = self.calls.attach(unbounded()).await.map_err(error)?;
        let mut start = proto::ExecStart::new();
        start.container.clone_from(&request.container);
        start.stdin = request.stdin;
        start.from_start = request.from_start;
        start.size = request.size.map(terminal_size).into();
        ExecSession::begin(self, stream, start).await
    }
}

/// A container to attach to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    /// The container's name.
    pub container: String,
    /// Whether what is sent is its input; it must have one (`stdin: true`).
    pub stdin: bool,
    /// The size of its terminal from now on, in rows and columns.
    pub size: Option<(u16, u16)>,
    /// Whether that comes first which the container wrote before anybody attached: at most 64 KiB, and
    /// only of one that has input or a terminal.
    pub from_start: bool,
}

/// What an exec'd program does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// It wrote to standard output, or to its terminal.
    Stdout(Vec<u8>),
    /// It wrote to standard error.
    Stderr(Vec<u8>),
    /// It ended, with this exit code; 128 + n after signal n. The last event.
    Exited(i32),
}

/// A running program. Dropping both halves kills it (SIGHUP, then SIGKILL).
#[derive(Debug)]
pub struct ExecSession {
    /// The program's pid, as the pod init numbers it.
    pub pid: i32,
    /// Its input. May be cloned and used while the output is read.
    pub input: ExecInput,
    /// Its output. Must be read for the input to go on.
    pub output: ExecOutput,
}

impl ExecSession {
    pub(super) async fn start(
        client: ControlClient,
        stream: ClientStream<proto::ExecInput, proto::ExecOutput>,
        request: &ExecRequest,
    ) -> Result<Self> {
        let mut start = proto::ExecStart::new();
        start.container.clone_from(&request.container);
        start.args.clone_from(&request.args);
        start.env.clone_from(&request.env);
        start.cwd = request.cwd.clone().unwrap_or_default();
        start.user = request.user.clone().unwrap_or_default();
        start.tty = request.tty;
        start.stdin = request.stdin;
        start.process = request.process.clone().unwrap_or_default();
        start.size = request.size.map(terminal_size).into();
        Self::begin(client, stream, start).await
    }

    pub(super) async fn begin(
        client: ControlClient,
        stream: ClientStream<proto::ExecInput, proto::ExecOutput>,
        start: proto::ExecStart,
    ) -> Result<Self> {
        let (sender, receiver) = stream.split();
        let client = Arc::new(client);
        let window = Window::new();
        let input = ExecInput {
            sender,
            window: window.clone(),
            _client: client.clone(),
        };
        input.send(|message| message.set_start(start)).await?;
        let mut output = ExecOutput {
            receiver,
            window,
            client,
            ended: false,
        };
        match output.message().await?.output {
            Some(proto::exec_output::Output::Pid(pid)) => Ok(Self { pid, input, output }),
            _ => Err(ControlError::Protocol(
                "an exec that does not begin with a pid".to_owned(),
            )),
        }
    }

    /// Reads the output to its end: standard output, standard error, exit code. Of each at most `limit` bytes are kept.
    ///
    /// # Errors
    /// The connection ended before the program did.
    pub async fn collect(mut self, limit: usize) -> Result<(Vec<u8>, Vec<u8>, i32)> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let keep = |kept: &mut Vec<u8>, bytes: Vec<u8>| {
            let room = limit.saturating_sub(kept.len()).min(bytes.len());
            kept.extend_from_slice(&bytes[..room]);
        };
        while let Some(event) = self.output.next().await? {
            match event {
                ExecEvent::Stdout(bytes) => keep(&mut stdout, bytes),
                ExecEvent::Stderr(bytes) => keep(&mut stderr, bytes),
                ExecEvent::Exited(code) => return Ok((stdout, stderr, code)),
            }
        }
        Err(ControlError::Disconnected)
    }
}

/// The input of a running program.
#[derive(Debug, Clone)]
pub struct ExecInput {
    sender: CSSender<proto::ExecInput>,
    window: Window,
    _client: Arc<ControlClient>,
}

impl ExecInput {
    /// Sends input; waits while the program does not take what was sent before.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<()> {
        self.window
            .send(bytes, |piece| self.send(|message| message.set_stdin(piece)))
            .await
    }

    /// There is no more input.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn close(&self) -> Result<()> {
        self.send(|message| message.set_stdin_eof(true)).await
    }

    /// The terminal has another size.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        self.send(|message| message.set_resize(terminal_size((rows, columns))))
            .await
    }

    /// A signal for the program.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn signal(&self, signal: i32) -> Result<()> {
        self.send(|message| message.set_signal(signal)).await
    }

    async fn send(&self, set: impl FnOnce(&mut proto::ExecInput)) -> Result<()> {
        let mut message = proto::ExecInput::new();
        set(&mut message);
        self.sender.send(&message).await.map_err(error)
    }
}

/// The output of a running program.
#[derive(Debug)]
pub struct ExecOutput {
    receiver: CSReceiver<proto::ExecOutput>,
    window: Window,
    client: Arc<ControlClient>,
    ended: bool,
}

impl ExecOutput {
    /// What comes next; `None` after [`ExecEvent::Exited`].
    ///
    /// # Errors
    /// The connection ended before the program did.
    pub async fn next(&mut self) -> Result<Option<ExecEvent>> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match self.message().await?.output {
                Some(proto::exec_output::Output::Stdout(bytes)) => return Ok(Some(ExecEvent::Stdout(bytes))),
                Some(proto::exec_output::Output::Stderr(bytes)) => return Ok(Some(ExecEvent::Stderr(bytes))),
                Some(proto::exec_output::Output::ExitCode(code)) => {
                    self.ended = true;
                    self.window.close();
                    return Ok(Some(ExecEvent::Exited(code)));
                }
                Some(proto::exec_output::Output::StdinTaken(bytes)) => self.window.give_back(bytes),
                // Of a later minor version.
                Some(_) | None => {}
            }
        }
    }

    async fn message(&mut self) -> Result<proto::ExecOutput> {
        let message = self.receiver.recv().await.map_err(error)?;
        self.client.meter.release(None, size(&message));
        Ok(message)
    }
}

pub(super) fn terminal_size((rows, columns): (u16, u16)) -> proto::TerminalSize {
    let mut size = proto::TerminalSize::new();
    size.rows = rows.into();
    size.columns = columns.into();
    size
}
