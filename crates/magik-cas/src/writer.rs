//! Streaming, verified ingest.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use tempfile::{NamedTempFile, TempPath};

use crate::{
    Algorithm, BlobInfo, Digest, Durability, Error, Hasher, Lease, Result, Store, reader::BUFFER,
    store::PREFIX,
};

/// An ingest under way. Dropped without [`commit`](Self::commit), it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    temp: NamedTempFile,
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
            temp,
            hasher: algorithm.hasher(),
            size: 0,
            cap,
            lease,
        })
    }

    /// The bytes written so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Takes `bytes` in.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if they would exceed the cap (nothing of them is written), or [`Error::Io`].
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let size = self.size.saturating_add(bytes.len() as u64);
        if size > self.cap {
            return Err(Error::TooLarge { cap: self.cap });
        }
        let written = self.temp.as_file_mut().write_all(bytes);
        written.map_err(Error::io(format!("write {}", self.temp.path().display())))?;
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
    /// [`Error::SizeMismatch`], [`Error::DigestMismatch`] (also if `expected` is of another algorithm than the one
    /// given to [`Store::begin`]), or [`Error::Io`]; nothing is left in any of these cases.
    pub fn commit(self, expected: &Digest, size: Option<u64>) -> Result<BlobInfo> {
        self.finish_as(expected, size)?.publish()
    }

    /// Checks what was written, without publishing it yet.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn finish_as(self, expected: &Digest, size: Option<u64>) -> Result<Staged> {
        if let Some(size) = size.filter(|s| *s != self.size) {
            return Err(Error::SizeMismatch {
                expected: *expected,
                size,
                found: self.size,
            });
        }
        let staged = self.finish()?;
        if staged.info.digest != *expected {
            return Err(Error::DigestMismatch {
                expected: *expected,
                found: Box::new(staged.info.digest),
            });
        }
        Ok(staged)
    }

    /// Ends the ingest under whatever the bytes hash to, without publishing it yet.
    ///
    /// # Errors
    /// [`Error::Io`] if the bytes cannot be made durable.
    pub fn finish(self) -> Result<Staged> {
        let Self {
            store,
            temp,
            hasher,
            size,
            lease,
            ..
        } = self;
        // Hashing has been done on the way; the slow part comes only for content that is what it should be.
        let info = BlobInfo {
            digest: hasher.finish(),
            size,
        };
        Ok(Staged {
            store,
            temp: temp.into_temp_path(),
            info,
            _lease: lease,
        })
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

/// A complete blob of known digest that nobody sees yet. Dropped without [`publish`](Self::publish), it leaves nothing.
///
/// Useful where several blobs should appear together or not at all.
#[derive(Debug)]
pub struct Staged {
    store: Store,
    temp: TempPath,
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
        File::open(&self.temp).map_err(Error::io(format!("open {}", self.temp.display())))
    }

    /// Puts it into its place, durably if the store is. One that is there already is replaced by the same bytes.
    ///
    /// # Errors
    /// [`Error::Io`] if the file system refuses.
    pub fn publish(self) -> Result<BlobInfo> {
        let Self {
            store,
            temp,
            info,
            _lease,
        } = self;
        let path = store.path(&info.digest);
        let durable = store.durability() == Durability::Full;
        if durable {
            let file = File::options().read(true).write(true).open(&temp);
            file.and_then(|f| f.sync_all())
                .map_err(Error::io(format!("sync {}", temp.display())))?;
        }
        let Some(dir) = path.parent() else {
            unreachable!("a blob's path has a directory")
        };
        let created = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => {
                return Err(Error::Io {
                    context: format!("create {}", dir.display()),
                    source,
                });
            }
        };
        temp.persist(&path).map_err(|e| Error::Io {
            context: format!("rename to {}", path.display()),
            source: e.error,
        })?;
        if durable {
            sync_dir(dir)?;
            if created && let Some(parent) = dir.parent() {
                sync_dir(parent)?;
            }
        }
        Ok(info)
    }
}

/// Makes the names in a directory durable.
fn sync_dir(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let synced = File::open(dir).and_then(|d| d.sync_all());
        synced.map_err(Error::io(format!("sync {}", dir.display())))?;
    }
    Ok(())
}
