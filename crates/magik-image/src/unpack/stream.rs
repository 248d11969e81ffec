//! A layer's bytes: decompressed, counted and hashed in one pass.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use magik_cas::{Algorithm, Digest, Hasher};

use crate::Error;

/// How much is read, decompressed, hashed and written at once, in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// zstd's frames without data (RFC 8878, 3.1.2) have magic numbers 0x184D2A50 to 0x184D2A5F; a
/// layer may start with one (zstd:chunked and eStargz variants).
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// Why a stream is not read on although nothing is wrong with it; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// More decompressed bytes than allowed.
    #[error("more than {0} bytes decompressed, which is the limit")]
    TooLong(u64),
    /// It is compressed with something that this program was built without.
    #[cfg(not(feature = "zstd"))]
    #[error("the feature \"{0}\" is missing")]
    Feature(&'static str),
}

impl Refusal {
    pub(super) fn into_io(self) -> io::Error {
        let kind = match self {
            Self::TooLong(_) => io::ErrorKind::FileTooLarge,
            #[cfg(not(feature = "zstd"))]
            Self::Feature(_) => io::ErrorKind::Unsupported,
        };
        io::Error::new(kind, self)
    }

    /// The error for `what`, if an I/O error is a refusal.
    pub(crate) fn of(error: &io::Error, what: impl FnOnce() -> String) -> Option<Error> {
        Some(match error.get_ref()?.downcast_ref()? {
            Self::TooLong(limit) => Error::too_large(format!("{}, decompressed,", what()), *limit),
            #[cfg(not(feature = "zstd"))]
            Self::Feature(feature) => Error::MissingFeature {
                what: what(),
                feature,
            },
        })
    }
}

/// A layer blob's compression, by its first bytes. Media types are not used: many registries have
/// wrong ones, and the diff id decides whether the content is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn detect(start: &[u8]) -> Self {
        if start.starts_with(&GZIP_MAGIC) {
            Self::Gzip
        } else if start.starts_with(&ZSTD_MAGIC)
            || (start.first().is_some_and(|b| b & 0xf0 == 0x50) && start[1..].starts_with(&ZSTD_SKIPPABLE))
        {
            Self::Zstd
        } else {
            Self::None
        }
    }
}

/// Wraps `source` into the decompressor that its first bytes ask for.
pub(crate) fn decompress<'a>(source: impl Read + 'a) -> io::Result<(Compression, Box<dyn Read + 'a>)> {
    let mut source = BufReader::with_capacity(BUFFER, source);
    let compression = Compression::detect(source.fill_buf()?);
    Ok((
        compression,
        match compression {
            Compression::None => Box::new(source),
            Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
            Compression::Zstd => unzstd(source)?,
        },
    ))
}

#[cfg(feature = "zstd")]
fn unzstd<'a>(source: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    /// The largest window that is accepted, as a power of two: it is memory. 128 MiB are zstd's
    /// own default for streams.
    const WINDOW_LOG_MAX: u32 = 27;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

#[cfg(not(feature = "zstd"))]
fn unzstd<'a>(_: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    Err(Refusal::Feature("zstd").into_io())
}

/// The decompressed bytes of an archive. Whoever reads it gets them after they have been counted
/// and hashed.
pub(crate) struct ArchiveStream<'a> {
    inner: BufReader<Hashing<'a>>,
}

/// What is read is counted and hashed.
pub(super) struct Hashing<'a> {
    inner: Box<dyn Read + 'a>,
    pub(super) hasher: Hasher,
    count: u64,
    cap: u64,
}

impl<'a> Hashing<'a> {
    /// At most `cap` bytes.
    pub(super) fn new(inner: Box<dyn Read + 'a>, algorithm: Algorithm, cap: u64) -> Self {
        Self {
            inner,
            hasher: algorithm.hasher(),
            count: 0,
            cap,
        }
    }
}

impl<'a> ArchiveStream<'a> {
    /// At most `cap` bytes of `source`, decompressed.
    pub(crate) fn new(source: impl Read + 'a, algorithm: Algorithm, cap: u64) -> io::Result<Self> {
        let (_, inner) = decompress(source)?;
        Ok(Self {
            inner: BufReader::with_capacity(BUFFER, Hashing::new(inner, algorithm, cap)),
        })
    }

    /// Reads what is left and says what all of it hashes to.
    pub(crate) fn finish(mut self) -> io::Result<Digest> {
        loop {
            match self.inner.fill_buf()?.len() {
                0 => return Ok(self.inner.into_inner().hasher.finish()),
                n => self.inner.consume(n),
            }
        }
    }
}

impl Read for ArchiveStream<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }
}

impl BufRead for ArchiveStream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        self.inner.consume(amount);
    }
}

impl Read for Hashing<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.count += n as u64;
        if self.count > self.cap {
            return Err(Refusal::TooLong(self.cap).into_io());
        }
        self.hasher.update(&buf[..n]);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(source: &[u8], cap: u64) -> io::Result<(Vec<u8>, Digest)> {
        let mut stream = ArchiveStream::new(source, Algorithm::Sha256, cap)?;
        let mut bytes = Vec::new();
        (&mut stream).take(4).read_to_end(&mut bytes)?;
        Ok((bytes, stream.finish()?))
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn reads_every_compression_by_its_magic() {
        let content = b"some bytes of a layer";
        let mut skippable = vec![0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
        skippable.extend(zstd::encode_all(&content[..], 3).unwrap());
        let sources = [
            content.to_vec(),
            gzip(content),
            zstd::encode_all(&content[..], 3).unwrap(),
            skippable,
        ];
        for source in sources {
            let (start, digest) = read(&source, 1000).unwrap();
            assert_eq!(start, b"some");
            assert_eq!(digest, Digest::sha256(content));
        }
    }

    #[cfg(feature = "zstd")]
    #[test]
    fn reads_all_members_of_a_gzip_stream_and_all_frames_of_a_zstd_stream() {
        let members = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&members, 100).unwrap().1, Digest::sha256(b"one two"));
        let frames = [
            zstd::encode_all(&b"one "[..], 3).unwrap(),
            zstd::encode_all(&b"two"[..], 3).unwrap(),
        ];
        assert_eq!(read(&frames.concat(), 100).unwrap().1, Digest::sha256(b"one two"));
    }

    #[test]
    fn stops_one_byte_past_the_cap_however_small_the_source() {
        let bomb = gzip(&vec![0; 1 << 20]);
        assert!(bomb.len() < 100_000);
        assert!(read(&bomb, 1 << 20).is_ok());
        let error = read(&bomb, (1 << 20) - 1).unwrap_err();
        assert!(
            matches!(
                Refusal::of(&error, || "layer".to_owned()),
                Some(Error::TooLarge { limit: 1_048_575, .. })
            ),
            "{error}"
        );
    }

    #[test]
    fn refuses_truncated_gzip_and_trailing_garbage() {
        let whole = gzip(b"some bytes");
        assert!(read(&whole[..whole.len() - 1], 100).is_err());
        assert!(read(&[&whole[..], b"garbage"].concat(), 100).is_err());
    }
}
