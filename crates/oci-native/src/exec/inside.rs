//! The process itself, from its birth to execve: each step needs what a later one takes away, so their order matters.

use std::{
    convert::Infallible,
    fs, io,
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use oci_spec::runtime::Process;
use rustix::{
    fs::Mode,
    process::Signal,
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{attributes, home, terminal, user};
use crate::{
    executor::{Sandbox, execute, find_program, search_path},
    surroundings::give,
    worker::{self, Descriptors, ExecJob, Failure},
};

/// Becomes the program, or reports why not and ends.
pub(super) fn run(
    job: &ExecJob,
    preserve_fds: u32,
    descriptors: Descriptors,
    init: OwnedFd,
    leaves: Option<OwnedFd>,
) -> ! {
    // What the caller logs to is closed here, and its descriptor's number may be another's soon.
    let _quiet = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    // The caller's group is killed, and waited for, as one.
    let session = rustix::process::setsid();
    drop(leaves);
    let Ok(kept) = Kept::only(preserve_fds, descriptors, init) else {
        worker::exit(1)
    };
    let entered = catch_unwind(AssertUnwindSafe(|| {
        session.map_err(|e| other("setsid")(e.into()))?;
        enter(job, &kept)
    }));
    let failure = match entered {
        Ok(Err(failure)) => failure,
        Ok(Ok(never)) => match never {},
        Err(_) => Failure::Other("exec panicked".into()),
    };
    let json = serde_json::to_vec(&failure).unwrap_or_default();
    // Nobody is left to tell if it fails.
    let _ = fs::File::from(kept.report).write_all(&json);
    worker::exit(1)
}

fn other(step: &str) -> impl FnOnce(io::Error) -> Failure {
    let step = step.to_owned();
    move |e| Failure::Other(format!("{step}: {e}"))
}

/// All that is open, beside what is to be preserved.
struct Kept {
    stdio: Vec<OwnedFd>,
    console: Option<OwnedFd>,
    report: OwnedFd,
    init: OwnedFd,
}

impl Kept {
    /// Closes everything else: what the host has open must not be reachable through `/proc/self/fd` (CVE-2024-21626).
    fn only(preserve_fds: u32, descriptors: Descriptors, init: OwnedFd) -> io::Result<Self> {
        let first = worker::first_free(preserve_fds);
        let above = |fd| worker::above(fd, first);
        let kept = Self {
            report: above(descriptors.report.ok_or(io::ErrorKind::InvalidInput)?)?,
            stdio: descriptors
                .stdio
                .into_iter()
                .map(above)
                .collect::<io::Result<_>>()?,
            console: descriptors.console.map(above).transpose()?,
            init: above(init)?,
        };
        let numbers: Vec<RawFd> = kept
            .stdio
            .iter()
            .chain(&kept.console)
            .chain([&kept.report, &kept.init])
            .map(AsRawFd::as_raw_fd)
            .collect();
        worker::close_others(first, numbers);
        Ok(kept)
    }
}

fn enter(job: &ExecJob, kept: &Kept) -> Result<Infallible, Failure> {
    let process = &job.process;
    worker::reset_signals(true);
    // Until other credentials clear it, or we do: whoever asked for the process has to be there when it starts.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| other("prctl")(e.into()))?;

    // On the host's side: its /proc and cgroups can be trusted.
    let affinity = process.exec_cpu_affinity().as_ref();
    attributes::set_affinity(affinity.and_then(|a| a.initial().as_deref()))
        .map_err(other("execCPUAffinity.initial"))?;
    job.cgroup.enter().map_err(other("cgroup"))?;
    attributes::set_affinity(affinity.and_then(|a| a.cpu_affinity_final().as_deref()))
        .map_err(other("execCPUAffinity.final"))?;
    attributes::apply(process)?;
    kept.stdio.iter().for_each(|stream| give(stream, job.owner));

    let namespaces = job.namespaces();
    let now = namespaces.difference(ThreadNameSpaceType::PROCESS_ID | ThreadNameSpaceType::USER);
    if !namespaces.contains(ThreadNameSpaceType::MOUNT) {
        change_root(job.init.pid).map_err(other("chroot"))?;
    }
    if !now.is_empty() {
        move_into_thread_name_spaces(kept.init.as_fd(), now).map_err(|e| other("setns")(e.into()))?;
    }
    attributes::set_personality(job.personality).map_err(other("personality"))?;
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true).map_err(|e| other("no_new_privs")(e.into()))?;
    }
    match &kept.console {
        Some(console) => {
            terminal::connect(console, process, job.owner).map_err(other("terminal"))?;
        }
        None => connect_streams(&kept.stdio).map_err(other("standard streams"))?,
    }
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));

    let cwd = Cwd::enter(process)?;
    if namespaces.contains(ThreadNameSpaceType::USER) {
        move_into_thread_name_spaces(kept.init.as_fd(), ThreadNameSpaceType::USER)
            .map_err(|e| other("user namespace")(e.into()))?;
    }
    user::assume(process.user()).map_err(other("process.user"))?;
    cwd.verify(process)?;
    become_program(job)
}

/// In the container, as its user, with all capabilities still effective.
fn become_program(job: &ExecJob) -> Result<Infallible, Failure> {
    let process = &job.process;
    let name = process
        .args()
        .as_deref()
        .and_then(|a| a.first())
        .map_or("", String::as_str);
    let mut environment = process.env().clone().unwrap_or_default();
    home::add(&mut environment, process.user().uid(), Path::new("/"));
    let program = find_program(name, search_path(&environment)).map_err(Failure::Executable)?;
    let sandbox = Sandbox {
        filter: job.filter.clone(),
        capabilities: process.capabilities().clone(),
        no_new_privileges: process.no_new_privileges() == Some(true),
    };
    sandbox.enter().map_err(Failure::Other)?;
    rustix::process::set_parent_process_death_signal(None).map_err(|e| other("prctl")(e.into()))?;
    let args = process.args().as_deref().unwrap_or_default();
    Err(execute(name, &program, args, &environment))
}

fn connect_streams(stdio: &[OwnedFd]) -> io::Result<()> {
    let [stdin, stdout, stderr] = stdio else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    rustix::stdio::dup2_stdin(stdin)?;
    rustix::stdio::dup2_stdout(stdout)?;
    Ok(rustix::stdio::dup2_stderr(stderr)?)
}

/// A container without a mount namespace of its own has the host's, and a root inside of it.
fn change_root(init: i32) -> io::Result<()> {
    rustix::process::chroot(format!("/proc/{init}/root"))?;
    Ok(rustix::process::chdir("/")?)
}

/// The working directory.
struct Cwd {
    /// Only its user may enter it.
    later: bool,
}

impl Cwd {
    /// Before the user changes: root may enter directories that the user may not, as a home whose owner is another.
    fn enter(process: &Process) -> Result<Self, Failure> {
        match rustix::process::chdir(process.cwd()) {
            Ok(()) => Ok(Self { later: false }),
            Err(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Ok(Self { later: true }),
            Err(e) => Err(Self::failed(process, e.into())),
        }
    }

    /// As its user; and wherever it is, it has to be inside the container's root (CVE-2024-21626).
    fn verify(self, process: &Process) -> Result<(), Failure> {
        if self.later {
            rustix::process::chdir(process.cwd()).map_err(|e| Self::failed(process, e.into()))?;
        }
        let path = rustix::process::getcwd(Vec::new()).map_err(|e| Self::failed(process, e.into()))?;
        // The kernel says "(unreachable)/…" of a directory that is not below this process's root.
        if path.to_bytes().first() == Some(&b'/') {
            Ok(())
        } else {
            Err(Failure::Other(format!(
                "process.cwd {}: is outside of the container",
                process.cwd().display()
            )))
        }
    }

    fn failed(process: &Process, e: io::Error) -> Failure {
        other(&format!("process.cwd {}", process.cwd().display()))(e)
    }
}
