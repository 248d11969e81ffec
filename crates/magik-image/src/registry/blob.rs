//! Blobs, streamed into the store.

use bytes::Bytes;
use futures_util::StreamExt as _;
use magik_cas::{Digest, Staged, Store};
use reqwest::{Method, Response};
use tokio::sync::mpsc;

use super::{Problem, Registry};
use crate::{Error, Result};

/// How many pieces of the network's size wait between the network and the disk.
const IN_FLIGHT: usize = 16;

/// A blob that a manifest names.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub digest: Digest,
    /// The manifest's word, already checked against the limits.
    pub size: u64,
    /// What messages call it, "layer sha256:…".
    pub what: String,
    /// Whether registries need not keep it.
    pub foreign: bool,
}

impl Registry {
    /// Downloads a blob into a verified file that is not yet part of the store; `received` hears how many bytes there are.
    ///
    /// Never more than the size that the manifest says is taken. When this returns, early or not, no task of it is left
    /// and no file but the one it returned.
    pub(crate) async fn blob(
        &self,
        store: &Store,
        wanted: &Wanted,
        received: &(dyn Fn(u64) + Sync),
    ) -> Result<Staged> {
        self.retried(&wanted.what, || {
            Box::pin(async {
                received(0);
                let response = self.blob_response(wanted).await?;
                let (sender, receiver) = mpsc::channel(IN_FLIGHT);
                let writing = tokio::task::spawn_blocking({
                    let (store, wanted) = (store.clone(), wanted.clone());
                    move || write(&store, &wanted, receiver)
                });
                let arrived = self.receive(wanted, response, &sender, received).await;
                // Only after a whole blob is it told to finish; a channel that merely closes means failure.
                if arrived.is_ok() {
                    // It fails only if the writer is gone, and then that says why.
                    let _ = sender.send(Piece::End).await;
                }
                drop(sender);
                let written = writing.await.map_err(|e| Error::Task(e.to_string()))?;
                match (arrived, written) {
                    // The writer ended first: its error is the cause, and the other only that nobody listens.
                    (_, Err(written)) => Err(self.refused(wanted, written)),
                    (Err(arrived), _) => Err(arrived),
                    (Ok(()), Ok(Some(staged))) => Ok(staged),
                    (Ok(()), Ok(None)) => Err(Error::Task(format!("{}: not written", wanted.what))),
                }
            })
        })
        .await
    }

    async fn blob_response(&self, wanted: &Wanted) -> Result<Response> {
        let request = self.request(Method::GET, &format!("blobs/{}", wanted.digest))?;
        let response = self.send(&wanted.what, request).await.map_err(|e| match e {
            Error::Registry(e) if wanted.foreign && matches!(e.problem, Problem::NotFound(_)) => {
                self.error(Problem::Foreign(wanted.what.clone()))
            }
            other => other,
        })?;
        match response.content_length() {
            Some(length) if length != wanted.size => {
                Err(self.size_mismatch(wanted, format!("{length} bytes")))
            }
            _ => Ok(response),
        }
    }

    async fn receive(
        &self,
        wanted: &Wanted,
        response: Response,
        sender: &mpsc::Sender<Piece>,
        received: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let mut stream = response.bytes_stream();
        let mut total = 0_u64;
        while let Some(chunk) = self.wait(&wanted.what, stream.next()).await? {
            let chunk = chunk.map_err(|e| self.broken(&wanted.what, &e))?;
            total += chunk.len() as u64;
            if total > wanted.size {
                return Err(self.size_mismatch(wanted, "more bytes".into()));
            }
            if sender.send(Piece::Bytes(chunk)).await.is_err() {
                return Err(Error::Task(format!("{}: the writer ended", wanted.what)));
            }
            received(total);
        }
        if total < wanted.size {
            return Err(self.size_mismatch(wanted, format!("{total} bytes")));
        }
        Ok(())
    }

    fn size_mismatch(&self, wanted: &Wanted, found: String) -> Error {
        self.error(Problem::SizeMismatch {
            what: wanted.what.clone(),
            expected: wanted.size,
            found,
        })
    }

    /// What the store says about bytes that are not what they should be is the registry's fault.
    fn refused(&self, wanted: &Wanted, error: magik_cas::Error) -> Error {
        match error {
            magik_cas::Error::DigestMismatch { expected, found } => self.error(Problem::DigestMismatch {
                what: wanted.what.clone(),
                expected,
                found: *found,
            }),
            other => other.into(),
        }
    }
}

enum Piece {
    Bytes(Bytes),
    End,
}

/// Hashes and writes what arrives, on a thread that may block. `None` if the end never came.
fn write(
    store: &Store,
    wanted: &Wanted,
    mut pieces: mpsc::Receiver<Piece>,
) -> magik_cas::Result<Option<Staged>> {
    let mut writer = store.begin(wanted.digest.algorithm(), wanted.size)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => writer.append(&bytes)?,
            Piece::End => return writer.finish_as(&wanted.digest, Some(wanted.size)).map(Some),
        }
    }
    Ok(None)
}
