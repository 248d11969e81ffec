//! The types of volumes, and of where containers mount them.

use std::path::PathBuf;

use magik_image::source::ImageSource;
use serde::{Deserialize, Serialize};

use super::{
    DataVolume, PullPolicy,
    types::{as_text, from_text},
};

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name, unique in the pod.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum VolumeSource {
    /// A directory that lives and dies with the pod.
    EmptyDir(EmptyDir),
    /// A file or directory of the host.
    HostPath(HostPath),
    /// Files that the pod's documents hold, in memory; read-only.
    Data(DataVolume),
    /// A directory with a name, which stays when the pod goes. A pod that is run has it as a
    /// `HostPath`, and its claim in [`PodSpec::claims`](super::PodSpec::claims).
    Claim(Claim),
    /// What an image holds; read-only.
    Image(ImageVolume),
}

/// An image that is mounted as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageVolume {
    /// The image.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub image: ImageSource,
    /// `pullPolicy`; absent it is as a container's.
    pub pull_policy: Option<PullPolicy>,
}

/// A claim to a volume of the pod's namespace (`persistentVolumeClaim`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// The volume's name.
    pub name: String,
    /// `readOnly`: no container may write to it.
    pub read_only: bool,
    /// Whether it is made where there is none of that name.
    pub make: bool,
    /// How many bytes it should hold; nothing limits it.
    pub requested: Option<u64>,
}

/// The claim that one of a pod's volumes is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaim {
    /// The name of the pod's volume.
    pub volume: String,
    /// Its claim.
    pub claim: Claim,
}

/// Where an `emptyDir` is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EmptyDir {
    /// On the disk of the data root.
    Disk,
    /// The same, with a limit: the pod is ended that has more there.
    LimitedDisk {
        /// The limit in bytes.
        size_limit: u64,
    },
    /// In memory.
    Memory {
        /// The limit in bytes; absent: half of the host's memory.
        size_limit: Option<u64>,
    },
}

/// A `hostPath`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// Absolute, without `..`.
    pub path: PathBuf,
    /// What has to be there.
    pub kind: HostPathKind,
}

/// What has to be at a `hostPath` (its `type`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// Anything; it has to exist, since there has to be something to mount.
    #[default]
    Any,
    /// A directory.
    Directory,
    /// A directory; made with mode 0755 if there is nothing.
    DirectoryOrCreate,
    /// A regular file.
    File,
    /// A regular file; made empty with mode 0644 if there is nothing, in a directory that exists.
    FileOrCreate,
    /// A unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A volume mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// The volume's name; the pod has it.
    pub volume: String,
    /// Where in the container: absolute, normal, not `/`.
    pub path: PathBuf,
    /// `readOnly`.
    pub read_only: bool,
    /// What is mounted below the volume is read-only, too (`recursiveReadOnly`).
    #[serde(default)]
    pub recursive_read_only: bool,
    /// `mountPropagation`.
    #[serde(default)]
    pub propagation: MountPropagation,
    /// The part of the volume that is mounted; absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_path: Option<SubPath>,
}

impl Mount {
    /// All of a volume, to be written to.
    pub fn new(volume: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        Self {
            volume: volume.into(),
            path: path.into(),
            read_only: false,
            recursive_read_only: false,
            propagation: MountPropagation::None,
            sub_path: None,
        }
    }
}

/// A part of a volume: a relative path without `..`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubPath {
    /// `subPath`.
    Path(String),
    /// `subPathExpr`: `$(NAME)` is replaced by the container's variable when the pod is run.
    Expression(String),
}

/// Where mounts go that are made in a volume while containers run (`mountPropagation`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    /// Nowhere.
    #[default]
    None,
    /// From the host, and from containers with `Bidirectional`, to the container.
    HostToContainer,
    /// And from the container to these; only for a privileged one.
    Bidirectional,
}
