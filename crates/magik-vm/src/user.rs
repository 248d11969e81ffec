//! The users that machines run as: each machine is one that no other living machine is, so that what breaks out of one into its
//! monitor finds nothing of its own at another.
//!
//! A user is leased by a lock on the file of its number in [`VmUser::DIRECTORY`]. Whoever leased it and each of the machine's
//! processes hold the lock, shared, by an open file of their own (flock(2)): none of them can give up another's, and the kernel
//! frees the user when the last of them has ended, however it did. The files stay, empty.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::Path,
};

use rustix::{
    fs::{CWD, FlockOperation, Mode, OFlags, flock, openat},
    io::Errno,
};

use crate::{Error, Result};

/// The first number: in a range that no distribution, container manager or systemd gives to anybody (systemd's UIDS-GIDS).
const FIRST: u32 = 0x7d6b_0000;
/// How many there are.
const COUNT: u32 = 0x1_0000;

/// A user of the host for one machine, leased for as long as this or one of the machine's processes is there.
#[derive(Debug)]
pub struct VmUser {
    number: u32,
    held: OwnedFd,
}

impl VmUser {
    /// Where all of this host's machines have their locks, whatever their roots.
    pub const DIRECTORY: &str = "/run/magikrun-vm-users";

    /// Leases one; `directory` is made if it is missing.
    ///
    /// # Errors
    /// The directory is not root's own, or all users are leased.
    pub fn lease(directory: &Path) -> Result<Self> {
        Self::lease_among(directory, COUNT)
    }

    fn lease_among(directory: &Path, count: u32) -> Result<Self> {
        let at = |what: &str| Error::io(format!("{}: {what}", directory.display()));
        let open = open_private(directory).map_err(at("open it"))?;
        // One at a time: a lock that is made a shared one is free for an instant (flock(2)).
        flock_when_free(&open).map_err(at("lock it"))?;
        for number in FIRST..FIRST + count {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let held = openat(&open, number.to_string(), flags, Mode::from_raw_mode(0o600));
            let held = held.map_err(|e| at(&number.to_string())(e.into()))?;
            match flock(&held, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => continue,
                Err(e) => return Err(at("lease a user")(e.into())),
            }
            let shared = flock(&held, FlockOperation::NonBlockingLockShared);
            shared.map_err(|e| at("lease a user")(e.into()))?;
            return Ok(Self { number, held });
        }
        Err(Error::Unavailable(format!(
            "all {count} users of machines are leased"
        )))
    }

    /// Its number, and that of its group.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The lock once more, for a process that is to be this user.
    pub(crate) fn another(&self) -> io::Result<OwnedFd> {
        // The file itself may be out of reach by now.
        let path = format!("/proc/self/fd/{}", self.held.as_raw_fd());
        let another = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        flock(&another, FlockOperation::NonBlockingLockShared)?;
        Ok(another)
    }
}

/// The directory, which nobody but its owner, this process's user, can put anything into.
fn open_private(directory: &Path) -> io::Result<OwnedFd> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = fs::File::from(openat(CWD, directory, flags, Mode::empty())?);
    let found = open.metadata()?;
    if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(io::Error::other("it is open to other users"));
    }
    Ok(open.into())
}

fn flock_when_free(file: &OwnedFd) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn private() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        dir
    }

    #[test]
    fn two_machines_are_never_the_same_user() {
        let dir = private();
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let dir = dir.path().to_owned();
                std::thread::spawn(move || (0..8).map(|_| VmUser::lease(&dir).unwrap()).collect::<Vec<_>>())
            })
            .collect();
        let users: Vec<VmUser> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
        let mut numbers: Vec<u32> = users.iter().map(VmUser::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 64);
        assert!(numbers.iter().all(|n| (FIRST..FIRST + COUNT).contains(n)));
    }

    #[test]
    fn a_user_is_free_when_the_last_of_its_machine_is_gone_and_not_before() {
        let dir = private();
        let user = VmUser::lease_among(dir.path(), 1).unwrap();
        let number = user.number();
        let (monitor, device) = (user.another().unwrap(), user.another().unwrap());
        let taken = || VmUser::lease_among(dir.path(), 1).map(|user| user.number());
        assert!(matches!(taken(), Err(Error::Unavailable(_))));
        // A monitor that was taken over lets go of what it has: that is its own lock, and no other's.
        flock(&monitor, FlockOperation::Unlock).unwrap();
        assert!(taken().is_err());
        drop(monitor);
        // The supervisor is gone, and a process of the machine is still there.
        drop(user);
        assert!(taken().is_err());
        drop(device);
        assert_eq!(taken().unwrap(), number);
    }

    #[test]
    fn a_directory_that_is_open_to_others_is_not_used() {
        let dir = private();
        for mode in [0o755, 0o770, 0o777] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert!(VmUser::lease(dir.path()).is_err(), "{mode:o}");
        }
        let (real, link) = (private(), dir.path().join("link"));
        symlink(real.path(), &link).unwrap();
        assert!(VmUser::lease(&link).is_err(), "a link");
    }
}
