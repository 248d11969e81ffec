//! What a container says about its end (`terminationMessagePath`, `terminationMessagePolicy`).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The directory of a bundle that the init mounts a tmpfs on, for [`MessageFile::Mounted`].
pub const MESSAGE_DIR: &str = "message";

/// The file on it.
pub(crate) const MESSAGE_NAME: &str = "log";

/// Where a container's last message is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessagePlan {
    /// The file that it can write.
    pub file: MessageFile,
    /// Whether the end of its log is taken where it has failed and the file is empty.
    #[serde(default)]
    pub from_log: bool,
}

/// The file that a container writes its last message to. It is empty when a run begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind", deny_unknown_fields)]
pub enum MessageFile {
    /// A file on a small tmpfs of its own: the container has only that file, by a bind mount.
    Mounted {
        /// An existing directory, which the tmpfs is mounted on.
        dir: PathBuf,
    },
    /// A file in its root, for containers that have no mounts.
    InRoot {
        /// The root, as the init sees it.
        root: PathBuf,
        /// The file in it.
        path: PathBuf,
    },
    /// There is none: it cannot write there, or has something else there.
    Nowhere,
}

impl MessageFile {
    /// The file on the tmpfs that is mounted on this directory.
    #[must_use]
    pub fn in_dir(dir: &Path) -> PathBuf {
        dir.join(MESSAGE_NAME)
    }
}
