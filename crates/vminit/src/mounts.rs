//! The guest's file systems.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use magik_infra::guest::{GuestConfig, GuestDirectory, MAX_CONFIG, POD, SHARE};
use magik_sys::mount::TMPFS_MAGIC;
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change, mount_move,
    mount_remount,
};

/// Where the new root is put together: a directory that the share has.
const NEW_ROOT: &str = "/mnt";
/// The directories of the guest's root.
const DIRECTORIES: [&str; 7] = ["dev", "etc", "proc", "run", "share", "sys", "tmp"];

const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

/// Moves this process to a new root, a tmpfs, with the boot share at [`SHARE`] and the mounts of
/// every Linux system. Returns whether its own file is sealed: on a read-only mount.
///
/// # Errors
/// Names the mount that failed.
pub(crate) fn own_root() -> io::Result<bool> {
    // Nothing is seen elsewhere: there is no elsewhere. pivot_root(2) refuses shared mounts.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(named("make the mounts private"))?;
    mount(
        "root",
        NEW_ROOT,
        "tmpfs",
        MountFlags::empty(),
        Some(c"mode=0755,size=16m"),
    )
    .map_err(named("mount the root"))?;
    let new = Path::new(NEW_ROOT);
    for directory in DIRECTORIES {
        let path = new.join(directory);
        fs::create_dir(&path).map_err(of(&path))?;
    }
    let sealed = !is_initramfs()?;
    if !sealed {
        // The first root stays (Documentation/filesystems/ramfs-rootfs-initramfs.rst), covered.
        mount_bind_recursive("/", new.join("share")).map_err(named("mount the share"))?;
        rustix::process::chdir(new).map_err(named("enter the new root"))?;
        mount_move(".", "/").map_err(named("move the new root"))?;
        rustix::process::chroot(".").map_err(named("change the root"))?;
    } else {
        rustix::process::pivot_root(new, new.join("share")).map_err(named("change the root"))?;
    }
    rustix::process::chdir("/").map_err(named("enter the new root"))?;
    // Some monitors' shares are writable; libkrun's init has no file system to check.
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    mount_remount("/share", read_only, "").map_err(named("make the share read-only"))?;
    mount("proc", "/proc", "proc", PLAIN, None).map_err(named("mount /proc"))?;
    mount("sysfs", "/sys", "sysfs", PLAIN, None).map_err(named("mount /sys"))?;
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", PLAIN, None).map_err(named("mount the cgroups"))?;
    let devices = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devtmpfs", "/dev", "devtmpfs", devices, Some(c"mode=0755")).map_err(named("mount /dev"))?;
    for directory in ["/dev/pts", "/dev/shm"] {
        if let Err(e) = fs::create_dir(directory)
            && e.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(of(Path::new(directory))(e));
        }
    }
    let terminals = Some(c"newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount("devpts", "/dev/pts", "devpts", devices, terminals).map_err(named("mount /dev/pts"))?;
    let anyone = Some(c"mode=1777");
    for (name, target) in [("shm", "/dev/shm"), ("tmp", "/tmp")] {
        mount(
            name,
            target,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV,
            anyone,
        )
        .map_err(named("mount a tmpfs"))?;
    }
    mount(
        "run",
        "/run",
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=0755"),
    )
    .map_err(named("mount /run"))?;
    Ok(sealed)
}

/// Whether `/` is the kernel's first root, from which there is no pivot_root.
fn is_initramfs() -> io::Result<bool> {
    const RAMFS_MAGIC: i128 = 0x8584_58f6;
    let stat = rustix::fs::statfs("/").map_err(named("look at /"))?;
    Ok([RAMFS_MAGIC, TMPFS_MAGIC].contains(&i128::from(stat.f_type)))
}

/// Reads what the host wants of this guest.
///
/// # Errors
/// It cannot be read.
pub(crate) fn config(path: &Path) -> io::Result<GuestConfig> {
    use io::Read;
    let mut text = Vec::new();
    let file = fs::File::open(path).map_err(of(path))?;
    file.take(MAX_CONFIG).read_to_end(&mut text).map_err(of(path))?;
    serde_json::from_slice(&text).map_err(|e| of(path)(e.into()))
}

/// Mounts the scratch space and the other shares, and makes the pod's directories.
///
/// # Errors
/// Names the mount or directory that failed.
pub(crate) fn for_pod(config: &GuestConfig) -> io::Result<()> {
    let scratch = &config.scratch;
    make_all(&scratch.target)?;
    let options = format!("mode=0700,size={}", scratch.size);
    let options = std::ffi::CString::new(options)?;
    mount(
        "scratch",
        &scratch.target,
        "tmpfs",
        MountFlags::empty(),
        Some(options.as_c_str()),
    )
    .map_err(named("mount the scratch space"))?;
    for bind in &config.binds {
        make_all(&bind.target)?;
        mount_bind(&bind.source, &bind.target).map_err(|e| of(&bind.target)(e.into()))?;
    }
    for share in &config.shares {
        make_all(&share.target)?;
        let mut flags = MountFlags::NODEV;
        flags.set(MountFlags::NOSUID, !share.root);
        mount(share.tag.as_str(), &share.target, "virtiofs", flags, None)
            .map_err(|e| of(&share.target)(e.into()))?;
    }
    config.directories.iter().try_for_each(make)
}

/// Makes a directory and those above it.
fn make_all(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o755).create(path).map_err(of(path))
}

fn make(directory: &GuestDirectory) -> io::Result<()> {
    let GuestDirectory { path, mode, group } = directory;
    fs::create_dir(path)
        .and_then(|()| match group {
            Some(group) => std::os::unix::fs::chown(path, None, Some(*group)),
            None => Ok(()),
        })
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(*mode)))
        .map_err(of(path))
}

/// The path of the configuration once the guest stands on its own root.
pub(crate) fn config_path() -> std::path::PathBuf {
    debug_assert!(POD.starts_with(SHARE), "the pod's directory is in the share");
    Path::new(POD).join(magik_infra::guest::CONFIG)
}

/// Says what failed.
fn named<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> io::Error {
    move |e| {
        let e = e.into();
        io::Error::new(e.kind(), format!("{what}: {e}"))
    }
}

/// Says at which path it failed.
fn of(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |e| io::Error::new(e.kind(), format!("{path}: {e}"))
}

#[cfg(test)]
mod tests {
    use magik_infra::guest::GuestScratch;

    use super::*;

    #[test]
    fn a_configuration_is_read_as_the_host_writes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("guest.json");
        let written = GuestConfig {
            nonce: [3; 32],
            hostname: "web".into(),
            scratch: GuestScratch {
                target: "/run/pod".into(),
                size: 1 << 20,
            },
            binds: vec![],
            shares: vec![],
            directories: vec![GuestDirectory {
                path: "/run/pod/rw".into(),
                mode: 0o700,
                group: Some(5),
            }],
            shared_processes: true,
            sysctls: vec![("net.core.somaxconn".into(), "5".into())],
        };
        fs::write(&path, serde_json::to_vec(&written).unwrap()).unwrap();
        assert_eq!(config(&path).unwrap(), written);
        fs::write(&path, "{").unwrap();
        let error = config(&path).unwrap_err().to_string();
        assert!(error.contains("guest.json"), "{error}");
    }

    #[test]
    fn a_directory_has_its_mode_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shared");
        make(&GuestDirectory {
            path: path.clone(),
            mode: 0o1777,
            group: None,
        })
        .unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o1777);
    }
}
