//! Blobs, streamed into the store.

use bytes::Bytes;
use futures_util::StreamExt as _;
use magik_cas::{Digest, Staged, Store, Writer};
use reqwest::{Method, Response, StatusCode, header};
use tokio::{sync::mpsc, task::JoinHandle};

use super::{Problem, Registry, retry::Pauses};
use crate::{Error, Result, pull::Arriving};

/// How many pieces of the network's size wait between the network and the disk.
const IN_FLIGHT: usize = 16;
/// Blobs from this size on, in bytes, are resumed where an earlier pull stopped; smaller ones are
/// not worth a file.
pub(crate) const RESUMED_FROM: u64 = 1 << 20;

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

/// How a blob is to be fetched.
pub(crate) struct Fetch<'a> {
    pub store: &'a Store,
    /// Whether to begin with what an earlier pull left.
    pub resume: bool,
    /// Its concurrent reader.
    pub arriving: Option<std::sync::Arc<Arriving>>,
    /// Hears how many bytes there are.
    pub received: &'a (dyn Fn(u64) + Sync),
}

/// The file that a blob goes to, written by a thread that may block.
struct Disk {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<magik_cas::Result<Option<Staged>>>,
}

enum Piece {
    Bytes(Bytes),
    End,
}

impl Registry {
    /// Downloads a blob into a verified file that is not yet part of the store.
    ///
    /// It takes at most the manifest's size. A broken connection is replaced by one for the rest.
    /// When this returns, early or not, no task of it is left.
    pub(crate) async fn blob(&self, wanted: &Wanted, fetch: Fetch<'_>) -> Result<Staged> {
        let writer = {
            let (store, digest, size) = (fetch.store.clone(), wanted.digest, wanted.size);
            let resume = fetch.resume && size >= RESUMED_FROM;
            crate::background::blocking(move || {
                Ok(if resume {
                    store.resume(&digest, size)?
                } else {
                    store.begin(digest.algorithm(), size)?
                })
            })
            .await?
        };
        let mut total = writer.size();
        if let Some(arriving) = &fetch.arriving {
            arriving.begin(writer.path().to_owned(), total);
        }
        let disk = Disk::start(writer, wanted, fetch.arriving.clone());
        let arrived = self.receive(wanted, &disk, &mut total, fetch.received).await;
        // Only after a whole blob is it told to finish; a channel that merely closes means failure.
        if arrived.is_ok() {
            // It fails only if the writer is gone, and then that says why.
            let _ = disk.pieces.send(Piece::End).await;
        }
        drop(disk.pieces);
        let written = disk.writing.await.map_err(|e| Error::Task(e.to_string()))?;
        match (arrived, written) {
            // The writer ended first: its error is the cause of the other.
            (_, Err(written)) => Err(self.refused(wanted, written)),
            (Err(arrived), _) => Err(arrived),
            (Ok(()), Ok(Some(staged))) => Ok(staged),
            (Ok(()), Ok(None)) => Err(Error::Task(format!("{}: not written", wanted.what))),
        }
    }

    /// Writes the bytes from `total` on, over several connections, while each brings something.
    async fn receive(
        &self,
        wanted: &Wanted,
        disk: &Disk,
        total: &mut u64,
        received: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        received(*total);
        let mut pauses = Pauses::new();
        while *total < wanted.size {
            let before = *total;
            let Err(error) = self.receive_once(wanted, disk, total, received).await else {
                continue;
            };
            if *total > before {
                pauses = Pauses::new();
                // Something did come: a silence after it is worth another try.
                if let Error::Registry(e) = &error
                    && matches!(e.problem, Problem::Stalled { .. })
                {
                    tracing::debug!(what = %wanted.what, %error, total, "going on");
                    continue;
                }
            }
            self.pause(&wanted.what, error, &mut pauses).await?;
        }
        Ok(())
    }

    /// One connection's worth.
    async fn receive_once(
        &self,
        wanted: &Wanted,
        disk: &Disk,
        total: &mut u64,
        received: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let (response, from) = self.blob_response(wanted, *total).await?;
        let mut stream = response.bytes_stream();
        // Without ranges a registry sends all; the known part is skipped.
        let mut at = from;
        while let Some(chunk) = self.wait(&wanted.what, stream.next()).await? {
            let mut chunk = chunk.map_err(|e| self.broken(&wanted.what, &e))?;
            let known = usize::try_from(*total - at)
                .unwrap_or(usize::MAX)
                .min(chunk.len());
            at += chunk.len() as u64;
            if at > wanted.size {
                return Err(self.size_mismatch(wanted, "more bytes".into()));
            }
            let chunk = chunk.split_off(known);
            if chunk.is_empty() {
                continue;
            }
            if disk.pieces.send(Piece::Bytes(chunk)).await.is_err() {
                return Err(Error::Task(format!("{}: the writer ended", wanted.what)));
            }
            *total = at;
            received(at);
        }
        if at < wanted.size {
            return Err(self.size_mismatch(wanted, format!("{at} bytes")));
        }
        Ok(())
    }

    /// The answer that holds the blob from `total` on, and where it really begins: at 0 if the
    /// registry ignores the range.
    async fn blob_response(&self, wanted: &Wanted, total: u64) -> Result<(Response, u64)> {
        let path = format!("blobs/{}", wanted.digest);
        if total > 0 {
            let request = self.request(Method::GET, &path)?;
            let request = request.header(header::RANGE, format!("bytes={total}-"));
            match self.send(&wanted.what, request).await {
                Ok(response) if response.status() != StatusCode::PARTIAL_CONTENT => {
                    return self.of_length(wanted, response, 0);
                }
                Ok(response) if is_rest(&response, total, wanted.size) => {
                    return self.of_length(wanted, response, total);
                }
                // RFC 9110, 15.5.17: the range is not to its liking.
                Err(Error::Registry(e)) if !matches!(e.problem, Problem::Status { status: 416, .. }) => {
                    return Err(Error::Registry(e));
                }
                Err(e @ Error::Task(_)) => return Err(e),
                _ => tracing::debug!(what = %wanted.what, total, "no such range: all of it again"),
            }
        }
        let response = self.send(&wanted.what, self.request(Method::GET, &path)?).await;
        let response = response.map_err(|e| match e {
            Error::Registry(e) if wanted.foreign && matches!(e.problem, Problem::NotFound(_)) => {
                self.error(Problem::Foreign(wanted.what.clone()))
            }
            other => other,
        })?;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            return Err(self.protocol(&wanted.what, "it sent a part and was asked for the whole".into()));
        }
        self.of_length(wanted, response, 0)
    }

    /// Refuses a body that says it is longer or shorter than what is left of the blob.
    fn of_length(&self, wanted: &Wanted, response: Response, from: u64) -> Result<(Response, u64)> {
        match response.content_length() {
            Some(length) if length != wanted.size - from => {
                Err(self.size_mismatch(wanted, format!("{} bytes", length.saturating_add(from))))
            }
            _ => Ok((response, from)),
        }
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

/// Whether a partial answer is of the bytes from `from` to the end of `size`.
fn is_rest(response: &Response, from: u64, size: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE);
    let expected = format!("bytes {from}-{}/", size - 1);
    let complete = range
        .and_then(|v| v.to_str().ok())
        .and_then(|range| range.strip_prefix(&expected));
    complete.is_some_and(|complete| complete == "*" || complete == size.to_string())
}

impl Disk {
    fn start(writer: Writer, wanted: &Wanted, arriving: Option<std::sync::Arc<Arriving>>) -> Self {
        let (pieces, receiver) = mpsc::channel(IN_FLIGHT);
        let (digest, size) = (wanted.digest, wanted.size);
        let writing = tokio::task::spawn_blocking(move || {
            let written = write(writer, &digest, size, receiver, arriving.as_deref());
            // On failure the cause is reported first, and then the readers are told.
            if let (Some(arriving), Ok(Some(_))) = (arriving, &written) {
                arriving.complete();
            }
            written
        });
        Self { pieces, writing }
    }
}

/// Hashes and writes what arrives. `None` if the end never came.
fn write(
    mut writer: Writer,
    digest: &Digest,
    size: u64,
    mut pieces: mpsc::Receiver<Piece>,
    arriving: Option<&Arriving>,
) -> magik_cas::Result<Option<Staged>> {
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Bytes(bytes) => {
                writer.append(&bytes)?;
                if let Some(arriving) = arriving {
                    arriving.grew(writer.size());
                }
            }
            Piece::End => return writer.finish_as(digest, Some(size)).map(Some),
        }
    }
    Ok(None)
}
