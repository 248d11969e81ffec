//! Where a container says why it ended.

use magik_image::bundle::MountSetting;
use magik_infra::plan::{MESSAGE_DIR, MessageFile, MessagePlan};

use super::files::PodFiles;
use crate::{ContainerSpec, MessagePolicy};

impl PodFiles<'_> {
    /// What its init does about that.
    #[cfg_attr(
        not(any(feature = "native", feature = "krun", feature = "wasm")),
        expect(dead_code, reason = "there is no backend")
    )]
    pub(crate) fn message(&self, container: &ContainerSpec, file: MessageFile) -> MessagePlan {
        MessagePlan {
            file,
            from_log: container.termination_message.policy == MessagePolicy::FallbackToLogsOnError,
        }
    }

    /// The mount of the file, which its init makes on a tmpfs.
    pub(crate) fn message_mount(&self, container: &ContainerSpec) -> MountSetting {
        let dir = self.bundle(&container.name).join(MESSAGE_DIR);
        MountSetting::bind(
            MessageFile::in_dir(&dir),
            &container.termination_message.path,
            false,
        )
    }
}
