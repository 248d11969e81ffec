//! A mount namespace that holds what a machine needs and nothing else of the host.
//!
//! Guest and monitor are one security context (libkrun's own notes; a virtio device's bug is a way into its process): so the
//! monitor and its devices see the shares, their own programs and the system's libraries, read-only.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode},
    mount::{
        MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
        mount_change, mount_remount, unmount,
    },
};

use crate::{Error, Result, limits::DEVICES};

/// Programs and their libraries.
const SYSTEM: [&str; 7] = ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"];
/// What programs read besides.
const SYSTEM_FILES: [&str; 2] = ["/etc/ld.so.cache", "/etc/alternatives"];

/// A root file system under construction. The process must have a mount namespace of its own.
#[derive(Debug)]
pub struct Jail {
    root: PathBuf,
}

impl Jail {
    /// Begins a root on an existing directory, with the system's programs and libraries in it.
    ///
    /// # Errors
    /// A mount fails.
    pub fn new(root: PathBuf) -> Result<Self> {
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(Error::io("make the mounts private"))?;
        let jail = Self::empty(root)?;
        for path in SYSTEM.map(Path::new) {
            match fs::symlink_metadata(path) {
                Ok(found) if found.is_symlink() => {
                    let target = fs::read_link(path).map_err(at(path))?;
                    std::os::unix::fs::symlink(target, jail.inside(path)).map_err(at(path))?;
                }
                Ok(_) => jail.read_only(path)?,
                Err(_) => {}
            }
        }
        for path in SYSTEM_FILES.map(Path::new).into_iter().filter(|p| p.exists()) {
            jail.read_only(path)?;
        }
        for path in DEVICES.map(|(path, ..)| Path::new(path)) {
            jail.bind(path, path)?;
        }
        jail.directory(Path::new("/tmp"), 0o1777)?;
        Ok(jail)
    }

    /// Begins a root with nothing in it. What is mounted here is not seen outside; what is mounted
    /// later in a [growing](Self::growing) directory outside is seen here.
    ///
    /// # Errors
    /// A mount fails.
    pub fn empty(root: PathBuf) -> Result<Self> {
        let receiving = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", receiving).map_err(Error::io("keep the mounts to itself"))?;
        mount(
            "jail",
            &root,
            "tmpfs",
            MountFlags::NOSUID,
            Some(c"mode=0755,size=4m"),
        )
        .map_err(Error::io(format!("mount a root on {}", root.display())))?;
        let jail = Self { root };
        jail.directory(Path::new("/proc"), 0o555)?;
        Ok(jail)
    }

    /// Where a path of the jail is now.
    #[must_use]
    pub fn inside(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Makes a directory and those above it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn directory(&self, path: &Path, mode: u32) -> Result<()> {
        let inside = self.inside(path);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&inside)
            .and_then(|()| fs::set_permissions(&inside, fs::Permissions::from_mode(mode)))
            .map_err(at(path))
    }

    /// Shows a file or directory of the host, which stays writable to whoever may write it.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub fn bind(&self, source: &Path, target: &Path) -> Result<()> {
        self.place(source, target)?;
        mount_bind_recursive(source, self.inside(target)).map_err(at(source))
    }

    /// Shows a file or directory of the host at another place, read-only. What is mounted below it is not seen.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub fn bind_read_only(&self, source: &Path, target: &Path) -> Result<()> {
        self.place(source, target)?;
        let inside = self.inside(target);
        mount_bind(source, &inside).map_err(at(source))?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(&inside, flags, "").map_err(at(source))
    }

    /// Shows a file or directory of the host that a guest is served. Here nothing of it is a device, or is executed, or has its
    /// owner's rights, whatever the guest makes there.
    ///
    /// # Errors
    /// It does not exist, or cannot be mounted.
    pub fn share(&self, source: &Path, target: &Path) -> Result<()> {
        self.bind(source, target)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        magik_sys::mount::restrict(&self.inside(target), flags).map_err(at(source))
    }

    /// Makes a directory for mounts that come and go after [`enter`](Self::enter). They are seen below
    /// `seen`, which exists, as well: here and wherever that is served from.
    ///
    /// # Errors
    /// A mount fails.
    pub fn growing(&self, directory: &Path, seen: &Path) -> Result<()> {
        self.directory(directory, 0o755)?;
        let inside = self.inside(directory);
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("growing", &inside, "tmpfs", flags, Some(c"mode=0755,size=64k")).map_err(at(directory))?;
        mount_change(&inside, MountPropagationFlags::SHARED).map_err(at(directory))?;
        mount_bind(&inside, self.inside(seen)).map_err(at(seen))
    }

    /// Makes a directory of the jail, with all that is mounted below it, one that nobody writes to any more.
    ///
    /// # Errors
    /// A mount fails.
    pub fn close(&self, directory: &Path) -> Result<()> {
        let inside = self.inside(directory);
        mount_bind_recursive(&inside, &inside).map_err(at(directory))?;
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        magik_sys::mount::restrict(&inside, flags).map_err(at(directory))
    }

    /// Shows a file or directory of the host, read-only, at its own place.
    ///
    /// # Errors
    /// As [`bind_read_only`](Self::bind_read_only).
    pub fn read_only(&self, path: &Path) -> Result<()> {
        self.bind_read_only(path, path)
    }

    /// A device file of the host, for this user.
    ///
    /// # Errors
    /// There is no such device, or it cannot be made.
    pub fn device(&self, path: &Path, user: u32) -> Result<()> {
        let found = fs::metadata(path).map_err(at(path))?;
        if !found.file_type().is_char_device() {
            return Err(at(path)(io::Error::other("is no character device")));
        }
        self.parent(path)?;
        let inside = self.inside(path);
        rustix::fs::mknodat(
            CWD,
            &inside,
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o600),
            found.rdev(),
        )
        .map_err(at(path))?;
        std::os::unix::fs::chown(&inside, Some(user), Some(user)).map_err(at(path))
    }

    /// Makes this process's root of it, with a `/proc` of its pid namespace; the host's is gone.
    ///
    /// # Errors
    /// A mount fails.
    pub fn enter(self) -> Result<()> {
        let proc = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("proc", self.inside(Path::new("/proc")), "proc", proc, None)
            .map_err(Error::io("mount /proc"))?;
        let failed = || Error::io("change the root");
        rustix::process::chdir(&self.root).map_err(failed())?;
        // pivot_root(2): the old root is stacked on the new one, and goes.
        rustix::process::pivot_root(".", ".").map_err(failed())?;
        unmount(".", UnmountFlags::DETACH).map_err(failed())?;
        rustix::process::chdir("/").map_err(failed())
    }

    /// Makes the place where something of the host will be seen.
    fn place(&self, source: &Path, target: &Path) -> Result<()> {
        if fs::metadata(source).map_err(at(source))?.is_dir() {
            let inside = self.inside(target);
            let mut builder = fs::DirBuilder::new();
            return builder
                .recursive(true)
                .mode(0o755)
                .create(inside)
                .map_err(at(target));
        }
        self.parent(target)?;
        fs::File::create(self.inside(target))
            .map(drop)
            .map_err(at(target))
    }

    fn parent(&self, path: &Path) -> Result<()> {
        let inside = self.inside(path);
        let parent = inside.parent().unwrap_or(&self.root);
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(at(path))
    }
}

fn at<E: Into<io::Error>>(path: &Path) -> impl FnOnce(E) -> Error {
    Error::io(path.display().to_string())
}
