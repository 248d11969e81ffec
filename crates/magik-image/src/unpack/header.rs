//! The headers of tar archives (pax(1), "ustar Interchange Format"; GNU tar, "Basic Tar Format").

use std::io;

use super::pax;

/// The unit of an archive, in bytes.
pub(super) const BLOCK: usize = 512;

/// What a member is: its `typeflag` (pax(1), "ustar Header Block").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    Hardlink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// A header block whose checksum is right.
#[derive(Debug)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    pub(super) fn check(block: [u8; BLOCK]) -> io::Result<Self> {
        let header = Self(block);
        let none = || malformed("not a tar archive, or a damaged one: wrong checksum of a header");
        let stated = header.number("checksum", 148, 8);
        let stated = stated.or_else(|_| if cfg!(fuzzing) { Ok(0) } else { Err(none()) })?;
        let sum = |value: fn(u8) -> i64| -> i64 {
            let around = header.0[..148].iter().chain(&header.0[156..]);
            around.map(|b| value(*b)).sum::<i64>() + 8 * i64::from(b' ')
        };
        // Some old writers summed signed characters.
        // A fuzzer would never get past it.
        let right =
            cfg!(fuzzing) || stated == sum(i64::from) || stated == sum(|b| i64::from(b.cast_signed()));
        if right {
            return Ok(header);
        }
        Err(none())
    }

    pub(super) const fn typeflag(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn field(&self, offset: usize, length: usize) -> &[u8] {
        &self.0[offset..offset + length]
    }

    /// The kind, and whether it is sparse in GNU tar's own form.
    pub(super) fn kind(&self) -> io::Result<(MemberKind, bool)> {
        let kind = match self.typeflag() {
            0 | b'0' | b'7' => MemberKind::File,
            b'1' => MemberKind::Hardlink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::CharDevice,
            b'4' => MemberKind::BlockDevice,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            b'S' if self.field(257, 8) == b"ustar  \0" => return Ok((MemberKind::File, true)),
            b'S' => return Err(malformed("a sparse entry in an archive that is not GNU's")),
            other => {
                let shown = char::from(other);
                return Err(malformed(format!("entries of type {shown:?} are not supported")));
            }
        };
        Ok((kind, false))
    }

    pub(super) fn path(&self) -> Vec<u8> {
        let name = pax::c_string(self.field(0, 100));
        if self.field(257, 6) != b"ustar\0" {
            return name;
        }
        // Schilling's tar keeps times in the prefix' last bytes and marks that at the header's end.
        let length = if self.field(508, 4) == b"tar\0" { 131 } else { 155 };
        let mut path = pax::c_string(self.field(345, length));
        if path.is_empty() {
            return name;
        }
        path.push(b'/');
        path.extend(name);
        path
    }

    pub(super) fn size(&self) -> io::Result<u64> {
        self.unsigned("size", 124, 12)
    }

    pub(super) fn unsigned(&self, what: &str, offset: usize, length: usize) -> io::Result<u64> {
        let number = self.number(what, offset, length)?;
        u64::try_from(number).map_err(|_| malformed(format!("{what} {number} is negative")))
    }

    /// Octal digits between blanks, or GNU's two's complement with the first bit set; blank is 0.
    pub(super) fn number(&self, what: &str, offset: usize, length: usize) -> io::Result<i64> {
        let field = self.field(offset, length);
        let bad = || malformed(format!("{what} is no number"));
        if let Some((first, rest)) = field.split_first().filter(|(first, _)| **first & 0x80 != 0) {
            // The first bit says that it is binary, the second is the sign.
            let start = i64::from((first << 1).cast_signed() >> 1);
            return rest
                .iter()
                .try_fold(start, |number, byte| {
                    let shifted = number.checked_mul(256)?;
                    Some(shifted | i64::from(*byte))
                })
                .ok_or_else(|| malformed(format!("{what} is too large a number")));
        }
        let blank = |b: &u8| matches!(b, b' ' | 0);
        let start = field.iter().position(|b| !blank(b)).unwrap_or(length);
        let digits = &field[start..];
        let end = digits.iter().position(blank).unwrap_or(digits.len());
        let (digits, rest) = digits.split_at(end);
        if !rest.iter().all(blank) {
            return Err(bad());
        }
        digits.iter().try_fold(0_i64, |number, digit| match digit {
            b'0'..=b'7' => Ok(number << 3 | i64::from(digit - b'0')),
            _ => Err(bad()),
        })
    }
}

/// An archive that is wrong: an error without an OS error.
pub(super) fn malformed(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(field: &[u8]) -> io::Result<i64> {
        let mut block = [0; BLOCK];
        block[..field.len()].copy_from_slice(field);
        Header(block).number("field", 0, field.len())
    }

    #[test]
    fn numbers_are_octal_or_binary() {
        for (field, value) in [
            (&b"0000644\0"[..], 0o644),
            (b"    644 ", 0o644),
            (b"644 \0\0\0\0", 0o644),
            (b"        ", 0),
            (&[0; 8], 0),
            (b"77777777", 0o7777_7777),
            (b"\x80\0\0\0\0\0\x01\0", 256),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", -1),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0", -256),
            (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", i64::MAX),
        ] {
            assert_eq!(number(field).unwrap(), value, "{field:?}");
        }
        for field in [
            &b"0000648\0"[..],
            b"-0000001",
            b"12 34 \0\0",
            b"12\0\x0034\0\0",
            b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff",
        ] {
            assert!(number(field).is_err(), "{field:?}");
        }
    }
}
