//! Everything of a pod that is files: bundles, volumes, logs, and the plan that names them.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use magik_image::{
    Image,
    bundle::{
        ContainerSettings, MountKind, MountSetting, Namespaces, Resources, UserSpec, runtime_spec,
        write_bundle,
    },
};
use magik_infra::plan::{ContainerPlan, PodPlan, RootfsPlan, TmpfsPlan, UpperPlan};

use super::{
    cgroup::Hierarchies,
    paths::{Paths, make_dir},
};
use crate::{ContainerSpec, EmptyDir, HostPath, HostPathKind, PodSpec, VolumeSource};

/// What a pod has in `/etc` of each container.
const ETC: [&str; 3] = ["hosts", "hostname", "resolv.conf"];

/// Where the image of one container is.
#[derive(Debug, Clone)]
pub(super) struct ContainerImage {
    pub(super) image: Image,
    /// Unpacked layers, uppermost first.
    pub(super) layers: Vec<PathBuf>,
}

/// What failed, in which container.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) container: Option<String>,
    pub(super) reason: String,
}

impl Failure {
    fn io(what: impl std::fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |e| Self {
            container: None,
            reason: format!("{what}: {e}"),
        }
    }

    fn of(container: &str) -> impl FnOnce(Self) -> Self {
        move |failure| Self {
            container: Some(container.to_owned()),
            ..failure
        }
    }
}

/// Writes a pod's files, all of them below its own directories, and returns its plan.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    pub(super) paths: &'a Paths,
    pub(super) id: &'a str,
    pub(super) spec: &'a PodSpec,
    /// Of all containers, init containers first.
    pub(super) images: &'a [ContainerImage],
}

impl Builder<'_> {
    pub(super) fn build(&self) -> Result<PodPlan, Failure> {
        let data = self.paths.data_pod(self.id);
        for dir in [&data, &data.join("logs"), &data.join("rw"), &data.join("volumes")] {
            make_dir(dir, 0o700).map_err(Failure::io(format!("create {}", dir.display())))?;
        }
        let sandbox = self.paths.sandbox(self.id);
        for dir in [&sandbox, &sandbox.join("containers"), &sandbox.join("etc")] {
            make_dir(dir, 0o700).map_err(Failure::io(format!("create {}", dir.display())))?;
        }
        let mount_points = self.make_mount_points()?;
        let hostname = self.hostname();
        let etc = self.write_etc(&hostname)?;
        let tmpfs = self.make_volumes()?;
        let mut plans = Vec::with_capacity(self.images.len());
        for (container, image) in self.spec.all_containers().zip(self.images) {
            plans.push(
                self.container(container, image, &hostname, &etc, &mount_points)
                    .map_err(Failure::of(&container.name))?,
            );
        }
        let containers = plans.split_off(self.spec.init_containers.len());
        Ok(PodPlan {
            id: self.id.to_owned(),
            name: self.spec.name.clone(),
            namespace: self.spec.namespace.clone(),
            labels: self.spec.labels.clone(),
            annotations: self.spec.annotations.clone(),
            tmpfs,
            init_containers: plans,
            containers,
            grace_period_s: self.spec.termination_grace_period.as_secs(),
            active_deadline_s: self.spec.active_deadline.as_ref().map(Duration::as_secs),
        })
    }

    /// As kubelet has it: the pod's own, or its name cut to a label, or the host's with the host's network.
    pub(super) fn hostname(&self) -> String {
        if let Some(hostname) = &self.spec.hostname {
            return hostname.clone();
        }
        if self.spec.host_network {
            return rustix::system::uname().nodename().to_string_lossy().into_owned();
        }
        self.spec.name[..self.spec.name.len().min(63)]
            .trim_end_matches(['-', '.'])
            .to_owned()
    }

    /// A layer below all others with what every container has something mounted on: what an image lacks of it need not be
    /// made in each container's own layer, together with a copy of the image's `/etc`.
    fn make_mount_points(&self) -> Result<PathBuf, Failure> {
        let layer = self.paths.sandbox(self.id).join("mount-points");
        let make = || {
            make_dir(&layer, 0o755)?;
            for dir in ["dev", "etc", "proc", "sys"] {
                make_dir(&layer.join(dir), 0o755)?;
            }
            for file in ETC {
                fs::write(layer.join("etc").join(file), "")?;
            }
            Ok(())
        };
        make().map_err(Failure::io(format!("create {}", layer.display())))?;
        Ok(layer)
    }

    /// `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf`, made for the pod and mounted into each container.
    fn write_etc(&self, hostname: &str) -> Result<Vec<MountSetting>, Failure> {
        let dir = self.paths.sandbox(self.id).join("etc");
        let hosts = format!(
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.1.1\t{hostname}\n"
        );
        let resolv = if self.spec.host_network {
            fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
        } else {
            String::new()
        };
        let hosts = if self.spec.host_network {
            fs::read_to_string("/etc/hosts").unwrap_or(hosts)
        } else {
            hosts
        };
        let texts = [hosts, format!("{hostname}\n"), resolv];
        let mut mounts = Vec::with_capacity(ETC.len());
        for (name, text) in ETC.into_iter().zip(texts) {
            let source = dir.join(name);
            fs::write(&source, text)
                .and_then(|()| {
                    fs::set_permissions(&source, std::os::unix::fs::PermissionsExt::from_mode(0o644))
                })
                .map_err(Failure::io(format!("write {}", source.display())))?;
            mounts.push(MountSetting {
                source,
                target: Path::new("/etc").join(name),
                readonly: false,
                kind: MountKind::Bind,
            });
        }
        Ok(mounts)
    }

    /// Makes the volumes; those in memory are mounted by the init.
    fn make_volumes(&self) -> Result<Vec<TmpfsPlan>, Failure> {
        let mut tmpfs = Vec::new();
        for volume in &self.spec.volumes {
            match &volume.source {
                VolumeSource::EmptyDir(kind) => {
                    let target = self.volume(&volume.name);
                    // Any user of any container may write: as kubelet makes it.
                    make_dir(&target, 0o777).map_err(Failure::io(format!(
                        "volume {}: create {}",
                        volume.name,
                        target.display()
                    )))?;
                    if let EmptyDir::Memory { size_limit } = *kind {
                        tmpfs.push(TmpfsPlan {
                            target,
                            size: size_limit,
                        });
                    }
                }
                VolumeSource::HostPath(host_path) => {
                    prepare_host_path(host_path).map_err(|reason| Failure {
                        container: None,
                        reason: format!(
                            "volume {}: hostPath {} {reason}",
                            volume.name,
                            host_path.path.display()
                        ),
                    })?;
                }
            }
        }
        Ok(tmpfs)
    }

    fn volume(&self, name: &str) -> PathBuf {
        self.paths.data_pod(self.id).join("volumes").join(name)
    }

    fn container(
        &self,
        container: &ContainerSpec,
        image: &ContainerImage,
        hostname: &str,
        etc: &[MountSetting],
        mount_points: &Path,
    ) -> Result<ContainerPlan, Failure> {
        let bundle = self.paths.bundle(self.id, &container.name);
        let rw = self.paths.data_pod(self.id).join("rw").join(&container.name);
        let (upper, work) = (rw.join("upper"), rw.join("work"));
        // The upper directory's mode is that of the container's `/`.
        for (dir, mode) in [
            (&bundle, 0o700),
            (&bundle.join("rootfs"), 0o755),
            (&rw, 0o700),
            (&upper, 0o755),
            (&work, 0o700),
        ] {
            make_dir(dir, mode).map_err(Failure::io(format!("create {}", dir.display())))?;
        }
        let settings = self.settings(container, image, hostname, etc);
        let spec = runtime_spec(&image.image.config, &settings).map_err(|e| Failure {
            container: None,
            reason: e.to_string(),
        })?;
        write_bundle(&bundle, &spec).map_err(|e| Failure {
            container: None,
            reason: e.to_string(),
        })?;
        let mut lower = image.layers.clone();
        lower.push(mount_points.to_owned());
        Ok(ContainerPlan {
            name: container.name.clone(),
            image: container.image.to_string(),
            rootfs: RootfsPlan::Overlay {
                lower,
                upper: Some(UpperPlan { upper, work }),
            },
            log: self.paths.log(self.id, &container.name),
            bundle,
        })
    }

    fn settings(
        &self,
        container: &ContainerSpec,
        image: &ContainerImage,
        hostname: &str,
        etc: &[MountSetting],
    ) -> ContainerSettings {
        let security = &container.security;
        let volumes = container.mounts.iter().map(|mount| {
            let volume = self
                .spec
                .volumes
                .iter()
                .find(|v| v.name == mount.volume)
                .map(|v| &v.source);
            let source = match volume {
                Some(VolumeSource::HostPath(host)) => host.path.clone(),
                _ => self.volume(&mount.volume),
            };
            MountSetting {
                source,
                target: mount.path.clone(),
                readonly: mount.read_only,
                kind: MountKind::Bind,
            }
        });
        // What the pod mounts itself takes the place of ours.
        let own = etc
            .iter()
            .filter(|ours| container.mounts.iter().all(|mount| mount.path != ours.target));
        let mounts: Vec<MountSetting> = own.cloned().chain(volumes).collect();
        ContainerSettings {
            command: container.command.clone(),
            args: container.args.clone(),
            env: container.env.clone(),
            cwd: container.working_dir.clone(),
            user: security.run_as_user.map(|uid| UserSpec {
                user: Some(uid.to_string()),
                group: security.run_as_group.map(|gid| gid.to_string()),
            }),
            rootfs_layers: image.layers.clone(),
            hostname: Some(hostname.to_owned()),
            readonly_rootfs: security.read_only_root_filesystem,
            privileged: security.privileged,
            add_capabilities: security.add_capabilities.clone(),
            drop_capabilities: security.drop_capabilities.clone(),
            mounts,
            resources: Resources {
                memory_limit: container.limits.memory,
                cpu_millis: container.limits.cpu_millis,
                // As kubelet does: a request for a processor's worth is a weight of 1024.
                cpu_shares: container
                    .requests
                    .cpu_millis
                    .map(|millis| (millis * 1024 / 1000).max(2)),
                pids_limit: None,
            },
            namespaces: Namespaces {
                pid: !self.spec.share_process_namespace,
                ..Namespaces::IN_POD
            },
            cgroups_path: Some(Hierarchies::container_path(self.id, &container.name)),
            ..ContainerSettings::default()
        }
    }
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
