//! Tar archives, byte by byte: nothing is checked, everything can be wrong.

use std::io::Write;

const BLOCK: usize = 512;
/// When the corpus' entries were last changed, in seconds since 1970.
pub const MTIME: i64 = 1_700_000_000;

/// One member of an archive, with all that precedes it.
#[derive(Debug, Clone)]
pub struct Entry {
    kind: u8,
    path: Vec<u8>,
    link: Vec<u8>,
    content: Vec<u8>,
    size: Option<i64>,
    mode: i64,
    owner: (i64, i64),
    mtime: i64,
    device: (i64, i64),
    ustar: bool,
    prefix: Vec<u8>,
    long: bool,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    raw: Vec<(usize, Vec<u8>)>,
}

impl Entry {
    /// A member of that type flag.
    #[must_use]
    pub fn new(kind: u8, path: impl AsRef<[u8]>) -> Self {
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            content: Vec::new(),
            size: None,
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: MTIME,
            device: (0, 0),
            ustar: false,
            prefix: Vec::new(),
            long: true,
            pax: Vec::new(),
            raw: Vec::new(),
        }
    }

    /// A regular file.
    #[must_use]
    pub fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        let mut entry = Self::new(b'0', path);
        entry.content = content.as_ref().to_vec();
        entry
    }

    /// A directory.
    #[must_use]
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', path)
    }

    /// Another type flag.
    #[must_use]
    pub const fn kind(mut self, kind: u8) -> Self {
        self.kind = kind;
        self
    }

    /// What it links to.
    #[must_use]
    pub fn to(mut self, target: impl AsRef<[u8]>) -> Self {
        self.link = target.as_ref().to_vec();
        self
    }

    /// The size its header states, whatever its content is.
    #[must_use]
    pub const fn size(mut self, size: i64) -> Self {
        self.size = Some(size);
        self
    }

    /// Its mode bits.
    #[must_use]
    pub const fn mode(mut self, mode: i64) -> Self {
        self.mode = mode;
        self
    }

    /// Its owner and group.
    #[must_use]
    pub const fn owner(mut self, uid: i64, gid: i64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// When it was changed, in seconds since 1970.
    #[must_use]
    pub const fn mtime(mut self, seconds: i64) -> Self {
        self.mtime = seconds;
        self
    }

    /// Its device number.
    #[must_use]
    pub const fn device(mut self, major: i64, minor: i64) -> Self {
        self.device = (major, minor);
        self
    }

    /// POSIX' magic number instead of GNU's, and a prefix of its name.
    #[must_use]
    pub fn ustar(mut self, prefix: &str) -> Self {
        self.ustar = true;
        self.prefix = prefix.into();
        self
    }

    /// Names that are too long are cut, without a long name before the entry.
    #[must_use]
    pub const fn short(mut self) -> Self {
        self.long = false;
        self
    }

    /// A pax record.
    #[must_use]
    pub fn pax(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.pax.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// An extended attribute.
    #[must_use]
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(format!("SCHILY.xattr.{name}"), value)
    }

    /// Bytes at an offset of its header, under a right checksum.
    #[must_use]
    pub fn raw(mut self, offset: usize, bytes: impl AsRef<[u8]>) -> Self {
        self.raw.push((offset, bytes.as_ref().to_vec()));
        self
    }

    fn header(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put(&mut block[..100], &self.path);
        number(&mut block[100..108], self.mode);
        number(&mut block[108..116], self.owner.0);
        number(&mut block[116..124], self.owner.1);
        number(&mut block[124..136], self.size.unwrap_or(len(&self.content)));
        number(&mut block[136..148], self.mtime);
        block[156] = self.kind;
        put(&mut block[157..257], &self.link);
        put(
            &mut block[257..265],
            if self.ustar { b"ustar\x0000" } else { b"ustar  \0" },
        );
        number(&mut block[329..337], self.device.0);
        number(&mut block[337..345], self.device.1);
        if self.ustar {
            put(&mut block[345..500], &self.prefix);
        }
        for (offset, bytes) in &self.raw {
            block[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// One record as pax(1) has it: its length, which counts itself, a space, the key, `=`, the value.
#[must_use]
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = |n: usize| n.to_string().len();
    let mut length = rest + digits(rest);
    if rest + digits(length) != length {
        length = rest + digits(length);
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// An archive.
#[derive(Debug, Clone, Default)]
pub struct Tar(Vec<u8>);

impl Tar {
    /// Without members.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a member.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "an archive is no number")]
    pub fn add(mut self, entry: &Entry) -> Self {
        let records: Vec<u8> = entry
            .pax
            .iter()
            .flat_map(|(key, value)| record(key, value))
            .collect();
        if !records.is_empty() {
            self = self.extended(b'x', &records);
        }
        if entry.long && entry.path.len() > 100 {
            self = self.extended(b'L', &[&entry.path[..], b"\0"].concat());
        }
        if entry.long && entry.link.len() > 100 {
            self = self.extended(b'K', &[&entry.link[..], b"\0"].concat());
        }
        self.bytes(&entry.header()).block(&entry.content)
    }

    /// Adds an extended header.
    #[must_use]
    pub fn extended(self, kind: u8, content: &[u8]) -> Self {
        let name = if matches!(kind, b'L' | b'K') {
            "././@LongLink"
        } else {
            "pax"
        };
        self.add(&Entry::new(kind, name).content(content))
    }

    /// Adds bytes, filled up to a block.
    #[must_use]
    pub fn block(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, content: &str) -> Self {
        self.add(&Entry::file(path, content))
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str) -> Self {
        self.add(&Entry::dir(path))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.add(&Entry::new(b'2', path).to(target))
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.add(&Entry::new(b'1', path).to(target))
    }

    /// The members without an end.
    #[must_use]
    pub fn open(self) -> Vec<u8> {
        self.0
    }

    /// The archive with the two blocks that end it.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.bytes(&[0; 2 * BLOCK]).0
    }
}

impl Entry {
    fn content(mut self, content: &[u8]) -> Self {
        self.content = content.to_vec();
        self
    }
}

/// Compresses as gzip.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    // Writing to a vector does not fail.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Compresses as zstd.
#[must_use]
pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap_or_default()
}

fn put(field: &mut [u8], bytes: &[u8]) {
    let n = bytes.len().min(field.len());
    field[..n].copy_from_slice(&bytes[..n]);
}

fn len(bytes: &[u8]) -> i64 {
    i64::try_from(bytes.len()).unwrap_or(i64::MAX)
}

/// A number: in octal if it fits, else in GNU's binary form.
fn number(field: &mut [u8], number: i64) {
    let width = field.len() - 1;
    let octal = format!("{number:0width$o}");
    if number >= 0 && octal.len() <= width {
        field[..width].copy_from_slice(octal.as_bytes());
        return;
    }
    let bytes = number.to_be_bytes();
    let fill = if number < 0 { 0xff } else { 0 };
    field.fill(fill);
    let start = field.len().saturating_sub(8);
    let skip = 8_usize.saturating_sub(field.len());
    field[start..].copy_from_slice(&bytes[skip..]);
    field[0] |= 0x80;
}
