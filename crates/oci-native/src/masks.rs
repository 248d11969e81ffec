//! `linux.maskedPaths` and `linux.readonlyPaths`.
//!
//! All are set in one pass by descriptor, on the finished root, before the container runs.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use magik_sys::mount::{Attributes, attach, clone_mount, clone_tree, new_mount, open_inside, set_attributes};
use oci_spec::runtime::Linux;
use rustix::{fs::OFlags, mount::MountAttrFlags};

use crate::process::streams::is_null;

/// The paths in the container.
#[derive(Debug)]
pub(crate) struct Masks {
    masked: Vec<PathBuf>,
    readonly: Vec<PathBuf>,
}

impl Masks {
    pub(crate) fn of(linux: &Linux) -> Self {
        let paths = |list: &Option<Vec<String>>| list.iter().flatten().map(PathBuf::from).collect();
        Self {
            masked: paths(linux.masked_paths()),
            readonly: paths(linux.readonly_paths()),
        }
    }

    /// Applies them in the mount namespace this process is in, whose root is `root`.
    pub(crate) fn apply(&self, root: BorrowedFd<'_>) -> io::Result<()> {
        let named = |what: &str, path: &Path, e: &io::Error| {
            io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
        };
        for path in &self.readonly {
            make_readonly(root, path).map_err(|e| named("read-only path", path, &e))?;
        }
        if self.masked.is_empty() {
            return Ok(());
        }
        let mut cover = Cover::new(root)?;
        for path in &self.masked {
            cover
                .mask(root, path)
                .map_err(|e| named("masked path", path, &e))?;
        }
        Ok(())
    }
}

/// Opens what is to be covered; `None` where there is nothing.
fn target(root: BorrowedFd<'_>, path: &Path) -> io::Result<Option<OwnedFd>> {
    match open_inside(root, path, OFlags::PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// As with runc, what is mounted below keeps its own attributes.
fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let Some(target) = target(root, path)? else {
        return Ok(());
    };
    let clone = clone_tree(&target, Path::new(""))?;
    let set =
        libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    set_attributes(
        &clone,
        Attributes {
            set,
            ..Attributes::default()
        },
    )?;
    attach(&clone, &target)
}

/// The files that are mounted over masked paths.
struct Cover {
    /// The container's own, checked to be the null device (CVE-2025-31133).
    null: OwnedFd,
    /// An empty read-only file system, mounted over the first masked directory; all share it.
    empty: Option<OwnedFd>,
}

impl Cover {
    fn new(root: BorrowedFd<'_>) -> io::Result<Self> {
        let null = open_inside(root, Path::new("/dev/null"), OFlags::PATH | OFlags::NOFOLLOW)?;
        if !is_null(&null) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the container's /dev/null is not the null device",
            ));
        }
        Ok(Self { null, empty: None })
    }

    fn mask(&mut self, root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
        let Some(target) = target(root, path)? else {
            return Ok(());
        };
        let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&target)?.st_mode)
            == rustix::fs::FileType::Directory;
        let source = match &self.empty {
            _ if !is_dir => &self.null,
            Some(mounted) => mounted,
            // Mounted before it is cloned: before 6.15 only what is mounted can be cloned.
            None => {
                let empty = new_mount("tmpfs", &[], MountAttrFlags::MOUNT_ATTR_RDONLY)?;
                attach(&empty, &target)?;
                self.empty = Some(empty);
                return Ok(());
            }
        };
        attach(clone_mount(source, Path::new(""))?, &target)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_cover_needs_the_real_null_device() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
        assert!(Cover::new(root.as_fd()).is_err());
        for fake in ["/proc/self/exe", "/dev/null"] {
            let link = dir.path().join("dev/null");
            let _ = std::fs::remove_file(&link);
            std::os::unix::fs::symlink(fake, &link).unwrap();
            assert!(Cover::new(root.as_fd()).is_err(), "{fake}");
        }
    }
}
