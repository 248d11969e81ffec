//! The paths of a container's root at which something is mounted or made.
//!
//! The image is hostile. The kernel looks every path up, from the root's descriptor and never out
//! of it (`RESOLVE_IN_ROOT`). Links lead where they would lead in the container.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2},
    io::Errno,
};

/// The kernel's limit for one path (`MAXSYMLINKS` in linux/namei.h).
const MAX_LINKS: usize = 40;

/// What a path should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    Directory,
    File,
}

fn open(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(
        root,
        path,
        flags | OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// Opens a path, if it exists.
pub(super) fn find(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match open(root, path, OFlags::empty(), ResolveFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether a link is part of a path: the runtime must write where it says (CVE-2025-52881).
pub(super) fn leads_elsewhere(root: BorrowedFd<'_>, path: &Path) -> io::Result<bool> {
    match open(root, path, OFlags::empty(), ResolveFlags::NO_SYMLINKS) {
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(Errno::LOOP) => Ok(true),
        Err(e) => Err(e.into()),
    }
}

/// Opens a path, and makes what is missing, as runc does: also where a link leads nowhere yet.
pub(super) fn open_or_make(root: BorrowedFd<'_>, path: &Path, want: Want) -> io::Result<OwnedFd> {
    match find(root, path)? {
        Some(fd) => Ok(fd),
        None => make(root, path, want),
    }
}

fn make(root: BorrowedFd<'_>, path: &Path, want: Want) -> io::Result<OwnedFd> {
    let mut left: VecDeque<OsString> = names(path).collect();
    let mut done = PathBuf::from("/");
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        if name == ".." {
            done.pop();
            continue;
        }
        let next = done.join(&name);
        match open(root, &next, OFlags::NOFOLLOW, ResolveFlags::empty()) {
            Ok(fd) if is(&fd, FileType::Symlink)? => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = rustix::fs::readlinkat(&fd, c"", Vec::new())?.into_bytes();
                let target = PathBuf::from(OsString::from_vec(target));
                if target.is_absolute() {
                    done = PathBuf::from("/");
                }
                names(&target).rev().for_each(|name| left.push_front(name));
            }
            Ok(_) => done = next,
            Err(Errno::NOENT) => {
                let parent = open(root, &done, OFlags::DIRECTORY, ResolveFlags::NO_SYMLINKS)?;
                let kind = if left.is_empty() { want } else { Want::Directory };
                make_one(&parent, &name, kind)?;
                done = next;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(open(root, &done, OFlags::empty(), ResolveFlags::NO_SYMLINKS)?)
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let name = |component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(name)
}

/// Makes a directory or an empty file; another process may be quicker.
fn make_one(parent: &OwnedFd, name: &OsStr, want: Want) -> io::Result<()> {
    let made = match want {
        Want::Directory => mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Want::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    };
    match made {
        Err(e) if e != Errno::EXIST => Err(e.into()),
        _ => Ok(()),
    }
}

/// Whether a file is of that type.
pub(super) fn is(file: &OwnedFd, kind: FileType) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode) == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        os::{fd::AsFd, unix::fs::symlink},
    };

    #[test]
    fn what_is_missing_is_made_inside_the_root_wherever_links_lead() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        let make = |path: &str, want| open_or_make(root.as_fd(), Path::new(path), want);
        symlink("/", dir.path().join("out")).unwrap();
        symlink(outside.path(), dir.path().join("host")).unwrap();
        symlink("../../../run/resolve", dir.path().join("up")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        make("/a/b", Want::Directory).unwrap();
        make("/a/c", Want::File).unwrap();
        make("/out/x", Want::Directory).unwrap();
        make("/host/y", Want::File).unwrap();
        make("/up", Want::File).unwrap();
        make("/a/../../z", Want::Directory).unwrap();
        let inside = outside.path().strip_prefix("/").unwrap();
        for (path, file) in [
            ("a/b", false),
            ("a/c", true),
            ("x", false),
            ("run/resolve", true),
            ("z", false),
        ] {
            assert_eq!(
                fs::metadata(dir.path().join(path)).unwrap().is_file(),
                file,
                "{path}"
            );
        }
        assert!(dir.path().join(inside).join("y").is_file());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        assert!(leads_elsewhere(root.as_fd(), Path::new("/out")).unwrap());
        assert!(leads_elsewhere(root.as_fd(), Path::new("/out/a")).unwrap());
        assert!(!leads_elsewhere(root.as_fd(), Path::new("/a/b")).unwrap());
        assert!(!leads_elsewhere(root.as_fd(), Path::new("/nothing")).unwrap());
        assert!(make("/a/c/d", Want::Directory).is_err());
        assert!(make("/loop/x", Want::Directory).is_err());
    }
}
