//! The table of mounts, `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount<'a> {
    /// What of the file system is mounted: `/`, or a directory below its root.
    pub root: PathBuf,
    /// Where it is mounted, below this process's root.
    pub point: PathBuf,
    /// The mount's own options: `rw,nosuid`.
    pub options: &'a str,
    /// Whether mounts that are made in it are seen by others, and the other way round.
    pub is_shared: bool,
    /// Whether mounts that others make are seen in it.
    pub is_slave: bool,
    /// The file system: `cgroup2`, say.
    pub kind: &'a str,
    /// The file system's options: of cgroup v1 these are its controllers.
    pub super_options: &'a str,
}

impl Mount<'_> {
    /// Whether the file system has this option.
    pub fn has_super_option(&self, option: &str) -> bool {
        self.super_options.split(',').any(|o| o == option)
    }

    /// Whether this is one of a control group's hierarchies, in the place where every distribution
    /// mounts them.
    pub fn is_cgroup_hierarchy(&self) -> bool {
        matches!(self.kind, "cgroup" | "cgroup2")
            && (self.point == Path::new(crate::cgroup::MOUNT_ROOT)
                || self.point.parent() == Some(Path::new(crate::cgroup::MOUNT_ROOT)))
    }
}

/// The mounts of this thread's mount namespace, for [`parse`].
///
/// # Errors
/// `/proc` is not mounted.
pub fn read() -> io::Result<Vec<u8>> {
    fs::read("/proc/thread-self/mountinfo")
}

/// The mounts of a table, in its order. Lines that are none are left out.
///
/// Paths are bytes: users may mount on a directory whose name is no text, and must not keep others
/// from reading the table.
pub fn parse(table: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    table.split(|byte| *byte == b'\n').filter_map(line)
}

/// The mount that an absolute path without links lies in.
pub fn of<'a>(table: &'a [u8], path: &Path) -> Option<Mount<'a>> {
    // Of two on one place the later one covers the other.
    let mounts = parse(table).filter(|mount| path.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.components().count())
}

fn line(line: &[u8]) -> Option<Mount<'_>> {
    let text = |field| str::from_utf8(field).unwrap_or_default();
    let mut fields = line.split(|byte| *byte == b' ').skip(3);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    // There may be any number of fields before a hyphen.
    let (mut is_shared, mut is_slave) = (false, false);
    for field in fields.by_ref().take_while(|field| *field != b"-") {
        is_shared |= field.starts_with(b"shared:");
        is_slave |= field.starts_with(b"master:");
    }
    let kind = fields.next()?;
    Some(Mount {
        root: unescape(root),
        point: unescape(point),
        options: text(options),
        is_shared,
        is_slave,
        kind: text(kind),
        // After the source.
        super_options: fields.nth(1).map(text).unwrap_or_default(),
    })
}

/// Undoes the kernel's escapes: a backslash and three octal digits.
fn unescape(mut rest: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, others @ ..] = rest {
        let escaped = others.get(..3).filter(|_| *first == b'\\');
        let digits = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    #[test]
    fn reads_lines_with_and_without_optional_fields() {
        let table =
            b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            garbage\n\
            33 31 0:30 / /a\\134b\\999\xff rw - tmpfs none\n";
        let mounts: Vec<_> = parse(table).collect();
        let first = Mount {
            root: "/mnt1".into(),
            point: "/mnt 2".into(),
            options: "rw,noatime",
            is_shared: true,
            is_slave: true,
            kind: "ext3",
            super_options: "rw,errors=continue",
        };
        assert_eq!(mounts[0], first);
        assert!(mounts[1].has_super_option("cpuacct") && !mounts[1].has_super_option("cp"));
        assert!(mounts[1].is_cgroup_hierarchy() && !mounts[0].is_cgroup_hierarchy());
        assert_eq!(mounts[2].point.as_os_str().as_bytes(), b"/a\\b\\999\xff");
        assert!(!mounts[1].is_shared && !mounts[1].is_slave);
        assert_eq!(of(table, Path::new("/mnt 2/x")).unwrap().kind, "ext3");
        assert!(of(table, Path::new("/mnt")).is_none());
        assert_eq!((mounts[2].super_options, mounts.len()), ("", 3));
    }

    #[test]
    fn reads_this_systems_table() {
        let table = read().unwrap();
        assert_eq!(
            parse(&table).count(),
            table.iter().filter(|byte| **byte == b'\n').count()
        );
        assert!(parse(&table).any(|mount| mount.point == Path::new("/")));
    }
}
