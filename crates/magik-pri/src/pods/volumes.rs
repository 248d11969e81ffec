//! A pod's volumes: made before its init starts, mounted into its containers.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use magik_image::bundle::{MountKind, MountSetting, Propagation};
use magik_infra::plan::{DiskLimit, TmpfsPlan};
use magik_oci::mounts::sub_path_option;
use magik_sys::mountinfo;

use super::{
    etc::ETC,
    failure::Failure,
    files::PodFiles,
    group,
    named::Volumes,
    paths::{Paths, make_dir},
};
use crate::{
    ContainerSpec, EmptyDir, Error, HostPath, HostPathKind, ImageVolume, Mount, MountPropagation, PodSpec,
    RuntimeClass, SpecError, Volume, VolumeClaim, VolumeSource, spec::Problems,
};

const SHARED_MEMORY: &str = "/dev/shm";
/// Beside the volumes; no volume has such a name.
pub(crate) const SHARED_MEMORY_VOLUME: &str = ".shm";
/// As containerd and podman have it.
const SHARED_MEMORY_SIZE: u64 = 64 << 20;

/// Whether containers share a `/dev/shm` of the pod's own. WebAssembly has none.
pub(crate) fn has_shared_memory(spec: &PodSpec) -> bool {
    !spec.host_ipc && spec.runtime() != Some(RuntimeClass::Wasm)
}

impl PodFiles<'_> {
    /// A container's volumes, and the pod's files in `/etc` where it mounts nothing itself.
    /// `sub_paths`: of each volume, the part that it mounts.
    pub(super) fn mounts(
        &self,
        container: &ContainerSpec,
        sub_paths: Vec<Option<String>>,
    ) -> Vec<MountSetting> {
        let mounted = container.mounts.iter().zip(sub_paths);
        let mounted = mounted.map(|(mount, sub_path)| self.mount(mount, sub_path.as_deref()));
        let mut volumes: Vec<_> = mounted.collect();
        // As CRI runtimes do it: an outer mount does not cover an inner one, whatever order they are
        // written in.
        volumes.sort_by_key(|mount| mount.target.components().count());
        let etc = self.paths.sandbox(self.id).join("etc");
        // They lie on the state root, which is memory of the host's that no limit of the pod's counts.
        let own = ETC.map(|name| MountSetting::bind(etc.join(name), Path::new("/etc").join(name), true));
        own.into_iter()
            .chain(self.shared_memory())
            .filter(|ours| container.mounts.iter().all(|mount| mount.path != ours.target))
            .filter(|ours| ours.target != container.termination_message.path)
            .chain(volumes)
            .collect()
    }

    /// What processes share beside System V IPC: all of the pod's, or of the host's.
    fn shared_memory(&self) -> Option<MountSetting> {
        if self.spec.host_ipc {
            return Some(MountSetting::bind(SHARED_MEMORY, SHARED_MEMORY, false));
        }
        has_shared_memory(self.spec).then(|| MountSetting {
            kind: MountKind::BindUnmapped,
            ..MountSetting::bind(self.volume(SHARED_MEMORY_VOLUME), SHARED_MEMORY, false)
        })
    }

    fn mount(&self, mount: &Mount, sub_path: Option<&str>) -> MountSetting {
        let mut volumes = self.spec.volumes.iter();
        let volume = volumes.find(|v| v.name == mount.volume).map(|v| &v.source);
        let source = match volume {
            Some(VolumeSource::HostPath(_)) if mount.propagation == MountPropagation::Bidirectional => {
                shared_with_host(&self.paths.sandbox(self.id), &mount.volume)
            }
            Some(VolumeSource::HostPath(host)) => host.path.clone(),
            _ => self.volume(&mount.volume),
        };
        // As kubelet mounts them, whatever the container says.
        let readonly =
            mount.read_only || matches!(volume, Some(VolumeSource::Data(_) | VolumeSource::Image(_)));
        MountSetting {
            // An overlay has them as the pod's users do.
            keeps_owners: matches!(volume, Some(VolumeSource::Image(_))),
            recursive_readonly: mount.recursive_read_only,
            propagation: match mount.propagation {
                MountPropagation::None => Propagation::Private,
                MountPropagation::HostToContainer => Propagation::FromSource,
                MountPropagation::Bidirectional => Propagation::Both,
            },
            options: sub_path
                .and_then(|path| sub_path_option(Path::new(path)))
                .into_iter()
                .collect(),
            ..MountSetting::bind(source, &mount.path, readonly)
        }
    }

    /// Has the volumes that the pod claims there, and notes that it uses them.
    pub(super) fn take_claims(&self) -> Result<(), Failure> {
        if self.spec.claims.is_empty() {
            return Ok(());
        }
        let volumes = Volumes::of(self.paths);
        let taken = self.spec.claims.iter().try_for_each(|VolumeClaim { claim, .. }| {
            volumes.take(self.id, &self.spec.namespace, claim, self.spec.fs_group)
        });
        taken.map_err(Failure::new)
    }

    /// As a kubelet's runtime does, what would not work is refused.
    fn check_propagation(&self, volume: &Volume, host: &HostPath) -> Result<(), String> {
        let asked = propagation_of(self.spec, &volume.name);
        if asked == MountPropagation::None {
            return Ok(());
        }
        let failed = |e: std::io::Error| e.to_string();
        let table = mountinfo::read().map_err(failed)?;
        let path = host.path.canonicalize().map_err(failed)?;
        let mount = mountinfo::of(&table, &path);
        let (right, wanted) = match asked {
            MountPropagation::Bidirectional => (mount.as_ref().is_some_and(|m| m.is_shared), "shared"),
            _ => (
                mount.as_ref().is_some_and(|m| m.is_shared || m.is_slave),
                "shared or slave",
            ),
        };
        if right {
            return Ok(());
        }
        let point = mount.map(|mount| mount.point).unwrap_or_default();
        Err(format!(
            "lies on the mount {}, which is not {wanted}, so that nothing propagates: mount --make-shared {0}",
            point.display()
        ))
    }

    /// The volumes in which mounts go from one container to another.
    pub(super) fn shared_volumes(&self) -> Vec<PathBuf> {
        let volumes = self.spec.volumes.iter();
        // Those of the host go there and come from there.
        volumes
            .filter(|volume| !matches!(volume.source, VolumeSource::HostPath(_)))
            .filter(|volume| propagation_of(self.spec, &volume.name) != MountPropagation::None)
            .map(|volume| self.volume(&volume.name))
            .collect()
    }

    /// What the pod's volumes may have on disk.
    pub(super) fn disk_limits(&self) -> Vec<DiskLimit> {
        let limits = self.spec.volumes.iter().filter_map(|volume| match volume.source {
            VolumeSource::EmptyDir(EmptyDir::LimitedDisk { size_limit }) => Some(DiskLimit {
                path: self.volume(&volume.name),
                bytes: size_limit,
                // In a kubelet's words.
                message: format!(
                    "Usage of EmptyDir volume {:?} exceeds the limit {:?}.",
                    volume.name,
                    binary(size_limit)
                ),
            }),
            _ => None,
        });
        limits.collect()
    }

    pub(crate) fn volume(&self, name: &str) -> PathBuf {
        self.paths.data_pod(self.id).join("volumes").join(name)
    }

    /// Makes the volumes; those in memory are mounted by the init.
    pub(super) fn make_volumes(&self) -> Result<Vec<TmpfsPlan>, Failure> {
        let mut tmpfs = Vec::new();
        if has_shared_memory(self.spec) {
            let target = self.volume(SHARED_MEMORY_VOLUME);
            make_dir(&target, 0o700).map_err(Failure::io(format!("create {}", target.display())))?;
            tmpfs.push(TmpfsPlan {
                target,
                size: Some(SHARED_MEMORY_SIZE),
                group: None,
                shared_memory: true,
            });
        }
        for volume in &self.spec.volumes {
            match &volume.source {
                VolumeSource::EmptyDir(kind) => {
                    let target = self.volume(&volume.name);
                    // Any user of any container may write: as kubelet makes it.
                    make_dir(&target, 0o777)
                        .and_then(|()| group::give(&target, 0o777, self.spec.fs_group))
                        .map_err(Failure::io(format!(
                            "volume {}: create {}",
                            volume.name,
                            target.display()
                        )))?;
                    if let EmptyDir::Memory { size_limit } = *kind {
                        tmpfs.push(TmpfsPlan {
                            target,
                            size: size_limit,
                            group: self.spec.fs_group,
                            shared_memory: false,
                        });
                    }
                }
                VolumeSource::Data(_) | VolumeSource::Image(_) => {
                    let target = self.volume(&volume.name);
                    make_dir(&target, 0o755).map_err(Failure::io(format!(
                        "volume {}: create {}",
                        volume.name,
                        target.display()
                    )))?;
                }
                // Known before by what it is.
                VolumeSource::Claim(_) => {}
                VolumeSource::HostPath(host_path) => {
                    let prepared = prepare_host_path(host_path);
                    let prepared = prepared.and_then(|()| self.check_propagation(volume, host_path));
                    prepared.map_err(|reason| Failure {
                        container: None,
                        reason: format!(
                            "volume {}: hostPath {}: {reason}",
                            volume.name,
                            host_path.path.display()
                        ),
                    })?;
                }
            }
        }
        Ok(tmpfs)
    }
}

/// A number of bytes, as short as it can be said.
fn binary(bytes: u64) -> String {
    let units = [
        (1_u64 << 40, "Ti"),
        (1 << 30, "Gi"),
        (1 << 20, "Mi"),
        (1 << 10, "Ki"),
    ];
    let unit = units.into_iter().find(|(unit, _)| bytes.is_multiple_of(*unit));
    unit.map_or_else(
        || bytes.to_string(),
        |(unit, name)| format!("{}{name}", bytes / unit),
    )
}

/// The pod with the directories of the volumes that it claims. Nothing is made yet; one that there
/// is not, and that is not to be made, is an error.
pub(crate) fn with_claims(paths: &Paths, spec: &PodSpec) -> Result<PodSpec, Error> {
    let mut spec = spec.clone();
    if spec.claim_names().next().is_none() {
        return Ok(spec);
    }
    let volumes = Volumes::of(paths);
    let mut problems = Problems::default();
    for (i, volume) in spec.volumes.iter_mut().enumerate() {
        let VolumeSource::Claim(claim) = &volume.source else {
            continue;
        };
        let claim = claim.clone();
        if !claim.make && !volumes.exists(&spec.namespace, &claim.name) {
            let (space, name) = (&spec.namespace, &claim.name);
            problems.add(SpecError::invalid(
                format!("spec.volumes[{i}].persistentVolumeClaim.claimName"),
                format!(
                    "there is no volume {name:?} in the namespace {space}: 'magikrun volume create {name}' makes it, and so does its PersistentVolumeClaim beside the pod"
                ),
            ));
        }
        volume.source = VolumeSource::HostPath(HostPath {
            path: volumes.data(&spec.namespace, &claim.name),
            kind: HostPathKind::Directory,
        });
        let volume = volume.name.clone();
        spec.claims.push(VolumeClaim { volume, claim });
    }
    problems.finish()?;
    Ok(spec)
}

/// The most that a container asks for a volume.
fn propagation_of(spec: &PodSpec, volume: &str) -> MountPropagation {
    let mounts = spec.all_containers().flat_map(|c| &c.mounts);
    let asked = mounts.filter(|mount| mount.volume == volume);
    let asked: Vec<_> = asked.map(|mount| mount.propagation).collect();
    let all = [MountPropagation::Bidirectional, MountPropagation::HostToContainer];
    let most = all.into_iter().find(|propagation| asked.contains(propagation));
    most.unwrap_or_default()
}

/// The volumes that are images, by name.
pub(crate) fn image_volumes(spec: &PodSpec) -> impl Iterator<Item = (&str, &ImageVolume)> {
    spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Image(image) => Some((volume.name.as_str(), image)),
        _ => None,
    })
}

/// The directories of the host that mounts of containers go to, by volume.
pub(crate) fn shared_host_paths(spec: &PodSpec) -> Vec<(String, PathBuf)> {
    let shared = spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::HostPath(host)
            if propagation_of(spec, &volume.name) == MountPropagation::Bidirectional =>
        {
            Some((volume.name.clone(), host.path.clone()))
        }
        _ => None,
    });
    shared.collect()
}

/// Where the pod's init mounts such a directory, so that it goes on being the host's.
pub(crate) fn shared_with_host(sandbox: &Path, volume: &str) -> PathBuf {
    sandbox.join("shared").join(volume)
}

/// Checks what is at a `hostPath`, making it where its type says so. As in Kubernetes, what is made stays.
fn prepare_host_path(host: &HostPath) -> Result<(), String> {
    let path = &host.path;
    let made = match host.kind {
        HostPathKind::DirectoryOrCreate if !path.exists() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path)
        }
        HostPathKind::FileOrCreate if !path.exists() => fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .map(drop),
        _ => Ok(()),
    };
    made.map_err(|e| format!("cannot be made: {e}"))?;
    let found = fs::metadata(path).map_err(|e| e.to_string())?.file_type();
    let (right, wanted) = match host.kind {
        HostPathKind::Any => (true, ""),
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (found.is_dir(), "directory"),
        HostPathKind::File | HostPathKind::FileOrCreate => (found.is_file(), "regular file"),
        HostPathKind::Socket => (found.is_socket(), "socket"),
        HostPathKind::CharDevice => (found.is_char_device(), "character device"),
        HostPathKind::BlockDevice => (found.is_block_device(), "block device"),
    };
    if right {
        Ok(())
    } else {
        Err(format!("is no {wanted}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_what_their_type_says() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("file"), "x").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        let check = |name: &str, kind| {
            prepare_host_path(&HostPath {
                path: path(name),
                kind,
            })
        };
        for (name, kind, right) in [
            ("", HostPathKind::Any, true),
            ("none", HostPathKind::Any, false),
            ("", HostPathKind::Directory, true),
            ("file", HostPathKind::Directory, false),
            ("file", HostPathKind::File, true),
            ("", HostPathKind::File, false),
            ("none", HostPathKind::File, false),
            ("socket", HostPathKind::Socket, true),
            ("file", HostPathKind::Socket, false),
            ("file", HostPathKind::CharDevice, false),
            ("file", HostPathKind::BlockDevice, false),
            ("new/deep", HostPathKind::DirectoryOrCreate, true),
            ("new/deep", HostPathKind::DirectoryOrCreate, true),
            ("file", HostPathKind::DirectoryOrCreate, false),
            ("new/file", HostPathKind::FileOrCreate, true),
            ("no/where", HostPathKind::FileOrCreate, false),
        ] {
            assert_eq!(check(name, kind).is_ok(), right, "{name} {kind:?}");
        }
        assert!(path("new/deep").is_dir() && path("new/file").is_file());
    }
}
