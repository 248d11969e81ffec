//! Waiting for files, locks and processes, where it holds up nobody.

use crate::{Error, Result};

/// Does work that may wait on a thread that may. Work that has begun comes to its end even if this
/// is given up.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::io("a background task")(std::io::Error::other(e)))?
}
