//! Executing programs.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, OwnedFd},
};

/// What execve(2) takes for arguments and variables: ended by a null pointer, and good as long as
/// the strings are.
pub fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let null = std::ptr::null();
    strings.iter().map(|s| s.as_ptr()).chain([null]).collect()
}

/// Executes a program in place of this one; returns only if that failed.
#[must_use]
#[allow(
    unsafe_code,
    reason = "rustix keeps execve in its experimental runtime module"
)]
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings are NUL-terminated and alive, and both arrays end with a null pointer.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// The same for a program that is open.
#[must_use]
#[allow(
    unsafe_code,
    reason = "rustix keeps execveat in its experimental runtime module"
)]
pub fn execveat(file: &OwnedFd, arguments: &[CString], environment: &[CString]) -> io::Error {
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: all strings are NUL-terminated and alive, and both arrays end with a null pointer.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}
