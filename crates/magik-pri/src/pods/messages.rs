//! Where a container says why it ended.

use std::path::Path;

use magik_image::bundle::MountSetting;
use magik_infra::plan::{MESSAGE_DIR, MessageFile, MessagePlan};

use super::files::PodFiles;
use crate::{ContainerSpec, MessagePolicy, Mount, spec::MESSAGE_PATH};

impl PodFiles<'_> {
    /// What its init does about that.
    pub(crate) fn message(&self, container: &ContainerSpec, file: MessageFile) -> MessagePlan {
        MessagePlan {
            file,
            from_log: container.termination_message.policy == MessagePolicy::FallbackToLogsOnError,
        }
    }

    /// The file on a tmpfs, which its init makes on this directory, and its mount. There is none where
    /// the container has a volume at the place that Kubernetes gives a file to all: nobody has asked
    /// for a file in that.
    pub(crate) fn message_mount(&self, container: &ContainerSpec) -> (MessageFile, Option<MountSetting>) {
        let path = &container.termination_message.path;
        let hidden =
            |mount: &Mount| path.starts_with(&mount.path) && path.as_path() == Path::new(MESSAGE_PATH);
        if container.mounts.iter().any(hidden) {
            return (MessageFile::Nowhere, None);
        }
        let dir = self.bundle(&container.name).join(MESSAGE_DIR);
        let mount = MountSetting::bind(MessageFile::in_dir(&dir), path, false);
        (MessageFile::Mounted { dir }, Some(mount))
    }
}
