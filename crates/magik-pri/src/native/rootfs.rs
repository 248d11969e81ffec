//! Root file systems: overlays of layers, or copies of them where the kernel makes no overlay.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use magik_infra::plan::{RootfsPlan, UpperPlan};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{FsOpenFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsopen},
};

use crate::{
    ContainerSpec,
    pods::{ContainerImage, Failure, PodFiles, linux_bundle},
};

/// How the root file systems of containers are made from their images' layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Rootfs {
    /// By an overlay, which costs a mount; by a copy if the kernel has no overlayfs, or none for a writable layer on the file
    /// system of the data root (another overlay, FUSE, NFS, a virtual machine's shared directory).
    #[default]
    OverlayOrCopy,
    /// By a copy of the layers, whose files share their content with them where the file system can do that.
    Copy,
}

/// Makes a container's root file system, or the directories it is mounted from.
pub(super) fn make(
    kind: Rootfs,
    pod: &PodFiles<'_>,
    container: &ContainerSpec,
    image: &ContainerImage,
) -> Result<RootfsPlan, Failure> {
    let mut layers = image.layers.clone();
    layers.push(pod.mount_points()?);
    let overlay = linux_bundle::overlay(pod, container, layers)?;
    let RootfsPlan::Overlay {
        lower,
        upper: Some(upper),
    } = &overlay
    else {
        return Ok(overlay);
    };
    if kind == Rootfs::OverlayOrCopy {
        match try_overlay(lower, upper) {
            Ok(()) => return Ok(seen_by_init(pod, lower, upper)),
            Err(error) => {
                tracing::info!(container = container.name, %error, "no overlay here: the image's layers are copied");
            }
        }
    }
    let path = pod.rw(&container.name).join("rootfs");
    pod.copy_layers(lower, &path)?;
    let path = pod.seen_by_init(&path);
    Ok(RootfsPlan::Directory { path })
}

/// The overlay as the pod's init makes it. What the pod writes is its users' own on disk, too: the kernel's part of an overlay,
/// which is root's, cannot write where root is nobody.
fn seen_by_init(pod: &PodFiles<'_>, lower: &[PathBuf], upper: &UpperPlan) -> RootfsPlan {
    RootfsPlan::Overlay {
        lower: lower.iter().map(|layer| pod.seen_by_init(layer)).collect(),
        upper: Some(upper.clone()),
    }
}

/// Asks for an overlay that is attached nowhere, and so is gone with its descriptor. Errors are refusals only; what else may be wrong
/// is told when it is mounted.
fn try_overlay(lower: &[PathBuf], upper: &UpperPlan) -> io::Result<()> {
    match ask_for_overlay(lower, upper) {
        Err(e @ (Errno::NODEV | Errno::INVAL | Errno::OPNOTSUPP)) => Err(e.into()),
        _ => Ok(()),
    }
}

fn ask_for_overlay(lower: &[PathBuf], upper: &UpperPlan) -> Result<(), Errno> {
    let overlay = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mut opened = Vec::new();
    // By descriptors: fsconfig takes 255 bytes, and paths may have colons. Layers are all alike: one is enough.
    let lower = lower.first().map(|layer| by_descriptor(layer, &mut opened));
    let (upper, work) = (
        by_descriptor(&upper.upper, &mut opened)?,
        by_descriptor(&upper.work, &mut opened)?,
    );
    if let Some(lower) = lower.transpose()? {
        fsconfig_set_string(overlay.as_fd(), "lowerdir", lower)?;
    }
    fsconfig_set_string(overlay.as_fd(), "upperdir", upper)?;
    fsconfig_set_string(overlay.as_fd(), "workdir", work)?;
    // Otherwise its end would sync the file system below it.
    fsconfig_set_flag(overlay.as_fd(), "ro")?;
    fsconfig_create(overlay.as_fd())
}

fn by_descriptor(dir: &Path, opened: &mut Vec<OwnedFd>) -> Result<String, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    opened.push(fd);
    Ok(name)
}
