//! Reading blobs.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
};

use crate::{Digest, Error, Hasher, Result};

/// How much is read at once where this crate reads by itself, in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

/// An open blob. It stays readable after the blob has been removed.
#[derive(Debug)]
pub struct Blob {
    file: File,
    digest: Digest,
    size: u64,
}

impl Blob {
    pub(crate) fn open(path: &Path, digest: Digest) -> Result<Self> {
        let context = || format!("open {}", path.display());
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound(digest)),
            Err(source) => {
                return Err(Error::io(context())(source));
            }
        };
        let size = file.metadata().map_err(Error::io(context()))?.len();
        Ok(Self { file, digest, size })
    }

    /// Its name.
    #[must_use]
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its size in bytes.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The file, at the present position.
    #[must_use]
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Read for Blob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Seek for Blob {
    fn seek(&mut self, pos: SeekFrom) -> io::Result<u64> {
        self.file.seek(pos)
    }
}

/// Reads and hashes. If the digest is wrong at the end, the read fails with
/// [`io::ErrorKind::InvalidData`] (an [`Error::Damaged`] inside). Until then nothing is verified.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    result: Option<Digest>,
}

impl<R: Read> VerifiedReader<R> {
    /// Reads `inner`, expecting its bytes to hash to `expected`.
    pub fn new(inner: R, expected: Digest) -> Self {
        Self {
            inner,
            hasher: Some(expected.algorithm().hasher()),
            expected,
            result: None,
        }
    }

    /// Whether the end has been reached and the digest was the expected one.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.result == Some(self.expected)
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let n = self.inner.read(buf)?;
        if n > 0 {
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&buf[..n]);
            }
            return Ok(n);
        }
        if let Some(hasher) = self.hasher.take() {
            self.result = Some(hasher.finish());
        }
        match self.result {
            Some(found) if found != self.expected => Err(Error::Damaged {
                digest: self.expected,
                found: Box::new(found),
            }
            .into()),
            _ => Ok(0),
        }
    }
}
