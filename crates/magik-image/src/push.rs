//! Pushing images to a registry.
//!
//! Blobs that the registry has are not sent again; the others are streamed from the store, several at a time, and hashed by
//! the registry, which refuses what was damaged here. The manifest comes last, so a push that fails leaves no image of
//! that name behind.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _};
use magik_cas::Digest;
use oci_distribution::{
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    secrets::RegistryAuth,
};
use reqwest::header::HeaderValue;
use tokio_util::io::ReaderStream;

use crate::{
    Error, Image, ImageStore, Reference, Result,
    auth::AuthSource,
    manifest::OCI_MANIFEST,
    pull::{DEFAULT_CONCURRENCY, Event, IDLE_TIMEOUT, Progress, blocking},
    registry::{Authorization, Connection, Deadline, Operation, Problem, Registry, one_line},
    store::oci_digest,
};

/// How long a push may take altogether: uplinks are slower than downlinks.
pub const IMAGE_PUSH_TIMEOUT: Duration = Duration::from_secs(1800);
/// How much of a blob is read at a time, in bytes.
const CHUNK: usize = 128 * 1024;

/// How an image is pushed.
#[derive(Debug, Clone)]
pub struct PushOptions {
    /// Use plain HTTP. Registries on loopback are tried without TLS first in any case.
    pub insecure_http: bool,
    /// Where credentials come from.
    pub auth: AuthSource,
    /// How long the whole may take.
    pub timeout: Duration,
    /// How long nothing may move.
    pub idle_timeout: Duration,
    /// How many blobs are uploaded at a time.
    pub concurrency: NonZeroUsize,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            insecure_http: false,
            auth: AuthSource::default(),
            timeout: IMAGE_PUSH_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            concurrency: DEFAULT_CONCURRENCY,
        }
    }
}

impl ImageStore {
    /// Sends an image to a registry under the name `target`, which has a tag and no digest, and returns the digest of its
    /// manifest there, which is the same as here.
    ///
    /// # Errors
    /// [`Error::Registry`] names image, registry and problem; [`Error::Cas`] a blob that is missing here.
    pub async fn push(
        &self,
        image: &Image,
        target: &Reference,
        options: &PushOptions,
        progress: &dyn Progress,
    ) -> Result<Digest> {
        let Some(tag) = target.tag().filter(|_| target.digest().is_none()) else {
            return Err(Error::Unsupported {
                what: format!("pushing to {target}"),
                why: "a digest is what an image has, not where it goes; name a tag".into(),
            });
        };
        // No collector takes a blob while it is sent.
        let cas = self.cas().clone();
        let _lease = blocking(move || Ok(cas.lease()?)).await?;
        let connection = Connection {
            insecure_http: options.insecure_http,
            auth: options.auth.clone(),
            idle_timeout: options.idle_timeout,
            deadline: Deadline::after(options.timeout),
        };
        let registry = Registry::connect(target, connection, Operation::Push).await?;
        let (host, repository) = (target.registry().to_owned(), target.repository().to_owned());
        let name = oci_distribution::Reference::with_tag(host, repository, tag.to_owned());
        let push = Push {
            store: self,
            uploads: uploads(&registry, &name).await?,
            registry,
            name,
            progress,
            options,
        };

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
        let sent = futures_util::stream::iter(digests).map(|(digest, size)| push.blob(digest, size));
        sent.buffer_unordered(options.concurrency.get())
            .try_collect::<()>()
            .await?;
        push.manifest(image).await
    }
}

/// The client that does the uploads, with the authorization that the registry asks for.
async fn uploads(
    registry: &Registry,
    name: &oci_distribution::Reference,
) -> Result<oci_distribution::Client> {
    let authorization = match registry.authorization().await? {
        None => RegistryAuth::Anonymous,
        Some(Authorization::Basic { username, password }) => RegistryAuth::Basic(username, password),
        Some(Authorization::Bearer(token)) => RegistryAuth::Bearer(token),
    };
    let config = ClientConfig {
        protocol: if registry.is_plain() {
            ClientProtocol::Http
        } else {
            ClientProtocol::Https
        },
        use_monolithic_push: true,
        user_agent: concat!("magikrun/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    };
    let client = oci_distribution::Client::try_from(config).map_err(|e| problem(registry, "set up", e))?;
    client
        .store_auth_if_needed(name.resolve_registry(), &authorization)
        .await;
    Ok(client)
}

/// One push to one registry.
struct Push<'a> {
    store: &'a ImageStore,
    registry: Registry,
    uploads: oci_distribution::Client,
    name: oci_distribution::Reference,
    progress: &'a dyn Progress,
    options: &'a PushOptions,
}

impl Push<'_> {
    async fn blob(&self, digest: Digest, size: u64) -> Result<()> {
        if self.registry.has_blob(&digest).await? {
            self.progress.event(Event::Cached { digest, size });
            return Ok(());
        }
        self.progress.event(Event::Started { digest, size });
        let cas = self.store.cas().clone();
        let path = blocking(move || Ok(cas.stat(&digest)?.map(|_| cas.path(&digest)))).await?;
        let path = path.ok_or(magik_cas::Error::NotFound(digest))?;
        let file = tokio::fs::File::open(&path)
            .await
            .map_err(Error::io(format!("open {}", path.display())))?;
        let sent = Arc::new(AtomicU64::new(0));
        let body = ReaderStream::with_capacity(file, CHUNK).map_err(OciDistributionError::from);
        let body = body.inspect_ok({
            let sent = Arc::clone(&sent);
            move |chunk| {
                sent.fetch_add(chunk.len() as u64, Relaxed);
            }
        });
        let what = format!("upload of blob {digest}");
        let name = digest.to_string();
        let upload = self.uploads.push_blob_stream(&self.name, body, &name, Some(size));
        self.while_moving(&what, &sent, upload, |done| {
            self.progress.event(Event::Bytes { digest, done });
        })
        .await?;
        self.progress.event(Event::Done { digest });
        Ok(())
    }

    async fn manifest(&self, image: &Image) -> Result<Digest> {
        let digest = image.manifest_digest;
        let (cas, limit) = (self.store.cas().clone(), self.store.limits().max_manifest_size);
        let bytes = blocking(move || Ok(cas.read(&digest, limit)?)).await?;
        let media_type = image
            .manifest
            .media_type()
            .as_ref()
            .map_or(OCI_MANIFEST.to_owned(), ToString::to_string);
        let what = format!("upload of manifest {digest}");
        let content_type =
            HeaderValue::from_str(&media_type).map_err(|e| self.registry.protocol(&what, e.to_string()))?;
        let upload = self.uploads.push_manifest_raw(&self.name, bytes, content_type);
        self.while_moving(&what, &AtomicU64::new(0), upload, |_| {})
            .await?;
        Ok(digest)
    }

    /// Waits for an upload as long as `sent` grows.
    async fn while_moving(
        &self,
        what: &str,
        sent: &AtomicU64,
        upload: impl Future<Output = Result<String, OciDistributionError>>,
        report: impl Fn(u64),
    ) -> Result<()> {
        const TICK: Duration = Duration::from_millis(100);
        let mut upload = std::pin::pin!(upload);
        let (mut before, mut still) = (0, Duration::ZERO);
        loop {
            // The client's own wait knows the deadline of the whole.
            let tick = tokio::time::timeout(TICK, &mut upload);
            let ended = self.registry.wait(what, tick).await?;
            let now = sent.load(Relaxed);
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
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(e)) => return Err(problem(&self.registry, what, e)),
                Err(_) if still >= self.options.idle_timeout => {
                    let after = self.options.idle_timeout;
                    return Err(self.registry.error(Problem::Stalled {
                        what: what.to_owned(),
                        after,
                    }));
                }
                Err(_) => {}
            }
        }
    }
}

/// What the upload client says, in our words.
fn problem(registry: &Registry, what: &str, error: OciDistributionError) -> Error {
    let what = what.to_owned();
    registry.error(match error {
        OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
            Problem::Unauthorized(format!(" for {what}"))
        }
        OciDistributionError::ServerError { code: 401 | 403, .. } => {
            Problem::Unauthorized(format!(" for {what}"))
        }
        OciDistributionError::ServerError { code, message, .. } => Problem::Status {
            what,
            status: code,
            message: format!(" ({})", one_line(&message)),
        },
        OciDistributionError::RequestError(e) => return registry.broken(&what, &e),
        other => Problem::Protocol {
            what,
            reason: one_line(&other.to_string()),
        },
    })
}
