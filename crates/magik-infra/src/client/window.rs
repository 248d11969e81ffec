//! What the client sends within a call is bounded: ttrpc has no flow control of its own.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Result;
use crate::error::ControlError;

/// How many bytes of input may be under way.
const WINDOW: usize = 64 << 10;
/// The longest piece of input in one message, in bytes.
pub(super) const PIECE: usize = 16 << 10;

/// Room for bytes that were sent and not yet taken; its clones share it.
#[derive(Debug, Clone)]
pub(super) struct Window(Arc<Semaphore>);

impl Window {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(WINDOW)))
    }

    /// Sends `bytes` piece by piece, each once there is room for it.
    pub(super) async fn send<F>(&self, bytes: &[u8], mut send: impl FnMut(Vec<u8>) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>>,
    {
        for piece in bytes.chunks(PIECE) {
            let count = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            let room = self.0.acquire_many(count).await;
            room.map_err(|_closed| ControlError::Disconnected)?.forget();
            send(piece.to_vec()).await?;
        }
        Ok(())
    }

    /// Room again, but never more than there was: the other side is not trusted.
    pub(super) fn give_back(&self, bytes: u32) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.0
            .add_permits(bytes.min(WINDOW.saturating_sub(self.0.available_permits())));
    }

    /// Nothing more will be taken: whoever waits for room stops waiting.
    pub(super) fn close(&self) {
        self.0.close();
    }
}
