//! An exec'd process enters its container's user namespace.
//!
//! libcontainer 0.7's tenant joins every namespace but that one: the process would be the host's root. So libcontainer is
//! told to start it as root with all capabilities, and the launcher, the last to run, enters the namespace (which gives
//! all capabilities in it) and becomes the user there.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd, RawFd},
};

use libcontainer::{capabilities, syscall::syscall::create_syscall};
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec, User};
use rustix::{
    fs::{Mode, OFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Whether the container has a user namespace.
pub(crate) fn has_one(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|l| l.namespaces().as_deref());
    namespaces
        .unwrap_or_default()
        .iter()
        .any(|n| n.typ() == LinuxNamespaceType::User)
}

/// Opens the user namespace of a container's init, for [`Identity`].
pub(crate) fn open(init: i32) -> io::Result<OwnedFd> {
    let path = format!("/proc/{init}/ns/user");
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Who the process becomes, and where.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The user namespace; opened by the worker, which outlives the launcher's use of it.
    namespace: RawFd,
    user: User,
}

impl Identity {
    /// Takes the user from a process, which libcontainer then starts as root.
    pub(crate) fn take(process: &mut Process, namespace: RawFd) -> Self {
        let user = process.user().clone();
        let mut root = User::default();
        root.set_umask(user.umask());
        process.set_user(root);
        Self { namespace, user }
    }

    /// Enters the namespace and becomes the user, with every capability there.
    pub(crate) fn assume(&self) -> Result<(), String> {
        let context = |step: &str| {
            let step = step.to_owned();
            move |e: &dyn std::fmt::Display| format!("user namespace: {step}: {e}")
        };
        self.enter().map_err(|e| context("setns")(&e))?;
        let groups = self.user.additional_gids().clone().unwrap_or_default();
        set_ids(self.user.uid(), self.user.gid(), &groups).map_err(|e| context("ids")(&e))?;
        // Another user than root keeps what it may have, but has to take it.
        capabilities::reset_effective(create_syscall().as_ref()).map_err(|e| context("capabilities")(&e))
    }

    #[allow(
        unsafe_code,
        reason = "the descriptor is known by number only, across libcontainer's forks"
    )]
    fn enter(&self) -> io::Result<()> {
        // SAFETY: a copy of the worker's descriptor, which nothing in this process closes before execve.
        let namespace = unsafe { BorrowedFd::borrow_raw(self.namespace) };
        Ok(move_into_link_name_space(
            namespace,
            Some(LinkNameSpaceType::User),
        )?)
    }
}

/// Sets groups and ids, keeping permitted capabilities.
#[allow(
    unsafe_code,
    reason = "rustix sets the ids of a thread only, and keeps that experimental"
)]
fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let checked = |answer: i32| {
        if answer == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    };
    // SAFETY: this process has one thread; the list of groups is as long as is said.
    unsafe {
        // A namespace whose setgroups is denied (rootless) allows no list, not even an empty one.
        if !groups.is_empty() || libc::getgroups(0, std::ptr::null_mut()) > 0 {
            checked(libc::setgroups(groups.len(), groups.as_ptr()))?;
        }
        checked(libc::prctl(libc::PR_SET_KEEPCAPS, 1))?;
        checked(libc::setresgid(gid, gid, gid))?;
        checked(libc::setresuid(uid, uid, uid))?;
        checked(libc::prctl(libc::PR_SET_KEEPCAPS, 0))
    }
}
