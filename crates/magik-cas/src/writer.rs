//! Streaming, verified ingest.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use tempfile::{NamedTempFile, TempPath};

use crate::{
    Algorithm, BlobInfo, Digest, Durability, Error, Hasher, Lease, Result, Store, partial::Partial,
    reader::BUFFER, store::PREFIX,
};

/// Where the bytes go until they have a name.
#[derive(Debug)]
enum IngestFile {
    /// A file that is removed unless it is published.
    Temporary(NamedTempFile),
    /// The same, closed: an archive may hold thousands of blobs.
    Closed(TempPath),
    /// A file that stays if the ingest ends early.
    Partial(Partial),
}

impl IngestFile {
    fn path(&self) -> &Path {
        match self {
            Self::Temporary(file) => file.path(),
            Self::Closed(path) => path,
            Self::Partial(partial) => partial.path(),
        }
    }

    fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Temporary(file) => file.as_file().write_all(bytes),
            Self::Partial(partial) => partial.file().write_all(bytes),
            Self::Closed(_) => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
        }
    }

    fn close(self) -> Self {
        match self {
            Self::Temporary(file) => Self::Closed(file.into_temp_path()),
            other => other,
        }
    }

    fn discard(&mut self) {
        if let Self::Partial(partial) = self {
            partial.discard();
        }
    }

    fn persist(self, to: &Path) -> io::Result<()> {
        match self {
            Self::Temporary(file) => file.persist(to).map(drop).map_err(|e| e.error),
            Self::Closed(path) => path.persist(to).map_err(|e| e.error),
            Self::Partial(partial) => partial.persist(to),
        }
    }
}

/// An ingest. Without [`commit`](Self::commit) it leaves nothing, unless from [`Store::resume`].
#[derive(Debug)]
pub struct Writer {
    store: Store,
    file: IngestFile,
    hasher: Hasher,
    size: u64,
    cap: u64,
    lease: Lease,
}

impl Writer {
    pub(crate) fn begin(store: &Store, lease: Lease, algorithm: Algorithm, cap: u64) -> Result<Self> {
        // The lease came first: with it, no sweep can take the temporary file for a dead process's.
        let dir = store.tmp_dir();
        let temp = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempfile_in(&dir)
            .map_err(Error::io(format!("create a file in {}", dir.display())))?;
        Ok(Self {
            store: store.clone(),
            file: IngestFile::Temporary(temp),
            hasher: algorithm.hasher(),
            size: 0,
            cap,
            lease,
        })
    }

    pub(crate) fn resume(store: &Store, lease: Lease, digest: &Digest, cap: u64) -> Result<Self> {
        let Some(partial) = Partial::open(&store.tmp_dir(), digest)? else {
            return Self::begin(store, lease, digest.algorithm(), cap);
        };
        let context = format!("read {}", partial.path().display());
        let mut hasher = digest.algorithm().hasher();
        let size = take_in(partial.file(), cap, &mut hasher).map_err(Error::io(context))?;
        Ok(Self {
            store: store.clone(),
            file: IngestFile::Partial(partial),
            hasher,
            size,
            cap,
            lease,
        })
    }

    /// The bytes written so far; after [`Store::resume`], those that were there.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where it is being written. What is read there has not been verified.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }

    /// Throws away what was written: nothing is kept for [`Store::resume`].
    pub fn discard(mut self) {
        self.file.discard();
    }

    /// Takes `bytes` in.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if they exceed the cap (none are written), or [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let size = self.size.saturating_add(bytes.len() as u64);
        if size > self.cap {
            return Err(Error::TooLarge { cap: self.cap });
        }
        let written = self.file.write_all(bytes);
        if let Err(source) = written {
            // A full disk should keep no partial blob, whose valid length is unknown.
            self.file.discard();
            return Err(Error::io(format!("write {}", self.file.path().display()))(source));
        }
        self.hasher.update(bytes);
        self.size = size;
        Ok(())
    }

    /// Takes in everything of `source`, and says how many bytes that was.
    ///
    /// # Errors
    /// [`Error::Source`] if it cannot be read, and as [`append`](Self::append).
    pub fn copy_from(&mut self, mut source: impl Read) -> Result<u64> {
        let before = self.size;
        let mut buffer = vec![0; BUFFER];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(self.size - before),
                Ok(n) => self.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Source(e)),
            }
        }
    }

    /// Checks what was written and publishes it under `expected`, durably if the store is.
    ///
    /// # Errors
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`] (also for another algorithm than in
    /// [`Store::begin`]), or [`Error::Io`]; each leaves nothing.
    pub fn commit(self, expected: &Digest, size: Option<u64>) -> Result<BlobInfo> {
        self.finish_as(expected, size)?.publish()
    }

    /// Checks what was written, without publishing it yet.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn finish_as(mut self, expected: &Digest, size: Option<u64>) -> Result<Staged> {
        if let Some(size) = size.filter(|s| *s != self.size) {
            self.file.discard();
            return Err(Error::SizeMismatch {
                expected: *expected,
                size,
                found: self.size,
            });
        }
        let mut staged = self.finish()?;
        if staged.info.digest != *expected {
            staged.file.discard();
            return Err(Error::DigestMismatch {
                expected: *expected,
                found: Box::new(staged.info.digest),
            });
        }
        Ok(staged)
    }

    /// Ends the ingest under the digest of its bytes, without publishing it yet.
    ///
    /// # Errors
    /// [`Error::Io`] if the bytes cannot be made durable.
    pub fn finish(self) -> Result<Staged> {
        let Self {
            store,
            file,
            hasher,
            size,
            lease,
            ..
        } = self;
        // The digest is known by now; the slow part follows only for correct content.
        let info = BlobInfo {
            digest: hasher.finish(),
            size,
        };
        Ok(Staged {
            store,
            file: file.close(),
            info,
            _lease: lease,
        })
    }
}

/// Hashes what `file` holds, and says how much that is; one that is longer than `cap` is emptied.
fn take_in(mut file: &File, cap: u64, hasher: &mut Hasher) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut size = 0;
    if file.metadata()?.len() > cap {
        file.set_len(0)?;
    }
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(size),
            Ok(n) => {
                size += n as u64;
                hasher.update(&buffer[..n]);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.append(buf)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A complete blob of known digest that is not visible yet. Dropped without
/// [`publish`](Self::publish), it leaves nothing, unless its writer comes from [`Store::resume`].
///
/// Useful where several blobs should appear together or not at all.
#[derive(Debug)]
pub struct Staged {
    store: Store,
    file: IngestFile,
    info: BlobInfo,
    _lease: Lease,
}

impl Staged {
    /// Its digest and size.
    #[must_use]
    pub const fn info(&self) -> &BlobInfo {
        &self.info
    }

    /// Opens it for reading.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(&self) -> Result<File> {
        let path = self.file.path();
        File::open(path).map_err(Error::io(format!("open {}", path.display())))
    }

    /// Throws it away: nothing is kept for [`Store::resume`].
    pub fn discard(mut self) {
        self.file.discard();
    }

    /// Puts it into its place, durably if the store is. An existing one has the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn publish(self) -> Result<BlobInfo> {
        if self.store.durability() == Durability::Full {
            let file = File::options().write(true).open(self.file.path());
            file.and_then(|f| f.sync_all())
                .map_err(Error::io(format!("sync {}", self.file.path().display())))?;
        }
        self.publish_synced()
    }

    /// As [`publish`](Self::publish) for bytes that are durable already, for example after one
    /// `syncfs` for many blobs.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn publish_synced(self) -> Result<BlobInfo> {
        let Self {
            store,
            file,
            info,
            _lease,
        } = self;
        let path = store.path(&info.digest);
        let Some(dir) = path.parent() else {
            unreachable!("a blob's path has a directory")
        };
        let created = match make_dir(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => {
                return Err(Error::io(format!("create {}", dir.display()))(source));
            }
        };
        file.persist(&path)
            .map_err(Error::io(format!("rename to {}", path.display())))?;
        if store.durability() == Durability::Full {
            sync_dir(dir)?;
            if created && let Some(parent) = dir.parent() {
                sync_dir(parent)?;
            }
        }
        Ok(info)
    }
}

/// As everything of a store, for its owner only.
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|d| d.sync_all());
        synced.map_err(Error::io(format!("sync {}", dir.display())))?;
    }
    Ok(())
}
