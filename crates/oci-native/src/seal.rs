//! Keeping containers from writing to the binary that starts them (CVE-2019-5736).
//!
//! A container that makes its runtime execute `/proc/self/exe` inside of it, or finds a runtime's process in a shared pid
//! namespace, can open that process's `/proc/PID/exe` and, once nothing executes it any more, write to the host's binary.
//! runc copies itself into a sealed memfd on every call; here the binary is executed from a read-only clone of its mount,
//! which is never attached anywhere and costs a few system calls.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
};

use rustix::{
    fs::{CWD, StatVfsMountFlags},
    mount::OpenTreeFlags,
};

use crate::{
    mounts::{Attributes, set_attributes},
    process::program::pointers,
};

/// Why a binary could not be sealed.
#[derive(Debug, thiserror::Error)]
#[error("sealing a binary that containers could write to: {step}: {source}")]
pub struct SealError {
    /// The system call that failed.
    step: &'static str,
    /// The kernel's answer.
    source: io::Error,
}

/// Executes this process's own binary again, once, from a read-only mount; does nothing where it is on one already.
///
/// Arguments, environment and open descriptors stay as they are. Call it at the very beginning of `main`, before there
/// are threads. It returns only when there is nothing to do or when it failed.
///
/// # Errors
/// [`SealError`] without `CAP_SYS_ADMIN`, or before Linux 5.12. A caller that starts containers of users who are root in
/// them should refuse to go on.
pub fn seal_self_exe() -> Result<(), SealError> {
    let failed = |step| {
        move |e: rustix::io::Errno| SealError {
            step,
            source: e.into(),
        }
    };
    let own = "/proc/self/exe";
    let flags = rustix::fs::statvfs(own).map_err(failed("statvfs"))?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let tree = sealed_binary(own.as_ref())?;
    let arguments = std::env::args_os().map(OsStringExt::into_vec);
    let environment = std::env::vars_os().map(|(k, v)| [k.into_vec(), v.into_vec()].join(&b'='));
    Err(SealError {
        step: "execveat",
        source: execveat(&tree, arguments, environment),
    })
}

/// A binary on a read-only clone of its mount that is attached nowhere; what executes it (by execveat) is sealed.
///
/// # Errors
/// [`SealError`] as for [`seal_self_exe`].
pub fn sealed_binary(binary: &Path) -> Result<OwnedFd, SealError> {
    seal_path(CWD, binary, OpenTreeFlags::empty())
}

/// An open file, on a mount as [`sealed_binary`] makes it.
pub(crate) fn seal_file(file: BorrowedFd<'_>) -> Result<OwnedFd, SealError> {
    seal_path(file, Path::new(""), OpenTreeFlags::AT_EMPTY_PATH)
}

fn seal_path(at: BorrowedFd<'_>, path: &Path, flags: OpenTreeFlags) -> Result<OwnedFd, SealError> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | flags;
    let tree = rustix::mount::open_tree(at, path, clone).map_err(|e| SealError {
        step: "open_tree",
        source: e.into(),
    })?;
    let readonly = Attributes {
        set: libc::MOUNT_ATTR_RDONLY,
        ..Attributes::default()
    };
    set_attributes(&tree, readonly).map_err(|source| SealError {
        step: "mount_setattr",
        source,
    })?;
    Ok(tree)
}

/// Returns only when it failed.
#[allow(
    unsafe_code,
    reason = "rustix keeps execveat in its experimental runtime module"
)]
fn execveat(
    file: &OwnedFd,
    arguments: impl Iterator<Item = Vec<u8>>,
    environment: impl Iterator<Item = Vec<u8>>,
) -> io::Error {
    // Neither can hold a NUL byte: both came from an execve.
    let arguments: Vec<CString> = arguments.filter_map(|a| CString::new(a).ok()).collect();
    let environment: Vec<CString> = environment.filter_map(|v| CString::new(v).ok()).collect();
    let (argv, envp) = (pointers(&arguments), pointers(&environment));
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
