//! In the container: the program, in place of one of the container's own.
//!
//! `/proc` is not shown, for `/proc/self/mem` is the runner's memory; nor are `/sys` and `/dev`.
//! `/` is the root's own file system, and a directory with mounts in or below it is separate.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs::File,
    io::{self, Seek},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use magik_oci::{ContainerId, ContainerState, Exit, Signal, Status, Stdio};
use magik_sys::{mountinfo, socket::receive_descriptor};
use rustix::net::RecvFlags;
use tokio::signal::unix::{SignalKind, signal};

use super::{Orders, SandboxError};
use crate::{
    LoadError, Metering, World,
    container::{Container, Ready},
    engine::Allocation,
    host::{Directory, ProgramSetup},
    limiter::Usage,
    loader::{Program, deserialize},
    network::{Loopback, Network},
    program::Linked,
    runtime::listen,
    stdio::Streams,
};

/// Stands before each variable of the program in this process's environment, so that this process's
/// loader and C library ignore it.
const ENVIRONMENT_MARK: char = '_';

/// Runs the program and ends this process with it; comes back only where there is nothing to run.
///
/// `ORDERS INPUTS OTHERS ARGUMENT…`: the two in between are lists of descriptors, the machine
/// code's and those to close.
pub(super) fn main(arguments: impl Iterator<Item = OsString>) -> SandboxError {
    // The kernel has checked nothing for UTF-8, but this is JSON's text.
    let mut arguments = arguments.map(|a| a.to_string_lossy().into_owned());
    let (Some(orders), Some(inputs), Some(others)) = (arguments.next(), arguments.next(), arguments.next())
    else {
        return failed("a WebAssembly container is started by magikrun itself, not by hand");
    };
    // A program that may open /proc finds nothing of the host's there.
    drop(take_over(&others));
    let Ok([code, view]) = <[OwnedFd; 2]>::try_from(take_over(&inputs)) else {
        return failed("the machine code is missing");
    };
    let root = match receive_descriptor(&view, RecvFlags::DONTWAIT) {
        Ok(root) => root,
        Err(error) => return failed(&format!("the container's root: {error}")),
    };
    drop(view);
    // Nothing is ever executed from here.
    let _ = rustix::thread::set_no_new_privs(true);
    let orders = match serde_json::from_str(&orders) {
        Ok(orders) => orders,
        Err(error) => return failed(&error.to_string()),
    };
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => return failed(&error.to_string()),
    };
    match executor.block_on(run(orders, code.into(), &root, arguments.collect())) {
        // At once, whatever other threads do: the container's other processes end, too.
        Ok(exit) => std::process::exit(exit.code),
        Err(reason) => {
            executor.shutdown_background();
            failed(&reason)
        }
    }
}

fn failed(reason: &str) -> SandboxError {
    SandboxError(reason.to_owned())
}

/// Makes descriptors this process's own.
#[allow(
    unsafe_code,
    reason = "descriptors that were inherited are known by number only"
)]
fn take_over(list: &str) -> Vec<OwnedFd> {
    let numbers = list.split(',').filter_map(|n| n.parse::<RawFd>().ok());
    let own = |number: RawFd| {
        // SAFETY: the process's starter hands each over in one list once; no other code knows it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        let _ = rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC);
        fd
    };
    numbers.filter(|n| *n > 2).map(own).collect()
}

async fn run(orders: Orders, code: File, root: &OwnedFd, args: Vec<String>) -> Result<Exit, String> {
    let mut signals = Signals::new().map_err(|e| format!("waiting for signals: {e}"))?;
    let program = load(&orders, code).map_err(|e| format!("the program {e}"))?;
    let network = Network::new(
        orders.listen.as_deref(),
        orders.allow_outbound.as_deref(),
        Loopback::default(),
    )
    .await?;
    let linked = program
        .link(!network.listen.is_empty())
        .map_err(|e| format!("the program {e}"))?;
    let serves = matches!(linked, Linked::Proxy(_));
    let listeners = listen(&linked, &network.listen).map_err(|e| e.to_string())?;
    let setup = ProgramSetup {
        args,
        env: environment(std::env::vars_os()),
        cwd: working_directory()?,
        directories: directories(root).map_err(|e| format!("/proc/self/mountinfo: {e}"))?,
        streams: Streams::blocking(own_streams().map_err(|e| format!("standard streams: {e}"))?),
        network: Arc::new(network),
        // Its cgroup limits it, as any other process.
        usage: Arc::new(Usage::new(u64::MAX)),
        fuel: orders.fuel,
    };
    let id = ContainerId::new("sandboxed").map_err(|e| e.to_string())?;
    let created = ContainerState::new(id, Status::Created);
    let ready = Ready {
        linked,
        engine: &program.running.engine,
        setup,
        listeners,
        http_concurrency: orders.http_concurrency,
        listening: Loopback::default().add(&[]),
    };
    let deadline = orders.deadline.map(Duration::from_secs);
    let container = Arc::new(Container::new(created, deadline, ready));
    container.start().await?;
    loop {
        tokio::select! {
            exit = container.exit() => return Ok(exit),
            // A signal ends a program as if not handled; a server first answers all requests.
            number = signals.next() => {
                if !serves {
                    return Ok(Exit::signalled(number));
                }
                container.signal(Signal(number));
            }
        }
    }
}

/// What the program may open; the kernel says what of it is read-only.
fn directories(root: &OwnedFd) -> io::Result<Vec<Directory>> {
    let directory = |host: PathBuf, guest: String| Directory {
        host,
        _held: None,
        guest,
        read_only: false,
    };
    let root = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let mounted = mounted_in(&mountinfo::read()?)
        .into_iter()
        .filter(|d| Path::new(d).is_dir());
    Ok([directory(root, "/".to_owned())]
        .into_iter()
        .chain(mounted.map(|path| directory(PathBuf::from(&path), path)))
        .collect())
}

/// The directories of `/` that something is mounted in or below, of a table of mounts.
fn mounted_in(table: &[u8]) -> BTreeSet<String> {
    let directory = |mount: mountinfo::Mount<'_>| {
        let first = mount.point.components().nth(1)?.as_os_str().to_str()?.to_owned();
        let other = !matches!(first.as_str(), "proc" | "sys" | "dev");
        other.then(|| format!("/{first}"))
    };
    mountinfo::parse(table).filter_map(directory).collect()
}

/// The program, for instances of the kind it is used with.
fn load(orders: &Orders, mut code: File) -> Result<Program, LoadError> {
    let metering = Metering::of(orders.fuel);
    let mut load = |allocation| {
        let rewound = code.rewind().and_then(|()| code.try_clone());
        deserialize(
            rewound.map_err(LoadError::io("reading it"))?,
            orders.kind,
            metering,
            allocation,
        )
    };
    let program = load(Allocation::OnDemand)?;
    if program.world()? == World::HttpProxy {
        return load(Allocation::Pooled);
    }
    Ok(program)
}

/// The program's variables, of this process's.
fn environment(variables: impl Iterator<Item = (OsString, OsString)>) -> Vec<(String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    variables
        .filter_map(|(name, value)| {
            let name = text(name).strip_prefix(ENVIRONMENT_MARK)?.to_owned();
            Some((name, text(value)))
        })
        .collect()
}

fn working_directory() -> Result<String, String> {
    let path = std::env::current_dir().map_err(|e| format!("the working directory: {e}"))?;
    let path = path.into_os_string().into_string();
    path.map_err(|path| format!("the working directory {} is not UTF-8", path.display()))
}

/// Copies, which are closed when the program ends.
fn own_streams() -> io::Result<Stdio> {
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3);
    Ok(Stdio {
        stdin: Some(copy(rustix::stdio::stdin())?),
        stdout: Some(copy(rustix::stdio::stdout())?),
        stderr: Some(copy(rustix::stdio::stderr())?),
    })
}

/// The signals that end a process; the first of a pid namespace hears only those it waits for.
struct Signals([(i32, tokio::signal::unix::Signal); 4]);

impl Signals {
    fn new() -> io::Result<Self> {
        let listen = |kind: SignalKind| Ok::<_, io::Error>((kind.as_raw_value(), signal(kind)?));
        Ok(Self([
            listen(SignalKind::hangup())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::quit())?,
            listen(SignalKind::terminate())?,
        ]))
    }

    async fn next(&mut self) -> i32 {
        let [hangup, interrupt, quit, terminate] = &mut self.0;
        tokio::select! {
            _ = hangup.1.recv() => hangup.0,
            _ = interrupt.1.recv() => interrupt.0,
            _ = quit.1.recv() => quit.0,
            _ = terminate.1.recv() => terminate.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_is_a_directory_of_its_own_but_the_kernels() {
        let mounts = b"\
21 1 0:1 / / rw - overlay o rw
22 21 0:2 / /proc rw - proc p rw
23 21 0:3 / /sys rw - sysfs s rw
24 23 0:4 / /sys/fs/cgroup rw - tmpfs t rw
25 21 0:5 / /dev/pts rw - devpts d rw
26 21 0:6 /x /my\\040data/a rw - ext4 e rw
27 21 0:6 /y /my\\040data/b rw - ext4 e rw
28 21 0:7 /hosts /etc/hosts rw - ext4 e rw
";
        let expected = ["/etc", "/my data"].map(str::to_owned);
        assert_eq!(mounted_in(mounts), BTreeSet::from(expected));
    }

    #[test]
    fn takes_only_marked_variables() {
        let variables = [("_A", "1"), ("LD_PRELOAD", "/x"), ("__B", "="), ("_", "")];
        let found = environment(variables.into_iter().map(|(n, v)| (n.into(), v.into())));
        let expected = [("A", "1"), ("_B", "="), ("", "")];
        assert_eq!(found, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
    }
}
