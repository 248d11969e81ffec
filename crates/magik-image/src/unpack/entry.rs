//! One entry of a layer's archive: what it says about itself, checked, before anything is done.

use rustix::fs::{Dev, makedev};

use super::{archive::Member, header::MemberKind};

/// The longest name in a directory (Linux' `NAME_MAX`), in bytes.
const MAX_NAME: usize = 255;
/// The longest path or target of a symbolic link, in bytes (Linux' `PATH_MAX` without its NUL).
pub(super) const MAX_PATH: usize = 4095;
/// The largest extended attribute (Linux' `XATTR_SIZE_MAX`), in bytes.
const MAX_XATTR: usize = 65536;
/// The largest major and minor device numbers (Linux' `MKDEV`: 12 and 20 bits).
const MAX_MAJOR: u64 = 0xfff;
const MAX_MINOR: u64 = 0xf_ffff;

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
    /// Metadata of aufs.
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

impl Metadata {
    /// Of a directory that is there because something lies in it, and of which no layer says more.
    pub(super) fn of_implied() -> Self {
        Self {
            mode: 0o755,
            ..Self::default()
        }
    }
}

/// An entry.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its path below the root: no leading or trailing `/`, `.` or `..`; empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) metadata: Metadata,
}

/// Why an entry is refused.
type Refused = String;

impl Entry {
    /// Checks what a layer's archive says of a member.
    pub(super) fn parse(member: Member) -> Result<Self, Refused> {
        Self::read(member, true)
    }

    /// Checks what an archive that is no layer says of a member: no name is a whiteout's.
    pub(super) fn parse_plain(member: Member) -> Result<Self, Refused> {
        Self::read(member, false)
    }

    fn read(member: Member, of_layer: bool) -> Result<Self, Refused> {
        let path = clean(&member.path)?;
        if member.xattrs.iter().any(|(_, value)| value.len() > MAX_XATTR) {
            return Err(format!("an extended attribute is larger than {MAX_XATTR} bytes"));
        }
        let xattrs = member.xattrs.into_iter().filter(|(name, _)| is_kept(name));
        let metadata = Metadata {
            uid: id("uid", member.uid)?,
            gid: id("gid", member.gid)?,
            mode: u32::try_from(member.mode & 0o7777).unwrap_or_default(),
            mtime: member.mtime,
            xattrs: xattrs.collect(),
        };
        if of_layer && let Some((path, kind)) = whiteout(&path)? {
            return Ok(Self { path, kind, metadata });
        }
        let kind = match member.kind {
            MemberKind::File => Kind::File,
            MemberKind::Directory => Kind::Directory,
            MemberKind::Symlink => Kind::Symlink(symlink_target(member.link)?),
            MemberKind::Hardlink if member.link.is_empty() => return Err("link without a target".into()),
            MemberKind::Hardlink => {
                let target = clean(&member.link).map_err(|e| format!("link target: {e}"))?;
                let mut names = target.split(|b| *b == b'/');
                if of_layer && names.any(|name| name.starts_with(WHITEOUT)) {
                    return Err("hard link to a whiteout".into());
                }
                Kind::Hardlink(target)
            }
            MemberKind::Fifo => Kind::Fifo,
            MemberKind::CharDevice => match device(member.device)? {
                // It would be a file in a flat root, but no file in an overlay.
                0 => return Err("character device 0:0, which is a whiteout to overlayfs".into()),
                device => Kind::CharDevice(device),
            },
            MemberKind::BlockDevice => Kind::BlockDevice(device(member.device)?),
        };
        if path.is_empty() && kind != Kind::Directory {
            return Err("the root of a layer can only be a directory".to_owned());
        }
        Ok(Self { path, kind, metadata })
    }
}

fn id(what: &str, id: u64) -> Result<u32, Refused> {
    // The last one means "leave it" to chown(2).
    let fits = u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    fits.ok_or_else(|| format!("{what} {id} is out of range"))
}

fn device((major, minor): (u64, u64)) -> Result<Dev, Refused> {
    if major > MAX_MAJOR || minor > MAX_MINOR {
        return Err(format!("device number {major}:{minor} is out of range"));
    }
    let number = |n: u64| u32::try_from(n).map_err(|e| e.to_string());
    Ok(makedev(number(major)?, number(minor)?))
}

fn symlink_target(target: Vec<u8>) -> Result<Vec<u8>, Refused> {
    if target.is_empty() {
        return Err("link without a target".into());
    }
    if target.contains(&0) {
        return Err("link target holds a NUL byte".into());
    }
    if target.len() > MAX_PATH {
        return Err(format!("link target is longer than {MAX_PATH} bytes"));
    }
    Ok(target)
}

/// A path relative to the root; one that leads outside is refused. An absolute path is one below
/// the root, as for every other tool that reads layers.
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
            _ if component.len() > MAX_NAME => {
                return Err(format!("a name in its path is longer than {MAX_NAME} bytes"));
            }
            _ => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(component);
            }
        }
    }
    if path.len() > MAX_PATH {
        return Err(format!("path is longer than {MAX_PATH} bytes"));
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

/// The path of `name` in `directory`; either may be empty.
pub(super) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let apart = !directory.is_empty() && !name.is_empty();
    let separator: &[u8] = if apart { b"/" } else { b"" };
    [directory, separator, name].concat()
}

/// What a path says if it is a whiteout's.
fn whiteout(path: &[u8]) -> Result<Option<(Vec<u8>, Kind)>, Refused> {
    // All below aufs' own directories is aufs' own.
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
        _ => Ok(Some((join(parent, hidden), Kind::Whiteout))),
    }
}

/// Which extended attributes of an archive are set: the file's. overlayfs' own would let a layer
/// change others, and the rest of `security.` (labels, IMA) is the host's policy.
pub(super) fn is_kept(name: &[u8]) -> bool {
    if name.contains(&0) || name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
        return false;
    }
    [&b"user."[..], b"trusted.", b"system.posix_acl_"]
        .iter()
        .any(|p| name.starts_with(p))
        || name == b"security.capability"
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
