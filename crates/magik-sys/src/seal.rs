//! Keeping containers from writing to the binary that starts them (CVE-2019-5736).
//!
//! If the runtime executes `/proc/self/exe` in a container, or shares its pid namespace, the
//! container can open the runtime's `/proc/PID/exe` and write to the host's binary once nothing
//! executes it. runc copies itself into a sealed memfd on every call; here the binary is executed
//! from a read-only clone of its mount, which is attached nowhere and costs a few system calls.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::Path,
};

use rustix::fs::{CWD, StatVfsMountFlags};

use crate::{
    mount::{Attributes, clone_mount, set_attributes},
    program::execveat,
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

/// Executes this process's binary again, once, from a read-only mount, unless it is on one.
///
/// Arguments, environment and open descriptors stay as they are. Call it first in `main`, before
/// there are threads. It returns only when there is nothing to do or when it failed.
///
/// # Errors
/// [`SealError`] without `CAP_SYS_ADMIN`, or before Linux 5.12. A caller that starts containers
/// whose users are root in them should refuse to go on.
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
    // None can hold a NUL byte: they came from an execve.
    let arguments: Vec<_> = std::env::args_os()
        .filter_map(|argument| CString::new(argument.into_vec()).ok())
        .collect();
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| CString::new([name.into_vec(), value.into_vec()].join(&b'=')).ok())
        .collect();
    Err(SealError {
        step: "execveat",
        source: execveat(&tree, &arguments, &environment),
    })
}

/// A binary on a read-only clone of its mount, attached nowhere; to be executed by execveat.
///
/// # Errors
/// [`SealError`] as for [`seal_self_exe`].
pub fn sealed_binary(binary: &Path) -> Result<OwnedFd, SealError> {
    seal_path(CWD, binary)
}

/// An open file, on a mount as [`sealed_binary`] makes it.
///
/// # Errors
/// [`SealError`] as for [`seal_self_exe`].
pub fn seal_file(file: BorrowedFd<'_>) -> Result<OwnedFd, SealError> {
    seal_path(file, Path::new(""))
}

fn seal_path(at: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, SealError> {
    let tree = clone_mount(at, path).map_err(|source| SealError {
        step: "open_tree",
        source,
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
