//! A user namespace for a pod: root in it is nobody on the host.
//!
//! The pod's init makes it, stays outside of it, and makes the pod's network, IPC and UTS namespaces in it, so that they are
//! the pod's own. Containers join it by its file in the sandbox's directory. Image layers and volumes keep their owners
//! on disk: the init mounts the data root, and the sandbox's own directory, once more with ids mapped to the pod's range
//! (mount_setattr(2)), and the pod's mounts are made from there. All of these are in the init's mount namespace, and end with
//! it.

use std::{
    ffi::OsStr,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use magik_sys::{clone::Clone, mount::mapped_copy};
use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, move_mount},
    process::{Pid, Signal, WaitOptions, kill_process, waitpid},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::pods::users::{DATA, Places, SANDBOX, SIZE};

/// Makes the namespaces, enters all but the user namespace, and maps the directories; `first` is the host's id of root. This
/// process has one thread.
pub(super) fn enter(sandbox: &Path, data_root: &Path, first: u32, hostname: &OsStr) -> io::Result<()> {
    let places = Places::of(sandbox);
    let held = Held::new(first)?;
    let users = held.open("user")?;
    for (name, kind) in [
        ("net", LinkNameSpaceType::Network),
        ("ipc", LinkNameSpaceType::InterProcessCommunication),
        ("uts", LinkNameSpaceType::HostNameAndNISDomainName),
    ] {
        let namespace = held.open(name)?;
        move_into_link_name_space(namespace.as_fd(), Some(kind)).map_err(|e| {
            io::Error::new(
                io::Error::from(e).kind(),
                format!("enter the {name} namespace: {e}"),
            )
        })?;
    }
    rustix::system::sethostname(hostname.as_bytes())?;
    let named = |what: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    // By its number in /proc, while the process that holds it is there.
    let file = held.path("user");
    rustix::mount::mount_bind(file, places.namespace())
        .map_err(|e| named("keep the user namespace")(e.into()))?;
    for (root, name) in [(data_root, DATA), (sandbox, SANDBOX)] {
        map(root, &users, &sandbox.join(name)).map_err(named("map the owners of files"))?;
    }
    Ok(())
}

/// Mounts a directory once more, with owners as the user namespace has them; what is mounted below it is left out.
fn map(dir: &Path, users: &OwnedFd, at: &Path) -> io::Result<()> {
    let tree = mapped_copy(dir, users)?;
    Ok(move_mount(
        &tree,
        "",
        CWD,
        at,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?)
}

/// A process that is in the new namespaces, until they are open. It runs nothing.
struct Held(Pid);

impl Held {
    #[allow(unsafe_code, reason = "there is no safe clone3")]
    fn new(first: u32) -> io::Result<Self> {
        let clone = Clone {
            flags: libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS,
            ..Clone::default()
        };
        // SAFETY: this process has one thread; the child makes two system calls, and never returns.
        let Some(pid) = unsafe { clone.fork() }? else {
            // SAFETY: plain system calls on numbers. It is killed, or ends with its parent.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                loop {
                    libc::pause();
                }
            }
        };
        let held = Self(pid);
        for map in ["uid_map", "gid_map"] {
            let file = format!("/proc/{}/{map}", held.0.as_raw_nonzero());
            fs::write(&file, format!("0 {first} {SIZE}"))
                .map_err(|e| io::Error::new(e.kind(), format!("write {map}: {e}")))?;
        }
        Ok(held)
    }

    fn path(&self, namespace: &str) -> String {
        format!("/proc/{}/ns/{namespace}", self.0.as_raw_nonzero())
    }

    fn open(&self, namespace: &str) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(
            self.path(namespace),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::KILL);
        let _ = waitpid(Some(self.0), WaitOptions::empty());
    }
}
