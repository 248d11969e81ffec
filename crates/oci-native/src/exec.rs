//! `exec`: another process in a running container.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use magik_oci::{ContainerId, Error, ExecIo, ExecOptions, Exit, Result, Status};
use oci_spec::runtime::{Process, Spec};

use crate::{
    create::{descriptors, failed, kill_recorded, write_pid_file},
    lifecycle::not_ours,
    runtime::NativeRuntime,
    seccomp, spec,
    surroundings::host_uid,
    user_namespace,
    worker::{self, ExecJob, Failure, Job, Request},
};

impl NativeRuntime {
    pub(crate) async fn exec_process(
        &self,
        id: &ContainerId,
        process: &Process,
        io: ExecIo,
        options: ExecOptions,
    ) -> Result<i32> {
        let config = &self.config;
        config
            .children
            .ensure_reaping()
            .map_err(Error::io("watching for children"))?;
        // Held until the process is inside: deleting the container meanwhile would miss it.
        let locked = config.store.lock(id).await?;
        let record = locked.read()?;
        let status = self.status(&record)?;
        let (Some(init), Status::Running) = (record.init, status) else {
            return Err(Error::WrongState {
                id: id.clone(),
                operation: "exec in",
                status,
            });
        };
        let spec = spec::load_original(locked.dir())?;
        let mut process = complete(id, process, &spec)?;
        let (stdio, console) = match io {
            ExecIo::Pipes(stdio) => (stdio, None),
            ExecIo::Terminal { console } => (magik_oci::Stdio::default(), Some(console)),
        };
        process.set_terminal(Some(console.is_some()));
        let owner = host_uid(&spec, process.user().uid());
        let descriptors = descriptors(stdio, console)?;
        let scratch = Scratch::new(locked.dir()).map_err(Error::io(format!("exec in container {id}")))?;
        let job = ExecJob {
            id: id.to_string(),
            dir: locked.dir().to_owned(),
            scratch: scratch.0.clone(),
            init,
            process,
            filter: self.filter_for_exec(id, locked.dir(), &spec)?,
            systemd: false,
            owner,
            user_namespace: user_namespace::has_one(&spec),
        };
        let request = Request {
            caller: rustix::process::getpid().as_raw_nonzero().get(),
            preserve_fds: options.preserve_fds,
            console: descriptors.console.is_some(),
            job: Job::Exec(Box::new(job)),
        };
        let answer = worker::run(&config.children, &config.helper, request, descriptors).await;
        let answer = answer.map_err(Error::io(format!("exec in container {id}")));
        let done = answer
            .and_then(|answer| answer.map_err(|failure| failed(id, "exec", failure)))
            .inspect_err(|_| {
                kill_recorded(&scratch.0.join("pid"), config.children.reaps_orphans());
            })?;
        let process = done
            .process
            .ok_or_else(|| failed(id, "exec", Failure::Other("there is no process".into())))?;
        config
            .children
            .adopt_exec(process.pid)
            .map_err(Error::io(format!("watching an exec in container {id}")))?;
        if let Some(file) = &options.pid_file {
            write_pid_file(file, process.pid)?;
        }
        Ok(process.pid)
    }

    pub(crate) async fn wait_process(&self, id: &ContainerId, pid: i32) -> Result<Exit> {
        let child = self.config.children.exec(pid).ok_or_else(|| not_ours(id))?;
        let mut exit = child
            .wait()
            .await
            .map_err(Error::io(format!("waiting for process {pid} of container {id}")))?;
        if exit.signal == Some(libc::SIGKILL)
            && let Ok(record) = self.config.store.read(id)
        {
            exit.oom_killed = self.cgroup(&record.cgroup)?.oom_kills() > 0;
        }
        self.config.children.forget_exec(pid);
        Ok(exit)
    }
}

/// What an exec'd process is to be, all of it.
fn complete(id: &ContainerId, process: &Process, spec: &Spec) -> Result<Process> {
    let profile = spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    if profile.is_some_and(seccomp::notifies) {
        let what = format!("exec in container {id}, whose seccomp profile notifies a listener");
        return Err(Error::Unsupported {
            what,
            why: "only a container's own process can be given a listener".into(),
        });
    }
    let own = spec
        .process()
        .as_ref()
        .ok_or_else(|| failed(id, "exec", Failure::Other("it has no process".into())))?;
    if process
        .args()
        .as_ref()
        .and_then(|a| a.first())
        .is_none_or(String::is_empty)
    {
        return Err(failed(
            id,
            "exec",
            Failure::Other("process.args: names no program".into()),
        ));
    }
    Ok(spec::inherit(process, own))
}

/// A directory of one exec, removed when it goes out of scope: libcontainer leaves its sockets behind.
struct Scratch(PathBuf);

impl Scratch {
    fn new(dir: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("exec.{}.{n}", std::process::id()));
        // Left by a process of the same pid that was killed.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
