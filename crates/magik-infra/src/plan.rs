//! What the launcher hands to the pod init: everything is decided, nothing of an image or a
//! manifest is read again.

mod lifecycle;
mod message;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    lifecycle::{BackOff, Handler, Lifecycle, Probe, RestartPolicy, RestartRule},
    message::{MESSAGE_DIR, MessageFile, MessagePlan},
};
pub(crate) use message::MESSAGE_NAME;

/// A pod, ready to be started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodPlan {
    /// The pod's id.
    pub id: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.labels`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// The pod's ports that the host listens for, in the order of the listeners that the init was
    /// given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<u16>,
    /// Whose users its containers' are, if they are not those of whoever runs the init; for the
    /// status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_namespace: Option<UserNamespace>,
    /// File systems to mount before the first container, in this order.
    #[serde(default)]
    pub tmpfs: Vec<TmpfsPlan>,
    /// Images that are mounted for reading, after that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImagePlan>,
    /// Directories in which mounts go from one container to another, which are made mounts of their
    /// own for that; those of `tmpfs` and `data` may be among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared: Vec<PathBuf>,
    /// What may take so much room on disk, and no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disk_limits: Vec<DiskLimit>,
    /// Volumes of files that the launcher hands over before the plan.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<DataPlan>,
    /// Run to completion one after the other, before the others start.
    #[serde(default)]
    pub init_containers: Vec<ContainerPlan>,
    /// Started in this order, stopped in the reverse one.
    pub containers: Vec<ContainerPlan>,
    /// Seconds between SIGTERM and SIGKILL when nobody says otherwise.
    pub grace_period_s: u64,
    /// Seconds after which the pod is killed and counts as failed (`activeDeadlineSeconds`).
    #[serde(default)]
    pub active_deadline_s: Option<u64>,
    /// The size at which a container's log is rotated, in bytes; absent: what the init has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_log_size: Option<u64>,
    /// When it is over.
    #[serde(default)]
    pub ends: PodEnd,
    /// How long its containers wait before they are run again.
    #[serde(default)]
    pub back_off: BackOff,
    /// Extensions of its init, started in this order after those that the init always has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<ExtensionPlan>,
    /// What its manifest says and changes nothing; for the status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<IgnoredField>,
}

/// A field of a manifest that changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IgnoredField {
    /// Where, e.g. `spec.containers[1].env[0]`.
    pub field: String,
    /// Why.
    pub why: String,
}

impl IgnoredField {
    /// That a field changes nothing, and why.
    pub fn new(field: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            why: why.into(),
        }
    }
}

/// An extension that a pod asks for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtensionPlan {
    /// Its name in the init's [registry](crate::ExtensionRegistry).
    pub name: String,
    /// What it is made from.
    #[serde(default)]
    pub config: serde_json::Value,
}

impl PodPlan {
    /// So much time between SIGTERM and SIGKILL as is asked for, else as much as the pod says.
    pub(crate) fn grace(&self, asked: Option<Duration>) -> Duration {
        asked.unwrap_or(Duration::from_secs(self.grace_period_s))
    }

    /// That its deadline has passed, for people.
    pub(crate) fn deadline_passed(&self) -> String {
        let seconds = self.active_deadline_s.unwrap_or_default();
        format!("the pod ran longer than its activeDeadlineSeconds of {seconds}")
    }
}

/// Which of the host's ids a pod's users have: 0 in the pod is `host_id`, and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserNamespace {
    /// The host's id of the pod's root, for users and groups alike.
    pub host_id: u32,
    /// How many ids there are.
    pub size: u32,
}

/// What ends a pod, besides being stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PodEnd {
    /// That every container of it has ended, and none is to be run again.
    #[default]
    ContainersEnded,
    /// Nothing: containers may come and go.
    Stopped,
}

/// A tmpfs: an emptyDir with `medium: Memory`, or what the containers share as `/dev/shm`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TmpfsPlan {
    /// An existing directory.
    pub target: PathBuf,
    /// The limit in bytes; absent: half of the host's memory, as the kernel has it.
    #[serde(default)]
    pub size: Option<u64>,
    /// The group that it belongs to, and what is made in it; absent: root's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
    /// It is the `/dev/shm` of all containers: nothing is executed there, and who made a file keeps it.
    #[serde(default)]
    pub shared_memory: bool,
}

/// An image that containers read as a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImagePlan {
    /// An existing directory.
    pub target: PathBuf,
    /// Its layers, uppermost first.
    pub layers: Vec<PathBuf>,
}

/// A limit on disk: it is measured now and then, and a pod that has more is ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DiskLimit {
    /// The directory.
    pub path: PathBuf,
    /// The most bytes that it may take.
    pub bytes: u64,
    /// What is said of a pod that has more.
    pub message: String,
}

/// A volume of files that are handed to the init: ConfigMaps, Secrets and the like. They lie on a
/// tmpfs, and nowhere else; the plan, which may be kept, has none of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DataPlan {
    /// Its name, which the files are handed over with.
    pub name: String,
    /// An existing directory.
    pub target: PathBuf,
    /// The group that the files belong to and that may read them (`fsGroup`), as the init sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// A container, ready to be created.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ContainerPlan {
    /// The name in the pod; also the container's id at the runtime, whose root is the pod's own.
    pub name: String,
    /// The image, as the pod named it; for status only.
    pub image: String,
    /// The digest of the image's configuration, for the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// The bundle: holds `config.json` and an empty `rootfs` to mount on.
    pub bundle: PathBuf,
    /// The root file system.
    pub rootfs: RootfsPlan,
    /// The CRI-format log file.
    pub log: PathBuf,
    /// Its streams are no log's: it is started by who attaches to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attach: Option<AttachPlan>,
    /// What is done for it while it lives, and when it has ended.
    #[serde(default, skip_serializing_if = "Lifecycle::is_default")]
    pub lifecycle: Lifecycle,
    /// Where it can say why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<MessagePlan>,
    /// What those who attach to it while it runs can do.
    #[serde(default, skip_serializing_if = "ConsolePlan::is_default")]
    pub console: ConsolePlan,
    /// It is added to a pod that runs, to look at it, and is never run again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ephemeral: Option<EphemeralPlan>,
}

/// A container's standard streams, besides its log (`stdin`, `stdinOnce`, `tty`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConsolePlan {
    /// It has standard input, which is empty and open until somebody attaches.
    pub stdin: bool,
    /// That ends with the first who attaches to it.
    pub stdin_once: bool,
    /// They are a terminal, as the bundle's `process.terminal` says.
    pub tty: bool,
}

impl ConsolePlan {
    /// Whether it has output alone.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// In the bundle of an [ephemeral](EphemeralPlan) container with a target: the empty file that its
/// init shows the process namespace at.
pub const TARGET_PROCESSES: &str = "target-processes";

/// A container for looking at another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EphemeralPlan {
    /// The container whose process namespace it joins; absent: it has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// The streams of a container that somebody attaches to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttachPlan {
    /// Whether they are a terminal, as the bundle's `process.terminal` says.
    pub terminal: bool,
}

/// A container's root file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum RootfsPlan {
    /// An overlay mounted on the bundle's `rootfs`.
    Overlay {
        /// Read-only layers, uppermost first.
        lower: Vec<PathBuf>,
        /// The writable layer and its work directory; absent: the mount is read-only.
        #[serde(default)]
        upper: Option<UpperPlan>,
    },
    /// A directory that is used as it is (hosts without overlayfs; WASM).
    Directory {
        /// The directory; the bundle's `root.path` names it.
        path: PathBuf,
    },
}

/// The writable part of an overlay; both directories are on one file system.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UpperPlan {
    /// `upperdir`.
    pub upper: PathBuf,
    /// `workdir`, empty.
    pub work: PathBuf,
}
