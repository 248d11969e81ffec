//! Ingests that can be resumed, by a later process too.
//!
//! What has arrived of a blob with a known digest lies in `tmp/partial-<algorithm>-<hex>`, under
//! its writer's `flock`. It is not trusted: it is hashed again first, so that the digest at the end
//! covers all bytes.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::{Digest, Error, Result};

/// What the name of a partial blob starts with.
pub(crate) const PREFIX: &str = "partial-";

/// A partial blob, locked. Dropped, its file stays, unless it is to be removed.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    lock: File,
    keep: bool,
}

impl Partial {
    /// Opens, makes and locks the partial blob of `digest` in `dir`; `None` while another has it.
    pub(crate) fn open(dir: &Path, digest: &Digest) -> Result<Option<Self>> {
        let path = dir.join(format!("{PREFIX}{}-{}", digest.algorithm(), digest.hex()));
        let context = || format!("open {}", path.display());
        loop {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let lock = options.open(&path).map_err(Error::io(context()))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(e)) => return Err(Error::io(context())(e)),
            }
            // Between opening and locking it may have become a blob, or have been removed.
            if is_at(&lock, &path).map_err(Error::io(context()))? {
                return Ok(Some(Self {
                    path,
                    lock,
                    keep: true,
                }));
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) const fn file(&self) -> &File {
        &self.lock
    }

    /// It is not worth keeping.
    pub(crate) const fn discard(&mut self) {
        self.keep = false;
    }

    /// Puts it where it belongs.
    pub(crate) fn persist(mut self, to: &Path) -> io::Result<()> {
        fs::rename(&self.path, to)?;
        // Its path no longer exists, so there is nothing to remove.
        self.keep = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "a partial blob stays");
        }
    }
}

/// Removes the partial blobs without a writer that are older than `age`; says how many.
pub(crate) fn expire(dir: &Path, age: Duration) -> Result<u64> {
    let context = || format!("list {}", dir.display());
    let mut removed = 0;
    for entry in fs::read_dir(dir).map_err(Error::io(context()))? {
        let entry = entry.map_err(Error::io(context()))?;
        let is_old = |modified: SystemTime| modified.elapsed().is_ok_and(|elapsed| elapsed >= age);
        if !entry.file_name().to_string_lossy().starts_with(PREFIX)
            || !entry.metadata().and_then(|m| m.modified()).is_ok_and(is_old)
        {
            continue;
        }
        // A file that is gone or locked by now is not removed.
        if let Ok(lock) = File::open(entry.path())
            && lock.try_lock().is_ok()
            && fs::remove_file(entry.path()).is_ok()
        {
            removed += 1;
        }
    }
    Ok(removed)
}

#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let opened = file.metadata()?;
    match fs::symlink_metadata(path) {
        Ok(there) => Ok((there.dev(), there.ino()) == (opened.dev(), opened.ino())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Elsewhere an open file is not renamed or removed under its owner.
#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> io::Result<bool> {
    path.try_exists()
}
