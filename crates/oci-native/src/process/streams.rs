//! A process's standard streams.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use magik_sys::mount::open_inside;
use rustix::fs::{Dev, FileType, OFlags, fstat, makedev};

/// The null device (Documentation/admin-guide/devices.txt of Linux).
pub(crate) fn null_device() -> Dev {
    makedev(1, 3)
}

/// Makes three descriptors the standard streams.
pub(crate) fn connect(stdio: &[OwnedFd]) -> io::Result<()> {
    let [stdin, stdout, stderr] = stdio else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    replace([Some(stdin), Some(stdout), Some(stderr)])
}

/// Makes one descriptor all three.
pub(crate) fn connect_all(fd: &OwnedFd) -> io::Result<()> {
    replace([Some(fd); 3])
}

fn replace([stdin, stdout, stderr]: [Option<&OwnedFd>; 3]) -> io::Result<()> {
    if let Some(fd) = stdin {
        rustix::stdio::dup2_stdin(fd)?;
    }
    if let Some(fd) = stdout {
        rustix::stdio::dup2_stdout(fd)?;
    }
    if let Some(fd) = stderr {
        rustix::stdio::dup2_stderr(fd)?;
    }
    Ok(())
}

/// Whether this is the null device, and nothing that a container has in its place (CVE-2025-31133).
pub(crate) fn is_null(file: impl AsFd) -> bool {
    fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == null_device()
    })
}

/// Opens the container's null device in place of the host's, which it could chown or chmod.
pub(crate) fn reopen_null(root: BorrowedFd<'_>) -> io::Result<()> {
    let streams = [
        rustix::stdio::stdin(),
        rustix::stdio::stdout(),
        rustix::stdio::stderr(),
    ];
    let null = streams.map(is_null);
    // Checked before it is opened: opening another device can have effects.
    let look = || open_inside(root, "/dev/null".as_ref(), OFlags::PATH | OFlags::NOFOLLOW);
    // A container without devices keeps the given streams.
    if !null.contains(&true) || !look().is_ok_and(is_null) {
        return Ok(());
    }
    let own = open_inside(root, "/dev/null".as_ref(), OFlags::RDWR | OFlags::NOFOLLOW)?;
    if !is_null(&own) {
        return Err(io::Error::other(
            "the container's /dev/null is not the null device",
        ));
    }
    replace(null.map(|null| null.then_some(&own)))
}
