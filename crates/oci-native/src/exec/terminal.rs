//! The process's terminal: made from the container's devpts, so that it is one of the container's.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, OwnedFd},
};

use oci_spec::runtime::Process;
use rustix::{
    fs::{FileType, Mode, OFlags},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    pty::OpenptFlags,
};

use crate::{executor::set_console_size, surroundings::give};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i128 = 0x1cd1;
/// The inode that devpts gives its ptmx (`mknod_ptmx` in fs/devpts/inode.c).
const PTMX_INODE: u64 = 2;

/// Makes a terminal, sends its master to `console`, and makes it this session's.
pub(super) fn connect(console: &OwnedFd, process: &Process, owner: Option<u32>) -> io::Result<()> {
    let master = rustix::fs::open(
        "/dev/ptmx",
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    verify(&master)?;
    rustix::pty::unlockpt(&master)?;
    // By the master, not by a path that the container could have put something else at (CVE-2025-52565).
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
    )?;
    set_console_size(&slave, process);
    give(&slave, owner);

    let masters = [master.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&masters));
    rustix::net::sendmsg(
        console,
        &[IoSlice::new(b"/dev/ptmx")],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    rustix::process::ioctl_tiocsctty(&slave)?;
    rustix::stdio::dup2_stdin(&slave)?;
    rustix::stdio::dup2_stdout(&slave)?;
    Ok(rustix::stdio::dup2_stderr(&slave)?)
}

/// Whether this is the ptmx of a devpts and nothing that the container has put in its place (CVE-2025-52565).
fn verify(master: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(master)?;
    let is_ptmx = i128::from(rustix::fs::fstatfs(master)?.f_type) == DEVPTS_MAGIC
        && stat.st_ino == PTMX_INODE
        && FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(5, 2);
    if is_ptmx {
        Ok(())
    } else {
        Err(io::Error::other(
            "the container's /dev/ptmx is not that of a devpts",
        ))
    }
}
