//! Who hears what a container writes, besides its log.

use std::fmt::Debug;

use futures_util::future::BoxFuture;

use super::LogStream;

/// Is told what a container writes while it does.
pub(crate) trait Listener: Debug + Send + Sync {
    /// The container has written something.
    fn wrote(&self, stream: LogStream, bytes: &[u8]);

    /// Whether there is enough that is not taken yet.
    fn is_full(&self) -> bool;

    /// Waits until there is not, or not any more. May be dropped at any await.
    fn taken(&self) -> BoxFuture<'_, ()>;
}
