//! The jobs themselves, over libcontainer.

use std::{
    fs, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use libcontainer::{
    container::{ContainerStatus, State, builder::ContainerBuilder},
    hooks,
    syscall::syscall::SyscallType,
};
use rustix::{
    fs::{FileType, Mode, OFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
    pty::OpenptFlags,
};

use super::{
    Answer, CreateJob, Descriptors, Done, ExecJob, Failure, HooksJob, Job, Request,
    diagnosis::{Diagnosis, contain_panics},
    inside::failure,
};
use crate::{
    executor::{Launcher, Sandbox},
    proc::Process,
    runner::{RootView, RunnerCommand},
    surroundings::give,
};

/// The file through which `start` learns how execve went.
pub(crate) const EXEC_FIFO: &str = "exec.fifo";
/// Where libcontainer writes the init's pid as soon as there is one, so that a failed creation can be cleaned up.
pub(crate) const INIT_PID: &str = "init.pid";

/// `answers` is what the answer will be written to.
pub(super) fn run(request: &Request, descriptors: Descriptors, answers: RawFd) -> Answer {
    let diagnosis = Diagnosis::begin();
    contain_panics();
    let answer = match &request.job {
        Job::Create(job) => create(job, request.preserve_fds, descriptors, answers),
        Job::Exec(job) => exec(job, request.preserve_fds, descriptors),
        Job::Hooks(job) => run_hooks(job),
    };
    answer.map_err(|failure| match (failure, diagnosis.cause()) {
        (Failure::Other(text), Some(cause)) if !text.contains(&cause) => {
            Failure::Other(format!("{text}: {cause}"))
        }
        (failure, _) => failure,
    })
}

fn other(context: &str) -> impl FnOnce(io::Error) -> Failure {
    let context = context.to_owned();
    move |e| Failure::Other(format!("{context}: {e}"))
}

fn create(job: &CreateJob, preserve_fds: u32, descriptors: Descriptors, answers: RawFd) -> Answer {
    let fifo = open_fifo(&job.dir).map_err(other("making the exec fifo"))?;
    let console = descriptors
        .console
        .map(|fd| Console::listen(&job.dir, fd))
        .transpose()
        .map_err(other("console"))?;
    let sandbox = job.filter.as_ref().map(|load| Sandbox {
        filter: Some(load.filter.clone()),
        capabilities: load.capabilities.clone(),
        no_new_privileges: load.capabilities.is_none(),
    });
    let view = job.runner.as_ref().map(|_| RootView::new()).transpose();
    let view = view.map_err(other("the runner's root"))?;
    let runner = match (&job.runner, &view) {
        (Some(runner), Some(view)) => Some(
            RunnerCommand::new(runner, &descriptors.runner, view)
                .ok_or_else(|| Failure::Other("a runner's descriptors are missing".into()))?,
        ),
        _ => None,
    };
    let executor = Launcher::new(
        sandbox,
        Some(fifo.as_raw_fd()),
        own_descriptors(answers, console.as_ref(), view.as_ref()),
        job.label.clone(),
        runner,
    );
    descriptors
        .stdio
        .iter()
        .for_each(|stream| give(stream, job.owner));
    if let Some(placement) = &job.placement {
        placement.enter().map_err(other("cgroup"))?;
    }
    let builder = builder(
        &job.id,
        &job.dir,
        &job.dir.join(INIT_PID),
        preserve_fds,
        descriptors.stdio,
        console.as_ref(),
    )?
    .with_executor(executor)
    .as_init(&job.bundle)
    .with_systemd(job.systemd)
    .with_detach(true)
    .with_no_pivot(job.no_pivot)
    .as_sibling(true);
    let container = builder.build().map_err(|e| failure(&e))?;
    if let Some(console) = console {
        console
            .relay(job.owner)
            .map_err(other("handing over the terminal"))?;
    }
    let pid = container
        .pid()
        .ok_or_else(|| Failure::Other("libcontainer returned no pid".into()))?;
    let process = Process::of(pid.as_raw()).map_err(other("reading the init's start time"))?;
    let root = view.map(|view| Ok((RootView::find(process.pid)?, view)));
    let root = root.transpose().map_err(other("the runner's root"))?;
    job.surroundings
        .apply(process.pid)
        .map_err(other("surroundings"))?;
    if let Some((root, view)) = root {
        view.send(root).map_err(other("the runner's root"))?;
    }
    Ok(Done {
        process: Some(process),
    })
}

fn own_descriptors(answers: RawFd, console: Option<&Console>, view: Option<&RootView>) -> Vec<RawFd> {
    let console = console.map(|c| [c.listener.as_raw_fd(), c.out.as_raw_fd()]);
    let view = view.map(RootView::sender);
    console
        .into_iter()
        .flatten()
        .chain(view)
        .chain([answers])
        .collect()
}

/// Opened for both directions, a fifo never blocks, and has a reader and a writer as long as the init has not executed.
fn open_fifo(dir: &Path) -> io::Result<OwnedFd> {
    let path = dir.join(EXEC_FIFO);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )?;
    Ok(rustix::fs::open(
        &path,
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::empty(),
    )?)
}

fn builder(
    id: &str,
    root: &Path,
    pid_file: &Path,
    preserve_fds: u32,
    stdio: Vec<OwnedFd>,
    console: Option<&Console>,
) -> Result<ContainerBuilder, Failure> {
    let preserve_fds = i32::try_from(preserve_fds).map_err(|e| Failure::Other(e.to_string()))?;
    let mut builder = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
        .with_root_path(root)
        .and_then(|b| b.with_pid_file(Some(pid_file)))
        .and_then(ContainerBuilder::validate_id)
        .map_err(|e| failure(&e))?
        .with_preserved_fds(preserve_fds)
        .with_console_socket(console.map(|c| c.path.clone()));
    let mut stdio = stdio.into_iter();
    builder.stdin = stdio.next();
    builder.stdout = stdio.next();
    builder.stderr = stdio.next();
    Ok(builder)
}

/// libcontainer connects to a console by path; the caller gave a connected socket. What comes in at one goes out at the
/// other.
struct Console {
    listener: UnixListener,
    path: std::path::PathBuf,
    out: OwnedFd,
}

impl Console {
    fn listen(dir: &Path, out: OwnedFd) -> io::Result<Self> {
        let path = dir.join("console.sock");
        // A socket's address holds 108 bytes; by descriptor it is short wherever the root lies.
        let held = rustix::fs::open(
            dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/console.sock", held.as_raw_fd()))?;
        Ok(Self { listener, path, out })
    }

    fn relay(self, owner: Option<u32>) -> io::Result<()> {
        // The container's init has connected and sent before libcontainer said that it is ready.
        let (stream, _) = self.listener.accept()?;
        let _ = fs::remove_file(&self.path);
        let mut name = [0_u8; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &stream,
            &mut [IoSliceMut::new(&mut name)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        let master = control
            .drain()
            .find_map(|m| match m {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            })
            .ok_or_else(|| io::Error::other("no terminal came from the container"))?;
        let slave = rustix::pty::ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        give(&slave, owner);
        let fds = [master.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let name = &name[..received.bytes.max(1)];
        rustix::net::sendmsg(
            &self.out,
            &[IoSlice::new(name)],
            &mut control,
            SendFlags::NOSIGNAL,
        )?;
        Ok(())
    }
}

/// The process becomes a child of the worker's parent, to which it reports itself.
fn exec(job: &ExecJob, preserve_fds: u32, descriptors: Descriptors) -> Answer {
    let pid = crate::exec::spawn(job, preserve_fds, descriptors, true).map_err(other("exec"))?;
    Ok(Done {
        process: Some(Process::of(pid).unwrap_or(Process { pid, start_time: 0 })),
    })
}

pub(crate) fn selinux_is_enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

fn run_hooks(job: &HooksJob) -> Answer {
    let status = if job.stopped {
        ContainerStatus::Stopped
    } else {
        ContainerStatus::Running
    };
    let mut state = State::new(&job.id, status, job.pid, job.bundle.clone());
    state.annotations = Some(job.annotations.clone());
    // A poststop hook that fails does not keep the others from running (runtime-spec, "Lifecycle" 13).
    let together = if job.stopped { 1 } else { job.hooks.len().max(1) };
    let mut first_failure = Ok(Done { process: None });
    for hooks in job.hooks.chunks(together) {
        let ran = hooks::run_hooks(Some(&hooks.to_vec()), Some(&state), None, None, None);
        if let (Err(e), true) = (ran, first_failure.is_ok()) {
            first_failure = Err(failure(&e));
        }
    }
    first_failure
}
