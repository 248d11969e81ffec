//! How processes share a store without a daemon.
//!
//! One lock file, `<root>/blobs/lock`, and `flock(2)` on it:
//!
//! - A [`Lease`] holds it shared, from before blobs are looked up until a durable record makes them
//!   live.
//! - A [`Writer`](crate::Writer) or [`Staged`](crate::Staged) blob holds it shared (by a lease of
//!   its own), from `begin` until it is published or dropped.
//! - [`Exclusive`] holds it exclusively, while garbage collection or removal decides and removes.
//! - Readers hold no lock: an open file stays readable without its name.
//!
//! From that follows:
//! - **gc never takes a blob being used.** A blob that was there when a lease was taken, or came
//!   later, stays until the lease is dropped. What is live must be computed *after* the exclusive
//!   lock is held ([`Exclusive`]): a process that records a root under a lease has then done so.
//! - **Temporary files need no owner's mark.** Writers hold shared locks, so under the exclusive
//!   one every `tmp/ingest-*` and `tmp/partial-*` is of a dead process. The kernel releases the
//!   locks of a process however it ends: there are no stale locks, and pids do not matter.
//! - Ingests, readers and leases never wait for each other; they wait for gc, which only unlinks
//!   and is short. gc waits for leases: hold one for an operation, not for a container's life. What
//!   must stay for longer belongs in the caller's roots.
//!
//! `flock` belongs to the open file description. Each guard opens the file anew, so guards of one
//! process are independent: a thread that asks for [`Exclusive`] with a [`Lease`] waits for ever.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    sync::Arc,
};

use crate::{BlobInfo, Digest, Error, Result, Store, partial, private, store::PREFIX};

/// Keeps every blob of the store while it, or a clone of it, lives; see [the protocol](self).
#[derive(Debug, Clone)]
pub struct Lease {
    _lock: Arc<File>,
}

impl Lease {
    pub(crate) fn take(lock: &Path) -> Result<Self> {
        let file = private::lock_file(lock)?;
        retry(|| file.lock_shared()).map_err(Error::io(format!("lock {}", lock.display())))?;
        Ok(Self {
            _lock: Arc::new(file),
        })
    }
}

/// The right to remove blobs: there is no [`Lease`] and no writer; see [the protocol](self).
#[derive(Debug)]
pub struct Exclusive<'a> {
    store: &'a Store,
    _lock: File,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// How many blobs.
    pub blobs: u64,
    /// How many temporary files that dead processes had left.
    pub temporary: u64,
    /// The bytes of both together.
    pub bytes: u64,
}

impl<'a> Exclusive<'a> {
    pub(crate) fn wait(store: &'a Store, lock: &Path) -> Result<Self> {
        let file = private::lock_file(lock)?;
        retry(|| file.lock()).map_err(Error::io(format!("lock {}", lock.display())))?;
        Ok(Self { store, _lock: file })
    }

    pub(crate) fn attempt(store: &'a Store, lock: &Path) -> Result<Option<Self>> {
        let file = private::lock_file(lock)?;
        loop {
            return match file.try_lock() {
                Ok(()) => Ok(Some(Self { store, _lock: file })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(TryLockError::Error(source)) => {
                    Err(Error::io(format!("lock {}", lock.display()))(source))
                }
            };
        }
    }

    /// Removes a blob; `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        remove_if_there(&self.store.path(digest))
    }

    /// Removes every blob that `is_live` does not want, and the temporary files of dead processes.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses; what was removed before stays removed.
    pub fn sweep(&self, mut is_live: impl FnMut(&Digest) -> bool) -> Result<SweepReport> {
        let mut report = SweepReport::default();
        for BlobInfo { digest, size } in self.store.list()? {
            if !is_live(&digest) && self.remove(&digest)? {
                tracing::debug!(%digest, size, "removed blob");
                report.blobs += 1;
                report.bytes += size;
            }
        }
        let tmp = self.store.tmp_dir();
        let context = || format!("list {}", tmp.display());
        for entry in std::fs::read_dir(&tmp).map_err(Error::io(context()))? {
            let entry = entry.map_err(Error::io(context()))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if !name.starts_with(PREFIX) && !name.starts_with(partial::PREFIX) {
                continue;
            }
            let size = entry.metadata().map_or(0, |m| m.len());
            if remove_if_there(&entry.path())? {
                report.temporary += 1;
                report.bytes += size;
            }
        }
        Ok(report)
    }
}

/// A signal handler may interrupt a wait for a lock.
fn retry(mut lock: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match lock() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn remove_if_there(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::io(format!("remove {}", path.display()))(source)),
    }
}
