//! One container from its bundle to its end.

use std::sync::Arc;

use magik_oci::{ContainerId, CreateOptions, Exit, OciRuntime};
use tokio::sync::{mpsc, watch};

use super::rootfs;
use crate::{error::LaunchError, logs::LogPump, plan::ContainerPlan};

/// The exit code of a container whose end nobody saw.
const UNKNOWN_EXIT: i32 = 255;

/// A container that was created.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) id: ContainerId,
    pub(crate) pid: Option<i32>,
    pub(crate) pump: LogPump,
}

/// A container that ended; its log is complete.
#[derive(Debug)]
pub(crate) struct ExitReport {
    /// Its place: init containers first.
    pub(crate) index: usize,
    pub(crate) exit: Exit,
    /// The last line it wrote, for error messages.
    pub(crate) last_line: String,
    /// Why its end is not known, if it is not.
    pub(crate) unknown: Option<String>,
}

/// Mounts a container's root.
pub(crate) fn mount(plan: &ContainerPlan) -> Result<(), LaunchError> {
    rootfs::mount_rootfs(plan).map_err(|e| LaunchError::container(&plan.name, "mounts", &e))
}

/// Creates a container, mounting its root first if it `mounts`. `log` is told when its log grows.
pub(crate) async fn create(
    runtime: &dyn OciRuntime,
    plan: &ContainerPlan,
    max_log_size: u64,
    log: watch::Sender<bool>,
    mounts: bool,
) -> Result<Created, LaunchError> {
    let name = &plan.name;
    let id = ContainerId::new(name).map_err(|e| LaunchError::container(name, "plan", &e))?;
    if mounts {
        mount(plan)?;
    }
    let (pump, stdio) = LogPump::open(&plan.log, max_log_size, log).map_err(|e| {
        LaunchError::container(
            name,
            "create",
            &format!("cannot open the log {}: {e}", plan.log.display()),
        )
    })?;
    let state = runtime
        .create(&id, &plan.bundle, stdio, CreateOptions::default())
        .await
        .map_err(|e| LaunchError::runtime(name, "create", &e))?;
    Ok(Created {
        id,
        pid: state.pid,
        pump,
    })
}

/// Keeps a container's log and waits for its end.
pub(crate) async fn watch(
    runtime: Arc<dyn OciRuntime>,
    id: ContainerId,
    index: usize,
    mut pump: LogPump,
    exits: mpsc::UnboundedSender<ExitReport>,
) {
    let exit = {
        let mut wait = runtime.wait(&id);
        tokio::select! {
            exit = &mut wait => exit,
            () = pump.run() => wait.await,
        }
    };
    let last_line = pump.finish().await;
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
    // Nobody listens any more once the pod is over.
    let _ = exits.send(ExitReport {
        index,
        exit,
        last_line,
        unknown,
    });
}
