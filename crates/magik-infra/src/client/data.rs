//! Files of volumes that are handed to the pod's init.

use super::{ControlClient, Result, proto, soon, unbounded};
use crate::data::{DataFile, Staged};

/// How much one call carries, in bytes: well below the longest frame.
const PIECE: usize = 256 << 10;
/// How many files one call carries.
const FILES: usize = 256;

impl ControlClient {
    /// Hands over files of a volume of data: all that it is to hold. On the launch connection, before
    /// [`start_sandbox`](Self::start_sandbox), they are those that the pod begins with.
    ///
    /// # Errors
    /// They are too many, or one of them has a path that leads out of the volume.
    pub async fn stage_files(&self, volume: &str, files: impl IntoIterator<Item = DataFile>) -> Result<()> {
        let begin = || {
            let mut request = proto::StageFilesRequest::new();
            volume.clone_into(&mut request.volume);
            request
        };
        let (mut request, mut size) = (begin(), 0);
        for file in files {
            let mut pieces = file.bytes.chunks(PIECE);
            // One that is empty is a file, too.
            let first = pieces.next().unwrap_or_default();
            for (number, piece) in std::iter::once(first).chain(pieces).enumerate() {
                if size + piece.len() + file.path.len() > PIECE || request.files.len() >= FILES {
                    self.stage(&std::mem::replace(&mut request, begin())).await?;
                    size = 0;
                }
                size += piece.len() + file.path.len();
                let mut message = proto::StagedFile::new();
                message.path.clone_from(&file.path);
                message.mode = file.mode;
                message.data = piece.to_vec();
                message.more = number > 0;
                request.files.push(message);
            }
        }
        // Also where there are none: the volume is to be empty then.
        self.stage(&request).await
    }

    async fn stage(&self, request: &proto::StageFilesRequest) -> Result<()> {
        soon(self.calls.stage_files(unbounded(), request)).await?;
        Ok(())
    }

    /// Hands over what somebody else has handed over.
    pub(crate) async fn stage_all(&self, staged: &Staged) -> Result<()> {
        for (volume, files) in staged.volumes() {
            self.stage_files(volume, files.cloned().collect::<Vec<_>>())
                .await?;
        }
        Ok(())
    }

    /// What was staged on this connection takes the place of what these volumes hold, of each at once.
    ///
    /// # Errors
    /// The pod has no such volume, or they cannot be written: then the volume is as it was.
    pub async fn update_files(&self) -> Result<()> {
        soon(
            self.calls
                .update_files(unbounded(), &proto::UpdateFilesRequest::new()),
        )
        .await?;
        Ok(())
    }
}
