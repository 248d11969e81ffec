//! What the inits of all backends do when they start and end.

use std::{
    ffi::OsStr,
    io,
    net::TcpListener,
    os::{
        fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    process::ExitCode,
};

use magik_infra::PodOutcome;
use rustix::{fs::FileType, io::FdFlags};

pub(crate) use super::paths::is_id;

const LAUNCH: RawFd = 3;
const LOCK: RawFd = 4;
const STATE: RawFd = 5;
/// The first of the listeners.
const LISTENERS: RawFd = 6;

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
            // SAFETY: by the contract of `pod_init_main` nobody in this process owns those from 3 on; that they are open is
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
}

#[allow(unsafe_code, reason = "whether a number is a descriptor is asked by number")]
fn is_open(number: RawFd) -> bool {
    // SAFETY: borrowed for one system call, which changes nothing, and says so if the number is no descriptor.
    rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok()
}

/// The exit status of an init whose pod is over. The lock is given up with the process, and not before.
pub(crate) fn ended(outcome: &PodOutcome, lock: OwnedFd) -> ExitCode {
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
pub(crate) fn enter_namespaces(hostname: &OsStr, own_network: bool, root: bool) -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let failed = |what: &'static str| {
        move |e: rustix::io::Errno| io::Error::new(io::Error::from(e).kind(), format!("{what}: {e}"))
    };
    // What the host unmounts is unmounted here too; nothing of ours is seen outside.
    mount_change(
        "/",
        MountPropagationFlags::REC | MountPropagationFlags::DOWNSTREAM,
    )
    .map_err(failed("make the mounts a slave"))?;
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
