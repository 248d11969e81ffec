//! Who the process is.

use std::io;

use libcontainer::{capabilities, syscall::syscall::create_syscall};
use oci_spec::runtime::User;

/// Becomes the user, keeping every permitted capability, and takes those.
pub(crate) fn assume(user: &User) -> io::Result<()> {
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    set_ids(user.uid(), user.gid(), groups)?;
    // A user other than root keeps permitted capabilities, but must make them effective.
    capabilities::reset_effective(create_syscall().as_ref()).map_err(io::Error::other)
}

/// Becomes root of this process's user namespace, if it has one, which then owns what is made.
pub(crate) fn become_root() -> io::Result<()> {
    match set_ids(0, 0, &[]) {
        // No id is mapped to it.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
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
    // SAFETY: this process has one thread; the list of groups has the length that is passed.
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
