//! A session keyring of a process's own: the keys of the process's caller are not the pod's
//! (keyrings(7)).

use std::io;

/// linux/keyctl.h
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// Joins a new, anonymous session keyring. It allocates nothing, so that a process may call it
/// between fork and execve.
///
/// # Errors
/// The kernel has keyrings, and this process still has the caller's. It is no error if a filter
/// refuses keyctl(2): children cannot use keys then, either.
#[allow(unsafe_code, reason = "neither std nor rustix has keyctl")]
pub fn own_keyring() -> io::Result<()> {
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a system call on a number and a null pointer, which stands for "without a name".
    if unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) } >= 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        e if matches!(e.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => Ok(()),
        e => Err(e),
    }
}
