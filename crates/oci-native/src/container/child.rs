//! The container's process from birth to execve. The order matters: steps take rights away.

use std::{
    convert::Infallible,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
};

use libcontainer::{
    container::ContainerStatus, process::memory_policy::setup_memory_policy, syscall::syscall::create_syscall,
};
use magik_sys::mount::{Attributes, attach, look_at_dir, set_attributes};
use oci_spec::runtime::{LinuxNamespaceType as Kind, LinuxPersonality, Process};
use rustix::{
    fs::Mode,
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    net::{RecvFlags, SendFlags},
    process::{Signal, chroot, fchdir, pivot_root, set_parent_process_death_signal},
    thread::UnshareFlags,
};

use super::{
    LIMITS, MOUNTED, Parts, devices, filesystems::Maker, hooks, listener, namespaces, namespaces::Namespaces,
    options::propagation, say, spec_root,
};
use crate::{
    failure::{CannotExecute, Failure, step},
    fork::{self, EndsHere},
    job::CreateJob,
    masks::Masks,
    process::{
        Program, assume,
        attributes::{self, Labels},
        birth::{self, Shared},
        confine, cwd,
        program::{EXECUTING, execute},
        streams,
        terminal::{self, Terminal},
        user,
    },
    runner::{RootView, RunnerCommand},
};

/// Becomes the container, or reports why not and ends. `joins`: it must still enter namespaces.
pub(super) fn run(mut parts: Parts<'_>, result: &Shared, joins: bool) -> ! {
    let _end = EndsHere;
    parts.close_others();
    let failure = match become_container(&mut parts, joins) {
        Ok(contained) => match contained.wait_and_execute(parts, result) {
            Ok(never) => match never {},
            Err(said) => said,
        },
        Err(failure) => Some((parts.maker, failure)),
    };
    if let Some((maker, failure)) = failure {
        say(&maker, &failure);
    }
    fork::exit(1)
}

/// Everything before `start`, except the steps that confine the process.
fn become_container(parts: &mut Parts<'_>, joins: bool) -> Result<Contained, Failure> {
    let (job, process, linux) = (parts.job, parts.process, parts.linux);
    // The maker blocked them all for its clone.
    fork::reset_signals(false);
    // The maker waits for its group and kills it. The preparing process stays in it.
    if parts.namespaces.joined(Kind::Pid).is_none() {
        rustix::process::setsid().map_err(|e| step("setsid")(e.into()))?;
    }
    // The creator has to live until this process waits for its start.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| step("prctl")(e.into()))?;
    let pid = told_to_go_on(&parts.maker)?;

    let labels = Labels::open(process)?;
    if job.new_keyring {
        magik_sys::own_keyring().map_err(step("session keyring"))?;
    }
    if parts.namespaces.has(Kind::User) {
        user::become_root().map_err(step("user namespace"))?;
        // The change of credentials has cleared it.
        set_parent_process_death_signal(Some(Signal::KILL)).map_err(|e| step("prctl")(e.into()))?;
    }
    enter_namespaces(job, &parts.namespaces, joins)?;
    if parts.console.is_none() {
        streams::connect(&parts.stdio).map_err(step("standard streams"))?;
    }
    let (terminal, root) = make_root(parts)?;
    // After the hooks, which are the host's.
    let joins_pid = parts.namespaces.set_pid_for_children()?;
    enter_root(parts, &root)?;

    let syscall = create_syscall();
    setup_memory_policy(linux.memory_policy(), syscall.as_ref()).map_err(|e| Failure::of(&e))?;
    let domain = linux.personality().as_ref().map(LinuxPersonality::domain);
    attributes::set_personality(domain).map_err(step("personality"))?;
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true).map_err(|e| step("no_new_privs")(e.into()))?;
    }
    let runner = runner(parts, &root)?;
    match (terminal, &parts.console) {
        (Some(terminal), Some(console)) => terminal.connect(console).map_err(step("terminal"))?,
        _ => streams::reopen_null(root.as_fd()).map_err(step("standard streams"))?,
    }
    drop(root);
    rustix::process::umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    // Only now: the limits must not affect what makes the container.
    tell(&parts.maker, LIMITS)?;
    let program = assume(process, runner.is_none(), || Ok(()))?;
    labels.set()?;
    Ok(Contained {
        pid,
        joins_pid,
        has_terminal: parts.console.is_some(),
        program,
        runner,
    })
}

/// Reports progress to the maker, and waits for its answer.
fn tell(maker: &OwnedFd, what: &[u8]) -> Result<i32, Failure> {
    rustix::net::send(maker, what, SendFlags::NOSIGNAL).map_err(|e| step("the maker")(e.into()))?;
    told_to_go_on(maker)
}

/// Waits for the maker, which sends this process's pid on the host.
fn told_to_go_on(maker: &OwnedFd) -> Result<i32, Failure> {
    let mut pid = [0_u8; 4];
    match rustix::net::recv(maker, pid.as_mut_slice(), RecvFlags::empty()) {
        Ok((_, 4)) => Ok(i32::from_ne_bytes(pid)),
        // The maker has ended.
        _ => fork::exit(1),
    }
}

fn enter_namespaces(job: &CreateJob, namespaces: &Namespaces, joins: bool) -> Result<(), Failure> {
    if joins {
        namespaces.join()?;
    }
    if namespaces.makes(Kind::Cgroup) {
        // In the container's cgroup, which becomes the root of its cgroup namespace.
        namespaces::unshare(UnshareFlags::NEWCGROUP).map_err(step("cgroup namespace"))?;
    }
    if namespaces.makes(Kind::Network) {
        namespaces::loopback_up().map_err(step("loopback"))?;
    }
    if namespaces.makes(Kind::Uts) {
        if let Some(name) = job.spec.hostname() {
            rustix::system::sethostname(name.as_bytes()).map_err(|e| step("hostname")(e.into()))?;
        }
        if let Some(name) = job.spec.domainname() {
            rustix::system::setdomainname(name.as_bytes()).map_err(|e| step("domainname")(e.into()))?;
        }
    }
    Ok(())
}

/// Makes mounts and devices, and all else that needs the host's file system; returns the root.
fn make_root(parts: &mut Parts<'_>) -> Result<(Option<Terminal>, OwnedFd), Failure> {
    let (job, process) = (parts.job, parts.process);
    let path = spec_root(&job.spec);
    let open = |path: &Path| {
        look_at_dir(path).map_err(|e| Failure::Other(format!("root.path {}: {e}", path.display())))
    };
    let sysctls = || match parts.linux.sysctl() {
        Some(sysctls) => namespaces::set_sysctls(sysctls),
        None => Ok(()),
    };
    if !parts.namespaces.has(Kind::Mount) {
        sysctls()?;
        wait_for_hooks(job, &parts.maker)?;
        return Ok((None, open(path)?));
    }
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream).map_err(|e| step("making mounts private")(e.into()))?;
    let root = parts.sources.take_root(path).map_err(step("root.path"))?;
    // Hooks find it where the bundle says. A process without access to that path mounts it over its
    // own root, which changes nothing for processes that are in it already.
    let place = open(path).or_else(|_| open(Path::new("/")))?;
    attach(&root, place).map_err(step("mounting the root"))?;
    Maker::new(root.as_fd(), &parts.namespaces, &job.spec).make_all(&job.spec, &mut parts.sources)?;
    devices::make(root.as_fd(), &parts.devices)?;
    let terminal = parts
        .console
        .is_some()
        .then(|| Terminal::new(root.as_fd(), process, job.owner))
        .transpose()
        .map_err(step("terminal"))?;
    if let Some(terminal) = &terminal {
        devices::show_console(root.as_fd(), terminal).map_err(step("terminal"))?;
    }
    cwd::make(root.as_fd(), process);
    sysctls()?;
    wait_for_hooks(job, &parts.maker)?;
    Ok((terminal, root))
}

/// Lets the host's hooks see the container, then runs the hooks that belong inside.
fn wait_for_hooks(job: &CreateJob, maker: &OwnedFd) -> Result<(), Failure> {
    if hooks::wait_outside(job) {
        tell(maker, MOUNTED)?;
    }
    let hooks = job
        .spec
        .hooks()
        .as_ref()
        .and_then(|h| h.create_container().as_ref());
    hooks::run_inside(job, hooks, ContainerStatus::Creating, None)
}

/// Changes to the container's root: after it, the host's files are out of reach.
fn enter_root(parts: &Parts<'_>, root: &OwnedFd) -> Result<(), Failure> {
    let (job, linux) = (parts.job, parts.linux);
    let failed = |e: rustix::io::Errno| step("changing the root")(e.into());
    let before = look_at_dir(Path::new("/")).map_err(failed)?;
    fchdir(root).map_err(failed)?;
    if !parts.namespaces.has(Kind::Mount) {
        chroot(".").map_err(failed)?;
        return rustix::process::chdir("/").map_err(failed);
    }
    if job.no_pivot {
        attach(root, &before).map_err(step("changing the root"))?;
        chroot(".").map_err(failed)?;
    } else {
        pivot_root(".", ".").map_err(failed)?;
        fchdir(&before).map_err(failed)?;
        unmount(".", UnmountFlags::DETACH).map_err(failed)?;
    }
    rustix::process::chdir("/").map_err(failed)?;
    Masks::of(linux).apply(root.as_fd()).map_err(step("masks"))?;
    let readonly = job
        .spec
        .root()
        .as_ref()
        .and_then(oci_spec::runtime::Root::readonly)
        == Some(true);
    let asked = linux.rootfs_propagation().as_deref().and_then(propagation);
    let (propagation, recursive) = asked.unwrap_or_default();
    let changes = [
        Attributes::propagating(propagation, recursive),
        Attributes {
            set: if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 },
            ..Attributes::default()
        },
    ];
    let mut wanted = changes.into_iter().filter(|c| c.set != 0 || c.propagation != 0);
    wanted
        .try_for_each(|change| set_attributes(root, change))
        .map_err(step("root"))
}

/// How a program of the host is executed in place of the container's, if there is one. It gets the
/// root without the mounts in it.
fn runner(parts: &Parts<'_>, root: &OwnedFd) -> Result<Option<(RunnerCommand, RootView)>, Failure> {
    let Some(job) = &parts.job.runner else {
        return Ok(None);
    };
    let view = RootView::of(root).map_err(step("the runner's root"))?;
    let command = RunnerCommand::new(job, &parts.runner, &view)
        .ok_or_else(|| Failure::Other("a runner's descriptors are missing".into()))?;
    // It and its libraries are found through /proc/self/fd.
    if !Path::new("/proc/self/fd").exists() {
        let name = Program::name(parts.process);
        return Err(Failure::Executable(CannotExecute::new(
            name,
            magik_oci::ExecFailure::Other,
            "what runs it needs /proc mounted in the container",
        )));
    }
    Ok(Some((command, view)))
}

/// In the container, as its user, with all capabilities still effective.
struct Contained {
    /// Its pid on the host.
    pid: i32,
    joins_pid: bool,
    has_terminal: bool,
    program: Program,
    runner: Option<(RunnerCommand, RootView)>,
}

/// Why the process could not be executed, and the connection to report it on.
type Said = Option<(OwnedFd, Failure)>;

impl Contained {
    /// Waits for `start`, and executes the program.
    fn wait_and_execute(self, parts: Parts<'_>, result: &Shared) -> Result<Infallible, Said> {
        let Parts {
            job,
            process,
            listener,
            fifo,
            start,
            maker,
            runner: _held,
            stdio,
            console,
            namespaces,
            sources,
            devices,
            ..
        } = parts;
        // While it waits, only the container's own descriptors are open.
        drop((stdio, console, namespaces, sources, devices));
        let ready = || {
            set_parent_process_death_signal(None).map_err(|e| step("prctl")(e.into()))?;
            if self.has_terminal && !self.joins_pid {
                terminal::control().map_err(step("terminal"))?;
            }
            // Before it waits: others may join the pid namespace before the start.
            let early = self.joins_pid && birth::joins_early(process, job.filter.as_ref(), result)?;
            let join = || {
                if !self.joins_pid {
                    return Ok(());
                }
                birth::join(result).map_err(step("pid namespace"))?;
                rustix::process::setsid().map_err(|e| step("setsid")(e.into()))?;
                if self.has_terminal {
                    terminal::control().map_err(step("terminal"))?;
                }
                Ok(())
            };
            let tell = |fd| match listener {
                Some(socket) => listener::tell(socket, &fd, job, self.pid),
                None => Err(Failure::Other("a seccomp filter without a listener".into())),
            };
            if job.own_domain {
                confine::stay_among_its_own(process)?;
            }
            confine::enter(process, job.filter.as_ref(), tell, early, join)
        };
        if let Err(failure) = ready() {
            return Err(Some((maker, failure)));
        }
        result.set_ready();
        drop(maker);
        // `start` uses a connection: unlike this process's fifo, no other can open it.
        let Ok(mut starter) = wait_for_start(start) else {
            return Err(None);
        };
        drop(fifo);
        let failure = match self.execute(job, process, &mut starter) {
            Ok(never) => match never {},
            Err(failure) => failure,
        };
        let json = serde_json::to_vec(&failure).unwrap_or_default();
        // On failure no reader is left to tell.
        let _ = starter.write_all(&json);
        Err(None)
    }

    fn execute(
        &self,
        job: &CreateJob,
        process: &Process,
        starter: &mut UnixStream,
    ) -> Result<Infallible, Failure> {
        let hooks = job
            .spec
            .hooks()
            .as_ref()
            .and_then(|h| h.start_container().as_ref());
        hooks::run_inside(
            job,
            hooks,
            ContainerStatus::Created,
            Some(&self.program.environment),
        )?;
        if let Some((runner, _)) = &self.runner {
            runner.let_inherit().map_err(step("handing down descriptors"))?;
        }
        // execve closes the connection: its end means success.
        let _ = starter.write_all(&[EXECUTING]);
        Err(match &self.runner {
            None => self.program.execute(process),
            Some((runner, _)) => {
                let args = process.args().as_deref().unwrap_or_default();
                execute(
                    Program::name(process),
                    runner.path.as_ref(),
                    &runner.arguments(args),
                    &RunnerCommand::environment(&self.program.environment),
                )
            }
        })
    }
}

/// Waits until a connection says so.
fn wait_for_start(start: UnixListener) -> io::Result<UnixStream> {
    let (mut connection, _) = start.accept()?;
    drop(start);
    connection.read_exact(&mut [0])?;
    Ok(connection)
}
