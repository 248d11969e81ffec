//! Sending blobs and manifests (distribution-spec, "Pushing a blob monolithically").

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use magik_cas::Digest;
use reqwest::{Body, Method, Response, Url, header};
use tokio_util::io::ReaderStream;

use super::{Problem, Registry, client::with};
use crate::{Error, Result};

/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 256 * 1024;

impl Registry {
    /// Whether the registry has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let what = format!("blob {digest}");
        let found = self
            .retried(&what, || {
                Box::pin(async {
                    let request = self.request(Method::HEAD, &format!("blobs/{digest}"))?;
                    self.send(&what, request).await.map(drop)
                })
            })
            .await;
        match found {
            Ok(()) => Ok(true),
            Err(Error::Registry(e)) if matches!(e.problem, Problem::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Sends the blob in `file`; `sent` hears how many bytes have gone.
    pub(crate) async fn upload_blob(
        &self,
        digest: &Digest,
        size: u64,
        file: &Path,
        sent: &(dyn Fn(u64) + Sync),
    ) -> Result<()> {
        let what = format!("upload of blob {digest}");
        self.retried(&what, || {
            Box::pin(async {
                // A new session for each attempt: an earlier one's data is not trusted.
                let request = self.request(Method::POST, "blobs/uploads/")?;
                let session = self
                    .send(&what, request.header(header::CONTENT_LENGTH, 0))
                    .await?;
                let url = self.upload_url(&what, &session, digest)?;
                let opened = tokio::fs::File::open(file).await;
                let opened = opened.map_err(Error::io(format!("open {}", file.display())))?;
                let count = Arc::new(AtomicU64::new(0));
                let body = ReaderStream::with_capacity(opened, CHUNK).inspect({
                    let count = Arc::clone(&count);
                    move |chunk| {
                        if let Ok(chunk) = chunk {
                            count.fetch_add(chunk.len() as u64, Relaxed);
                        }
                    }
                });
                let request = self
                    .sending()?
                    .put(url.clone())
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(header::CONTENT_LENGTH, size)
                    .body(Body::wrap_stream(body));
                // Only where the registry itself is may see who we are.
                let is_its_own = url.origin() == self.base.origin();
                let authorization = self.authorization().await.filter(|_| is_its_own);
                let request = with(request, authorization.as_ref());
                let answer = self.while_moving(&what, &count, request.send(), sent).await?;
                let answer = answer.map_err(|e| self.broken(&what, &e))?;
                self.successful(&what, answer).await.map(drop)
            })
        })
        .await
    }

    /// Gives a manifest the name `tag`.
    pub(crate) async fn upload_manifest(&self, tag: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let what = format!("upload of manifest {tag}");
        self.retried(&what, || {
            Box::pin(async {
                let request = self.request(Method::PUT, &format!("manifests/{tag}"))?;
                let request = request
                    .header(header::CONTENT_TYPE, media_type)
                    .body(bytes.to_vec());
                self.send(&what, request).await.map(drop)
            })
        })
        .await
    }

    /// Where the session's answer says the bytes are to go.
    fn upload_url(&self, what: &str, session: &Response, digest: &Digest) -> Result<Url> {
        let location = session
            .headers()
            .get(header::LOCATION)
            .and_then(|v| v.to_str().ok());
        let location = location.ok_or_else(|| self.protocol(what, "it did not say where to".into()))?;
        let mut url = session
            .url()
            .join(location)
            .map_err(|e| self.protocol(what, format!("its address is no URL: {e}")))?;
        let is_less = url.scheme() != "https" && url.scheme() != self.base.scheme();
        if is_less {
            return Err(self.protocol(what, "its address is less than the registry's".into()));
        }
        self.guard
            .allows_url(&url)
            .map_err(|why| self.protocol(what, format!("its address {why}")))?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        Ok(url)
    }

    /// Waits for an answer as long as `count` grows.
    async fn while_moving<T>(
        &self,
        what: &str,
        count: &AtomicU64,
        answer: impl Future<Output = T>,
        report: &(dyn Fn(u64) + Sync),
    ) -> Result<T> {
        const TICK: Duration = Duration::from_millis(100);
        let mut answer = std::pin::pin!(answer);
        let (mut before, mut still) = (0, Duration::ZERO);
        loop {
            // The client's own wait knows the deadline of the whole.
            let tick = tokio::time::timeout(TICK, &mut answer);
            let ended = self.wait(what, tick).await?;
            let now = count.load(Relaxed);
            if now != before {
                report(now);
            }
            still = if now == before {
                still + TICK
            } else {
                Duration::ZERO
            };
            before = now;
            match ended {
                Ok(answer) => return Ok(answer),
                Err(_) if still >= self.connection.idle_timeout => {
                    return Err(self.error(Problem::Stalled {
                        what: what.to_owned(),
                        after: self.connection.idle_timeout,
                    }));
                }
                Err(_) => {}
            }
        }
    }
}
