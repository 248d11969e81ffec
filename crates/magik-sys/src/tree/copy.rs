//! Copying a directory's contents.

use std::{fs::File, io, os::fd::OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid};

/// How deep directories may lie; deeper ones are refused, so that recursion is bounded.
const MAX_DEPTH: usize = 64;

/// Copies everything in `source` into `target`: contents, types, owners, modes and times.
///
/// Symbolic links are copied, never followed; sockets are left out.
///
/// # Errors
/// Directories lie too deep, or something cannot be read or made.
pub fn copy(source: &OwnedFd, target: &OwnedFd) -> io::Result<()> {
    copy_entries(source, target, MAX_DEPTH)
}

fn copy_entries(source: &OwnedFd, target: &OwnedFd, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other(format!(
            "directories lie more than {MAX_DEPTH} deep"
        )));
    }
    for entry in Dir::read_from(source)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let stat = rustix::fs::statat(source, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                match rustix::fs::mkdirat(target, name, Mode::RWXU) {
                    Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = rustix::fs::openat(source, name, flags, Mode::empty())?;
                let to = rustix::fs::openat(target, name, flags, Mode::empty())?;
                copy_entries(&from, &to, depth - 1)?;
                finish(&to, &stat)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let mut from = File::from(rustix::fs::openat(source, name, flags, Mode::empty())?);
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut to = File::from(rustix::fs::openat(target, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut from, &mut to)?;
                finish(&to, &stat)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(source, name, Vec::new())?;
                rustix::fs::symlinkat(&link, target, name)?;
                let (uid, gid) = owner(&stat);
                rustix::fs::chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            kind @ (FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
                rustix::fs::mknodat(target, name, kind, mode, stat.st_rdev)?;
                let (uid, gid) = owner(&stat);
                rustix::fs::chownat(target, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))
}

/// Owner first: a change of owner takes the setuid bit away.
fn finish(fd: &impl std::os::fd::AsFd, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    rustix::fs::fchown(fd, uid, gid)?;
    rustix::fs::fchmod(fd, Mode::from_raw_mode(stat.st_mode))?;
    let time = |sec, nsec: u64| rustix::fs::Timespec {
        tv_sec: sec,
        tv_nsec: nsec.cast_signed(),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(rustix::fs::futimens(fd, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn open(path: &std::path::Path) -> OwnedFd {
        rustix::fs::open(
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap()
    }

    #[test]
    fn copies_files_links_and_modes_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub/deep")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/file"), "text").unwrap();
        std::fs::set_permissions(from.join("sub/file"), std::fs::Permissions::from_mode(0o4751)).unwrap();
        symlink("/etc/passwd", from.join("link")).unwrap();
        copy(&open(&from), &open(&to)).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("sub/file")).unwrap(), "text");
        let (a, b) = (
            from.join("sub/file").metadata().unwrap(),
            to.join("sub/file").metadata().unwrap(),
        );
        assert_eq!((a.mode(), a.mtime(), a.uid()), (b.mode(), b.mtime(), b.uid()));
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            std::path::Path::new("/etc/passwd")
        );
        assert!(to.join("sub/deep").is_dir());
    }
}
