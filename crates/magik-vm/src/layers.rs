//! The layers that a guest sees, each container's as one file system.
//!
//! They are mounts in a directory of the machine's jail that is [growing](crate::Jail::growing): what
//! serves the share that the guest boots from has a mount namespace of its own, which receives them.
//! So a container that is added later has layers, too, although what serves the share reaches nothing
//! of the host's: whoever adds it brings them.
//!
//! A guest keeps what it has once seen: what is at a path must never become something else. Whoever
//! adds a container gives its layers a name that no container had before, `<container>.<unique>`.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use magik_infra::{guest::SHARE, mount_layers};
use magik_sys::mount;
use rustix::{
    fs::CWD,
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    thread::{ThreadNameSpaceType, UnshareFlags, move_into_thread_name_spaces},
};

/// In the sandbox: what the jail is mounted on.
pub(crate) const JAIL: &str = "jail";
/// Where they are mounted, in the supervisor's jail.
pub(crate) const LAYERS: &str = "/machine/layers";
/// Where they are seen in the share that the guest boots from.
pub(crate) const IN_SHARE: &str = "layers";

/// Where a guest finds layers of this name.
#[must_use]
pub fn in_guest(name: &str) -> PathBuf {
    Path::new(SHARE).join(IN_SHARE).join(name)
}

/// Shows the guest of a machine that runs the layers of one container more, the uppermost first. Its
/// supervisor is given by a pidfd, and `sandbox` is the machine's.
///
/// # Errors
/// Names the layer or the mount that failed; the guest sees nothing of them then.
pub fn show(supervisor: BorrowedFd<'_>, sandbox: &Path, name: &str, layers: &[PathBuf]) -> io::Result<()> {
    let place = sandbox.join(JAIL);
    let show = || show_here(supervisor, &place, name, layers);
    // Mount namespaces are a thread's: this one ends with its own.
    thread::scope(|threads| {
        let shown = thread::Builder::new().spawn_scoped(threads, show)?.join();
        shown.unwrap_or_else(|_| Err(io::Error::other("the thread that mounts them panicked")))
    })
}

/// The same for a thread that has the caller's mounts, and is of no use afterwards.
#[allow(
    unsafe_code,
    reason = "unshare is unsafe for sharing no descriptors any more, which is not asked for"
)]
fn show_here(supervisor: BorrowedFd<'_>, place: &Path, name: &str, layers: &[PathBuf]) -> io::Result<()> {
    // Merged in a mount namespace of its own: nobody on the host sees them, whatever the kernel's age.
    // SAFETY: the flags are without CLONE_FILES.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    mount_layers(layers, place)?;
    let merged = mount::clone_mount(CWD, place)?;
    // A pidfd's process is the one that was meant, or none. Its root is the jail, which nobody but
    // root writes to.
    move_into_thread_name_spaces(supervisor, ThreadNameSpaceType::MOUNT)?;
    let target = Path::new(LAYERS).join(name);
    fs::create_dir(&target)?;
    let attached = mount::look_at_dir(&target).map_err(io::Error::from);
    let attached = attached.and_then(|target| mount::attach(merged.as_fd(), target));
    attached.inspect_err(|_| {
        let _ = fs::remove_dir(&target);
    })
}

/// The guest has no such container any more: takes its layers away. For the supervisor, in its jail.
pub(crate) fn hide(container: &str) {
    let Ok(entries) = fs::read_dir(LAYERS) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.split('.').next());
        if of == Some(container) {
            // What cannot be removed goes with the machine.
            let _ = unmount(entry.path(), UnmountFlags::DETACH);
            let _ = fs::remove_dir(entry.path());
        }
    }
}
