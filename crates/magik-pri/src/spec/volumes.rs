//! From Kubernetes' volumes and mounts to ours, checking every value.

use std::{collections::HashSet, path::Path};

use k8s_openapi::{api::core::v1 as k8s, apimachinery::pkg::api::resource::Quantity};

use super::{
    EmptyDir, HostPath, HostPathKind, ImageVolume, Mount, MountPropagation, PodSpec, SpecError, SubPath,
    Volume, VolumeSource,
    check::{At, Result, absolute, image as image_source, pull_policy},
    claims, data_volume,
    errors::Problems,
    names, quantity,
};
use crate::limits::MAX_VOLUMES_PER_POD;

/// The longest path in a volume, in bytes (Linux's `PATH_MAX`, with its end).
const MAX_SUB_PATH: usize = 4095;

/// The names that mounts can have, those of volumes in which something else is wrong among them.
pub(super) struct VolumeNames {
    names: HashSet<String>,
    /// Some are not known.
    unsure: bool,
}

impl VolumeNames {
    pub(super) fn new(volumes: &[k8s::Volume], problems: &Problems) -> Self {
        let names: HashSet<String> = volumes.iter().map(|volume| volume.name.clone()).collect();
        Self {
            unsure: problems.covers("spec.volumes") || names.contains(""),
            names,
        }
    }

    /// Whether no volume can be called that.
    pub(super) fn lack(&self, name: &str) -> bool {
        !self.unsure && !self.names.contains(name)
    }
}

/// The volumes of a pod.
pub(super) fn volumes(list: Vec<k8s::Volume>, problems: &mut Problems) -> Vec<Volume> {
    if list.len() > MAX_VOLUMES_PER_POD {
        let reason = format!(
            "{} volumes, at most {MAX_VOLUMES_PER_POD} are allowed",
            list.len()
        );
        problems.add(SpecError::invalid("spec.volumes", reason));
        return Vec::new();
    }
    let mut seen = HashSet::new();
    let volume = |(i, volume): (usize, k8s::Volume)| {
        let path = format!("spec.volumes[{i}]");
        problems.or_default(names::dns_label(&volume.name).at(&format!("{path}.name")));
        if !seen.insert(volume.name.clone()) {
            problems.add(SpecError::invalid(
                format!("{path}.name"),
                format!(
                    "another volume is called {}, too: give it another name",
                    volume.name
                ),
            ));
        }
        problems.ok(only_one(&volume, &path))?;
        let source = if let Some(data) = data_volume::read(&volume, &path, problems) {
            Some(VolumeSource::Data(data))
        } else if let Some(claim) = &volume.persistent_volume_claim {
            Some(VolumeSource::Claim(claims::of_volume(claim, &path, problems)))
        } else if let Some(image) = volume.image {
            let path = format!("{path}.image");
            let source = image_source(image.reference.as_deref().unwrap_or_default());
            let policy = pull_policy(image.pull_policy.as_deref());
            let pull_policy = problems.or_default(policy.at(&format!("{path}.pullPolicy")));
            let image = problems.ok(source.at(&format!("{path}.reference")));
            image.map(|image| VolumeSource::Image(ImageVolume { image, pull_policy }))
        } else if let Some(ephemeral) = volume.ephemeral {
            // It goes with the pod.
            let mode = ephemeral
                .volume_claim_template
                .and_then(|template| template.spec.volume_mode);
            let path = format!("{path}.ephemeral.volumeClaimTemplate.spec.volumeMode");
            problems.or_default(check_volume_mode(mode.as_deref(), &path));
            Some(VolumeSource::EmptyDir(EmptyDir::Disk))
        } else if let Some(host) = &volume.host_path {
            let path = format!("{path}.hostPath");
            let host = host_path(host, &path, problems);
            problems.ok(host).map(VolumeSource::HostPath)
        } else {
            // A volume without a source is an emptyDir in Kubernetes, too.
            let dir = empty_dir(volume.empty_dir.unwrap_or_default(), &format!("{path}.emptyDir"));
            problems.ok(dir).map(VolumeSource::EmptyDir)
        };
        Some(Volume {
            name: volume.name,
            source: source?,
        })
    };
    list.into_iter().enumerate().filter_map(volume).collect()
}

/// Where a container mounts them.
pub(super) fn mounts(
    list: Vec<k8s::VolumeMount>,
    volumes: &VolumeNames,
    path: &str,
    problems: &mut Problems,
) -> Vec<Mount> {
    let mut seen = HashSet::new();
    let mut mounts = Vec::with_capacity(list.len());
    for (i, mount) in list.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        if volumes.lack(&mount.name) {
            let name: String = mount.name.chars().take(64).collect();
            problems.add(SpecError::invalid(
                format!("{path}.name"),
                format!("no volume of the pod is called {name:?}: add it to spec.volumes"),
            ));
        }
        let sub_path = sub_path(&mount, &path, problems);
        let propagation = propagation(&mount, &path, problems);
        let recursive_read_only = recursive_read_only(&mount, &path, problems);
        let path = format!("{path}.mountPath");
        // What is wrong is left out, but those behind it keep their numbers.
        let target = problems.or_default(absolute(&mount.mount_path).at(&path));
        if target == Path::new("/") {
            problems.add(SpecError::invalid(
                path,
                "must not be /, which is the image's: choose a directory",
            ));
        } else if target.is_absolute() && !seen.insert(target.clone()) {
            problems.add(SpecError::invalid(
                path,
                format!(
                    "{} is mounted on twice: choose another directory",
                    target.display()
                ),
            ));
        }
        mounts.push(Mount {
            volume: mount.name,
            path: target,
            read_only: mount.read_only.unwrap_or(false),
            recursive_read_only,
            propagation,
            sub_path,
        });
    }
    mounts
}

fn sub_path(mount: &k8s::VolumeMount, path: &str, problems: &mut Problems) -> Option<SubPath> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (plain, expression) = (given(&mount.sub_path), given(&mount.sub_path_expr));
    if plain.is_some() && expression.is_some() {
        let why = "is there beside subPath: remove one";
        problems.add(SpecError::invalid(format!("{path}.subPathExpr"), why));
    }
    if let Some(text) = plain {
        problems.or_default(check_sub_path(&text).at(&format!("{path}.subPath")));
        return Some(SubPath::Path(text));
    }
    let text = expression?;
    problems.or_default(check_sub_path(&text).at(&format!("{path}.subPathExpr")));
    Some(SubPath::Expression(text))
}

/// Whether it is a path in a volume.
pub(super) fn check_sub_path(text: &str) -> std::result::Result<(), String> {
    let shown: String = text.chars().take(64).collect();
    if text.len() > MAX_SUB_PATH || text.contains('\0') {
        return Err("is no path: too long, or it holds a NUL".into());
    }
    if text.starts_with('/') {
        return Err(format!("{shown:?} must be relative: it is a path in the volume"));
    }
    if text.split('/').any(|name| name == "..") {
        return Err(format!("{shown:?} must not hold '..'"));
    }
    Ok(())
}

fn propagation(mount: &k8s::VolumeMount, path: &str, problems: &mut Problems) -> MountPropagation {
    match mount.mount_propagation.as_deref() {
        None | Some("" | "None") => MountPropagation::None,
        Some("HostToContainer") => MountPropagation::HostToContainer,
        Some("Bidirectional") => MountPropagation::Bidirectional,
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let why = format!("{shown:?} is none of None, HostToContainer, Bidirectional");
            problems.add(SpecError::invalid(format!("{path}.mountPropagation"), why));
            MountPropagation::None
        }
    }
}

/// What a container mounts for others is the host's mounts, too, as a kubelet has it.
pub(super) fn check_propagation(mounts: &[Mount], privileged: bool, path: &str, problems: &mut Problems) {
    for (i, mount) in mounts.iter().enumerate() {
        if mount.propagation == MountPropagation::Bidirectional && !privileged {
            problems.add(SpecError::invalid(
                format!("{path}[{i}].mountPropagation"),
                "Bidirectional is for a container with securityContext.privileged: true; use HostToContainer",
            ));
        }
    }
}

fn recursive_read_only(mount: &k8s::VolumeMount, path: &str, problems: &mut Problems) -> bool {
    let text = match mount.recursive_read_only.as_deref() {
        None | Some("" | "Disabled") => return false,
        Some(text) => text,
    };
    let shown: String = text.chars().take(64).collect();
    let propagates = !matches!(mount.mount_propagation.as_deref(), None | Some("" | "None"));
    let why = match text {
        "Enabled" | "IfPossible" if mount.read_only != Some(true) => {
            "needs readOnly: true beside it".to_owned()
        }
        "Enabled" | "IfPossible" if propagates => {
            "mounts that come later would not be read-only: remove mountPropagation".to_owned()
        }
        "Enabled" | "IfPossible" => return true,
        _ => format!("{shown:?} is none of Disabled, IfPossible, Enabled"),
    };
    problems.add(SpecError::invalid(format!("{path}.recursiveReadOnly"), why));
    false
}

/// A volume has one source.
fn only_one(volume: &k8s::Volume, path: &str) -> Result<()> {
    let sources = [
        ("configMap", volume.config_map.is_some()),
        ("downwardAPI", volume.downward_api.is_some()),
        ("emptyDir", volume.empty_dir.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("image", volume.image.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("projected", volume.projected.is_some()),
        ("secret", volume.secret.is_some()),
    ];
    let mut given = sources.into_iter().filter(|(_, given)| *given);
    match (given.next(), given.next()) {
        (Some((one, _)), Some((other, _))) => Err(SpecError::invalid(
            path,
            format!("is both {one} and {other}: remove one"),
        )),
        _ => Ok(()),
    }
}

fn empty_dir(source: k8s::EmptyDirVolumeSource, path: &str) -> Result<EmptyDir> {
    let limit_path = format!("{path}.sizeLimit");
    let size_limit = source
        .size_limit
        .map(|Quantity(text)| quantity::parse_whole(&text))
        .transpose()
        .at(&limit_path)?;
    match source.medium.as_deref() {
        None | Some("" | "Memory") if size_limit == Some(0) => Err(SpecError::invalid(
            limit_path,
            "must be more than 0; leave it out for no limit",
        )),
        Some("Memory") => Ok(EmptyDir::Memory { size_limit }),
        None | Some("") => Ok(match size_limit {
            Some(size_limit) => EmptyDir::LimitedDisk { size_limit },
            None => EmptyDir::Disk,
        }),
        Some(medium) => Err(SpecError::unsupported(
            format!("{path}.medium"),
            format!("{medium:?}; use Memory, or leave it out"),
        )),
    }
}

/// Volumes are directories.
pub(super) fn check_volume_mode(mode: Option<&str>, path: &str) -> Result<()> {
    match mode {
        None | Some("" | "Filesystem") => Ok(()),
        Some("Block") => Err(SpecError::unsupported(
            path,
            "Block: volumes are directories; use Filesystem, or leave it out",
        )),
        Some(other) => {
            let shown: String = other.chars().take(64).collect();
            let why = format!("{shown:?} is none of Filesystem, Block");
            Err(SpecError::invalid(path, why))
        }
    }
}

/// What a pod claims for reading only no container may write to.
pub(super) fn mount_read_only(spec: &mut PodSpec) {
    let claimed = spec
        .volumes
        .iter()
        .filter(|volume| matches!(&volume.source, VolumeSource::Claim(claim) if claim.read_only));
    let read_only: HashSet<&str> = claimed.map(|volume| volume.name.as_str()).collect();
    let containers = spec.init_containers.iter_mut().chain(&mut spec.containers);
    for mount in containers.flat_map(|container| &mut container.mounts) {
        mount.read_only |= read_only.contains(mount.volume.as_str());
    }
}

pub(super) fn host_path(
    source: &k8s::HostPathVolumeSource,
    path: &str,
    problems: &mut Problems,
) -> Result<HostPath> {
    let host = problems.or_default(absolute(&source.path).at(&format!("{path}.path")));
    let kind = match source.type_.as_deref() {
        None | Some("") => HostPathKind::Any,
        Some("Directory") => HostPathKind::Directory,
        Some("DirectoryOrCreate") => HostPathKind::DirectoryOrCreate,
        Some("File") => HostPathKind::File,
        Some("FileOrCreate") => HostPathKind::FileOrCreate,
        Some("Socket") => HostPathKind::Socket,
        Some("CharDevice") => HostPathKind::CharDevice,
        Some("BlockDevice") => HostPathKind::BlockDevice,
        Some(kind) => {
            return Err(SpecError::invalid(
                format!("{path}.type"),
                format!(
                    "{kind:?} is none of Directory, DirectoryOrCreate, File, FileOrCreate, Socket, CharDevice, BlockDevice"
                ),
            ));
        }
    };
    Ok(HostPath { path: host, kind })
}
