//! The maps of sparse files: where what the archive holds of a file belongs in it.

/// The most segments of a file.
const MAX_SEGMENTS: usize = 100_000;

/// A part of a file that the archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// Checks a map: ascending parts of a file of `size` bytes, `stored` of them in the archive.
pub(super) fn check(map: &[Segment], size: u64, stored: u64) -> Result<(), String> {
    if map.len() > MAX_SEGMENTS {
        return Err(format!("a sparse map of more than {MAX_SEGMENTS} segments"));
    }
    let (mut end, mut total) = (0_u64, 0_u64);
    for segment in map {
        if segment.offset < end {
            return Err("a sparse map whose segments overlap".into());
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .filter(|end| *end <= size)
            .ok_or("a sparse map that leads past its file's end")?;
        total += segment.length;
    }
    if total != stored {
        return Err(format!(
            "a sparse map of {total} bytes, where the archive holds {stored}"
        ));
    }
    Ok(())
}

/// The form 0.1: `offset,length,offset,length`.
pub(super) fn commas(text: &[u8]) -> Result<Vec<Segment>, String> {
    let numbers: Option<Vec<u64>> = text.split(|b| *b == b',').map(decimal).collect();
    numbers
        .and_then(|numbers| segments(&numbers))
        .ok_or_else(|| "a malformed sparse map".into())
}

fn segments(numbers: &[u64]) -> Option<Vec<Segment>> {
    let (pairs, rest) = numbers.as_chunks::<2>();
    let segment = |[offset, length]: &[u64; 2]| Segment {
        offset: *offset,
        length: *length,
    };
    rest.is_empty().then(|| pairs.iter().map(segment).collect())
}

/// The form 1.0: decimal lines, the number of segments first, read block by block.
#[derive(Debug, Default)]
pub(super) struct Lines {
    digits: Vec<u8>,
    numbers: Vec<u64>,
}

impl Lines {
    /// Reads a block; the map, if it ends in this one.
    pub(super) fn add(&mut self, block: &[u8]) -> Result<Option<Vec<Segment>>, String> {
        for byte in block {
            if *byte != b'\n' {
                self.digits.push(*byte);
                if self.digits.len() > 20 {
                    break;
                }
                continue;
            }
            let number = decimal(&self.digits).ok_or("a malformed sparse map")?;
            self.digits.clear();
            self.numbers.push(number);
            let count = usize::try_from(self.numbers[0]).unwrap_or(usize::MAX);
            if count > MAX_SEGMENTS {
                return Err(format!("a sparse map of more than {MAX_SEGMENTS} segments"));
            }
            if self.numbers.len() == 1 + 2 * count {
                return Ok(segments(&self.numbers[1..]));
            }
        }
        if self.digits.len() > 20 {
            return Err("a malformed sparse map".into());
        }
        Ok(None)
    }
}

/// Decimal digits and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    // Rust takes a sign.
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn segment(offset: u64, length: u64) -> Segment {
        Segment { offset, length }
    }

    #[test]
    fn maps_ascend_and_end_with_the_file() {
        assert!(check(&[segment(0, 5), segment(5, 0), segment(10, 2)], 12, 7).is_ok());
        for (map, size, stored) in [
            (vec![segment(0, 5), segment(4, 1)], 10, 6),
            (vec![segment(8, 5)], 10, 5),
            (vec![segment(u64::MAX, 2)], u64::MAX, 2),
            (vec![segment(0, 5)], 10, 4),
        ] {
            assert!(check(&map, size, stored).is_err(), "{map:?}");
        }
    }

    #[test]
    fn lines_may_cross_blocks() {
        let mut lines = Lines::default();
        assert_eq!(lines.add(b"2\n0\n5\n1").unwrap(), None);
        assert_eq!(
            lines.add(b"0\n2\n\0\0").unwrap(),
            Some(vec![segment(0, 5), segment(10, 2)])
        );
        assert_eq!(Lines::default().add(b"0\n\0").unwrap(), Some(vec![]));
        for bad in [&b"x\n"[..], b"1\n-1\n", b"\n", b"9999999\n", &[b'1'; 512]] {
            assert!(Lines::default().add(bad).is_err(), "{bad:?}");
        }
        assert_eq!(commas(b"0,5,10,2").unwrap().len(), 2);
        assert!(commas(b"0,5,10").is_err() && commas(b"").is_err());
    }
}
