//! What a directory holds, as text that two forms of an image can be compared by.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    io::Read,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::Path,
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use crate::tarball::MTIME;

/// How much of a file is shown.
const SHOWN: u64 = 40;
/// Larger files are hashed.
const HASHED: u64 = 32 << 20;

/// One line for each name below `root` and one for the root itself, sorted. A line is the name and what it is, followed by whatever
/// is not as the corpus has it by default (mode 755 or 644, owner 0, [`MTIME`], no attributes):
///
/// `dir/`, `file=content`, `file#size:hash`, `link->target`, `hard&first-name`, `fifo|`, `device:c1,3`; then `0644`, `7:8`, `@0`,
/// `[name=value]`. The root is `/`, and is left out if it is an implied one (mode 755, owner 0, time 0).
///
/// # Errors
/// Those of the file system.
pub fn listing(root: &Path) -> Result<String> {
    let mut lines = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    walk(root, b"", &mut lines, &mut inodes)?;
    if lines.get(&b""[..]).is_some_and(|line| line == "/ @0") {
        lines.remove(&b""[..]);
    }
    Ok(lines.into_values().collect::<Vec<_>>().join("\n"))
}

type Inodes = BTreeMap<(u64, u64), Vec<u8>>;

fn walk(root: &Path, path: &[u8], lines: &mut BTreeMap<Vec<u8>, String>, inodes: &mut Inodes) -> Result<()> {
    let full = root.join(std::ffi::OsStr::from_bytes(path));
    let stat = fs::symlink_metadata(&full).with_context(|| format!("look at {}", full.display()))?;
    lines.insert(path.to_vec(), line(&full, path, &stat, inodes)?);
    if stat.is_dir() {
        let mut names: Vec<_> = fs::read_dir(&full)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<Result<_>>()?;
        names.sort();
        for name in names {
            let mut child = path.to_vec();
            if !child.is_empty() {
                child.push(b'/');
            }
            child.extend_from_slice(name.as_bytes());
            walk(root, &child, lines, inodes)?;
        }
    }
    Ok(())
}

fn line(full: &Path, path: &[u8], stat: &fs::Metadata, inodes: &mut Inodes) -> Result<String> {
    let mut line = text(path);
    let kind = stat.file_type();
    if !stat.is_dir() && stat.nlink() > 1 {
        match inodes.get(&(stat.dev(), stat.ino())) {
            Some(first) => {
                write!(line, "&{}", text(first))?;
                return Ok(line);
            }
            None => drop(inodes.insert((stat.dev(), stat.ino()), path.to_vec())),
        }
    }
    if stat.is_dir() {
        line.push('/');
    } else if kind.is_symlink() {
        write!(line, "->{}", text(fs::read_link(full)?.as_os_str().as_bytes()))?;
    } else if kind.is_file() {
        line.push_str(&content(full, stat.len())?);
    } else if kind.is_fifo() {
        line.push('|');
    } else {
        let letter = if kind.is_char_device() { 'c' } else { 'b' };
        let (major, minor) = (rustix::fs::major(stat.rdev()), rustix::fs::minor(stat.rdev()));
        write!(line, ":{letter}{major},{minor}")?;
    }
    let mode = stat.mode() & 0o7777;
    let usual = match () {
        () if stat.is_dir() => 0o755,
        () if kind.is_symlink() => 0o777,
        () => 0o644,
    };
    if mode != usual {
        write!(line, " {mode:04o}")?;
    }
    if (stat.uid(), stat.gid()) != (0, 0) {
        write!(line, " {}:{}", stat.uid(), stat.gid())?;
    }
    match (stat.mtime(), stat.mtime_nsec()) {
        (MTIME, 0) => {}
        (seconds, 0) => write!(line, " @{seconds}")?,
        (seconds, nanos) => write!(line, " @{seconds}.{nanos:09}")?,
    }
    for (name, value) in attributes(full)? {
        write!(line, " [{}={}]", text(&name), text(&value))?;
    }
    Ok(line)
}

fn content(full: &Path, size: u64) -> Result<String> {
    let file = fs::File::open(full)?;
    if size > HASHED {
        return Ok(format!("#{size}"));
    }
    let mut bytes = Vec::new();
    file.take(HASHED).read_to_end(&mut bytes)?;
    if size > SHOWN {
        return Ok(format!("#{size}:{}", &hex::encode(Sha256::digest(&bytes))[..8]));
    }
    Ok(format!("={}", text(&bytes)))
}

fn attributes(full: &Path) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 65536];
    let length = match rustix::fs::llistxattr(full, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length?,
    };
    let mut attributes = BTreeMap::new();
    for name in names[..length].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        // Labels are the host's.
        if name == b"security.selinux" {
            continue;
        }
        let mut value = vec![0; 65536];
        let length = rustix::fs::lgetxattr(full, name, &mut value[..])?;
        value.truncate(length);
        attributes.insert(name.to_vec(), value);
    }
    Ok(attributes)
}

/// Bytes on one line, long ones shortened.
fn text(bytes: &[u8]) -> String {
    let text: String = bytes.escape_ascii().to_string();
    if text.len() > 120 {
        return format!(
            "{}..{}:{}",
            &text[..16],
            bytes.len(),
            &hex::encode(Sha256::digest(bytes))[..8]
        );
    }
    text
}
