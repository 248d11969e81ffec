//! The process itself, from birth to execve. The order matters: steps take rights away.

use std::{
    convert::Infallible,
    fs, io,
    io::Write as _,
    os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd},
};

use magik_sys::mount::look_at_dir;
use rustix::{
    fs::Mode,
    process::Signal,
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use crate::{
    failure::{Failure, step},
    fork::{self, EndsHere},
    job::{Descriptors, ExecJob},
    process::{
        assume,
        attributes::{self, Labels},
        birth::{self, Shared},
        confine,
        owner::give,
        streams,
        terminal::{self, Terminal},
    },
};

/// Becomes the program, or reports why not and ends.
pub(super) fn run(
    job: &ExecJob,
    preserve_fds: u32,
    descriptors: Descriptors,
    init: OwnedFd,
    leaves: Option<OwnedFd>,
    born: &Shared,
) -> ! {
    let _end = EndsHere;
    // The caller's log is closed here, and its descriptor number may be reused.
    let _quiet = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    let Ok(kept) = Kept::only(preserve_fds, descriptors, init, leaves) else {
        fork::exit(1)
    };
    fork::forget_environment();
    let Kept { report, mut inside } = kept;
    let failure = match inside.enter(job, born) {
        Err(failure) => failure,
        Ok(never) => match never {},
    };
    let json = serde_json::to_vec(&failure).unwrap_or_default();
    // On failure no reader is left to tell.
    let _ = fs::File::from(report).write_all(&json);
    fork::exit(1)
}

/// All open descriptors, except those to be preserved.
struct Kept {
    report: OwnedFd,
    inside: Inside,
}

struct Inside {
    stdio: Vec<OwnedFd>,
    console: Option<OwnedFd>,
    init: Option<OwnedFd>,
    /// Closed once this process has left its maker's group.
    leaves: Option<OwnedFd>,
}

impl Kept {
    /// Closes all others: `/proc/self/fd` must not reach the host's (CVE-2024-21626).
    fn only(
        preserve_fds: u32,
        descriptors: Descriptors,
        init: OwnedFd,
        leaves: Option<OwnedFd>,
    ) -> io::Result<Self> {
        let first = fork::first_free(preserve_fds);
        let above = |fd| fork::above(fd, first);
        let stdio = descriptors.stdio.into_iter().map(above);
        let kept = Self {
            report: above(descriptors.report.ok_or(io::ErrorKind::InvalidInput)?)?,
            inside: Inside {
                stdio: stdio.collect::<io::Result<_>>()?,
                console: descriptors.console.map(above).transpose()?,
                init: Some(above(init)?),
                leaves: leaves.map(above).transpose()?,
            },
        };
        let inside = &kept.inside;
        let numbers: Vec<RawFd> = inside
            .stdio
            .iter()
            .chain(&inside.console)
            .chain(&inside.init)
            .chain(&inside.leaves)
            .chain([&kept.report])
            .map(AsRawFd::as_raw_fd)
            .collect();
        fork::close_others(first, numbers);
        Ok(kept)
    }
}

impl Inside {
    fn enter(&mut self, job: &ExecJob, born: &Shared) -> Result<Infallible, Failure> {
        let process = &job.process;
        let (namespaces, joins_pid) = (job.namespaces(), job.joins_pid());
        let joins_early = joins_pid && birth::joins_early(process, job.filter.as_ref(), born)?;
        fork::reset_signals(true);
        // Until new credentials clear it, or we do: the caller has to live until the start.
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(|e| step("prctl")(e.into()))?;
        prepare_on_host(job)?;
        self.stdio.iter().for_each(|stream| give(stream, job.owner));

        let init = self
            .init
            .take()
            .ok_or_else(|| step("init")(io::ErrorKind::NotFound.into()))?;
        let now = namespaces.difference(ThreadNameSpaceType::USER);
        if !namespaces.contains(ThreadNameSpaceType::MOUNT) {
            change_root(job.init.pid).map_err(step("chroot"))?;
        }
        if !now.is_empty() {
            // The pid namespace only affects children.
            move_into_thread_name_spaces(init.as_fd(), now).map_err(|e| step("setns")(e.into()))?;
        }
        attributes::set_personality(job.personality).map_err(step("personality"))?;
        if process.no_new_privileges() == Some(true) {
            rustix::thread::set_no_new_privs(true).map_err(|e| step("no_new_privs")(e.into()))?;
        }
        match &self.console {
            Some(console) => Self::open_terminal(job)
                .and_then(|terminal| terminal.connect(console))
                .map_err(step("terminal"))?,
            None => streams::connect(&self.stdio).map_err(step("standard streams"))?,
        }
        rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
        let program = assume(process, true, || {
            if !namespaces.contains(ThreadNameSpaceType::USER) {
                return Ok(());
            }
            move_into_thread_name_spaces(init.as_fd(), ThreadNameSpaceType::USER)
                .map_err(|e| step("user namespace")(e.into()))
        })?;
        drop(init);
        let has_terminal = self.console.take().is_some();
        self.stdio.clear();

        let mut leaves = self.leaves.take();
        let mut become_leader = || {
            // The caller's group is killed, and waited for, as one.
            rustix::process::setsid().map_err(|e| step("setsid")(e.into()))?;
            drop(leaves.take());
            if has_terminal {
                terminal::control().map_err(step("terminal"))?;
            }
            Ok(())
        };
        if !joins_pid {
            become_leader()?;
        }
        let join = || {
            if !joins_pid {
                return Ok(());
            }
            birth::join(born).map_err(step("pid namespace"))?;
            become_leader()
        };
        if job.own_domain {
            confine::stay_among_its_own(process)?;
        }
        confine::enter(process, job.filter.as_ref(), |_| Ok(()), joins_early, join)?;
        if !joins_pid {
            rustix::process::set_parent_process_death_signal(None).map_err(|e| step("prctl")(e.into()))?;
        }
        Err(program.execute(process))
    }

    fn open_terminal(job: &ExecJob) -> io::Result<Terminal> {
        let root = look_at_dir("/".as_ref())?;
        Terminal::new(root.as_fd(), &job.process, job.owner)
    }
}

/// What is done before the container's namespaces: the host's /proc and cgroups can be trusted.
fn prepare_on_host(job: &ExecJob) -> Result<(), Failure> {
    let affinity = job.process.exec_cpu_affinity().as_ref();
    attributes::set_affinity(affinity.and_then(|a| a.initial().as_deref()))
        .map_err(step("execCPUAffinity.initial"))?;
    job.cgroup.enter().map_err(step("cgroup"))?;
    attributes::set_affinity(affinity.and_then(|a| a.cpu_affinity_final().as_deref()))
        .map_err(step("execCPUAffinity.final"))?;
    attributes::apply(&job.process, None)?;
    Labels::open(&job.process)?.set()?;
    if job.new_keyring {
        magik_sys::own_keyring().map_err(step("session keyring"))?;
    }
    Ok(())
}

/// A container without a mount namespace of its own has the host's, and a root inside of it.
fn change_root(init: i32) -> io::Result<()> {
    rustix::process::chroot(format!("/proc/{init}/root"))?;
    Ok(rustix::process::chdir("/")?)
}
