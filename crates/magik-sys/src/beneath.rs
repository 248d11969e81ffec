//! Paths below a directory whose content others change: nothing leads out of it.
//!
//! The kernel looks a path up, from the directory's descriptor (`RESOLVE_BENEATH`): links are
//! followed as far as they stay below. What was found is a descriptor, and that is what is used: a
//! path that was checked first and used afterwards can have been exchanged in between
//! (CVE-2017-1002101, CVE-2021-25741).

use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2},
    io::Errno,
};

/// How often a path is looked up that is renamed meanwhile: the kernel gives up (openat2(2),
/// `EAGAIN`) where it cannot tell any more whether `..` leads out.
const ATTEMPTS: usize = 100;

const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

/// Opens what is at a relative path, to be looked at or mounted; `None`: nothing.
///
/// # Errors
/// The path leads out of the directory, or the kernel says no.
pub fn find(directory: impl AsFd, path: &Path) -> io::Result<Option<OwnedFd>> {
    open(directory, path, LOOK)
}

fn open(directory: impl AsFd, path: &Path, flags: OFlags) -> io::Result<Option<OwnedFd>> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut attempts = 0;
    loop {
        match openat2(directory.as_fd(), path, flags, Mode::empty(), resolve) {
            Ok(found) => return Ok(Some(found)),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => return Err(io::Error::other("leads out of the directory")),
            Err(Errno::AGAIN | Errno::INTR) if attempts < ATTEMPTS => attempts += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// The same. Where there is nothing, it makes a directory, and those above it that are missing, with
/// the permissions of `directory` (less what the umask takes away): nobody's permissions are changed
/// afterwards, since it could be another directory by then.
///
/// # Errors
/// The path leads out of the directory, or is no path of plain names, or the kernel says no.
pub fn find_or_make(directory: impl AsFd, path: &Path) -> io::Result<OwnedFd> {
    if let Some(found) = find(&directory, path)? {
        return Ok(found);
    }
    let mode = Mode::from_raw_mode(fstat(&directory)?.st_mode & 0o7777);
    let mut held = directory.as_fd().try_clone_to_owned()?;
    let mut there = Some(PathBuf::new());
    for component in path
        .components()
        .filter(|component| *component != Component::CurDir)
    {
        let Component::Normal(name) = component else {
            return Err(Errno::INVAL.into());
        };
        if let Some(path) = &mut there {
            path.push(name);
            if let Some(found) = open(&directory, path, LOOK | OFlags::DIRECTORY)? {
                held = found;
                continue;
            }
        }
        // From here on each name is looked up in the directory that is held, and no link followed.
        there = None;
        held = make(&held, name, mode)?;
    }
    Ok(held)
}

fn make(parent: &OwnedFd, name: &OsStr, mode: Mode) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, mode) {
        // Somebody was quicker, or it is a link that leads nowhere.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = LOOK | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    Ok(openat(parent, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
        sync::atomic::{AtomicBool, Ordering},
    };

    use super::*;
    use crate::mount::look_at_dir;

    fn same(found: &OwnedFd, path: &Path) -> bool {
        let (a, b) = (fstat(found).unwrap(), fs::metadata(path).unwrap());
        (a.st_dev, a.st_ino) == (b.dev(), b.ino())
    }

    #[test]
    fn links_are_followed_as_far_as_they_stay_below() {
        let outer = tempfile::tempdir().unwrap();
        let inside = outer.path().join("in");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir(outer.path().join("secret")).unwrap();
        symlink("a/b", inside.join("relative")).unwrap();
        symlink("../a/b", inside.join("a/up")).unwrap();
        symlink(inside.join("a"), inside.join("absolute")).unwrap();
        symlink("../secret", inside.join("out")).unwrap();
        symlink("nowhere", inside.join("dangling")).unwrap();
        symlink("/proc/self/root", inside.join("magic")).unwrap();
        let dir = look_at_dir(&inside).unwrap();
        for path in ["a/b", "relative", "a/up", "a/../a/b"] {
            let found = find(&dir, Path::new(path)).unwrap().unwrap();
            assert!(same(&found, &inside.join("a/b")), "{path}");
        }
        for path in ["absolute", "out", "out/x", "..", "../in", "/", "a/../..", "magic"] {
            assert!(find(&dir, Path::new(path)).is_err(), "{path}");
            assert!(find_or_make(&dir, Path::new(path)).is_err(), "{path}");
        }
        assert!(find(&dir, Path::new("a/none")).unwrap().is_none());
        assert!(find_or_make(&dir, Path::new("dangling")).is_err());
        assert!(find_or_make(&dir, Path::new("dangling/x")).is_err());
        assert_eq!(fs::read_dir(outer.path().join("secret")).unwrap().count(), 0);
        assert!(!inside.join("nowhere").exists());
    }

    #[test]
    fn what_is_missing_is_made_with_the_permissions_of_the_directory() {
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o2710)).unwrap();
        fs::create_dir(outer.path().join("old")).unwrap();
        fs::set_permissions(outer.path().join("old"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("old", outer.path().join("link")).unwrap();
        let dir = look_at_dir(outer.path()).unwrap();
        let made = find_or_make(&dir, Path::new("link/new/deep")).unwrap();
        assert!(same(&made, &outer.path().join("old/new/deep")));
        let made = find_or_make(&dir, Path::new("x/y")).unwrap();
        assert!(same(&made, &outer.path().join("x/y")));
        let made = find_or_make(&dir, Path::new("./x/./z")).unwrap();
        assert!(same(&made, &outer.path().join("x/z")));
        for new in ["x", "x/y", "x/z"] {
            let mode = fs::metadata(outer.path().join(new)).unwrap().mode();
            assert_eq!(mode & 0o7777, 0o2710, "{new}: {mode:o}");
        }
        let old = fs::metadata(outer.path().join("old")).unwrap().mode();
        assert_eq!(old & 0o7777, 0o755, "what was there stays as it is");
        fs::write(outer.path().join("file"), "").unwrap();
        assert!(same(
            &find_or_make(&dir, Path::new("file")).unwrap(),
            &outer.path().join("file")
        ));
        assert!(find_or_make(&dir, Path::new("file/x")).is_err());
    }

    /// Somebody exchanges a directory for a link that leads out, and back, all the time.
    #[test]
    fn nothing_outside_is_found_or_made_while_directories_are_exchanged_for_links() {
        let outer = tempfile::tempdir().unwrap();
        let (inside, outside) = (outer.path().join("in"), outer.path().join("out"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir_all(outside.join("b")).unwrap();
        symlink("../out", inside.join("link")).unwrap();
        let device = fs::metadata(&outside).unwrap();
        let dir = look_at_dir(&inside).unwrap();
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                while !ended.load(Ordering::Relaxed) {
                    let _ = rustix::fs::renameat_with(&dir, "a", &dir, "link", exchange);
                }
            });
            let mut found = 0;
            for round in 0..20_000_usize {
                let path = PathBuf::from(format!("a/{}", if round % 4 == 0 { "c" } else { "b" }));
                if let Ok(there) = find_or_make(&dir, &path) {
                    found += 1;
                    assert!(!same(&there, &outside.join("b")), "round {round}");
                }
                let _ = fs::remove_dir(inside.join("a/c"));
            }
            ended.store(true, Ordering::Relaxed);
            assert!(found > 0);
        });
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::metadata(&outside).unwrap().ino(), device.ino());
    }
}
