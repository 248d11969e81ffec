//! Making a container: one process prepares, one becomes the container.
//!
//! [`make`] runs in a worker, a host process with one thread and only the descriptors it was given.
//! It opens the container's parts ([`sources`]), makes the cgroup, and clones the container's
//! process into its namespaces ([`child`]). That makes the mounts on the root by descriptor
//! ([`filesystems`], [`devices`]), changes the root, drops rights, waits for `start`, executes.
//!
//! Invariants:
//! - No file of the container is loaded, executed or resolved by a process that can reach the host.
//!   Before the change of root the kernel looks the image's files up inside the root ([`target`]);
//!   no library, name service or program of the image is used. After it the host is out of reach.
//! - No process visible in the container's pid namespace has the host's root, mounts, descriptors
//!   or capabilities: a namespace with others in it is entered last ([`crate::process::birth`]).
//! - No path of the image is resolved by its text: links lead where they lead in the container.

mod child;
mod devices;
mod filesystems;
mod hooks;
mod listener;
mod namespaces;
mod options;
mod sources;
mod target;

use std::{
    fs, io,
    io::Write as _,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixListener,
    },
    path::Path,
};

use magik_sys::{clone::Clone, mount::look_at_dir, process, socket};
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, Process, Spec};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    net::{RecvFlags, SendFlags},
    process::{DumpableBehavior, Pid, set_dumpable_behavior},
};

use self::{devices::Device, namespaces::Namespaces, sources::Sources};
pub(crate) use self::{hooks::run as run_hooks, options::propagation};
use crate::{
    cgroup::{Cgroup, Entry},
    failure::{Failure, step},
    fork::{self, EndsHere},
    job::{Answer, CreateJob, Descriptors, Done},
    process::{
        attributes,
        birth::{self, Shared},
        owner::give,
    },
};

/// Exists, and is held open by the container's process, while that waits for `start`.
pub(crate) const EXEC_FIFO: &str = "exec.fifo";
/// The socket through which `start` has the program executed, and gets the result.
pub(crate) const START_SOCKET: &str = "start.sock";
/// Holds the container's pid until it is recorded, to clean up after a failed creation.
pub(crate) const INIT_PID: &str = "init.pid";
/// The longest message of the container's process to its maker, in bytes.
const MAX_MESSAGE: usize = 64 << 10;

/// What the container's process tells its maker: the mounts are made, it can be limited, or, as
/// JSON, why it failed.
const MOUNTED: &[u8] = b"mounted";
const LIMITS: &[u8] = b"limits";

/// Everything that the container's process needs.
struct Parts<'a> {
    job: &'a CreateJob,
    process: &'a Process,
    linux: &'a Linux,
    preserve_fds: u32,
    stdio: Vec<OwnedFd>,
    console: Option<OwnedFd>,
    runner: Vec<OwnedFd>,
    namespaces: Namespaces,
    sources: Sources,
    devices: Vec<Device>,
    /// A connection to the listener of the seccomp filter.
    listener: Option<OwnedFd>,
    fifo: OwnedFd,
    start: UnixListener,
    /// The connection to the maker, which also sends the message to go on.
    maker: OwnedFd,
}

impl Parts<'_> {
    /// Closes all other descriptors but those the container inherits.
    fn close_others(&self) {
        let runner = self.runner.iter().chain(&self.stdio).chain(&self.console);
        let mut numbers: Vec<RawFd> = runner
            .chain([&self.fifo, &self.maker])
            .chain(&self.listener)
            .chain(self.namespaces.descriptors())
            .chain(self.sources.descriptors())
            .chain(self.devices.iter().filter_map(Device::descriptor))
            .map(AsRawFd::as_raw_fd)
            .collect();
        numbers.push(self.start.as_raw_fd());
        fork::close_others(fork::first_free(self.preserve_fds), numbers);
    }
}

/// Makes a container.
pub(crate) fn make(job: &CreateJob, preserve_fds: u32, descriptors: Descriptors) -> Answer {
    let spec = &job.spec;
    let (Some(linux), Some(process)) = (spec.linux(), spec.process()) else {
        return Err(Failure::Other("the spec has no linux or process".into()));
    };
    let namespaces = Namespaces::open(linux)?;
    let cgroup = Cgroup::new(&job.layout, &job.cgroup);
    let entry = cgroup.make_and_enter().map_err(step("cgroup"))?;
    namespaces.make_time(linux).map_err(step("time namespace"))?;
    let new_users = Some(linux).filter(|_| namespaces.makes(Kind::User));
    let mut devices = devices::of(spec, linux);
    let sources = Sources::open(spec, &namespaces, &cgroup, &mut devices)?;
    descriptors
        .stdio
        .iter()
        .for_each(|stream| give(stream, job.owner));

    let (child, maker) = socket::pair().map_err(step("socket"))?;
    let parts = Parts {
        job,
        process,
        linux,
        preserve_fds,
        stdio: descriptors.stdio,
        console: descriptors.console,
        runner: descriptors.runner,
        namespaces,
        sources,
        devices,
        listener: listener::connect(linux, job.filter.as_ref())?,
        fifo: open_fifo(&job.dir).map_err(step("making the exec fifo"))?,
        start: listen(&job.dir).map_err(step("making the start socket"))?,
        maker,
    };
    let result = Shared::new().map_err(step("shared memory"))?;
    // This process's memory is not for processes that share its pids.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| step("prctl")(e.into()))?;
    let pid = give_birth(parts, &entry, &result)?;
    keep_pid(&job.dir, pid).map_err(step("writing the pid"))?;
    let made = raise(job, new_users, process, pid, &child);
    made.and_then(|()| {
        // After joining a pid namespace another process executes the program.
        let pid = result.pid().unwrap_or(pid);
        if !result.is_ready() && result.pid().is_none() {
            return Err(Failure::Other("its process ended while it was made".into()));
        }
        keep_pid(&job.dir, pid).map_err(step("writing the pid"))?;
        let process =
            process::Process::of(pid.as_raw_nonzero().get()).map_err(step("reading the start time"))?;
        Ok(Done {
            process: Some(process),
        })
    })
}

/// Clones the container's process, which becomes a child of this process's parent.
fn give_birth(parts: Parts<'_>, entry: &Entry, result: &Shared) -> Result<Pid, Failure> {
    let failed = |e: io::Error| Failure::Other(format!("making the container's process: {e}"));
    let directory = entry.directory().map_err(failed)?;
    let clone = Clone {
        flags: parts.namespaces.born_in(),
        cgroup: directory.as_ref().map(AsFd::as_fd),
        sibling: true,
        ..Clone::default()
    };
    let mask = fork::block_signals();
    let outcome = if parts.namespaces.need_intermediate() {
        by_intermediate(parts, &clone, result)
    } else {
        match birth::fork(&clone) {
            Ok(None) => child::run(parts, result, true),
            Ok(Some(pid)) => Ok(pid),
            Err(e) => Err(failed(e)),
        }
    };
    fork::restore_signals(&mask);
    outcome
}

/// Has an intermediate process enter the joined namespaces and make the container's process, which
/// cannot enter them from its user namespace. Both are children of this process's parent.
fn by_intermediate(parts: Parts<'_>, clone: &Clone<'_>, result: &Shared) -> Result<Pid, Failure> {
    let failed = |e: io::Error| Failure::Other(format!("making the container's process: {e}"));
    let born = Shared::new().map_err(failed)?;
    let (ended, ends) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let intermediate = Clone {
        sibling: true,
        ..Clone::default()
    };
    if birth::fork(&intermediate).map_err(failed)?.is_none() {
        let _end = EndsHere;
        let made = parts.namespaces.join().and_then(|()| {
            let clone = Clone {
                pid: Some(born.pid_at()),
                ..*clone
            };
            birth::fork(&clone).map_err(failed)
        });
        match made {
            Ok(None) => child::run(parts, result, false),
            Ok(Some(_)) => fork::exit(0),
            Err(failure) => {
                say(&parts.maker, &failure);
                fork::exit(1)
            }
        }
    }
    drop(ends);
    // Ends with the intermediate: its child closes its own copy at once.
    let _ = rustix::io::read(&ended, &mut [0_u8; 1]);
    drop(parts);
    match born.pid() {
        Some(pid) => Ok(pid),
        None => Err(Failure::Other("the container's process could not be made".into())),
    }
}

/// Gives the new process what it needs from outside, and waits until it is the container.
///
/// `new_users` has the maps of a user namespace that is new.
fn raise(
    job: &CreateJob,
    new_users: Option<&Linux>,
    process: &Process,
    pid: Pid,
    child: &OwnedFd,
) -> Result<(), Failure> {
    if let Some(linux) = new_users {
        namespaces::map_ids(pid, linux.uid_mappings().as_ref(), linux.gid_mappings().as_ref())
            .map_err(step("user namespace"))?;
    }
    go_on(child, pid)?;
    loop {
        let mut message = vec![0_u8; MAX_MESSAGE];
        let (_, length) = rustix::net::recv(child, message.as_mut_slice(), RecvFlags::empty())
            .map_err(|e| step("the container's process")(e.into()))?;
        match &message[..length] {
            [] => return Ok(()),
            LIMITS => {
                attributes::apply(process, Some(pid))?;
                go_on(child, pid)?;
            }
            MOUNTED => {
                hooks::before_start(job, pid)?;
                go_on(child, pid)?;
            }
            failure => {
                return Err(serde_json::from_slice(failure).map_err(|e| Failure::Other(e.to_string()))?);
            }
        }
    }
}

/// Tells the container's process to go on, and its pid. If it has ended, a later read shows that.
fn go_on(child: &OwnedFd, pid: Pid) -> Result<(), Failure> {
    let pid = pid.as_raw_nonzero().get().to_ne_bytes();
    match rustix::net::send(child, &pid, SendFlags::NOSIGNAL) {
        Ok(_) | Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => Ok(()),
        Err(e) => Err(step("the container's process")(e.into())),
    }
}

fn say(maker: &OwnedFd, failure: &Failure) {
    let json = serde_json::to_vec(failure).unwrap_or_default();
    // On failure no reader is left to tell.
    let _ = rustix::net::send(maker, &json, SendFlags::NOSIGNAL);
}

/// Opened for both directions, a fifo never blocks, and has a reader until the init executes.
fn open_fifo(dir: &Path) -> io::Result<OwnedFd> {
    let path = dir.join(EXEC_FIFO);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    Ok(rustix::fs::open(&path, flags, Mode::empty())?)
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    // A socket's address holds 108 bytes; a path through a descriptor is short.
    let held = look_at_dir(dir)?;
    UnixListener::bind(format!("/proc/self/fd/{}/{START_SOCKET}", held.as_raw_fd()))
}

fn keep_pid(dir: &Path, pid: Pid) -> io::Result<()> {
    let mut file = fs::File::create(dir.join(INIT_PID))?;
    write!(file, "{}", pid.as_raw_nonzero())
}

fn spec_root(spec: &Spec) -> &Path {
    spec.root().as_ref().map_or(Path::new("/"), |root| root.path())
}
