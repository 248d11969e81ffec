//! A session keyring of the process's own: the keys of whoever started it are not the container's (keyrings(7)).

use std::io;

/// `KEYCTL_JOIN_SESSION_KEYRING` of keyctl(2).
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives this process, and all that it starts from now on, a new session keyring.
#[allow(unsafe_code, reason = "rustix has no keyctl(2)")]
pub(crate) fn renew() -> io::Result<()> {
    // SAFETY: without a name the kernel reads no memory.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            JOIN_SESSION_KEYRING,
            std::ptr::null::<libc::c_char>(),
        )
    };
    match io::Error::last_os_error() {
        _ if answer != -1 => Ok(()),
        // A kernel without keys has none to protect.
        e if e.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        e => Err(e),
    }
}
