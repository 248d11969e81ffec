//! `exec`: another process in a running container.
//!
//! [`spawn`] makes one child in the container's cgroup, which enters the container and executes the
//! program ([`inside`]). If this process has several threads, its worker forks for it.

mod inside;
mod spawn;

use std::io;

use magik_oci::{ContainerId, Error, ExecIo, ExecOptions, Exit, Result, Status};
use magik_sys::process::is_single_threaded;
use oci_spec::runtime::{LinuxNamespaceType, LinuxPersonality, Process, Spec};
use rustix::{
    process::{Pid, Signal, WaitOptions},
    thread::ThreadNameSpaceType,
};
pub(crate) use spawn::{Made, spawn};
use tokio::{io::AsyncReadExt as _, net::unix::pipe};

use crate::{
    failure::{Failure, not_ours},
    job::{Descriptors, ExecJob, Job, Request},
    process::owner::host_uid,
    runtime::NativeRuntime,
    seccomp::{Filter, kept_for_exec},
    spec,
    store::write_pid_file,
    worker,
};

/// The longest error report that is read, in bytes.
const MAX_FAILURE_SIZE: u64 = 64 << 10;

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
        // Held until the process is inside, so that a delete does not miss it.
        let locked = config.store.lock(id).await?;
        let record = locked.read()?;
        let status = self.status(&record)?;
        let (Some(init), Status::Running) = (record.init, status) else {
            return Err(Error::wrong_state(id, "exec in", status));
        };
        let spec = spec::load(locked.dir())?;
        let mut process = complete(id, process, &spec)?;
        let (stdio, console) = match io {
            ExecIo::Pipes(stdio) => (stdio, None),
            ExecIo::Terminal { console } => (magik_oci::Stdio::default(), Some(console)),
        };
        process.set_terminal(Some(console.is_some()));
        let owner = host_uid(&spec, process.user().uid());
        let descriptors = Descriptors::new(stdio, console)?;
        let linux = spec.linux().as_ref();
        let job = ExecJob {
            init,
            namespaces: namespaces(&spec).bits(),
            cgroup: self.cgroup(&record.cgroup)?.entry(),
            process,
            filter: self.filter_for_exec(id, locked.dir(), &spec)?,
            new_keyring: config.new_keyrings,
            own_domain: config.own_domains,
            owner,
            personality: linux
                .and_then(|l| l.personality().as_ref())
                .map(LinuxPersonality::domain),
            preserve_fds: options.preserve_fds,
        };
        let pid = self
            .launch(job, descriptors)
            .await
            .map_err(Error::io(format!("exec in container {id}")))?
            .map_err(|failure| failure.of_container(id, "exec"))?;
        config
            .children
            .adopt_exec(pid)
            .map_err(Error::io(format!("watching an exec in container {id}")))?;
        if let Some(file) = &options.pid_file {
            write_pid_file(file, pid)?;
        }
        Ok(pid)
    }

    /// Starts the process and returns once it executes its program.
    async fn launch(
        &self,
        job: ExecJob,
        mut descriptors: Descriptors,
    ) -> io::Result<std::result::Result<i32, Failure>> {
        let config = &self.config;
        let (report, reports) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&report, true)?;
        let report = pipe::Receiver::from_owned_fd(report)?;
        descriptors.report = Some(reports);
        let preserve_fds = job.preserve_fds;
        let mut started = Started {
            made: None,
            reaped_elsewhere: config.children.reaps_orphans(),
        };
        if is_single_threaded() {
            started.made = Some(spawn(&job, preserve_fds, descriptors, false)?);
        } else {
            let request = Request {
                runner: 0,
                caller: rustix::process::getpid().as_raw_nonzero().get(),
                preserve_fds,
                console: descriptors.console.is_some(),
                job: Job::Exec(Box::new(job)),
            };
            let answer = worker::run(&config.children, &config.helper, request, descriptors).await?;
            match answer {
                // The preparing process was reaped with the worker.
                Ok(done) => started.made = done.process.map(|process| Made::known(process.pid)),
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let mut answer = Vec::new();
        // Ends when execve closes the child's descriptor, or the child has died.
        report.take(MAX_FAILURE_SIZE).read_to_end(&mut answer).await?;
        if !answer.is_empty() {
            return Ok(Err(serde_json::from_slice(&answer).map_err(io::Error::other)?));
        }
        match started.keep() {
            Some(pid) => Ok(Ok(pid)),
            None => Ok(Err(Failure::Other("its process ended while it was made".into()))),
        }
    }

    /// The filter of a container that a process is added to.
    fn filter_for_exec(
        &self,
        id: &ContainerId,
        dir: &std::path::Path,
        spec: &Spec,
    ) -> Result<Option<Filter>> {
        let failed = |reason: String| Failure::Other(reason).of_container(id, "exec");
        // A process must never run without the filter that the container has.
        let kept = kept_for_exec(dir).map_err(|e| failed(e.to_string()))?;
        let filter = match (kept, spec.linux().as_ref().and_then(|l| l.seccomp().as_ref())) {
            (None, Some(profile)) => {
                let filter = self.config.filters.get(profile);
                Some(filter.map_err(|e| failed(e.to_string()))?)
            }
            (kept, _) => kept,
        };
        if filter.as_ref().is_some_and(Filter::notifies) {
            let what = format!("exec in container {id}, whose seccomp profile notifies a listener");
            let why = "only a container's own process can be given a listener";
            return Err(Error::unsupported(what, why));
        }
        Ok(filter)
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

/// The complete description of an exec'd process.
fn complete(id: &ContainerId, process: &Process, spec: &Spec) -> Result<Process> {
    let own = spec
        .process()
        .as_ref()
        .ok_or_else(|| Failure::Other("it has no process".into()).of_container(id, "exec"))?;
    if process
        .args()
        .as_ref()
        .and_then(|a| a.first())
        .is_none_or(String::is_empty)
    {
        return Err(Failure::Other("process.args: names no program".into()).of_container(id, "exec"));
    }
    Ok(spec::inherit(process, own))
}

/// The namespaces of a container that a process is to join.
fn namespaces(spec: &Spec) -> ThreadNameSpaceType {
    let listed = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref());
    let flag = |kind| match kind {
        LinuxNamespaceType::Mount => ThreadNameSpaceType::MOUNT,
        LinuxNamespaceType::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
        LinuxNamespaceType::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
        LinuxNamespaceType::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
        LinuxNamespaceType::User => ThreadNameSpaceType::USER,
        LinuxNamespaceType::Pid => ThreadNameSpaceType::PROCESS_ID,
        LinuxNamespaceType::Network => ThreadNameSpaceType::NETWORK,
        LinuxNamespaceType::Time => ThreadNameSpaceType::TIME,
    };
    listed.unwrap_or_default().iter().map(|n| flag(n.typ())).collect()
}

/// A process that has not executed its program yet. Unless kept it is killed, and reaped if no
/// other task does. It is a child of this process, so its pid cannot have become another's.
struct Started {
    made: Option<Made>,
    reaped_elsewhere: bool,
}

impl Started {
    /// The process that executes the program; a separate preparing process has ended.
    fn keep(mut self) -> Option<i32> {
        let made = self.made.take()?;
        if let (Some(before), false) = (made.before(), self.reaped_elsewhere) {
            let _ = rustix::process::waitpid(Some(before), WaitOptions::empty());
        }
        made.pid()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let Some(made) = self.made.take() else { return };
        let kill = |pid: Pid| {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            if !self.reaped_elsewhere {
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            }
        };
        // First the process that may still make the other.
        made.before().into_iter().for_each(kill);
        made.pid().and_then(Pid::from_raw).into_iter().for_each(kill);
    }
}
