//! The process's terminal: made from the container's devpts, so that it is one of the container's.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use magik_sys::{mount::open_inside, socket};
use oci_spec::runtime::Process;
use rustix::{
    fs::{FileType, OFlags},
    pty::OpenptFlags,
};

use super::{owner::give, streams};

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i128 = 0x1cd1;
/// The inode that devpts gives its ptmx (`mknod_ptmx` in fs/devpts/inode.c).
const PTMX_INODE: u64 = 2;

/// A new terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    master: OwnedFd,
    /// The container's side.
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Makes one with the container's devpts. Its size is set before the program runs.
    pub(crate) fn new(root: BorrowedFd<'_>, process: &Process, owner: Option<u32>) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY;
        // Checked before it is opened: opening another device can have effects.
        verify(&open_inside(root, "/dev/ptmx".as_ref(), OFlags::PATH)?)?;
        let master = open_inside(root, "/dev/ptmx".as_ref(), flags)?;
        verify(&master)?;
        rustix::pty::unlockpt(&master)?;
        // By the master: the container could exchange what is at its path (CVE-2025-52565).
        let slave = rustix::pty::ioctl_tiocgptpeer(
            &master,
            OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC,
        )?;
        set_size(&slave, process);
        give(&slave, owner);
        Ok(Self { master, slave })
    }

    /// Sends the master to the console socket; the other side becomes the standard streams.
    pub(crate) fn connect(self, console: &OwnedFd) -> io::Result<()> {
        socket::send(console, b"/dev/ptmx", &[self.master.as_fd()])?;
        streams::connect_all(&self.slave)
    }
}

/// Makes the standard input this session's terminal.
pub(crate) fn control() -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?)
}

/// Gives the terminal its size (`process.consoleSize`).
fn set_size(terminal: &impl AsFd, process: &Process) {
    let Some(size) = process.console_size() else {
        return;
    };
    let characters = |n: u64| u16::try_from(n).unwrap_or(u16::MAX);
    let size = rustix::termios::Winsize {
        ws_row: characters(size.height()),
        ws_col: characters(size.width()),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // A program that finds no size takes 80x24: no reason not to run it.
    let _ = rustix::termios::tcsetwinsize(terminal, size);
}

/// Whether this is the ptmx of a devpts, not a replacement by the container (CVE-2025-52565).
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
