//! `fsGroup`: whose volumes are.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, chownat, fchmod, fstat, openat},
    io::Errno,
};

/// How deep a tree is walked: each level takes a descriptor.
const MAX_DEPTH: usize = 128;

/// What a kubelet does to a new directory of a volume (SetVolumeOwnership) where there is an
/// `fsGroup`: it is the group's, which may write, and so is what is made in it.
pub(super) fn give(dir: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::lchown(dir, None, Some(group))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode | 0o2770))
}

/// The same of a volume that others have written to, and may be writing to: every step is by
/// descriptor, and follows no link. What is nested deeper than 128 directories stays as it is.
pub(super) fn give_tree(dir: &Path, group: u32) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let gid = Some(Gid::from_raw(group));
    let top = openat(CWD, dir, flags, Mode::empty())?;
    let mut open = vec![change(top, gid)?];
    while let Some(dir) = open.last_mut() {
        let Some(entry) = dir.read() else {
            open.pop();
            continue;
        };
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let here = dir.fd()?;
        match entry.file_type() {
            FileType::Directory => {
                let below = match openat(here, name, flags, Mode::empty()) {
                    Ok(below) => below,
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(e) => return Err(e.into()),
                };
                if open.len() < MAX_DEPTH {
                    open.push(change(below, gid)?);
                }
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match openat(here, name, flags, Mode::empty()) {
                    Ok(file) if is(&file, FileType::RegularFile)? => {
                        // Which takes a setuid bit away.
                        rustix::fs::fchown(&file, None, gid)?;
                        let mode = fstat(&file)?.st_mode & 0o7777;
                        fchmod(&file, Mode::from_raw_mode(mode | 0o660))?;
                    }
                    Ok(_) | Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => {}
                    Err(e) => return Err(e.into()),
                }
            }
            _ => match chownat(here, name, None, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            },
        }
    }
    Ok(())
}

fn is(file: &std::os::fd::OwnedFd, kind: FileType) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == kind)
}

fn change(dir: std::os::fd::OwnedFd, group: Option<Gid>) -> io::Result<Dir> {
    let mode = fstat(&dir)?.st_mode & 0o7777;
    rustix::fs::fchown(&dir, None, group)?;
    fchmod(&dir, Mode::from_raw_mode(mode | 0o2770))?;
    Ok(Dir::new(dir)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;

    #[test]
    fn a_tree_is_given_to_a_group_through_no_link() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (tree, outside) = (dir.path().join("tree"), dir.path().join("outside"));
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(&outside, "").unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        give_tree(&tree, 4321).unwrap();
        let of = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            (meta.gid(), meta.mode() & 0o7777)
        };
        assert_eq!(of(&tree.join("a/b")), (4321, 0o2775));
        assert_eq!(of(&tree.join("a/file")), (4321, 0o664));
        assert_eq!(of(&tree.join("a/link")).0, 4321);
        assert_ne!(of(&outside).0, 4321);
    }
}
