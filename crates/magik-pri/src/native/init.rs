//! What runs as PID 1 of a pod.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, net::UnixStream},
    },
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use magik_infra::{InitOptions, PodInit, PodOutcome, StateDir};
use oci_native::NativeRuntime;
use rustix::{
    fs::{FileType, Mode},
    io::FdFlags,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
};

/// The first argument of a pod init: `main` looks for it before anything else.
pub const POD_INIT: &str = "pod-init";
/// The third one of a pod that uses the host's network.
pub(super) const HOST_NETWORK: &str = "host-network";
/// The third one of a pod with a network of its own.
pub(super) const OWN_NETWORK: &str = "own-network";

const LAUNCH: RawFd = 3;
const LOCK: RawFd = 4;
const STATE: RawFd = 5;

/// Runs this process as the init of a pod, and returns how it ended.
///
/// The `main` of the program that starts pods calls it when its first argument is [`POD_INIT`], before it has made a
/// thread or opened anything. Descriptors 3 to 5 are those that the launcher gave it.
#[must_use]
pub fn pod_init_main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            // To the pod's init.log, which the launcher quotes when the init ends without a word.
            let _ = rustix::io::write(rustix::stdio::stderr(), format!("pod init: {error}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}

/// What the launcher says on the command line.
struct Arguments {
    pod_id: String,
    host_network: bool,
    /// The container runtime's root.
    runtime_root: PathBuf,
    hostname: OsString,
}

fn run() -> io::Result<ExitCode> {
    let arguments = arguments()?;
    oci_native::seal_self_exe().map_err(io::Error::other)?;
    let descriptors = take_descriptors()?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    prepare_namespaces(&arguments)?;

    // <state root>/sandboxes/<id>/oci: pods share compiled seccomp filters.
    let state_root = arguments.runtime_root.ancestors().nth(3);
    let filters = state_root
        .ok_or_else(|| io::Error::other("the runtime's root is no sandbox's"))?
        .join("filters");
    let runtime = NativeRuntime::builder(arguments.runtime_root)
        .filters(filters)
        .cgroup_root(super::cgroup::Hierarchies::container_path(&arguments.pod_id, ""))
        .reap_orphans(true)
        .build();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = tokio.block_on(async {
        let state = StateDir::new(descriptors.state);
        let control = state.bind_control()?;
        let options = InitOptions {
            runtime_class: "native".into(),
            ..InitOptions::default()
        };
        descriptors.launch.set_nonblocking(true)?;
        let launch = tokio::net::UnixStream::from_std(descriptors.launch)?;
        PodInit::new(Arc::new(runtime), state, options)
            .extension(Box::new(super::trim::Trim))
            .run(launch, control)
            .await
    })?;
    // The lock is given up with this process, and not before.
    std::mem::forget(descriptors.lock);
    Ok(match outcome {
        PodOutcome::Finished(_) => ExitCode::SUCCESS,
        PodOutcome::Failed(_) | PodOutcome::Abandoned => ExitCode::FAILURE,
    })
}

fn arguments() -> io::Result<Arguments> {
    let wrong = || io::Error::other("pod-init is started by magikrun itself, not by hand");
    let all: Vec<OsString> = std::env::args_os().collect();
    let [_, init, id, network, root, hostname] = all.as_slice() else {
        return Err(wrong());
    };
    if init != POD_INIT || !rustix::process::getpid().is_init() {
        return Err(wrong());
    }
    let pod_id = id
        .to_str()
        .filter(|id| super::paths::is_id(id))
        .ok_or_else(wrong)?
        .to_owned();
    Ok(Arguments {
        pod_id,
        host_network: network == HOST_NETWORK,
        runtime_root: root.into(),
        hostname: hostname.clone(),
    })
}

struct Descriptors {
    launch: UnixStream,
    lock: OwnedFd,
    state: OwnedFd,
}

/// Takes the launcher's descriptors, none of which a container may inherit.
#[allow(unsafe_code, reason = "descriptors that come from the parent are numbers")]
fn take_descriptors() -> io::Result<Descriptors> {
    let take = |number: RawFd, name: &str, kind: FileType| {
        // SAFETY: by the contract of `pod_init_main` nobody in this process owns 3 to 5; that they are open is checked.
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
    Ok(Descriptors {
        launch: take(LAUNCH, "launch socket", FileType::Socket)?.into(),
        lock: take(LOCK, "lock", FileType::RegularFile)?,
        state: take(STATE, "state directory", FileType::Directory)?,
    })
}

/// Makes the new namespaces the pod's own.
fn prepare_namespaces(arguments: &Arguments) -> io::Result<()> {
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
    mount("proc", "/proc", "proc", flags, None).map_err(failed("mount /proc"))?;
    rustix::system::sethostname(arguments.hostname.as_bytes()).map_err(failed("set the host name"))?;
    if !arguments.host_network {
        raise_loopback().map_err(|e| io::Error::new(e.kind(), format!("bring loopback up: {e}")))?;
    }
    Ok(())
}

/// Brings `lo` up in the network namespace of this process.
#[allow(unsafe_code, reason = "rustix has no SIOCSIFFLAGS")]
fn raise_loopback() -> io::Result<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    // SAFETY: the descriptor is open, and the request is a valid ifreq whose name ends with NUL; SIOCGIFFLAGS fills its
    // flags, which are then the active member of the union.
    unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        let up = i16::try_from(libc::IFF_UP).unwrap_or(1);
        request.ifr_ifru.ifru_flags |= up;
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
