//! Reading untrusted tar archives: ustar, pax, GNU's long names and sparse files, and older ones.
//!
//! Readers that disagree on a member's end see different files (CVE-2025-62518, CVE-2026-33055). So
//! such archives are refused by name: sizes of pax record and header that differ, content where
//! none can be, a record or a long name given twice, a zero block in the middle.

use std::io::{self, BufRead, Read};

use super::{
    header::{BLOCK, Header, MemberKind, malformed},
    pax::{self, Records},
    sparse::{self, Segment},
};

/// The largest size of a header's own octal field; above it, pax writers fill it as they like.
const MAX_OCTAL_SIZE: u64 = 0o777_7777_7777;

/// What an archive says of one of its members. Nothing of it has been checked but the form.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) kind: MemberKind,
    /// Its name, as it stands in the archive.
    pub(crate) path: Vec<u8>,
    /// What it links to, if it is a link.
    pub(crate) link: Vec<u8>,
    pub(crate) mode: u64,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub(crate) mtime: (i64, u32),
    /// Major and minor number.
    pub(crate) device: (u64, u64),
    /// Extended attributes, in no order.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A part of a file's content.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// Bytes.
    Data(&'a [u8]),
    /// So many zeros, which the archive does not hold.
    Hole(u64),
}

/// An archive that is read once, from its start.
#[derive(Debug)]
pub(crate) struct Archive<R> {
    stream: R,
    /// How much the extended headers of one member may take, in bytes.
    header_limit: u64,
    /// What of the member's stored content has not been read, and the padding after it.
    stored: u64,
    padding: u64,
    /// How much of the stream's buffer the last piece was.
    lent: usize,
    /// The file so far, and the segments that are still to come, the last first.
    position: u64,
    size: u64,
    segments: Vec<Segment>,
    done: bool,
}

/// The extended headers that precede a member.
#[derive(Debug, Default)]
struct Extended {
    records: Option<Records>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    bytes: u64,
}

impl<R: BufRead> Archive<R> {
    pub(crate) const fn new(stream: R, header_limit: u64) -> Self {
        Self {
            stream,
            header_limit,
            stored: 0,
            padding: 0,
            lent: 0,
            position: 0,
            size: 0,
            segments: Vec::new(),
            done: false,
        }
    }

    /// A file that lies in no archive: the stream is its content, of `size` bytes.
    pub(super) fn of_content(stream: R, size: u64) -> Self {
        let whole = Segment {
            offset: 0,
            length: size,
        };
        let mut archive = Self::new(stream, 0);
        (archive.stored, archive.size) = (size, size);
        archive.segments = if size > 0 { vec![whole] } else { Vec::new() };
        archive
    }

    /// The stream, which stands behind what was read of it.
    pub(crate) fn into_inner(mut self) -> R {
        self.stream.consume(self.lent);
        self.stream
    }

    /// Goes to the next member, past what was not read of the last one's content.
    ///
    /// # Errors
    /// Those of the stream; and one without an OS error for an archive that is malformed.
    pub(crate) fn next_member(&mut self) -> io::Result<Option<Member>> {
        if self.done {
            return Ok(None);
        }
        self.done = true;
        self.skip_content()?;
        let mut extended = Extended::default();
        loop {
            let Some(header) = self.header()? else {
                if extended.bytes > 0 {
                    return Err(malformed("extended header at the end, of no entry"));
                }
                return Ok(None);
            };
            match header.typeflag() {
                b'x' => {
                    let text = self.extended_header(&header, &mut extended)?;
                    let records = Records::parse(&text).map_err(malformed)?;
                    if extended.records.replace(records).is_some() {
                        return Err(malformed("two pax headers for one entry"));
                    }
                }
                b'g' => {
                    let text = self.extended_header(&header, &mut extended)?;
                    Records::parse(&text)
                        .and_then(|r| r.check_global())
                        .map_err(malformed)?;
                }
                b'L' => {
                    let name = self.extended_header(&header, &mut extended)?;
                    if extended.long_name.replace(pax::long_name(name)).is_some() {
                        return Err(malformed("two long names for one entry"));
                    }
                }
                b'K' => {
                    let name = self.extended_header(&header, &mut extended)?;
                    if extended.long_link.replace(pax::long_name(name)).is_some() {
                        return Err(malformed("two long link names for one entry"));
                    }
                }
                _ => {
                    let member = self.member(&header, extended).map_err(|e| {
                        let name = String::from_utf8_lossy(&header.path()).into_owned();
                        match e.kind() {
                            io::ErrorKind::InvalidData => malformed(format!("entry {name:?}: {e}")),
                            _ => e,
                        }
                    })?;
                    self.done = false;
                    return Ok(Some(member));
                }
            }
        }
    }

    /// The next part of the member's content, `None` at its end.
    pub(crate) fn next_piece(&mut self) -> io::Result<Option<Piece<'_>>> {
        self.return_lent();
        let Some(segment) = self.segments.last_mut() else {
            let hole = self.size - self.position;
            self.position = self.size;
            return Ok((hole > 0).then_some(Piece::Hole(hole)));
        };
        if self.position < segment.offset {
            let hole = segment.offset - self.position;
            self.position = segment.offset;
            return Ok(Some(Piece::Hole(hole)));
        }
        let buffer = fill(&mut self.stream)?;
        if buffer.is_empty() {
            return Err(malformed("ends in the middle of an entry's content"));
        }
        let n = usize::try_from(segment.length).map_or(buffer.len(), |left| left.min(buffer.len()));
        segment.offset += n as u64;
        segment.length -= n as u64;
        self.position += n as u64;
        self.stored -= n as u64;
        self.lent = n;
        if segment.length == 0 {
            self.segments.pop();
        }
        Ok(Some(Piece::Data(&buffer[..n])))
    }

    fn return_lent(&mut self) {
        self.stream.consume(std::mem::take(&mut self.lent));
    }

    fn skip_content(&mut self) -> io::Result<()> {
        self.return_lent();
        let mut left = self.stored.saturating_add(self.padding);
        while left > 0 {
            let buffer = fill(&mut self.stream)?;
            if buffer.is_empty() {
                return Err(malformed("ends in the middle of an entry's content"));
            }
            let n = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            self.stream.consume(n);
            left -= n as u64;
        }
        (self.stored, self.padding, self.position, self.size) = (0, 0, 0, 0);
        self.segments.clear();
        Ok(())
    }

    /// The next block, `None` at the end of the stream.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let buffer = fill(&mut self.stream)?;
            if buffer.is_empty() {
                return match filled {
                    0 => Ok(None),
                    _ => Err(malformed("ends in the middle of a block")),
                };
            }
            let n = buffer.len().min(BLOCK - filled);
            block[filled..filled + n].copy_from_slice(&buffer[..n]);
            self.stream.consume(n);
            filled += n;
        }
        Ok(Some(block))
    }

    /// The next header; `None` after two zero blocks or at the end of the stream.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let Some(block) = self.block()? else {
            return Ok(None);
        };
        if block == [0; BLOCK] {
            return match self.block()? {
                None => Ok(None),
                Some(second) if second == [0; BLOCK] => Ok(None),
                // GNU tar stops there, others go on.
                Some(_) => Err(malformed("a single zero block in the middle")),
            };
        }
        Header::check(block).map(Some)
    }

    /// The content of an extended header, which is held in memory.
    fn extended_header(&mut self, header: &Header, extended: &mut Extended) -> io::Result<Vec<u8>> {
        let size = header.size()?;
        extended.bytes = extended.bytes.saturating_add(size).saturating_add(BLOCK as u64);
        if extended.bytes > self.header_limit {
            let limit = self.header_limit;
            return Err(malformed(format!(
                "an entry's extended header is larger than {limit} bytes, which is the limit"
            )));
        }
        let mut text = Vec::new();
        (&mut self.stream).take(size).read_to_end(&mut text)?;
        if text.len() as u64 != size {
            return Err(malformed("ends in the middle of an extended header"));
        }
        self.padding = padding(size);
        self.skip_content()?;
        Ok(text)
    }

    fn member(&mut self, header: &Header, extended: Extended) -> io::Result<Member> {
        let records = extended.records.unwrap_or_default();
        let (mut kind, old_sparse) = header.kind()?;
        let name = |long: Option<Vec<u8>>, key: &str, short: Vec<u8>| match (long, records.text(key)) {
            (Some(_), Some(_)) => Err(malformed(format!("both a long name and a pax record {key:?}"))),
            (Some(long), None) => Ok(long),
            (None, Some(record)) => Ok(record.to_vec()),
            (None, None) => Ok(short),
        };
        let mut path = name(extended.long_name, "path", header.path())?;
        let link = name(
            extended.long_link,
            "linkpath",
            pax::c_string(header.field(157, 100)),
        )?;
        if matches!(header.typeflag(), 0 | b'0') && path.ends_with(b"/") {
            // Archives older than POSIX mark directories by a slash only.
            kind = MemberKind::Directory;
        }
        self.stored = stored_size(header, &records)?;
        self.padding = padding(self.stored);
        if kind != MemberKind::File && self.stored > 0 {
            return Err(malformed("it has content and is no file"));
        }
        let sparse = match (old_sparse, records.sparse().map_err(malformed)?) {
            (true, None) => Some(self.old_sparse_map(header)?),
            (false, Some(_)) if kind != MemberKind::File => {
                return Err(malformed("a sparse entry that is no file"));
            }
            (false, Some(sparse)) => {
                path = sparse.name.unwrap_or(path);
                let map = sparse.map.map_or_else(|| self.leading_sparse_map(), Ok)?;
                Some((sparse.size, map))
            }
            (false, None) => None,
            (true, Some(_)) => return Err(malformed("a sparse entry of two kinds")),
        };
        self.begin_content(sparse)?;

        let id = |key, offset| match records.number(key).map_err(malformed)? {
            Some(id) => Ok(id),
            None => header.unsigned(key, offset, 8),
        };
        let mtime = match records.mtime().map_err(malformed)? {
            Some(time) => time,
            None => (header.number("mtime", 136, 12)?, 0),
        };
        let device = match kind {
            MemberKind::CharDevice | MemberKind::BlockDevice => (
                header.unsigned("device number", 329, 8)?,
                header.unsigned("device number", 337, 8)?,
            ),
            _ => (0, 0),
        };
        Ok(Member {
            kind,
            path,
            link,
            mode: header.unsigned("mode", 100, 8)?,
            uid: id("uid", 108)?,
            gid: id("gid", 116)?,
            mtime,
            device,
            xattrs: records.into_xattrs(),
        })
    }

    /// The content comes next: that of a sparse file with its size and map, or a whole one.
    fn begin_content(&mut self, sparse: Option<(u64, Vec<Segment>)>) -> io::Result<()> {
        let whole = Segment {
            offset: 0,
            length: self.stored,
        };
        let (size, mut segments) = match sparse {
            Some((size, map)) => {
                sparse::check(&map, size, self.stored).map_err(malformed)?;
                (size, map)
            }
            None => (self.stored, vec![whole]),
        };
        segments.retain(|s| s.length > 0);
        segments.reverse();
        (self.size, self.position, self.segments) = (size, 0, segments);
        Ok(())
    }

    /// GNU tar's own form of sparse files: the map is in the header and in blocks after it.
    fn old_sparse_map(&mut self, header: &Header) -> io::Result<(u64, Vec<Segment>)> {
        let size = header.unsigned("size", 483, 12)?;
        let mut map = Vec::new();
        let mut add = |block: &Header, start: usize, count: usize| -> io::Result<()> {
            for n in 0..count {
                let at = start + n * 24;
                if block.0[at] == 0 {
                    break;
                }
                map.push(Segment {
                    offset: block.unsigned("sparse map", at, 12)?,
                    length: block.unsigned("sparse map", at + 12, 12)?,
                });
            }
            Ok(())
        };
        add(header, 386, 4)?;
        let mut more = header.0[482] != 0;
        let mut bytes = 0;
        while more {
            bytes += BLOCK as u64;
            if bytes > self.header_limit {
                return Err(malformed("a sparse map is larger than the limit of headers"));
            }
            let block = self.block()?.map(Header);
            let block = block.ok_or_else(|| malformed("ends in the middle of a sparse map"))?;
            add(&block, 0, 21)?;
            more = block.0[504] != 0;
        }
        Ok((size, map))
    }

    /// The form 1.0: the map is the start of the content, as decimal lines, filled up to a block.
    fn leading_sparse_map(&mut self) -> io::Result<Vec<Segment>> {
        let mut reader = sparse::Lines::default();
        let mut bytes = 0;
        loop {
            bytes += BLOCK as u64;
            if bytes > self.header_limit {
                return Err(malformed("a sparse map is larger than the limit of headers"));
            }
            self.stored = self
                .stored
                .checked_sub(BLOCK as u64)
                .ok_or_else(|| malformed("a sparse map is longer than its entry"))?;
            let block = self.block()?;
            let block = block.ok_or_else(|| malformed("ends in the middle of a sparse map"))?;
            if let Some(map) = reader.add(&block).map_err(malformed)? {
                return Ok(map);
            }
        }
    }
}

/// The bytes of an entry in the archive, of both headers.
fn stored_size(header: &Header, records: &pax::Records) -> io::Result<u64> {
    match (records.size().map_err(malformed)?, header.size()?) {
        (Some(said), size) if said != size && said <= MAX_OCTAL_SIZE => Err(malformed(format!(
            "its size is {said} in its pax header and {size} in its own (CVE-2025-62518)"
        ))),
        (said, size) => Ok(said.unwrap_or(size)),
    }
}

/// What is not empty unless the stream has ended.
fn fill<R: BufRead>(stream: &mut R) -> io::Result<&[u8]> {
    loop {
        match stream.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            // Called again for the borrow checker: it returns what is buffered.
            Ok(_) => return stream.fill_buf(),
            Err(e) => return Err(e),
        }
    }
}

const fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_ends_with_two_zero_blocks_or_with_the_stream() {
        for blocks in [0, 1, 2, 3] {
            let zeros = vec![0; blocks * BLOCK];
            assert!(Archive::new(&zeros[..], 0).next_member().unwrap().is_none());
        }
        let mut lone = vec![0; 2 * BLOCK];
        lone[BLOCK] = 1;
        let error = Archive::new(&lone[..], 0).next_member().unwrap_err();
        assert!(error.to_string().contains("single zero block"), "{error}");
        assert!(Archive::new(&lone[..100], 0).next_member().is_err());
    }
}
