//! The runtime: native containers whose program is [`PROGRAM`].
//!
//! `<root>/.krun/<id>/` is the machine's directory; only these containers have one.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio as ChildStdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use magik_oci::{
    ContainerId, ContainerState, CreateOptions, Error, ExecIo, ExecOptions, Exit, OciRuntime, Result, Signal,
    Stats, Status, Stdio,
};
use oci_native::{NativeRuntime, write_pid_file};
use oci_spec::runtime::{LinuxResources, Process, Spec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, MemfdFlags, Mode, OFlags},
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::words::{ALL, Answer, EXEC, FIRST, PIPES, PREPARE, PROGRAM, Report, SIGNAL, STARTED, TERMINAL};

/// Below the root: one directory per container. No container's id begins with a dot.
const DIRECTORY: &str = ".krun";
/// The longest answer in bytes: that to `create` holds a spec.
const MAX_ANSWER_SIZE: u64 = 4 << 20;
/// How long a guest may take to obey SIGKILL before its machine ends.
const KILL_TIME: Duration = Duration::from_secs(10);

/// Containers in virtual machines of their own.
#[derive(Debug)]
pub struct KrunRuntime {
    root: PathBuf,
    /// The directory with the results of probing machines.
    state: PathBuf,
    native: NativeRuntime,
    /// [`PROGRAM`], if it is installed.
    program: Option<PathBuf>,
    /// What carries programs that `exec` has started.
    children: Mutex<HashMap<i32, Child>>,
}

impl KrunRuntime {
    /// Containers below `root`, which `native` has, too. `state` is the directory where it is
    /// remembered which machines boot here; `program` is [`PROGRAM`], without which containers are
    /// listed and deleted, but not made.
    #[must_use]
    pub fn new(native: NativeRuntime, root: PathBuf, state: PathBuf, program: Option<PathBuf>) -> Self {
        Self {
            root,
            state,
            native,
            program,
            children: Mutex::default(),
        }
    }

    /// Whether a container below `root` is in a machine.
    #[must_use]
    pub fn has(root: &Path, id: &ContainerId) -> bool {
        root.join(DIRECTORY).join(id).is_dir()
    }

    /// The program, which is to be told what to do.
    fn program(&self, id: &ContainerId) -> Result<Command> {
        let missing = || format!("runtime krun: {PROGRAM} is not installed: it belongs beside magikrun");
        let program = self.program.as_ref();
        Ok(Command::new(
            program.ok_or_else(|| Error::failed(id, "krun", missing()))?,
        ))
    }

    fn dir(&self, id: &ContainerId) -> PathBuf {
        self.root.join(DIRECTORY).join(id)
    }

    /// What the container is made of on the host.
    fn prepare(&self, id: &ContainerId, bundle: &Path, dir: &Path) -> Result<Spec> {
        let failed = |reason| Error::failed(id, "create", reason);
        let arguments: [&OsStr; 5] = [
            PREPARE.as_ref(),
            bundle.as_os_str(),
            id.as_str().as_ref(),
            dir.as_os_str(),
            self.state.as_os_str(),
        ];
        let asked = self
            .program(id)?
            .args(arguments)
            .stdin(ChildStdio::null())
            .stdout(ChildStdio::piped())
            .spawn();
        let mut child = asked.map_err(Error::io(PROGRAM))?;
        let mut text = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout
                .take(MAX_ANSWER_SIZE)
                .read_to_end(&mut text)
                .map_err(Error::io(PROGRAM))?;
        }
        let status = child.wait().map_err(Error::io(PROGRAM))?;
        let answer = serde_json::from_slice(&text);
        match answer.map_err(|e| failed(format!("{PROGRAM}: no answer of use ({status}): {e}")))? {
            Answer::Spec(spec) => Ok(*spec),
            Answer::Bundle(reason) => Err(Error::invalid_bundle(bundle, format!("{reason} (runtime krun)"))),
            Answer::Refused(reason) => Err(failed(format!("runtime krun: {reason}"))),
        }
    }

    async fn running(&self, id: &ContainerId, operation: &'static str) -> Result<()> {
        let status = self.native.state(id).await?.status;
        if status == Status::Running {
            return Ok(());
        }
        Err(Error::wrong_state(id, operation, status))
    }

    /// Sends a signal to the program in the guest.
    fn signal(&self, id: &ContainerId, signal: Signal, all: bool) -> Result<()> {
        let sent = self
            .program(id)?
            .arg(SIGNAL)
            .arg(self.dir(id))
            .args([id.as_str(), &signal.0.to_string(), if all { ALL } else { FIRST }])
            .stdin(ChildStdio::null())
            .output()
            .map_err(Error::io(PROGRAM))?;
        if sent.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&sent.stderr);
        Err(Error::failed(id, "kill", said.trim()))
    }
}

fn unsupported(what: &str, why: &str) -> Error {
    Error::unsupported(format!("{what} with runtime krun"), why)
}

/// A new container's directory: removed unless the container is made.
struct Reserved {
    dir: PathBuf,
    /// Held while it is being made.
    _lock: OwnedFd,
    keep: bool,
}

impl Reserved {
    /// `None`: it exists, for a container that exists or is being made.
    fn new(dir: &Path) -> io::Result<Option<Self>> {
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o700);
        if let Some(parent) = dir.parent() {
            builder.recursive(true).create(parent)?;
        }
        match builder.recursive(false).create(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            made => made?,
        }
        let lock = lock(dir)?;
        Ok(lock.map(|lock| Self {
            dir: dir.to_owned(),
            _lock: lock,
            keep: false,
        }))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.keep {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// `None`: another process has it.
fn lock(dir: &Path) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(fd)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Reads the report; `None`: the writer closed without one. The end of `process` is awaited, too.
fn read_report(pipe: &OwnedFd, process: Option<&OwnedFd>) -> io::Result<Option<Report>> {
    let mut line = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(pipe, PollFlags::IN)];
        fds.extend(process.map(|process| PollFd::new(process, PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            polled => polled?,
        };
        let ended = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        let mut buffer = [0; 4096];
        let read = match rustix::io::read(pipe, &mut buffer) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) if !ended => continue,
            Err(rustix::io::Errno::AGAIN) => 0,
            read => read?,
        };
        line.extend_from_slice(&buffer[..read]);
        if line.ends_with(b"\n") {
            return Ok(Some(serde_json::from_slice(&line)?));
        }
        // A named pipe without a writer also reads as ended: then only the process's end counts.
        if ended || (read == 0 && process.is_none()) || line.len() as u64 > MAX_ANSWER_SIZE {
            return Ok(None);
        }
    }
}

impl Report {
    fn check(self, id: &ContainerId, operation: &'static str) -> Result<()> {
        match self {
            Self::Started => Ok(()),
            Self::CannotExecute {
                program,
                failure,
                reason,
            } => Err(Error::CannotExecute {
                id: id.clone(),
                program,
                failure,
                reason,
            }),
            Self::Failed(reason) => Err(Error::failed(id, operation, reason)),
        }
    }
}

fn wait_for_end(pid: i32, limit: Duration) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(pid) else {
        return Ok(true);
    };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(true),
        opened => opened?,
    };
    let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit))? > 0)
}

#[async_trait]
impl OciRuntime for KrunRuntime {
    fn name(&self) -> &'static str {
        "krun"
    }

    async fn create(
        &self,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState> {
        if options.preserve_fds > 0 {
            return Err(unsupported("--preserve-fds", "no descriptor reaches a machine"));
        }
        if !options.mounts.is_empty() {
            return Err(unsupported(
                "NOTIFY_SOCKET",
                "no socket reaches a machine: unset it",
            ));
        }
        if self.native.state(id).await.is_ok() {
            return Err(Error::AlreadyExists(id.clone()));
        }
        let dir = self.dir(id);
        let named = || Error::io(dir.display().to_string());
        let mut reserved = match Reserved::new(&dir).map_err(named())? {
            Some(reserved) => reserved,
            // Left by a process that was killed, unless it is being made now.
            None if lock(&dir).map_err(named())?.is_some() => {
                fs::remove_dir_all(&dir).map_err(named())?;
                let again = Reserved::new(&dir).map_err(named())?;
                again.ok_or_else(|| Error::AlreadyExists(id.clone()))?
            }
            None => return Err(Error::AlreadyExists(id.clone())),
        };
        let spec = self.prepare(id, bundle, &dir)?;
        let created = self.native.create_from(id, bundle, spec, stdio, options).await?;
        reserved.keep = true;
        Ok(created)
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        let path = self.dir(id).join(STARTED);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let pipe = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|e| Error::io(path.display().to_string())(e.into()))?;
        let pid = self.native.state(id).await?.pid.and_then(Pid::from_raw);
        let process = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        self.native.start(id).await?;
        // The guest boots.
        match read_report(&pipe, process.as_ref()).map_err(Error::io(path.display().to_string()))? {
            Some(report) => report.check(id, "start"),
            None => Err(Error::failed(
                id,
                "start",
                "its machine ended before the program was started",
            )),
        }
    }

    async fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        self.native.state(id).await
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        self.native.wait(id).await
    }

    async fn kill(&self, id: &ContainerId, signal: Signal, all: bool) -> Result<()> {
        let state = self.native.state(id).await?;
        // Before it runs there is no machine, and a frozen one does not answer.
        let Some(pid) = state.pid.filter(|_| state.status == Status::Running) else {
            return self.native.kill(id, signal, false).await;
        };
        let sent = self.signal(id, signal, all);
        if signal != Signal::KILL {
            return sent;
        }
        // The guest's programs end first, so that their output is kept; if not, the machine ends.
        let obeyed =
            sent.is_ok() && wait_for_end(pid, KILL_TIME).map_err(Error::io("waiting for the machine"))?;
        match self.native.kill(id, signal, false).await {
            Err(Error::WrongState { .. }) if obeyed => Ok(()),
            killed => killed,
        }
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<()> {
        let deleted = self.native.delete(id, force).await;
        if matches!(deleted, Ok(()) | Err(Error::NotFound(_))) {
            let dir = self.dir(id);
            match fs::remove_dir_all(&dir) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::io(dir.display().to_string())(e));
                }
                _ => {}
            }
        }
        deleted
    }

    async fn exec(
        &self,
        id: &ContainerId,
        process: &Process,
        io: ExecIo,
        options: ExecOptions,
    ) -> Result<i32> {
        if options.preserve_fds > 0 {
            return Err(unsupported("--preserve-fds", "no descriptor reaches a machine"));
        }
        self.running(id, "exec").await?;
        let broken = || Error::io(format!("exec in container {id}"));
        let json = serde_json::to_vec(process).map_err(|e| broken()(e.into()))?;
        // Without close-on-exec, for the other program to inherit; this process has one thread.
        let memory = rustix::fs::memfd_create("process", MemfdFlags::empty());
        let mut document = fs::File::from(memory.map_err(|e| broken()(e.into()))?);
        document.write_all(&json).map_err(broken())?;
        let (started, theirs) = rustix::pipe::pipe().map_err(|e| broken()(e.into()))?;
        rustix::io::fcntl_setfd(&started, rustix::io::FdFlags::CLOEXEC).map_err(|e| broken()(e.into()))?;
        let stream = |fd: Option<OwnedFd>| fd.map_or_else(ChildStdio::null, ChildStdio::from);
        let (streams, terminal) = match io {
            ExecIo::Pipes(Stdio {
                stdin,
                stdout,
                stderr,
            }) => ([stdin, stdout, stderr], PIPES),
            ExecIo::Terminal { console } => ([Some(console), None, None], TERMINAL),
        };
        let [stdin, stdout, stderr] = streams.map(stream);
        let number = |fd: &dyn AsFd| fd.as_fd().as_raw_fd().to_string();
        let mut command = self.program(id)?;
        command
            .arg(EXEC)
            .arg(self.dir(id))
            .args([id.as_str(), &number(&document), &number(&theirs), terminal])
            .stdin(stdin)
            .stdout(stdout)
            .stderr(stderr);
        let mut child = command.spawn().map_err(broken())?;
        // Its streams are its own now.
        drop((command, theirs, document));
        let said = read_report(&started, None).map_err(broken());
        let checked = said.and_then(|report| {
            report.map_or_else(
                || Err(Error::failed(id, "exec", "the machine does not answer")),
                |report| report.check(id, "exec"),
            )
        });
        if let Err(error) = checked {
            let _ = child.wait();
            return Err(error);
        }
        let pid = i32::try_from(child.id()).unwrap_or_default();
        if let Some(file) = &options.pid_file {
            write_pid_file(file, pid)?;
        }
        self.children
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(pid, child);
        Ok(pid)
    }

    async fn wait_exec(&self, id: &ContainerId, pid: i32) -> Result<Exit> {
        let mut children = self.children.lock().unwrap_or_else(PoisonError::into_inner);
        let child = children.remove(&pid);
        drop(children);
        let mut child = child.ok_or_else(|| {
            Error::unsupported(
                format!("waiting for process {pid} of container {id}"),
                "another process started it",
            )
        })?;
        let status = child
            .wait()
            .map_err(Error::io(format!("waiting for process {pid}")))?;
        Ok(
            match (
                status.code(),
                std::os::unix::process::ExitStatusExt::signal(&status),
            ) {
                (Some(code), _) => Exit::exited(code),
                (None, signal) => Exit::signalled(signal.unwrap_or_default()),
            },
        )
    }

    async fn pause(&self, id: &ContainerId) -> Result<()> {
        self.native.pause(id).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<()> {
        self.native.resume(id).await
    }

    async fn update(&self, _: &ContainerId, _: &LinuxResources) -> Result<()> {
        Err(unsupported("update", "a machine is as large as it was made"))
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        self.native.stats(id).await
    }

    async fn processes(&self, id: &ContainerId) -> Result<Vec<i32>> {
        self.native.processes(id).await
    }

    async fn list(&self) -> Result<Vec<ContainerState>> {
        self.native.list().await
    }
}

#[cfg(test)]
mod tests;
