//! The session keyring: a container gets its own, not the caller's keys (keyrings(7)).

use std::{ffi::CString, io};

use anyhow::{Context as _, Result};
use magik_oci::ContainerId;

/// `KEYCTL_JOIN_SESSION_KEYRING` of keyctl(2).
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Joins the container's session keyring, made if it is missing; our children have it, too.
#[allow(unsafe_code, reason = "no wrapper of keyctl(2) among the crates we use")]
pub(super) fn join(id: &ContainerId) -> Result<()> {
    let name = CString::new(format!("_ses.{id}")).context("container id")?;
    // SAFETY: the name is a NUL-terminated string that outlives the call; the kernel copies it.
    let answer = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    if answer != -1 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        // A kernel without keys has none to protect.
        e if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        e => Err(e).with_context(|| {
            format!("container {id}: make its session keyring (--no-new-keyring does without)")
        }),
    }
}
