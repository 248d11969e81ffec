//! Pushing images to a registry.
//!
//! Blobs that the registry has are not sent again. The others are streamed from the store, several
//! at a time; the registry checks their digests. The manifest comes last, so a push that fails
//! leaves no image of that name behind.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use magik_cas::Digest;

use crate::{
    Error, Image, ImageStore, Reference, Result,
    background::blocking,
    connect::ConnectOptions,
    manifest::OCI_MANIFEST,
    pull::{Event, Progress},
    registry::{Deadline, Operation, Registry},
    store::oci_digest,
};

/// How long a push may take altogether: uplinks are slower than downlinks.
pub const IMAGE_PUSH_TIMEOUT: Duration = Duration::from_secs(1800);

/// How an image is pushed: the default, with fields set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PushOptions {
    /// How the registry is reached.
    pub connect: ConnectOptions,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            connect: ConnectOptions::within(IMAGE_PUSH_TIMEOUT),
        }
    }
}

impl ImageStore {
    /// Sends an image to a registry under the name `target`, which has a tag and no digest; returns
    /// the digest of its manifest, the same as here.
    ///
    /// # Errors
    /// [`Error::Registry`] names image, registry and problem; [`Error::Cas`] a missing blob.
    pub async fn push(
        &self,
        image: &Image,
        target: &Reference,
        options: &PushOptions,
        progress: &dyn Progress,
    ) -> Result<Digest> {
        let is_tag = |target: &Reference| target.tag().is_some() && target.digest().is_none();
        if !is_tag(target) {
            return Err(Error::unsupported(
                format!("pushing to {target}"),
                "a digest is what an image has, not where it goes; name a tag",
            ));
        }
        // No collector takes a blob while it is sent.
        let cas = self.cas().clone();
        let _lease = blocking(move || Ok(cas.lease()?)).await?;
        let connect = &options.connect;
        let deadline = Deadline::after(connect.timeout);
        for endpoint in connect.endpoints(target, Operation::Push).await? {
            let push = Push {
                store: self,
                registry: connect
                    .connect(target, &endpoint, deadline, Operation::Push)
                    .await?,
                progress,
            };
            push.blobs(image, connect.concurrency.get()).await?;
            push.manifest(image, endpoint.reference.tag().unwrap_or_default())
                .await?;
        }
        Ok(image.manifest_digest)
    }
}

/// One push to one registry.
struct Push<'a> {
    store: &'a ImageStore,
    registry: Registry,
    progress: &'a dyn Progress,
}

impl Push<'_> {
    /// Sends the configuration and the layers, several at a time.
    async fn blobs(&self, image: &Image, concurrency: usize) -> Result<()> {
        let mut digests = Vec::new();
        for blob in [image.manifest.config()]
            .into_iter()
            .chain(image.manifest.layers())
        {
            let blob = (oci_digest(blob)?, blob.size());
            if !digests.contains(&blob) {
                digests.push(blob);
            }
        }
        let sent = futures_util::stream::iter(digests).map(|(digest, size)| self.blob(digest, size));
        sent.buffer_unordered(concurrency).try_collect::<()>().await
    }

    async fn blob(&self, digest: Digest, size: u64) -> Result<()> {
        if self.registry.has_blob(&digest).await? {
            self.progress.event(Event::Cached { digest, size });
            return Ok(());
        }
        self.progress.event(Event::Started { digest, size });
        let cas = self.store.cas().clone();
        let path = blocking(move || Ok(cas.stat(&digest)?.map(|_| cas.path(&digest)))).await?;
        let path = path.ok_or(magik_cas::Error::NotFound(digest))?;
        let sent = |done| self.progress.event(Event::Bytes { digest, done });
        self.registry.upload_blob(&digest, size, &path, &sent).await?;
        self.progress.event(Event::Done { digest });
        Ok(())
    }

    async fn manifest(&self, image: &Image, tag: &str) -> Result<()> {
        let digest = image.manifest_digest;
        let (cas, limit) = (self.store.cas().clone(), self.store.limits().max_manifest_size);
        let bytes = blocking(move || Ok(cas.read(&digest, limit)?)).await?;
        let media_type = image
            .manifest
            .media_type()
            .as_ref()
            .map_or(OCI_MANIFEST.to_owned(), ToString::to_string);
        self.registry.upload_manifest(tag, &media_type, &bytes).await
    }
}
