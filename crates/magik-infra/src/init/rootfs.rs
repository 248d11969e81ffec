//! The mounts of a pod, made inside of its mount namespace.
//!
//! Device files of an image lead nowhere: every root file system is mounted `nodev`, and a
//! container's `/dev` is a tmpfs of its own. What a guest is shown of the host is `nosuid` and
//! `noexec`, too.

use std::{
    fs::Permissions,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Gid, Mode, OFlags, RenameFlags, Uid},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, mount_bind,
        mount_change, mount_remount, move_mount,
    },
};

use crate::plan::{ContainerPlan, RootfsPlan, TmpfsPlan, UpperPlan};

/// The longest value `fsconfig` takes, in bytes (fs/fsopen.c).
const FSCONFIG_MAX: usize = 255;

/// A mount that could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    #[error("cannot mount {what} on {target}: {source}")]
    Mount {
        what: &'static str,
        target: PathBuf,
        source: io::Error,
    },
    #[error("cannot open layer {path}: {source}")]
    Layer { path: PathBuf, source: io::Error },
    #[error("an overlay for {target} needs at least one layer")]
    NoLayer { target: PathBuf },
}

impl MountError {
    fn of(what: &'static str, target: &Path) -> impl Fn(Errno) -> Self + Copy {
        move |source| Self::Mount {
            what,
            target: target.to_owned(),
            source: source.into(),
        }
    }
}

/// Mounts an emptyDir that lies in memory, or `/dev/shm`.
pub(crate) fn mount_tmpfs(plan: &TmpfsPlan) -> Result<(), MountError> {
    let failed = MountError::of("tmpfs", &plan.target);
    // Any user of any container may write, as kubelet makes it.
    let mut options = match plan.group {
        _ if plan.shared_memory => "mode=01777".to_owned(),
        Some(group) => format!("mode=02777,gid={group}"),
        None => "mode=0777".to_owned(),
    };
    if let Some(size) = plan.size {
        options.push_str(&format!(",size={size}"));
    }
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if plan.shared_memory {
        flags |= MountFlags::NOEXEC;
    }
    let options = std::ffi::CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    mount("tmpfs", &plan.target, "tmpfs", flags, Some(options.as_c_str())).map_err(failed)
}

/// Has mounts that are made in a directory seen by all that it is mounted into, and nowhere else.
pub(crate) fn share(dir: &Path) -> Result<(), MountError> {
    let failed = MountError::of("a shared volume", dir);
    // A mount of its own, whatever it lies on: nothing goes from there to what that is shared with.
    mount_bind(dir, dir).map_err(failed)?;
    mount_change(dir, MountPropagationFlags::PRIVATE).map_err(failed)?;
    mount_change(dir, MountPropagationFlags::SHARED).map_err(failed)
}

/// Mounts layers, the uppermost first, on a directory as one file system to be shown to others:
/// read-only, and nothing of it is a device or is executed here.
///
/// # Errors
/// Names the layer or the mount that failed.
pub fn mount_layers(layers: &[PathBuf], target: &Path) -> io::Result<()> {
    mount_on(target, layers, None).map_err(io::Error::other)?;
    magik_sys::mount::restrict(
        target,
        MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC,
    )
}

/// Mounts a container's root file system on its bundle's `rootfs`.
pub(crate) fn mount_rootfs(plan: &ContainerPlan) -> Result<(), MountError> {
    match &plan.rootfs {
        RootfsPlan::Directory { .. } => Ok(()),
        RootfsPlan::Overlay { lower, upper } => mount_on(&plan.bundle.join("rootfs"), lower, upper.as_ref()),
    }
}

fn mount_on(target: &Path, lower: &[PathBuf], upper: Option<&UpperPlan>) -> Result<(), MountError> {
    match (lower, upper) {
        ([], _) => Err(MountError::NoLayer {
            target: target.to_owned(),
        }),
        // overlayfs wants two layers when there is no upper one.
        ([layer], None) => bind_read_only(layer, target),
        (lower, upper) => overlay(lower, upper, target),
    }
}

/// Undoes [`mount_rootfs`], as far as it was done.
pub(crate) fn unmount(plan: &ContainerPlan) {
    if matches!(plan.rootfs, RootfsPlan::Overlay { .. }) {
        let _ = rustix::mount::unmount(plan.bundle.join("rootfs"), rustix::mount::UnmountFlags::DETACH);
    }
}

/// Mounts a container's root file system once more, with a writable layer that is empty and belongs
/// to `root`, and returns the directories that are not used any more. One without a writable layer
/// of its own stays as it is.
pub(crate) fn renew(plan: &ContainerPlan, root: u32) -> Result<Vec<PathBuf>, MountError> {
    let RootfsPlan::Overlay {
        upper: Some(UpperPlan { upper, work }),
        ..
    } = &plan.rootfs
    else {
        return Ok(Vec::new());
    };
    unmount(plan);
    let failed = |dir: &Path| {
        let path = dir.to_owned();
        move |source| MountError::Layer { path, source }
    };
    // The old layer may be in use until the last mount namespace with it is gone: it is not used
    // again. Its owner and its mode are what the container made of them.
    let old = vec![
        replace(upper, root, 0o755).map_err(failed(upper))?,
        replace(work, 0, 0o700).map_err(failed(work))?,
    ];
    mount_rootfs(plan)?;
    Ok(old)
}

/// Makes the directories of a container's writable layer, where nobody else does.
pub(crate) fn make_layer(plan: &ContainerPlan) -> Result<(), MountError> {
    let Some((dir, UpperPlan { upper, work })) = own_layer(plan) else {
        return Ok(());
    };
    // The upper directory's mode is that of the container's `/`.
    for (dir, mode) in [(dir, 0o700), (upper, 0o755), (work, 0o700)] {
        let made = std::fs::create_dir(dir);
        let made = made.and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(mode)));
        made.map_err(|source| MountError::Layer {
            path: dir.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// A container is no more: puts its writable layer aside, and returns what is to be removed.
pub(crate) fn discard_layer(plan: &ContainerPlan) -> Vec<PathBuf> {
    let dir = own_layer(plan).map(|(dir, _)| dir);
    let aside = dir.map(put_aside).transpose();
    aside.ok().flatten().into_iter().collect()
}

/// A container's writable layer, and the directory that holds it.
fn own_layer(plan: &ContainerPlan) -> Option<(&Path, &UpperPlan)> {
    let RootfsPlan::Overlay {
        upper: Some(layer), ..
    } = &plan.rootfs
    else {
        return None;
    };
    Some((layer.upper.parent()?, layer))
}

/// Gives a directory another name, which is returned.
fn put_aside(dir: &Path) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let aside = dir.with_extension(format!("old-{number}"));
        match rustix::fs::renameat_with(CWD, dir, CWD, &aside, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(aside),
            // What is left of an earlier one is still being removed.
            Err(Errno::EXIST) if number < u32::MAX => number += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// Puts an empty directory in a directory's place, and returns where that is now.
fn replace(dir: &Path, owner: u32, mode: u32) -> io::Result<PathBuf> {
    let old = put_aside(dir)?;
    std::fs::create_dir(dir)?;
    let made = rustix::fs::open(
        dir,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    rustix::fs::fchown(&made, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)))?;
    rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
    Ok(old)
}

/// Removes what [`renew`] has left, a part at a time, so that the pod goes on meanwhile.
pub(crate) async fn remove_old(old: Vec<PathBuf>) {
    /// How many files are removed before others have their turn.
    const PART: usize = 200;
    /// Others may still write there: those who have it open, or got there through `/proc`.
    const MAX_ERRORS: usize = 100;
    for dir in old {
        let mut errors = 0;
        loop {
            match magik_sys::tree::remove_some(&dir, PART) {
                Ok(true) => break,
                Ok(false) => tokio::task::yield_now().await,
                Err(_) if errors < MAX_ERRORS => {
                    errors += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
                Err(error) => {
                    // It goes with the pod.
                    tracing::warn!(%error, "a writable layer that is not used any more remains");
                    break;
                }
            }
        }
    }
}

fn bind_read_only(layer: &Path, target: &Path) -> Result<(), MountError> {
    let failed = MountError::of("layer", target);
    mount_bind(layer, target).map_err(failed)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NODEV;
    mount_remount(target, flags, "").map_err(failed)
}

fn overlay(lower: &[PathBuf], upper: Option<&UpperPlan>, target: &Path) -> Result<(), MountError> {
    match overlay_by_fsconfig(lower, upper, target) {
        // Before Linux 6.5 there is no `lowerdir+`; before 5.2 no fsopen.
        Err(MountError::Mount { source, .. })
            if matches!(
                Errno::from_io_error(&source),
                Some(Errno::INVAL | Errno::NOSYS | Errno::PERM)
            ) =>
        {
            overlay_by_mount(lower, upper, target)
        }
        result => result,
    }
}

/// One parameter per layer: no limit on their number or on the characters in their paths.
fn overlay_by_fsconfig(
    lower: &[PathBuf],
    upper: Option<&UpperPlan>,
    target: &Path,
) -> Result<(), MountError> {
    let failed = MountError::of("overlay", target);
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    let mut opened = Vec::new();
    for layer in lower {
        let path = short(layer, &mut opened)?;
        fsconfig_set_string(fs.as_fd(), "lowerdir+", &path).map_err(failed)?;
    }
    if let Some(UpperPlan { upper, work }) = upper {
        let (upper, work) = (short(upper, &mut opened)?, short(work, &mut opened)?);
        fsconfig_set_string(fs.as_fd(), "upperdir", &upper).map_err(failed)?;
        fsconfig_set_string(fs.as_fd(), "workdir", &work).map_err(failed)?;
        // The layer dies with the pod: without this, every unmount would sync the host's whole file
        // system.
        fsconfig_set_flag(fs.as_fd(), "volatile").map_err(failed)?;
    }
    fsconfig_create(fs.as_fd()).map_err(failed)?;
    let mut attributes = MountAttrFlags::MOUNT_ATTR_NODEV;
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, upper.is_none());
    let made = fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(failed)?;
    move_mount(
        made.as_fd(),
        "",
        CWD,
        target,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(failed)
}

/// The old way: all options in one page. Layers are named by descriptor, so that 128 of them fit
/// and no path is cut at a comma or colon.
fn overlay_by_mount(lower: &[PathBuf], upper: Option<&UpperPlan>, target: &Path) -> Result<(), MountError> {
    let failed = MountError::of("overlay", target);
    let mut opened = Vec::new();
    let names = lower
        .iter()
        .map(|layer| by_descriptor(layer, &mut opened))
        .collect::<Result<Vec<_>, _>>()?;
    let mut options = format!("lowerdir={}", names.join(":"));
    let mut flags = MountFlags::NODEV;
    if let Some(UpperPlan { upper, work }) = upper {
        let (upper, work) = (
            by_descriptor(upper, &mut opened)?,
            by_descriptor(work, &mut opened)?,
        );
        options.push_str(&format!(",upperdir={upper},workdir={work},volatile"));
    } else {
        flags |= MountFlags::RDONLY;
    }
    let options = std::ffi::CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    mount("overlay", target, "overlay", flags, Some(options.as_c_str())).map_err(failed)
}

/// The path as it is, or by descriptor if `fsconfig` would not take it.
fn short(path: &Path, opened: &mut Vec<OwnedFd>) -> Result<PathBuf, MountError> {
    if path.as_os_str().len() <= FSCONFIG_MAX {
        return Ok(path.to_owned());
    }
    by_descriptor(path, opened).map(PathBuf::from)
}

fn by_descriptor(path: &Path, opened: &mut Vec<OwnedFd>) -> Result<String, MountError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|source| MountError::Layer {
        path: path.to_owned(),
        source: source.into(),
    })?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    opened.push(fd);
    Ok(name)
}

#[cfg(test)]
mod tests {
    use magikrun_test_world::with_own_mounts;

    use super::*;

    /// Makes a pod's worth of layers, and a place to mount them on.
    fn layers(dir: &Path, count: usize) -> (Vec<PathBuf>, UpperPlan, PathBuf) {
        let make = |name: String| {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let lower: Vec<_> = (0..count).map(|n| make(format!("a,b:c/{n:064}"))).collect();
        for (n, layer) in lower.iter().enumerate() {
            std::fs::write(layer.join("top"), n.to_string()).unwrap();
            std::fs::write(layer.join(format!("file{n}")), "").unwrap();
        }
        (
            lower,
            UpperPlan {
                upper: make("upper".into()),
                work: make("work".into()),
            },
            make("rootfs".into()),
        )
    }

    #[test]
    fn the_old_way_of_mounting_takes_128_layers_with_awkward_paths_too() {
        with_own_mounts(
            "the_old_way_of_mounting_takes_128_layers_with_awkward_paths_too",
            || {
                let dir = tempfile::tempdir().unwrap();
                let (lower, upper, target) = layers(dir.path(), 128);
                overlay_by_mount(&lower, Some(&upper), &target).unwrap();
                assert_eq!(std::fs::read(target.join("top")).unwrap(), b"0");
                assert!(target.join("file127").exists());
                std::fs::write(target.join("new"), "").unwrap();
                assert!(upper.upper.join("new").exists());
                rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
            },
        );
    }

    /// What opening the file does, as `None` or the error.
    fn opening(path: &Path) -> Option<Errno> {
        rustix::fs::open(path, OFlags::RDWR | OFlags::NONBLOCK, Mode::empty()).err()
    }

    #[test]
    fn a_layers_device_file_is_no_device_whichever_way_it_is_mounted() {
        with_own_mounts(
            "a_layers_device_file_is_no_device_whichever_way_it_is_mounted",
            || {
                let dir = tempfile::tempdir().unwrap();
                let (lower, upper, target) = layers(dir.path(), 2);
                // A volatile overlay's directories are used once.
                let (_, old, _) = layers(&dir.path().join("old"), 0);
                let node = lower[0].join("null");
                let (kind, device) = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
                rustix::fs::mknodat(CWD, &node, kind, Mode::from_raw_mode(0o666), device).unwrap();
                assert_eq!(opening(&node), None, "where it lies it is a device");
                let ways: [(&str, &dyn Fn() -> bool); 6] = [
                    ("fsconfig", &|| {
                        overlay_by_fsconfig(&lower, Some(&upper), &target).is_ok()
                    }),
                    ("fsconfig, read-only", &|| {
                        overlay_by_fsconfig(&lower, None, &target).is_ok()
                    }),
                    ("mount", &|| overlay_by_mount(&lower, Some(&old), &target).is_ok()),
                    ("mount, read-only", &|| {
                        overlay_by_mount(&lower, None, &target).is_ok()
                    }),
                    ("one layer", &|| bind_read_only(&lower[0], &target).is_ok()),
                    ("shown to a guest", &|| mount_layers(&lower, &target).is_ok()),
                ];
                for (way, mounted) in ways {
                    assert!(mounted(), "{way}");
                    assert_eq!(opening(&target.join("null")), Some(Errno::ACCESS), "{way}");
                    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
                }
            },
        );
    }

    #[test]
    fn a_missing_layer_is_an_error_that_names_the_place() {
        with_own_mounts("a_missing_layer_is_an_error_that_names_the_place", || {
            let dir = tempfile::tempdir().unwrap();
            let (mut lower, upper, target) = layers(dir.path(), 2);
            lower.push(dir.path().join("missing"));
            let error = overlay(&lower, Some(&upper), &target).unwrap_err().to_string();
            assert!(error.contains(target.to_str().unwrap()), "{error}");
            assert!(
                matches!(overlay_by_mount(&lower, None, &target), Err(MountError::Layer { path, .. }) if path == lower[2])
            );
        });
    }

    #[test]
    fn a_tmpfs_has_its_size() {
        with_own_mounts("a_tmpfs_has_its_size", || {
            let dir = tempfile::tempdir().unwrap();
            mount_tmpfs(&TmpfsPlan {
                target: dir.path().to_owned(),
                size: Some(1 << 20),
                group: None,
                shared_memory: false,
            })
            .unwrap();
            let stat = rustix::fs::statvfs(dir.path()).unwrap();
            assert_eq!(stat.f_blocks * stat.f_frsize, 1 << 20);
            rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        });
    }
}
