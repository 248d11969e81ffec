//! What a container's root file system costs once its image is there: one overlay of its layers with a writable one on top, made as
//! a pod's init makes it (`magik-infra`, init/rootfs.rs), and unmounted again.

use std::{
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

/// How often it is done for one sample.
const REPEATS: usize = 20;

/// Mounts the layers below a data root, `REPEATS` times, each time with a new writable layer.
pub(super) fn mounts(data: &Path) -> Result<Vec<Duration>> {
    let layers: Vec<PathBuf> = fs::read_dir(data.join("layers"))?
        .map(|entry| Ok(entry?.path().join("fs")))
        .collect::<Result<_>>()?;
    let layers: Vec<PathBuf> = layers.into_iter().filter(|layer| layer.is_dir()).collect();
    ensure!(
        layers.len() == super::LAYERS,
        "{}: not the image's layers: {layers:?}",
        data.display()
    );
    let dir = data.join("mount");
    let mut times = Vec::new();
    for _ in 0..REPEATS {
        let [upper, work, target] = ["upper", "work", "rootfs"].map(|name| dir.join(name));
        for dir in [&upper, &work, &target] {
            fs::create_dir_all(dir)?;
        }
        let begun = Instant::now();
        mount(&layers, &upper, &work, &target).context("overlay")?;
        // Not only in the mount table: its first file is there, too.
        ensure!(target.join("etc/passwd").is_file(), "no /etc/passwd");
        unmount(&target, UnmountFlags::empty())?;
        times.push(begun.elapsed());
        fs::remove_dir_all(&dir)?;
    }
    Ok(times)
}

fn mount(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<()> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(overlay.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_set_string(overlay.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(overlay.as_fd(), "workdir", work)?;
    fsconfig_set_flag(overlay.as_fd(), "volatile")?;
    fsconfig_create(overlay.as_fd())?;
    let made = fsmount(
        overlay.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(made.as_fd(), "", rustix::fs::CWD, target, flags)?)
}
