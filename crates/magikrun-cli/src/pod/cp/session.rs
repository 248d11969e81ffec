//! Programs in the container that is copied from or to.

use anyhow::{Context as _, Result, anyhow};
use magik_oci::ExecFailure;
use magik_pri::{ControlError, Error, ExecEvent, ExecOutput, ExecRequest, ExecSession, PodRuntime};

use crate::{
    failure,
    output::printable,
    pod::{advise, container},
    signals::Signals,
};

/// How much of what a program says is kept, in bytes.
const MAX_SAID: usize = 4096;
/// How much of that is shown, in characters.
const MAX_SHOWN: usize = 300;

/// A container.
pub(super) struct Remote<'a> {
    runtime: &'a dyn PodRuntime,
    /// The pod's id: a name could come to mean another pod.
    id: String,
    /// The pod, as it was named.
    pod: &'a str,
    container: String,
}

/// A program that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: i32,
    /// What it said on standard error.
    said: Vec<u8>,
}

impl<'a> Remote<'a> {
    pub(super) async fn find(runtime: &'a dyn PodRuntime, pod: &'a str, named: Option<&str>) -> Result<Self> {
        let id = runtime.pod_status(pod).await.map_err(advise)?.id;
        let container = container(runtime, &id, named).await?;
        Ok(Self {
            runtime,
            id,
            pod,
            container,
        })
    }

    /// Starts a program that a copy needs.
    pub(super) async fn start(&self, args: &[&str], stdin: bool) -> Result<ExecSession> {
        let request = ExecRequest {
            stdin,
            ..ExecRequest::new(&self.container, args.iter().copied())
        };
        let started = self.runtime.exec(&self.id, request).await;
        started.map_err(|e| match e {
            Error::CannotExecute {
                failure: ExecFailure::NotFound,
                ..
            } => {
                let program = args.first().copied().unwrap_or_default();
                anyhow!(
                    "{}: there is no program {program:?}, which copies need: add it to the image, or mount a hostPath volume",
                    self.shown()
                )
            }
            other => advise(other),
        })
    }

    /// Whether the container has a directory there.
    pub(super) async fn is_directory(&self, path: &str) -> Result<bool> {
        let mut session = self.start(&["test", "-d", path], false).await?;
        let tested = self.follow(&mut session.output, async |_| Ok(true)).await?;
        Ok(tested.is_some_and(|ended| ended.code == 0))
    }

    /// Hands what a program writes to `each` until it has ended; `None`: `each` has enough.
    pub(super) async fn follow(
        &self,
        output: &mut ExecOutput,
        mut each: impl AsyncFnMut(Vec<u8>) -> Result<bool>,
    ) -> Result<Option<Ended>> {
        let mut said = Vec::new();
        loop {
            match output.next().await {
                Ok(Some(ExecEvent::Stdout(data))) => {
                    if !each(data).await? {
                        return Ok(None);
                    }
                }
                Ok(Some(ExecEvent::Stderr(data))) => {
                    let room = MAX_SAID.saturating_sub(said.len()).min(data.len());
                    said.extend_from_slice(&data[..room]);
                }
                Ok(Some(ExecEvent::Exited(code))) => return Ok(Some(Ended { code, said })),
                Ok(None) | Err(ControlError::Disconnected) => {
                    return Err(anyhow!(
                        "{}: the connection ended before the copy did: see 'magikrun pod status'",
                        self.shown()
                    ));
                }
                Err(error) => return Err(error).with_context(|| self.shown()),
            }
        }
    }

    /// An error if the program failed, with the first line that it said.
    pub(super) fn check(&self, program: &str, ended: &Ended) -> Result<()> {
        if ended.code == 0 {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&ended.said);
        let line = said.lines().map(str::trim).find(|line| !line.is_empty());
        let line: String = line.unwrap_or("says nothing").chars().take(MAX_SHOWN).collect();
        Err(anyhow!(
            "{}: {program} failed with exit code {}: {}",
            self.shown(),
            ended.code,
            printable(&line)
        ))
    }

    /// `pod web, container nginx`.
    pub(super) fn shown(&self) -> String {
        format!("pod {}, container {}", self.pod, self.container)
    }
}

/// Does a copy, and gives it up when somebody wants us to end.
pub(super) async fn interruptible<T>(copy: impl Future<Output = Result<T>>) -> Result<T> {
    let mut signals = Signals::new()?;
    tokio::select! {
        copied = copy => copied,
        signal = signals.next() => {
            let error = anyhow!("pod cp: interrupted");
            Err(failure::with_code(signal.exit_code(), error))
        }
    }
}
