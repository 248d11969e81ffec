//! A layer's bytes: decompressed, counted and hashed in one pass.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use magik_cas::{Algorithm, Digest, Hasher};

/// How much is read, decompressed, hashed and written at once, in bytes.
pub(crate) const BUFFER: usize = 256 << 10;

const GZIP_MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// zstd's frames without data (RFC 8878, 3.1.2) have magic numbers 0x184D2A50 to 0x184D2A5F; a
/// layer may start with one (zstd:chunked and eStargz variants).
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
/// The largest zstd window, as a power of two (128 MiB, zstd's default for streams): memory.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// A limit that was met in the middle of a stream; travels inside an [`io::Error`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exceeded {
    /// More decompressed bytes than allowed.
    #[error("more than {0} bytes decompressed, which is the limit")]
    Stream(u64),
}

impl Exceeded {
    fn into_io(self) -> io::Error {
        io::Error::new(io::ErrorKind::FileTooLarge, self)
    }

    /// The limit inside an I/O error, if it is one.
    pub(crate) fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
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
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(decoder)
            }
        },
    ))
}

/// The decompressed bytes of an archive, counted and hashed before they are read.
pub(crate) struct ArchiveStream<'a> {
    inner: BufReader<Hashing<'a>>,
}

struct Hashing<'a> {
    inner: Box<dyn Read + 'a>,
    hasher: Hasher,
    count: u64,
    cap: u64,
}

impl<'a> ArchiveStream<'a> {
    /// At most `cap` bytes of `source`, decompressed.
    pub(crate) fn new(source: impl Read + 'a, algorithm: Algorithm, cap: u64) -> io::Result<Self> {
        let (_, inner) = decompress(source)?;
        let hashing = Hashing {
            inner,
            hasher: algorithm.hasher(),
            count: 0,
            cap,
        };
        Ok(Self {
            inner: BufReader::with_capacity(BUFFER, hashing),
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
            return Err(Exceeded::Stream(self.cap).into_io());
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
            matches!(Exceeded::of(&error), Some(Exceeded::Stream(_))),
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
