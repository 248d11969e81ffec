//! One entry of a layer's archive: what it says about itself, checked, before anything is done.

use std::io::Read;

use rustix::fs::{Dev, makedev};

/// The prefix of whiteouts (image-spec, layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
/// The name of an opaque whiteout.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this prefix are aufs' own and mean nothing.
const AUFS: &[u8] = b".wh..wh.";

/// What to do with an entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A directory.
    Directory,
    /// A regular file; its content follows.
    File,
    /// A symbolic link to these bytes.
    Symlink(Vec<u8>),
    /// A hard link to this path of the same layer.
    Hardlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice(Dev),
    /// A block device.
    BlockDevice(Dev),
    /// The path hides what lower layers have there.
    Whiteout,
    /// The path is a directory that hides everything lower layers have in it.
    Opaque,
    /// Metadata of the archive, or of aufs.
    Nothing,
}

/// Owner, mode, times and attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The permission bits with setuid, setgid and sticky.
    pub(super) mode: u32,
    /// Seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Extended attributes, in the order of the archive.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path below the layer's root: no leading or trailing `/`, no `.` or `..`; empty for the root itself.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) metadata: Metadata,
}

/// Why an entry is refused.
type Refused = String;

impl Entry {
    /// Reads what an archive's entry says.
    pub(super) fn parse(entry: &mut tar::Entry<'_, impl Read>) -> Result<Self, Refused> {
        let header_type = entry.header().entry_type();
        if header_type.is_pax_global_extensions() {
            return Ok(Self {
                path: Vec::new(),
                kind: Kind::Nothing,
                metadata: Metadata::default(),
            });
        }
        let raw_path = entry.path_bytes().into_owned();
        let path = clean(&raw_path)?;
        let metadata = metadata(entry)?;
        if let Some((path, kind)) = whiteout(&path)? {
            return Ok(Self { path, kind, metadata });
        }
        let header = entry.header();
        let device = || {
            let (ustar, gnu) = (header.as_ustar(), header.as_gnu());
            let major = ustar
                .map(|h| h.dev_major)
                .or(gnu.map(|h| h.dev_major))
                .unwrap_or_default();
            let minor = ustar
                .map(|h| h.dev_minor)
                .or(gnu.map(|h| h.dev_minor))
                .unwrap_or_default();
            let major = number("device", &major, header.device_major())?.unwrap_or(0);
            let minor = number("device", &minor, header.device_minor())?.unwrap_or(0);
            Ok::<Dev, Refused>(makedev(major, minor))
        };
        let target = || match entry.link_name_bytes() {
            Some(target) if target.contains(&0) => Err("link target holds a NUL byte".to_owned()),
            Some(target) if !target.is_empty() => Ok(target.into_owned()),
            _ => Err("link without a target".to_owned()),
        };
        let kind = match header_type {
            // Archives older than POSIX mark directories by a slash only.
            t if t.is_file() && raw_path.ends_with(b"/") => Kind::Directory,
            t if t.is_file() || t.is_contiguous() || t.is_gnu_sparse() => Kind::File,
            t if t.is_dir() => Kind::Directory,
            t if t.is_symlink() => Kind::Symlink(target()?),
            t if t.is_hard_link() => Kind::Hardlink(clean(&target()?)?),
            t if t.is_fifo() => Kind::Fifo,
            t if t.is_character_special() => Kind::CharDevice(device()?),
            t if t.is_block_special() => Kind::BlockDevice(device()?),
            t => {
                return Err(format!(
                    "archive entry type {:?} is not supported",
                    char::from(t.as_byte())
                ));
            }
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err("the root of a layer can only be a directory".to_owned());
        }
        Ok(Self { path, kind, metadata })
    }
}

/// Splits off what is relative to the root, refusing what names something outside. An absolute path is one below the
/// root, as for every other tool that reads layers.
pub(crate) fn clean(raw: &[u8]) -> Result<Vec<u8>, String> {
    if raw.is_empty() {
        return Err("empty path".to_owned());
    }
    if raw.contains(&0) {
        return Err("path holds a NUL byte".to_owned());
    }
    let mut path = Vec::with_capacity(raw.len());
    for component in raw.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => return Err("path holds \"..\"".to_owned()),
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    Ok(path)
}

/// Parent and name of a clean path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// What a path says if it is a whiteout's.
fn whiteout(path: &[u8]) -> Result<Option<(Vec<u8>, Kind)>, Refused> {
    // Whatever lies below one of aufs' own directories is aufs' own.
    if path
        .split(|b| *b == b'/')
        .any(|c| c.starts_with(AUFS) && c != OPAQUE)
    {
        return Ok(Some((Vec::new(), Kind::Nothing)));
    }
    let (parent, name) = split(path);
    if parent.split(|b| *b == b'/').any(|c| c.starts_with(WHITEOUT)) {
        return Err("a whiteout cannot be a directory".to_owned());
    }
    if name == OPAQUE {
        return Ok(Some((parent.to_vec(), Kind::Opaque)));
    }
    let Some(hidden) = name.strip_prefix(WHITEOUT) else {
        return Ok(None);
    };
    match hidden {
        b"" | b"." | b".." => Err("whiteout of no file".to_owned()),
        _ => {
            let mut path = parent.to_vec();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(hidden);
            Ok(Some((path, Kind::Whiteout)))
        }
    }
}

/// A numeric field; one left blank is 0, as for GNU tar and Go.
fn number<T: Default>(what: &str, field: &[u8], parsed: std::io::Result<T>) -> Result<T, Refused> {
    if field.iter().all(|b| matches!(b, 0 | b' ')) {
        return Ok(T::default());
    }
    parsed.map_err(|e| format!("{what}: {e}"))
}

fn metadata(entry: &mut tar::Entry<'_, impl Read>) -> Result<Metadata, Refused> {
    let header = entry.header();
    let fields = header.as_old();
    let id = |what: &str, field: &[u8], id: std::io::Result<u64>| {
        let id = number(what, field, id)?;
        // The last one means "leave it" to chown(2).
        let fits = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
        fits.ok_or_else(|| format!("{what} {id} is out of range"))
    };
    let uid = id("uid", &fields.uid, header.uid())?;
    let gid = id("gid", &fields.gid, header.gid())?;
    let mode = number("mode", &fields.mode, header.mode())? & 0o7777;
    let seconds = number("mtime", &fields.mtime, header.mtime())?;
    let mut metadata = Metadata {
        uid,
        gid,
        mode,
        mtime: (seconds.cast_signed(), 0),
        xattrs: Vec::new(),
    };
    let Some(records) = entry.pax_extensions().map_err(|e| e.to_string())? else {
        return Ok(metadata);
    };
    for record in records {
        let record = record.map_err(|e| e.to_string())?;
        let (key, value) = (record.key_bytes(), record.value_bytes());
        if key == b"mtime" {
            metadata.mtime = pax_time(value).ok_or("malformed mtime record")?;
        } else if let Some(name) = key.strip_prefix(b"SCHILY.xattr.")
            && is_kept(name)
        {
            metadata.xattrs.push((name.to_vec(), value.to_vec()));
        } else if key.starts_with(b"GNU.sparse.") {
            return Err("sparse files in PAX form are not supported".to_owned());
        }
    }
    Ok(metadata)
}

/// Which extended attributes of an archive are set: those that belong to the file. overlayfs' own would let a layer reach
/// behind the others, and the rest of `security.` (labels, IMA) is the host's policy.
fn is_kept(name: &[u8]) -> bool {
    if name.contains(&0) || name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    [&b"user."[..], b"trusted.", b"system.posix_acl_"]
        .iter()
        .any(|p| name.starts_with(p))
        || name == b"security.capability"
}

/// `[-]seconds[.fraction]`, as pax(1) writes times.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
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
    fn paths_stay_below_the_root_or_are_refused() {
        for (raw, cleaned) in [
            ("a/b", "a/b"),
            ("./a//b/", "a/b"),
            ("/etc/passwd", "etc/passwd"),
            ("./", ""),
            ("...", "..."),
        ] {
            assert_eq!(clean(raw.as_bytes()).as_deref(), Ok(cleaned.as_bytes()), "{raw}");
        }
        for raw in ["", "..", "a/../b", "a/..", "/..", "a\0b"] {
            assert!(clean(raw.as_bytes()).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn whiteouts_hide_one_name_and_nothing_else() {
        let parse = |path: &str| whiteout(path.as_bytes());
        assert_eq!(parse("a/.wh.b"), Ok(Some((b"a/b".to_vec(), Kind::Whiteout))));
        assert_eq!(parse(".wh.b"), Ok(Some((b"b".to_vec(), Kind::Whiteout))));
        assert_eq!(parse("a/.wh..wh..opq"), Ok(Some((b"a".to_vec(), Kind::Opaque))));
        assert_eq!(parse("a/.wh..wh.plnk/1.2"), Ok(Some((Vec::new(), Kind::Nothing))));
        assert_eq!(parse("a/.whiteout"), Ok(None));
        for refused in [".wh.", "a/.wh..", "a/.wh...", ".wh.a/b"] {
            assert!(parse(refused).is_err(), "{refused}");
        }
        // Four dots after the prefix's own: an ordinary if odd name.
        assert_eq!(parse(".wh...."), Ok(Some((b"...".to_vec(), Kind::Whiteout))));
    }

    #[test]
    fn pax_times_keep_nanoseconds() {
        for (text, time) in [
            ("0", (0, 0)),
            ("1700000000.123456789", (1_700_000_000, 123_456_789)),
            ("5.5", (5, 500_000_000)),
            ("5.1234567891", (5, 123_456_789)),
            ("-1.25", (-2, 750_000_000)),
            ("-0.25", (-1, 750_000_000)),
            ("-3", (-3, 0)),
        ] {
            assert_eq!(pax_time(text.as_bytes()), Some(time), "{text}");
        }
        for text in ["", "x", "1.x", "1.-5", "99999999999999999999"] {
            assert_eq!(pax_time(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn drops_attributes_that_are_not_the_files_own() {
        for kept in [
            "user.a",
            "security.capability",
            "system.posix_acl_access",
            "trusted.x",
        ] {
            assert!(is_kept(kept.as_bytes()), "{kept}");
        }
        for dropped in [
            "trusted.overlay.opaque",
            "user.overlay.redirect",
            "security.selinux",
            "security.ima",
            "x",
            "user.a\0",
        ] {
            assert!(!is_kept(dropped.as_bytes()), "{dropped}");
        }
    }
}
