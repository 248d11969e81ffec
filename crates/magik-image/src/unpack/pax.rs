//! The records of pax extended headers (pax(1), "pax Extended Header").

use std::collections::BTreeMap;

use super::sparse::{self, Segment, decimal};

/// Schilling's prefix of extended attributes, the usual one.
const XATTR: &[u8] = b"SCHILY.xattr.";
const SPARSE: &[u8] = b"GNU.sparse.";

/// The records of one header. Each key is there once: readers differ in which of two they take.
#[derive(Debug, Default)]
pub(super) struct Records {
    records: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The form 0.0 of sparse maps repeats its keys.
    segments: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A sparse file in one of the three forms that pax headers have for them.
#[derive(Debug)]
pub(super) struct Sparse {
    /// Its name, where `path` is made up.
    pub(super) name: Option<Vec<u8>>,
    /// Its size with all holes.
    pub(super) size: u64,
    /// Its map, unless that is in the content.
    pub(super) map: Option<Vec<Segment>>,
}

impl Records {
    pub(super) fn parse(mut text: &[u8]) -> Result<Self, String> {
        let mut records = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or("a malformed pax record")?;
            text = rest;
            if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
                records.segments.push((key.to_vec(), value.to_vec()));
            } else if records.records.insert(key.to_vec(), value.to_vec()).is_some() {
                let shown = String::from_utf8_lossy(key);
                return Err(format!("two pax records {shown:?} for one entry"));
            }
        }
        Ok(records)
    }

    /// Records for all later entries, which only some readers apply. Refused where that changes the
    /// set of files.
    pub(super) fn check_global(&self) -> Result<(), String> {
        let meant = |key: &&Vec<u8>| {
            matches!(key.as_slice(), b"path" | b"linkpath" | b"size") || key.starts_with(SPARSE)
        };
        match self.records.keys().find(meant) {
            None if self.segments.is_empty() => Ok(()),
            key => {
                let shown = key.map_or(SPARSE, Vec::as_slice);
                Err(format!(
                    "a global pax record {:?}",
                    String::from_utf8_lossy(shown)
                ))
            }
        }
    }

    /// A record; without a value it deletes an earlier one.
    pub(super) fn text(&self, key: &str) -> Option<&[u8]> {
        self.records
            .get(key.as_bytes())
            .map(Vec::as_slice)
            .filter(|v| !v.is_empty())
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, String> {
        self.text(key)
            .map(|value| decimal(value).ok_or_else(|| format!("pax record {key:?} is no number")))
            .transpose()
    }

    pub(super) fn size(&self) -> Result<Option<u64>, String> {
        self.number("size")
    }

    pub(super) fn mtime(&self) -> Result<Option<(i64, u32)>, String> {
        self.text("mtime")
            .map(|value| time(value).ok_or_else(|| "pax record \"mtime\" is no time".to_owned()))
            .transpose()
    }

    /// What the records say of a sparse file (GNU tar's manual, "Storing Sparse Files").
    pub(super) fn sparse(&self) -> Result<Option<Sparse>, String> {
        if self.segments.is_empty() && !self.records.keys().any(|key| key.starts_with(SPARSE)) {
            return Ok(None);
        }
        let name = self.text("GNU.sparse.name").map(<[u8]>::to_vec);
        let version = (self.number("GNU.sparse.major")?, self.number("GNU.sparse.minor")?);
        let (size_key, map) = match version {
            (Some(1), Some(0)) if self.segments.is_empty() && self.text("GNU.sparse.map").is_none() => {
                ("GNU.sparse.realsize", None)
            }
            (None | Some(0), None | Some(0 | 1)) => {
                let map = match self.text("GNU.sparse.map") {
                    Some(_) if !self.segments.is_empty() => {
                        return Err("two sparse maps for one entry".into());
                    }
                    Some(map) => sparse::commas(map)?,
                    None => self.repeated_map()?,
                };
                if self
                    .number("GNU.sparse.numblocks")?
                    .is_some_and(|n| n != map.len() as u64)
                {
                    return Err("a sparse map of another length than it says".into());
                }
                ("GNU.sparse.size", Some(map))
            }
            _ => return Err("a sparse file in an unknown form".into()),
        };
        let size = self.number(size_key)?.ok_or("a sparse file without a size")?;
        Ok(Some(Sparse { name, size, map }))
    }

    fn repeated_map(&self) -> Result<Vec<Segment>, String> {
        let (pairs, rest) = self.segments.as_chunks::<2>();
        let segment = |[(first, offset), (second, length)]: &[(Vec<u8>, Vec<u8>); 2]| {
            if !first.ends_with(b"offset") || !second.ends_with(b"numbytes") {
                return None;
            }
            Some(Segment {
                offset: decimal(offset)?,
                length: decimal(length)?,
            })
        };
        let map: Option<Vec<_>> = pairs.iter().map(segment).collect();
        map.filter(|_| rest.is_empty())
            .ok_or_else(|| "a malformed sparse map".into())
    }

    pub(super) fn into_xattrs(self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let named = |(key, value): (Vec<u8>, Vec<u8>)| Some((key.strip_prefix(XATTR)?.to_vec(), value));
        self.records.into_iter().filter_map(named).collect()
    }
}

/// Splits off `LENGTH KEY=VALUE\n`, where the length is that of all of it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().take(20).position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    if length > text.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = text.split_at(length);
    let record = record.strip_suffix(b"\n")?.get(space + 1..)?;
    let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0)?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

/// What stands before the first NUL of a header's field.
pub(super) fn c_string(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// A long name without final NULs. Inner ones stay, and are refused: readers differ on them.
pub(super) fn long_name(mut text: Vec<u8>) -> Vec<u8> {
    while text.last() == Some(&0) {
        text.pop();
    }
    text
}

/// `[-]seconds[.fraction]`, as pax(1) writes times.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let whole: i64 = seconds.parse().ok()?;
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // Before 1970 the fraction counts away from zero, in timespec it counts up.
    if seconds.starts_with('-') && nanos > 0 {
        return Some((whole.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((whole, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_hold_any_bytes_and_are_as_long_as_they_say() {
        let text = b"12 path=a\nb\n14 comment=\0=\n5 k=\n";
        let records = Records::parse(text).unwrap();
        assert_eq!(records.text("path"), Some(&b"a\nb"[..]));
        assert_eq!(records.text("comment"), Some(&b"\0="[..]));
        assert_eq!(records.text("k"), None);
        for text in [
            "4 a=\n",
            "7 a=b\n",
            "6 a=bc\n",
            "4 =\n",
            "6 abc\n",
            "x a=b\n",
            " 6 a=\n",
            "6 a=b\n6 a=c\n",
            "0 a=b\n",
            "-6 a=b\n",
            "99999999999999999999999 a=b\n",
            "18446744073709551615 a=b\n",
            "2 \n",
            "1 ",
        ] {
            assert!(Records::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn times_keep_nanoseconds() {
        for (text, expected) in [
            ("0", (0, 0)),
            ("1700000000.123456789", (1_700_000_000, 123_456_789)),
            ("5.5", (5, 500_000_000)),
            ("5.1234567891", (5, 123_456_789)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.25", (-1, 750_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(time(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(time(text.as_bytes()), None, "{text}");
        }
    }
}
