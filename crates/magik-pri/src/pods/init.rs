//! What the inits of all backends do when they start and end.
//!
//! An init is started with three arguments: a name, [`POD_INIT`] and the pod's sandbox, where
//! [`Config`] is all that it is told besides the plan.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    net::TcpListener,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use magik_infra::{PodOutcome, StateDir};
use rustix::{
    fs::{FileType, Mode},
    io::FdFlags,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{backend::Start, paths::is_id};
use crate::RuntimeClass;

/// The first argument of an init.
pub(crate) const POD_INIT: &str = "pod-init";
/// The file in the pod's sandbox.
const FILE: &str = "init.json";
/// What the log calls an init that was started by hand.
const BY_HAND: &str = "pod-init is started by magikrun itself, not by hand";

const LAUNCH: RawFd = 3;
const LOCK: RawFd = 4;
const STATE: RawFd = 5;
/// The first of the listeners.
const LISTENERS: RawFd = 6;

/// What the launcher tells an init. It is written by root, or whoever runs the pod, and read by nobody
/// else.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Config<B> {
    /// The pod's id.
    pub(crate) id: String,
    /// Whose init it is.
    pub(crate) class: RuntimeClass,
    /// The host name its containers see.
    pub(crate) hostname: String,
    /// Whether they use the host's network.
    pub(crate) host_network: bool,
    /// The data root.
    pub(crate) data: PathBuf,
    /// What the backend's init is told besides.
    pub(crate) backend: B,
}

/// Writes what an init is told, and returns its arguments but for its name.
pub(crate) fn tell<B: Serialize>(
    start: &Start<'_>,
    class: RuntimeClass,
    backend: B,
) -> io::Result<[OsString; 2]> {
    let config = Config {
        id: start.id.to_owned(),
        class,
        hostname: start.hostname.to_owned(),
        host_network: start.spec.host_network,
        data: start.data.to_owned(),
        backend,
    };
    let mut options = fs::OpenOptions::new();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(start.sandbox.join(FILE))?;
    serde_json::to_writer(file, &config)?;
    Ok([POD_INIT.into(), start.sandbox.clone().into()])
}

/// The sandbox of the pod whose init this process is to be; `None`: it is none.
pub(crate) fn is_asked_for() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    let is_init = arguments.next().is_some_and(|first| first == POD_INIT);
    is_init.then(|| arguments.next().unwrap_or_default().into())
}

/// The backend whose init this process is to be.
pub(crate) fn class(sandbox: &Path) -> io::Result<RuntimeClass> {
    Ok(read::<serde::de::IgnoredAny>(sandbox)?.class)
}

fn read<B: DeserializeOwned>(sandbox: &Path) -> io::Result<Config<B>> {
    let path = sandbox.join(FILE);
    let read = fs::read(&path).and_then(|text| Ok(serde_json::from_slice::<Config<B>>(&text)?));
    let config = read.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    if is_id(&config.id) && sandbox.file_name() == Some(OsStr::new(&config.id)) {
        return Ok(config);
    }
    Err(io::Error::other(BY_HAND))
}

/// An init that has just been started.
#[derive(Debug)]
pub(crate) struct Init<B> {
    pub(crate) config: Config<B>,
    pub(crate) sandbox: PathBuf,
    pub(crate) descriptors: Descriptors,
}

impl<B: DeserializeOwned> Init<B> {
    /// Reads what it is told and takes what it is given; `alone`: it is the first process of a pid
    /// namespace.
    pub(crate) fn begin(sandbox: PathBuf, alone: impl FnOnce(&B) -> bool) -> io::Result<Self> {
        let config = read::<B>(&sandbox)?;
        if alone(&config.backend) && !rustix::process::getpid().is_init() {
            return Err(io::Error::other(BY_HAND));
        }
        let descriptors = Descriptors::take()?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(Self {
            config,
            sandbox,
            descriptors,
        })
    }
}

/// What a pod's init serves.
#[derive(Debug)]
pub(crate) struct Serving {
    pub(crate) state: StateDir,
    pub(crate) control: tokio::net::UnixListener,
    pub(crate) launch: tokio::net::UnixStream,
    pub(crate) listeners: Vec<TcpListener>,
}

/// Runs a pod to its end, in this thread.
pub(crate) fn serve(
    descriptors: Descriptors,
    life: impl AsyncFnOnce(Serving) -> io::Result<PodOutcome>,
) -> io::Result<ExitCode> {
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio.block_on(async {
        let state = StateDir::new(descriptors.state);
        let control = state.bind_control()?;
        descriptors.launch.set_nonblocking(true)?;
        let serving = Serving {
            control,
            state,
            launch: tokio::net::UnixStream::from_std(descriptors.launch)?,
            listeners: descriptors.listeners,
        };
        life(serving).await
    })?;
    Ok(ended(&outcome, descriptors.lock))
}

/// What every init is given by its launcher, beside its standard streams.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// Where the plan comes from.
    pub(crate) launch: UnixStream,
    /// The pod's liveness: held until the process ends.
    pub(crate) lock: OwnedFd,
    /// The pod's state directory.
    pub(crate) state: OwnedFd,
    /// The host's listeners for the pod's ports.
    pub(crate) listeners: Vec<TcpListener>,
}

impl Descriptors {
    /// Takes them, so that no container inherits one. Once, at the start of the process.
    #[allow(unsafe_code, reason = "descriptors that come from the parent are numbers")]
    pub(crate) fn take() -> io::Result<Self> {
        let take = |number: RawFd, name: &str, kind: FileType| {
            // SAFETY: by the contract of `run_role_if_asked` nobody in this process owns those from 3 on; that they are open is
            // checked.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            let checked = rustix::fs::fstat(&fd)
                .map_err(io::Error::from)
                .and_then(|stat| {
                    let found = FileType::from_raw_mode(stat.st_mode);
                    if found == kind {
                        Ok(())
                    } else {
                        Err(io::Error::other(format!("is a {found:?}")))
                    }
                })
                .and_then(|()| Ok(rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?));
            match checked {
                Ok(()) => Ok(fd),
                Err(e) => {
                    // Not ours to close if it is not what we were promised.
                    std::mem::forget(fd);
                    Err(io::Error::new(
                        e.kind(),
                        format!("descriptor {number}, the {name}: {e}"),
                    ))
                }
            }
        };
        Ok(Self {
            launch: take(LAUNCH, "launch socket", FileType::Socket)?.into(),
            lock: take(LOCK, "lock", FileType::RegularFile)?,
            state: take(STATE, "state directory", FileType::Directory)?,
            listeners: (LISTENERS..)
                .take_while(|number| is_open(*number))
                .map(|number| Ok(take(number, "listener of a port", FileType::Socket)?.into()))
                .collect::<io::Result<_>>()?,
        })
    }

    /// The state directory as this process sees it from now on.
    #[cfg(feature = "wasm")]
    pub(crate) fn with_state(self, view: impl FnOnce(OwnedFd) -> io::Result<OwnedFd>) -> io::Result<Self> {
        let state = view(self.state)?;
        Ok(Self { state, ..self })
    }
}

#[allow(unsafe_code, reason = "whether a number is a descriptor is asked by number")]
fn is_open(number: RawFd) -> bool {
    // SAFETY: borrowed for one system call, which changes nothing, and says so if the number is no descriptor.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
}

/// The exit status of an init whose pod is over. The lock is given up with the process, and not before.
fn ended(outcome: &PodOutcome, lock: OwnedFd) -> ExitCode {
    std::mem::forget(lock);
    match outcome {
        PodOutcome::Finished(_) => ExitCode::SUCCESS,
        PodOutcome::Failed(_) | PodOutcome::Abandoned => ExitCode::FAILURE,
    }
}

/// An init's end. What failed goes to the pod's init log, which the launcher quotes when the init ends without a word.
pub(crate) fn report(end: io::Result<ExitCode>) -> ExitCode {
    end.unwrap_or_else(|error| {
        let _ = rustix::io::write(rustix::stdio::stderr(), format!("pod init: {error}\n").as_bytes());
        ExitCode::FAILURE
    })
}

/// Makes the namespaces that the init was started in the pod's own.
pub(crate) fn enter_namespaces(hostname: &str, own_network: bool, root: bool) -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let failed = |what: &'static str| {
        move |e: rustix::io::Errno| io::Error::new(io::Error::from(e).kind(), format!("{what}: {e}"))
    };
    // What the host unmounts is unmounted here too; nothing of ours is seen outside.
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .map_err(|e| match e {
        rustix::io::Errno::INVAL => io::Error::new(
            io::ErrorKind::InvalidInput,
            "the root directory is no mount, as in a chroot: 'mount --bind DIR DIR' before the chroot makes it one",
        ),
        other => failed("make the mounts a slave")(other),
    })?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    match mount("proc", "/proc", "proc", flags, None) {
        // Where the host's own is masked, as in containers, only root may mount another; the old one shows us, too.
        Err(rustix::io::Errno::PERM) if !root => {}
        mounted => mounted.map_err(failed("mount /proc"))?,
    }
    rustix::system::sethostname(hostname.as_bytes()).map_err(failed("set the host name"))?;
    if own_network {
        magik_sys::raise_loopback()
            .map_err(|e| io::Error::new(e.kind(), format!("bring loopback up: {e}")))?;
    }
    Ok(())
}
