//! What happens to a container after its creation. None of it forks but hooks.

use std::{fs, io, os::fd::AsRawFd, path::Path, time::Duration};

use libcgroups::common::{CgroupConfig, CgroupManager, ControllerOpt, create_cgroup_manager};
use magik_oci::{ContainerId, ContainerState, Error, Exit, Result, Signal, Status};
use magik_sys::{
    cgroup::paths_of,
    process::{Process, watch_readable},
};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{
    cgroup,
    container::{EXEC_FIFO, START_SOCKET},
    failure::{Failure, not_ours},
    job::{Descriptors, HooksJob, Job, Request},
    process::program::EXECUTING,
    runtime::NativeRuntime,
    spec,
    store::{Locked, Record},
    worker,
};

/// The most that is read of why a program could not be executed, in bytes.
const MAX_REASON_SIZE: u64 = 64 << 10;
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

impl NativeRuntime {
    /// The status now, not as recorded: from the process, the freezer and the exec fifo.
    pub(crate) fn status(&self, record: &Record) -> Result<Status> {
        let Some(init) = record.init else {
            // A creator holds the lock; without it and an init, a creation was cut short.
            let creating = self.config.store.is_locked(&record.id)?;
            return Ok(if creating {
                Status::Creating
            } else {
                Status::Stopped
            });
        };
        if !init.is_alive() {
            return Ok(Status::Stopped);
        }
        if self
            .cgroup(&record.cgroup)?
            .is_frozen()
            .map_err(Error::io("reading the freezer's state"))?
        {
            return Ok(Status::Paused);
        }
        let waits = waits_for_start(&self.config.store.dir(&record.id));
        Ok(if waits { Status::Created } else { Status::Running })
    }

    pub(crate) async fn start_container(&self, id: &ContainerId) -> Result<()> {
        let locked = self.config.store.lock(id).await?;
        let record = locked.read()?;
        match self.status(&record)? {
            Status::Created => {}
            other => return Err(Error::wrong_state(id, "start", other)),
        }
        let failed_io = |step: &str| Error::io(format!("starting container {id}: {step}"));
        let mut init = say_start(&locked).await.map_err(failed_io("start socket"))?;
        // A startContainer hook may delay the answer; kill and delete must work meanwhile.
        drop(locked);

        let mut answer = Vec::new();
        // The end comes when execve closes the init's descriptor, or the init has died.
        (&mut init)
            .take(MAX_REASON_SIZE)
            .read_to_end(&mut answer)
            .await
            .map_err(failed_io("start socket"))?;
        let text = answer.strip_prefix(&[EXECUTING]).unwrap_or(&answer);
        if !text.is_empty() {
            let failure = serde_json::from_slice(text).unwrap_or_else(|e| Failure::Other(e.to_string()));
            return Err(failure.of_container(id, "start"));
        }
        let executed = !answer.is_empty() || record.init.is_some_and(Process::is_alive);
        if !executed {
            let reason =
                "its init ended before executing the program: a startContainer hook failed, or it was killed";
            return Err(Failure::Other(reason.into()).of_container(id, "start"));
        }
        if record.poststart
            && let Err(e) = self.run_hooks(&record, false).await
        {
            // runtime-spec, "Lifecycle" 9: a failing poststart hook stops the container.
            if let Some(init) = record.init {
                let _ = init.signal(libc::SIGKILL);
            }
            return Err(e);
        }
        Ok(())
    }

    pub(crate) async fn wait_container(&self, id: &ContainerId) -> Result<Exit> {
        let record = self.config.store.read(id)?;
        let child = self.config.children.container(id);
        let child = child
            .filter(|c| record.init.is_some_and(|p| p.pid == c.pid()))
            .ok_or_else(|| not_ours(id))?;
        let mut exit = child
            .wait()
            .await
            .map_err(Error::io(format!("waiting for container {id}")))?;
        exit.oom_killed = exit.signal == Some(libc::SIGKILL) && self.cgroup(&record.cgroup)?.oom_kills() > 0;
        Ok(exit)
    }

    pub(crate) async fn kill_container(&self, id: &ContainerId, signal: Signal, all: bool) -> Result<()> {
        let record = self.config.store.read(id)?;
        let status = self.status(&record)?;
        let sent = Error::io(format!("sending signal {} to container {id}", signal.0));
        let cgroup = self.cgroup(&record.cgroup)?;
        if all {
            // Also of a stopped container: in a shared pid namespace processes outlive its init.
            cgroup.signal_all(signal.0).map_err(sent)?;
        } else {
            let init = record
                .init
                .filter(|_| !matches!(status, Status::Stopped | Status::Creating));
            let init = init.ok_or_else(|| Error::wrong_state(id, "kill", status))?;
            if !init.signal(signal.0).map_err(sent)? {
                return Err(Error::wrong_state(id, "kill", Status::Stopped));
            }
        }
        // A v1 freezer delays even SIGKILL. Other signals wait, and the container stays paused.
        if status == Status::Paused && signal == Signal::KILL {
            cgroup
                .freeze(false)
                .await
                .map_err(Error::io(format!("thawing container {id}")))?;
        }
        Ok(())
    }

    pub(crate) async fn delete_container(&self, id: &ContainerId, force: bool) -> Result<()> {
        let locked = match self.config.store.lock(id).await {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        let record = match locked.read() {
            Ok(record) => record,
            Err(_) if force => return self.delete_damaged(locked).await,
            Err(e) => return Err(e),
        };
        let status = self.status(&record)?;
        let alive = match status {
            Status::Running | Status::Paused if !force => {
                return Err(Error::wrong_state(id, "delete", status));
            }
            Status::Stopped => None,
            _ => record.init,
        };
        if let Some(init) = alive {
            init.signal(libc::SIGKILL)
                .map_err(Error::io(format!("killing container {id}")))?;
        }
        self.remove_cgroup(id, &record.cgroup, alive).await?;
        self.config.children.forget_container(id);
        if record.poststop
            && let Err(e) = self.run_hooks(&record, true).await
        {
            // runtime-spec, "Lifecycle" 13: warn, and go on as if it had succeeded.
            tracing::warn!(container = %id, error = %e, "poststop hook");
        }
        locked.remove()
    }

    /// Ends all that is left and removes the cgroup; `alive` has been sent SIGKILL.
    async fn remove_cgroup(&self, id: &ContainerId, path: &Path, alive: Option<Process>) -> Result<()> {
        let in_use = || Error::io(format!("removing the cgroup of container {id}"));
        let cgroup = self.cgroup(path)?;
        let child = self.config.children.container(id);
        if alive.is_none() && child.is_none() && cgroup.try_remove() {
            return Ok(());
        }
        if alive.is_some() && cgroup.is_frozen().map_err(in_use())? {
            cgroup.freeze(false).await.map_err(in_use())?;
        }
        // Only we can reap it: else it stays a zombie as long as this process lives.
        if let Some(child) = child {
            let gone = tokio::time::timeout(DEATH, child.wait()).await;
            gone.map_err(|e| in_use()(e.into()))?.map_err(in_use())?;
        } else if let Some(init) = alive {
            wait_for_death(init).await.map_err(in_use())?;
        }
        if cgroup.try_remove() {
            return Ok(());
        }
        cgroup.kill().await.map_err(in_use())?;
        cgroup.remove().await.map_err(in_use())
    }

    /// A container whose record cannot be read: cut short while it was created, or damaged. Its id
    /// is known, so its default cgroup, and perhaps its spec.
    async fn delete_damaged(&self, locked: Locked) -> Result<()> {
        let id = locked.id().clone();
        let own = paths_of(None).map_err(Error::io("reading /proc/self/cgroup"))?;
        let recorded = spec::load(locked.dir())
            .ok()
            .and_then(|spec| spec.linux().as_ref()?.cgroups_path().clone());
        for path in recorded.into_iter().chain([self.config.cgroup_root.join(&id)]) {
            if let Ok(path) = cgroup::check_path(&path, &own) {
                self.cgroup(&path)?
                    .kill()
                    .await
                    .map_err(Error::io(format!("killing container {id}")))?;
                self.remove_cgroup(&id, &path, None).await?;
            }
        }
        self.config.children.forget_container(&id);
        locked.remove()
    }

    pub(crate) async fn freeze_container(&self, id: &ContainerId, frozen: bool) -> Result<()> {
        let locked = self.config.store.lock(id).await?;
        let record = locked.read()?;
        match (self.status(&record)?, frozen) {
            (Status::Running | Status::Created, true) | (Status::Paused, false) => {}
            (status, _) => {
                return Err(Error::wrong_state(
                    id,
                    if frozen { "pause" } else { "resume" },
                    status,
                ));
            }
        }
        let context = format!("{} container {id}", if frozen { "pausing" } else { "resuming" });
        self.cgroup(&record.cgroup)?
            .freeze(frozen)
            .await
            .map_err(Error::io(context))
    }

    pub(crate) async fn update_container(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        let locked = self.config.store.lock(id).await?;
        let record = locked.read()?;
        if let status @ (Status::Stopped | Status::Creating) = self.status(&record)? {
            return Err(Error::wrong_state(id, "update", status));
        }
        let failure = |e: &dyn std::error::Error| Failure::Other(e.to_string()).of_container(id, "update");
        let config = CgroupConfig {
            cgroup_path: record.cgroup,
            systemd_cgroup: false,
            container_name: id.to_string(),
        };
        let manager = create_cgroup_manager(config).map_err(|e| failure(&e))?;
        let options = ControllerOpt {
            resources,
            freezer_state: None,
            oom_score_adj: None,
            disable_oom_killer: false,
        };
        manager.apply(&options).map_err(|e| failure(&e))
    }

    pub(crate) fn list_containers(&self) -> Result<Vec<ContainerState>> {
        let mut states = Vec::new();
        for id in self.config.store.ids()? {
            let record = self.config.store.read(&id);
            match record.and_then(|record| Ok((self.status(&record)?, record))) {
                Ok((status, record)) => states.push(record.state(status)),
                // Deleted since.
                Err(Error::NotFound(_)) => {}
                // Listed all the same, so that it can be deleted.
                Err(e) => {
                    tracing::warn!(container = %id, error = %e, "unreadable state");
                    states.push(ContainerState::new(id, Status::Stopped));
                }
            }
        }
        Ok(states)
    }

    /// Runs the poststop hooks of a container that is `stopped`, else its poststart hooks.
    async fn run_hooks(&self, record: &Record, stopped: bool) -> Result<()> {
        let spec = spec::load(&self.config.store.dir(&record.id))?;
        let (operation, hooks) = match (spec.hooks(), stopped) {
            (Some(hooks), true) => ("poststop hook", hooks.poststop().clone()),
            (Some(hooks), false) => ("poststart hook", hooks.poststart().clone()),
            (None, _) => return Ok(()),
        };
        let job = HooksJob {
            hooks: hooks.unwrap_or_default(),
            id: record.id.to_string(),
            bundle: record.bundle.clone(),
            annotations: record.annotations.clone(),
            pid: record.init.filter(|_| !stopped).map(|p| p.pid),
            stopped,
        };
        let request = Request {
            runner: 0,
            caller: rustix::process::getpid().as_raw_nonzero().get(),
            preserve_fds: 0,
            console: false,
            job: Job::Hooks(job),
        };
        let context = Error::io(format!("running hooks of container {}", record.id));
        let answer = worker::run(
            &self.config.children,
            &self.config.helper,
            request,
            Descriptors::default(),
        )
        .await
        .map_err(context)?;
        answer
            .map(drop)
            .map_err(|e| e.of_container(&record.id, operation))
    }
}

/// Whether the init waits for `start`: if so it reads the exec fifo, and opening to write succeeds.
fn waits_for_start(dir: &Path) -> bool {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(dir.join(EXEC_FIFO), flags, Mode::empty()).is_ok()
}

/// Tells the container's process to execute its program, once: its fifo is gone after that, and so
/// it is no longer one that waits. A socket's path is short when it goes through a descriptor.
async fn say_start(locked: &Locked) -> io::Result<UnixStream> {
    let path = format!("/proc/self/fd/{}/{START_SOCKET}", locked.fd().as_raw_fd());
    let mut init = UnixStream::connect(path).await?;
    fs::remove_file(locked.dir().join(EXEC_FIFO))?;
    init.write_all(b"s").await?;
    Ok(init)
}

async fn wait_for_death(process: Process) -> io::Result<()> {
    let Some(pidfd) = process.pidfd()? else {
        return Ok(());
    };
    let fd = watch_readable(pidfd)?;
    tokio::time::timeout(DEATH, fd.readable()).await?.map(drop)
}
