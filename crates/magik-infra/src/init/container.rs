//! One container from its bundle to its end.

use std::sync::Arc;

use magik_oci::{ContainerId, CreateOptions, ExecIo, Exit, OciRuntime, Stdio};
use tokio::sync::{mpsc, watch};

use super::{message, rootfs};
use crate::{
    console::Console,
    error::{LaunchError, LaunchStep},
    logs::{LastWords, LogPump, LogWriter},
    plan::{ContainerPlan, MessagePlan},
    status::MAX_MESSAGE,
    streams::{self, Input, Streams},
    table::Entry,
};

/// The exit code of a container whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// A container that was created.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) id: ContainerId,
    pub(crate) pid: Option<i32>,
    pub(crate) output: Output,
}

/// Where a container's output goes.
#[derive(Debug)]
pub(crate) enum Output {
    /// Into its log, and to those who attach, who can write to it.
    Log(Box<LogPump>, Input),
    /// To who attaches.
    Attached(Streams),
}

/// Who waits for a container's output, besides the pod.
#[derive(Debug)]
pub(crate) enum Watched {
    /// Those who attach while it runs.
    Log(Box<LogPump>, Arc<Console>),
    /// Who has attached, and wants to know the end.
    Attached(watch::Sender<Option<Exit>>),
}

/// A container that ended; its log is complete.
#[derive(Debug)]
pub(crate) struct ExitReport {
    pub(crate) name: String,
    /// Which of the containers that had this name, one after the other.
    pub(crate) run: u64,
    pub(crate) exit: Exit,
    /// The last line it wrote, for error messages.
    pub(crate) last_line: String,
    /// What it says about its end, if anything.
    pub(crate) message: Option<String>,
    /// Why its end is not known, if it is not.
    pub(crate) unknown: Option<String>,
}

/// Mounts a container's root.
pub(crate) fn mount(plan: &ContainerPlan) -> Result<(), LaunchError> {
    let failed = |e: &dyn std::fmt::Display| LaunchError::container(&plan.name, LaunchStep::Mounts, e);
    rootfs::mount_rootfs(plan).map_err(|e| failed(&e))?;
    let mounted = plan.message.as_ref().map_or(Ok(()), message::mount_for);
    mounted.map_err(|e| failed(&format!("terminationMessagePath: {e}")))
}

/// Creates a container, mounting its root first if it `mounts`.
pub(crate) async fn create(
    runtime: &dyn OciRuntime,
    container: &Entry,
    max_log_size: u64,
    mounts: bool,
) -> Result<Created, LaunchError> {
    let Entry { plan, log, .. } = container;
    let name = &plan.name;
    let id = ContainerId::new(name).map_err(|e| LaunchError::container(name, LaunchStep::Plan, &e))?;
    if mounts {
        mount(plan)?;
    }
    if let Some(plan) = &plan.message {
        message::begin(plan).map_err(|e| {
            let reason = format!("terminationMessagePath: cannot be made: {e}");
            LaunchError::container(name, LaunchStep::Create, &reason)
        })?;
    }
    let failed = |e: &dyn std::fmt::Display| LaunchError::container(name, LaunchStep::Create, e);
    let open_log = || {
        LogWriter::open(&plan.log, max_log_size)
            .map_err(|e| failed(&format!("cannot open the log {}: {e}", plan.log.display())))
    };
    let (opened, writer) = match plan.attach {
        Some(attach) => (Streams::open(attach.terminal, true), None),
        None => (
            Streams::open(plan.console.tty, plan.console.stdin),
            Some(open_log()?),
        ),
    };
    let (streams, theirs) = opened.map_err(|e| failed(&e))?;
    let mut options = CreateOptions::default();
    let stdio = match theirs {
        ExecIo::Pipes(stdio) => stdio,
        ExecIo::Terminal { console } => {
            options.console = Some(console);
            Stdio::default()
        }
    };
    let state = runtime
        .create(&id, &plan.bundle, stdio, options)
        .await
        .map_err(|e| LaunchError::runtime(name, LaunchStep::Create, &e))?;
    let output = match writer {
        None => Output::Attached(streams),
        Some(writer) => {
            // The terminal was sent when it was created.
            let (input, (stdout, stderr)) = streams.connect(None).await.map_err(|e| failed(&e))?;
            let stderr = stderr.map(streams::Output::into_source);
            let mut pump = LogPump::new(writer, log.clone(), stdout.into_source(), stderr);
            if plan.message.as_ref().is_some_and(|message| message.from_log) {
                pump.keep_tail();
            }
            Output::Log(Box::new(pump), input)
        }
    };
    Ok(Created {
        id,
        pid: state.pid,
        output,
    })
}

/// Creates a container once more: with an empty writable layer that belongs to `root`, where it has
/// one and this process `mounts`.
pub(crate) async fn recreate(
    runtime: &dyn OciRuntime,
    container: &Entry,
    max_log_size: u64,
    mounts: bool,
    root: u32,
) -> Result<Created, LaunchError> {
    let plan = &container.plan;
    let name = &plan.name;
    let id = ContainerId::new(name).map_err(|e| LaunchError::container(name, LaunchStep::Plan, &e))?;
    // By force: with a shared pid namespace its other processes may have outlived the first.
    match runtime.delete(&id, true).await {
        Ok(()) | Err(magik_oci::Error::NotFound(_)) => {}
        Err(e) => return Err(LaunchError::runtime(name, LaunchStep::Delete, &e)),
    }
    if mounts {
        let old = rootfs::renew(plan, root);
        let old = old.map_err(|e| LaunchError::container(name, LaunchStep::Mounts, &e))?;
        tokio::spawn(rootfs::remove_old(old));
    }
    create(runtime, container, max_log_size, false).await
}

/// Who is told how a container has ended, besides the pod.
enum Told {
    Attached(watch::Sender<Option<Exit>>),
    Console(Arc<Console>),
}

/// Keeps a container's log, if it has one, and waits for its end.
pub(crate) async fn watch(
    runtime: Arc<dyn OciRuntime>,
    id: ContainerId,
    run: u64,
    output: Watched,
    plan: Arc<ContainerPlan>,
    exits: mpsc::UnboundedSender<ExitReport>,
) {
    let (exit, words, told) = match output {
        Watched::Log(mut pump, console) => {
            let exit = {
                let mut wait = runtime.wait(&id);
                tokio::select! {
                    exit = &mut wait => exit,
                    () = pump.run() => wait.await,
                }
            };
            (exit, pump.finish().await, Told::Console(console))
        }
        Watched::Attached(attached) => (
            runtime.wait(&id).await,
            LastWords::default(),
            Told::Attached(attached),
        ),
    };
    let (exit, unknown) = match exit {
        Ok(exit) => (exit, None),
        Err(error) => {
            tracing::error!(container = %id, %error, "cannot wait for the container");
            (
                Exit::exited(UNKNOWN_EXIT),
                Some(format!("its end was not seen: {error}")),
            )
        }
    };
    match told {
        Told::Attached(attached) => drop(attached.send_replace(Some(exit))),
        Told::Console(console) => console.ended(exit),
    }
    let said = plan
        .message
        .as_ref()
        .and_then(|plan| said(&id, plan, exit, &words));
    // Nobody listens any more once the pod is over.
    let _ = exits.send(ExitReport {
        message: said,
        name: id.to_string(),
        run,
        exit,
        last_line: words.line,
        unknown,
    });
}

/// What a container says about its end.
fn said(id: &ContainerId, plan: &MessagePlan, exit: Exit, words: &LastWords) -> Option<String> {
    let written = message::read(&plan.file, MAX_MESSAGE).unwrap_or_else(|error| {
        tracing::warn!(container = %id, %error, "its last message cannot be read");
        Vec::new()
    });
    let bytes = if written.is_empty() && plan.from_log && exit.code != 0 {
        &words.tail
    } else {
        &written
    };
    Some(String::from_utf8_lossy(bytes).into_owned()).filter(|text| !text.is_empty())
}
