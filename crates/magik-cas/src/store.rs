//! The store itself.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    Algorithm, Blob, Digest, Error, Exclusive, Lease, Result, SweepReport, VerifiedReader, Writer, partial,
    private::{self, Contents},
};

/// What the name of every temporary file of this crate starts with.
pub(crate) const PREFIX: &str = "ingest-";

/// What a data root has: this crate's directories and those that are kept beside them. The one of
/// pods may be made before a store.
const CONTENTS: Contents<'_> = Contents {
    all: &[
        "blobs",
        "format",
        "images",
        "layers",
        "leases",
        "pods",
        "tmp",
        "wasm-cache",
    ],
    first: &["pods"],
};

/// Whether a published blob survives a power failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// `fsync` of every blob and of its directory before and after the rename.
    #[default]
    Full,
    /// None: after a power failure a blob may be empty, which [`Store::verify`] and verified reads
    /// find. For tests and for stores that can be filled again.
    None,
}

/// A blob in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// What [`Store::verify`] found to be wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// A blob's bytes do not hash to its name.
    #[error("blob {digest} ({size} bytes) hashes to {found}")]
    Content {
        /// The blob.
        digest: Digest,
        /// What its bytes hash to.
        found: Digest,
        /// Its present size in bytes.
        size: u64,
    },
    /// A blob cannot be read.
    #[error("blob {digest} cannot be read: {source}")]
    Unreadable {
        /// The blob.
        digest: Digest,
        /// Why not.
        source: io::Error,
    },
}

impl Damage {
    /// The damaged blob.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        match self {
            Self::Content { digest, .. } | Self::Unreadable { digest, .. } => digest,
        }
    }
}

/// A store below one directory; see the [crate]. Clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    root: Arc<Path>,
    durability: Durability,
}

impl Store {
    /// Opens the store below `root` and creates what is missing, with [`Durability::Full`]. What is
    /// there is closed to other users, see [`private`].
    ///
    /// # Errors
    /// [`Error::NotPrivate`]: a directory is another user's or shared; or [`Error::Io`].
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        private::root(root, CONTENTS)?;
        let blobs = root.join("blobs");
        private::directory(&blobs)?;
        for algorithm in Algorithm::ALL {
            private::directory(&blobs.join(algorithm.as_str()))?;
        }
        private::directory(&root.join("tmp"))?;
        Ok(Self {
            root: root.into(),
            durability: Durability::default(),
        })
    }

    /// The same store with another durability for what it writes.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The durability of what it writes.
    #[must_use]
    pub const fn durability(&self) -> Durability {
        self.durability
    }

    /// The directory it lies below.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of temporary files, on the same file system as the blobs. Others may put files
    /// of their own there, under names that do not start with `ingest-`.
    #[must_use]
    pub fn tmp_dir(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where a blob lies, or would.
    #[must_use]
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        let mut path = self.root.join("blobs");
        path.push(digest.algorithm().as_str());
        path.push(&hex[..2]);
        path.push(hex);
        path
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("blobs/lock")
    }

    /// Keeps every blob until the lease is dropped; waits for a running garbage collection.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file cannot be opened.
    pub fn lease(&self) -> Result<Lease> {
        Lease::take(&self.lock_path())
    }

    /// Waits until no lease and no writer is left, and blocks others; do not hold a lease.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file cannot be opened.
    pub fn exclusive(&self) -> Result<Exclusive<'_>> {
        Exclusive::wait(self, &self.lock_path())
    }

    /// As [`exclusive`](Self::exclusive), but `None` instead of waiting.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file cannot be opened.
    pub fn try_exclusive(&self) -> Result<Option<Exclusive<'_>>> {
        Exclusive::attempt(self, &self.lock_path())
    }

    /// Starts an ingest of at most `cap` bytes, to be named by `algorithm`.
    ///
    /// # Errors
    /// [`Error::Io`] if no temporary file can be made.
    pub fn begin(&self, algorithm: Algorithm, cap: u64) -> Result<Writer> {
        self.begin_under(&self.lease()?, algorithm, cap)
    }

    /// As [`begin`](Self::begin), sharing a lease of this store, which saves a descriptor each.
    ///
    /// # Errors
    /// [`Error::Io`] if no temporary file can be made.
    pub fn begin_under(&self, lease: &Lease, algorithm: Algorithm, cap: u64) -> Result<Writer> {
        Writer::begin(self, lease.clone(), algorithm, cap)
    }

    /// Starts the ingest of a blob with a known digest, from what earlier ones left: that is
    /// hashed, and [`Writer::size`] is its length. If this one ends early, its part stays for the
    /// next, until a sweep. While the blob has another writer, this is a [`begin`](Self::begin).
    ///
    /// # Errors
    /// [`Error::Io`] if no file can be made or read.
    pub fn resume(&self, digest: &Digest, cap: u64) -> Result<Writer> {
        Writer::resume(self, self.lease()?, digest, cap)
    }

    /// Removes what no [`resume`](Self::resume) took up for `age`; says how many files.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be listed.
    pub fn expire_partial(&self, age: Duration) -> Result<u64> {
        partial::expire(&self.tmp_dir(), age)
    }

    /// Stores `bytes` under their SHA-256 digest.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be written.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::sha256(bytes);
        if self.stat(&digest)? != Some(bytes.len() as u64) {
            let mut writer = self.begin(Algorithm::Sha256, u64::MAX)?;
            writer.append(bytes)?;
            writer.commit(&digest, None)?;
        }
        Ok(digest)
    }

    /// A blob's size in bytes, or `None` if it is not there.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses to say.
    pub fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.path(digest);
        match fs::symlink_metadata(&path) {
            Ok(metadata) => Ok(metadata.is_file().then_some(metadata.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::io(format!("stat {}", path.display()))(source)),
        }
    }

    /// Opens a blob without checking its bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob> {
        Blob::open(&self.path(digest), *digest)
    }

    /// Opens a blob whose reader fails at the end if the bytes do not hash to `digest`.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Io`].
    pub fn open_verified(&self, digest: &Digest) -> Result<VerifiedReader<Blob>> {
        Ok(VerifiedReader::new(self.open_blob(digest)?, *digest))
    }

    /// Reads a whole blob of at most `cap` bytes and checks it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::Damaged`], or [`Error::Io`].
    pub fn read(&self, digest: &Digest, cap: u64) -> Result<Vec<u8>> {
        let blob = self.open_blob(digest)?;
        if blob.size() > cap {
            return Err(Error::TooLarge { cap });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(blob.size()).unwrap_or(0));
        blob.take(cap)
            .read_to_end(&mut bytes)
            .map_err(Error::io(format!("read blob {digest}")))?;
        let found = Digest::of(digest.algorithm(), &bytes);
        if found != *digest {
            return Err(Error::Damaged {
                digest: *digest,
                found: Box::new(found),
            });
        }
        Ok(bytes)
    }

    /// Reads a whole blob and throws it away.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Damaged`] if the digest is wrong, or [`Error::Io`].
    pub fn check(&self, digest: &Digest) -> Result<()> {
        let file = self.open_blob(digest)?.into_file();
        let mut buffer = vec![0; crate::reader::BUFFER];
        let found = hash_file(file, digest.algorithm(), &mut buffer);
        let found = found.map_err(Error::io(format!("read blob {digest}")))?;
        if found == *digest {
            Ok(())
        } else {
            Err(Error::Damaged {
                digest: *digest,
                found: Box::new(found),
            })
        }
    }

    /// Every blob, in the order of their digests.
    ///
    /// # Errors
    /// [`Error::Io`] if a directory cannot be read.
    pub fn list(&self) -> Result<Vec<BlobInfo>> {
        let mut blobs = Vec::new();
        for algorithm in Algorithm::ALL {
            for dir in read_dir(&self.root.join("blobs").join(algorithm.as_str()))? {
                if !dir.file_type().is_ok_and(|t| t.is_dir()) {
                    continue;
                }
                for file in read_dir(&dir.path())? {
                    let name = file.file_name();
                    let Some(digest) = name.to_str().and_then(|n| Digest::from_hex(algorithm, n).ok()) else {
                        tracing::warn!(path = %file.path().display(), "not a blob, left alone");
                        continue;
                    };
                    if let Some(size) = self.stat(&digest)? {
                        blobs.push(BlobInfo { digest, size });
                    }
                }
            }
        }
        blobs.sort_unstable_by_key(|b| b.digest);
        Ok(blobs)
    }

    /// Removes a blob, waiting for leases; `false` if there was none.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        self.exclusive()?.remove(digest)
    }

    /// Waits for leases; removes blobs that are not `is_live`, and dead processes' files in `tmp`.
    ///
    /// Compute the roots when `is_live` is first called: only then the store is exclusive.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn gc(&self, is_live: impl FnMut(&Digest) -> bool) -> Result<SweepReport> {
        self.exclusive()?.sweep(is_live)
    }

    /// Reads every blob and says which are damaged. Holds a lease while it does.
    ///
    /// # Errors
    /// [`Error::Io`] if the store cannot be listed. The answer has the errors of single blobs.
    pub fn verify(&self) -> Result<Vec<Damage>> {
        let _lease = self.lease()?;
        let mut damage = Vec::new();
        let mut buffer = vec![0; crate::reader::BUFFER];
        for BlobInfo { digest, size } in self.list()? {
            let hashed = File::open(self.path(&digest))
                .and_then(|file| hash_file(file, digest.algorithm(), &mut buffer));
            match hashed {
                Ok(found) if found == digest => {}
                Ok(found) => damage.push(Damage::Content { digest, found, size }),
                Err(source) => damage.push(Damage::Unreadable { digest, source }),
            }
        }
        Ok(damage)
    }
}

fn hash_file(mut file: File, algorithm: Algorithm, buffer: &mut [u8]) -> io::Result<Digest> {
    let mut hasher = algorithm.hasher();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn read_dir(dir: &Path) -> Result<Vec<fs::DirEntry>> {
    let context = || format!("list {}", dir.display());
    let entries = fs::read_dir(dir).map_err(Error::io(context()))?;
    entries.collect::<io::Result<_>>().map_err(Error::io(context()))
}
