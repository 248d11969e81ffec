//! File locks. A pod's `lock` is its liveness: whoever is responsible for the pod (its launcher, its init) holds it
//! exclusively, through descriptors of one open file; the kernel releases it when the last of them is closed.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

/// Opens a lock file, making it if `create` is set.
pub(crate) fn open(path: &Path, create: bool) -> io::Result<OwnedFd> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    flags.set(OFlags::CREATE, create);
    Ok(rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?)
}

/// Takes a lock if it is free.
pub(crate) fn try_exclusive(file: &OwnedFd) -> io::Result<bool> {
    attempt(file, FlockOperation::NonBlockingLockExclusive)
}

/// Whether nobody is responsible for a pod: the lock is taken shared for an instant, so that several may ask at once.
pub(crate) fn is_free(file: &OwnedFd) -> io::Result<bool> {
    let free = attempt(file, FlockOperation::NonBlockingLockShared)?;
    if free {
        flock(file, FlockOperation::Unlock)?;
    }
    Ok(free)
}

fn attempt(file: &OwnedFd, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Takes a lock, waiting for it. Not for async contexts.
pub(crate) fn exclusive(file: &OwnedFd) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Whether the file that `file` has open is still the one at `path`.
pub(crate) fn is_at(file: &OwnedFd, path: &Path) -> io::Result<bool> {
    let here = File::from(file.try_clone()?).metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(there) => Ok((here.dev(), here.ino()) == (there.dev(), there.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_held_until_the_last_descriptor_of_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let launcher = open(&path, true).unwrap();
        assert!(try_exclusive(&launcher).unwrap());
        let init = launcher.try_clone().unwrap();
        let other = open(&path, false).unwrap();
        assert!(!is_free(&other).unwrap() && !try_exclusive(&other).unwrap());
        drop(launcher);
        assert!(!is_free(&other).unwrap());
        drop(init);
        assert!(is_free(&other).unwrap() && try_exclusive(&other).unwrap());
        assert!(is_at(&other, &path).unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(!is_at(&other, &path).unwrap());
        assert!(open(&path, false).is_err());
    }
}
