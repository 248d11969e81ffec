//! File locks. A pod's `lock` is its liveness: whoever is responsible for the pod (its launcher, its init) holds it
//! exclusively, through descriptors of one open file; the kernel releases it when the last of them is closed.
//!
//! That last one may be a child's: one that was just cloned has copies of all descriptors until it executes its program.
//! Where a lock stands for its holder's own life, the holder therefore [`sign`]s the file, and
//! [`try_exclusive_of_the_dead`] waits for the children of one that is gone.

use std::{
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags, flock},
    io::Errno,
};

use super::process::{self, Process};

/// How long a child may take from its clone to its execve; a machine with much to do may not run it for a while.
const CHILD_TIME: Duration = Duration::from_secs(5);
/// More than the longest signature, in bytes.
const SIGNATURE: usize = 64;

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

/// Writes into a lock file that this process holds the lock.
pub(crate) fn sign(file: &OwnedFd) -> io::Result<()> {
    let own = process::identity(rustix::process::getpid());
    let own = own.ok_or_else(|| io::Error::other("/proc does not show this process"))?;
    // Over what is there, which takes no space on a full disk.
    let length = rustix::io::pwrite(file, own.as_bytes(), 0)?;
    Ok(rustix::fs::ftruncate(file, length as u64)?)
}

/// Takes a lock if it is free, or if who signed it is gone and only children that have yet to become another program hold
/// it: for them it waits.
pub(crate) fn try_exclusive_of_the_dead(file: &OwnedFd) -> io::Result<bool> {
    let until = Instant::now() + CHILD_TIME;
    while !try_exclusive(file)? {
        if is_signer_alive(file)? || Instant::now() > until {
            return Ok(false);
        }
        sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Whether the process that signed a lock file has not ended; so it is taken to be while the file is not signed.
fn is_signer_alive(file: &OwnedFd) -> io::Result<bool> {
    let mut bytes = [0; SIGNATURE];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes[..length]);
    if !text.ends_with('\n') {
        return Ok(true);
    }
    match Process::identified(&text)? {
        // A zombie is no longer at anything.
        Some(signer) => Ok(!signer.wait(Duration::ZERO)?),
        None => Ok(false),
    }
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

    #[test]
    fn the_lock_of_who_is_gone_is_taken_once_its_children_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let holder = open(&path, true).unwrap();
        assert!(try_exclusive(&holder).unwrap());
        let other = open(&path, false).unwrap();
        assert!(
            !try_exclusive_of_the_dead(&other).unwrap(),
            "nobody has signed yet"
        );
        sign(&holder).unwrap();
        assert!(!try_exclusive_of_the_dead(&other).unwrap(), "the signer lives");
        // A process that has ended, whose descriptors a child still has; first nobody has waited for it.
        let mut gone = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let identity = process::identity(rustix::process::Pid::from_child(&gone)).unwrap();
        std::fs::write(&path, &identity).unwrap();
        let process = Process::identified(&identity).unwrap().unwrap();
        gone.kill().unwrap();
        assert!(process.wait(Duration::from_secs(60)).unwrap());
        let let_go = |holder: OwnedFd| {
            std::thread::spawn(move || {
                sleep(Duration::from_millis(50));
                drop(holder);
            })
        };
        let child = let_go(holder);
        assert!(try_exclusive_of_the_dead(&other).unwrap(), "a zombie's");
        child.join().unwrap();
        gone.wait().unwrap();
        let (holder, other) = (other, open(&path, false).unwrap());
        let child = let_go(holder);
        assert!(try_exclusive_of_the_dead(&other).unwrap());
        child.join().unwrap();
    }
}
