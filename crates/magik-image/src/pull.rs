//! Pulling images.
//!
//! An image enters the store whole or not at all: layers stream in parallel into files of their own, and only when every one has
//! its size and digest do they become blobs and the image gets its name. A pull that fails, or is dropped, leaves nothing
//! in the store.

use std::{num::NonZeroUsize, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture};
use magik_cas::{Digest, Staged};
use oci_spec::image::{Descriptor, DescriptorBuilder, ImageManifest, MediaType};

use crate::{
    Error, Image, ImageSource, ImageStore, Reference, Result,
    auth::AuthSource,
    layout::{self, ImportOptions},
    manifest::{self, Document, MAX_INDEX_DEPTH, OCI_MANIFEST},
    platform::{self, Platform},
    registry::{Connection, Deadline, Operation, Registry, Wanted},
    store::oci_digest,
};

/// How long a pull may take altogether.
pub const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a registry may send nothing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many blobs are downloaded at a time.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// When a registry is asked (Kubernetes' `imagePullPolicy`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Each time; blobs that are in the store are not downloaded again.
    Always,
    /// If the store does not have the image.
    #[default]
    IfNotPresent,
    /// Never.
    Never,
}

/// How an image is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// When a registry is asked. Local sources are always read.
    pub policy: PullPolicy,
    /// Which image of an index; absent: the one for this machine.
    pub platform: Option<Platform>,
    /// Use plain HTTP. Registries on loopback are tried without TLS first in any case.
    pub insecure_http: bool,
    /// Where credentials come from.
    pub auth: AuthSource,
    /// How long the whole may take.
    pub timeout: Duration,
    /// How long the registry may send nothing.
    pub idle_timeout: Duration,
    /// How many blobs are downloaded at a time.
    pub concurrency: NonZeroUsize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: PullPolicy::default(),
            platform: None,
            insecure_http: false,
            auth: AuthSource::default(),
            timeout: IMAGE_PULL_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            concurrency: DEFAULT_CONCURRENCY,
        }
    }
}

/// What happens during a pull or push, blob by blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The blob is there already, in the store (pull) or at the registry (push).
    Cached {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// The transfer begins.
    Started {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// So much has been transferred; it falls back to 0 when a transfer has to begin again.
    Bytes {
        /// Which blob.
        digest: Digest,
        /// Bytes so far.
        done: u64,
    },
    /// The blob has arrived, whole and verified.
    Done {
        /// Which blob.
        digest: Digest,
    },
}

/// Hears of a transfer's progress, from several tasks at once. It should not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// Nobody wants to know.
impl Progress for () {
    fn event(&self, _: Event) {}
}

impl ImageStore {
    /// Brings an image into the store, from a registry or from a local layout or archive, and returns it.
    ///
    /// # Errors
    /// [`Error::Registry`] names image, registry and problem; [`Error::InvalidDocument`] and its likes a manifest that is
    /// refused; [`Error::Platform`] an image that is for other machines; [`Error::NotFound`] an image that is absent and
    /// must not be pulled. Nothing is left in the store.
    pub async fn pull(
        &self,
        source: &ImageSource,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        match source {
            ImageSource::Registry(reference) => self.pull_from_registry(reference, options, progress).await,
            local => {
                let (store, local) = (self.clone(), local.clone());
                let platform = options.platform.clone();
                blocking(move || store.import(&local, platform.as_ref())).await
            }
        }
    }

    /// Imports one image from a local source.
    fn import(&self, source: &ImageSource, platform: Option<&Platform>) -> Result<Image> {
        let platform = platform.cloned().unwrap_or_else(Platform::host);
        let options = |tag: &Option<String>| ImportOptions {
            tag: tag.clone(),
            platform,
            name: None,
        };
        match source {
            ImageSource::Registry(reference) => Err(Error::NotFound(reference.to_string())),
            ImageSource::OciDir { path, tag } => layout::import_oci_dir(self, path, &options(tag)),
            ImageSource::OciArchive { path, tag } => layout::import_oci_archive(self, path, &options(tag)),
            ImageSource::DockerArchive { path, tag } => {
                let images = layout::import_docker_archive(self, path, &options(tag))?;
                let mut ids: Vec<Digest> = images.iter().map(|image| image.config_digest).collect();
                ids.dedup();
                match (images.into_iter().next(), ids.len()) {
                    // One image may have several names.
                    (Some(image), 1) => Ok(image),
                    (_, count) => Err(Error::InvalidArchive {
                        path: path.clone(),
                        reason: format!("holds {count} images; say which one as docker-archive:FILE:NAME"),
                    }),
                }
            }
        }
    }

    async fn pull_from_registry(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let wanted = options.platform.clone().unwrap_or_else(Platform::host);
        if options.policy != PullPolicy::Always {
            let (store, name) = (self.clone(), reference.clone());
            let present = blocking(move || store.get(&name)).await?;
            match present {
                // Another platform's image is not the one that is asked for.
                Some(image)
                    if options.platform.is_none() || platform::check(&image.config, &wanted).is_ok() =>
                {
                    return Ok(image);
                }
                _ if options.policy == PullPolicy::Never => {
                    return Err(Error::NotFound(reference.to_string()));
                }
                _ => {}
            }
        }
        // Held until the image has its name: no collector takes a blob that was found or is about to be published.
        let cas = self.cas().clone();
        let _lease = blocking(move || Ok(cas.lease()?)).await?;
        let connection = Connection {
            insecure_http: options.insecure_http,
            auth: options.auth.clone(),
            idle_timeout: options.idle_timeout,
            deadline: Deadline::after(options.timeout),
        };
        let registry = Registry::connect(reference, connection, Operation::Pull).await?;
        let pull = Pull {
            store: self,
            registry,
            platform: &wanted,
            progress,
            options,
        };
        let (descriptor, staged) = pull.fetch(reference).await?;
        let (store, name) = (self.clone(), reference.clone());
        blocking(move || {
            for blob in staged {
                blob.publish()?;
            }
            store.tag(&name, &descriptor)
        })
        .await
    }
}

/// One pull from one registry.
struct Pull<'a> {
    store: &'a ImageStore,
    registry: Registry,
    platform: &'a Platform,
    progress: &'a dyn Progress,
    options: &'a PullOptions,
}

impl Pull<'_> {
    /// Fetches everything that the store does not have; what is returned has been checked and is not published.
    async fn fetch(&self, reference: &Reference) -> Result<(Descriptor, Vec<Staged>)> {
        let (descriptor, bytes, manifest) = self.resolve(reference).await?;
        let config = self.wanted("config", manifest.config())?;
        let config_blob = self.blob(&config).await?;
        self.check_config(&config, config_blob.as_ref(), &manifest)
            .await?;

        let mut staged: Vec<Staged> = config_blob.into_iter().collect();
        staged.extend(self.layers(&manifest).await?);
        let digest = oci_digest(&descriptor)?;
        let cas = self.store.cas().clone();
        staged.push(
            blocking(move || {
                let mut writer = cas.begin(digest.algorithm(), bytes.len() as u64)?;
                writer.append(&bytes)?;
                Ok(writer.finish_as(&digest, Some(bytes.len() as u64))?)
            })
            .await?,
        );
        Ok((descriptor, staged))
    }

    /// Follows the reference, through indexes, to the manifest for the platform.
    async fn resolve(&self, reference: &Reference) -> Result<(Descriptor, Vec<u8>, ImageManifest)> {
        let limits = self.store.limits();
        let mut name = reference.tag_or_digest();
        let mut promised: Option<Descriptor> = None;
        for _ in 0..=MAX_INDEX_DEPTH {
            let limit = promised.as_ref().map_or(limits.max_manifest_size, |d| {
                d.size().min(limits.max_manifest_size)
            });
            let fetched = self.registry.manifest(&name, limit).await?;
            let declared = promised.as_ref().map(|d| d.media_type().to_string());
            let given_as = declared.as_deref().or(fetched.media_type.as_deref());
            match manifest::parse(&fetched.bytes, &fetched.digest, given_as, limits)? {
                Document::Manifest(manifest) => {
                    let descriptor = descriptor_of(&manifest, &fetched.digest, fetched.bytes.len() as u64)?;
                    return Ok((descriptor, fetched.bytes, *manifest));
                }
                Document::Index(index) => {
                    let entry = platform::choose(index.manifests(), self.platform).map_err(|source| {
                        Error::Platform {
                            image: reference.to_string(),
                            source: Box::new(source),
                        }
                    })?;
                    name = oci_digest(entry)?.to_string();
                    promised = Some(entry.clone());
                }
            }
        }
        Err(Error::InvalidDocument {
            document: format!("index {name}"),
            reason: format!("indexes lie in one another more than {MAX_INDEX_DEPTH} deep"),
        })
    }

    /// The configuration is for the platform and fits the manifest; checked before anything large is downloaded.
    async fn check_config(
        &self,
        wanted: &Wanted,
        staged: Option<&Staged>,
        manifest: &ImageManifest,
    ) -> Result<()> {
        let digest = wanted.digest;
        let limits = *self.store.limits();
        let file = staged.map(Staged::open).transpose()?;
        let cas = self.store.cas().clone();
        let of = manifest.clone();
        let config = blocking(move || {
            let bytes = match file {
                Some(mut file) => {
                    let mut bytes = Vec::new();
                    std::io::Read::read_to_end(&mut file, &mut bytes)
                        .map_err(Error::io(format!("read config {digest}")))?;
                    bytes
                }
                None => cas.read(&digest, limits.max_config_size)?,
            };
            manifest::parse_config_of(&of, &bytes, &digest, &limits)
        })
        .await?;
        let (ids, layers) = (config.rootfs().diff_ids().len(), manifest.layers().len());
        if ids != layers {
            return Err(Error::InvalidDocument {
                document: format!("config {digest}"),
                reason: format!("rootfs.diff_ids has {ids} entries, the manifest has {layers} layers"),
            });
        }
        platform::check(&config, self.platform).map_err(|source| Error::Platform {
            image: self.registry.image(),
            source: Box::new(source),
        })
    }

    /// All layers in parallel. The first failure stops the others, and this returns when they have stopped.
    async fn layers(&self, manifest: &ImageManifest) -> Result<Vec<Staged>> {
        let mut wanted: Vec<Wanted> = Vec::with_capacity(manifest.layers().len());
        for layer in manifest.layers() {
            let layer = self.wanted("layer", layer)?;
            // Empty layers repeat in many images.
            if !wanted.iter().any(|other| other.digest == layer.digest) {
                wanted.push(layer);
            }
        }
        // Owned and boxed: else the compiler does not see that the future is `Send` (rust-lang/rust#64552).
        let downloads = futures_util::stream::iter(wanted)
            .map(|layer| -> BoxFuture<'_, Result<Option<Staged>>> { Box::pin(self.layer(layer)) });
        let ended: Vec<Result<Option<Staged>>> = downloads
            .buffer_unordered(self.options.concurrency.get())
            .collect()
            .await;
        // In the order they ended: the first error is the cause, those after it come from being stopped.
        ended.into_iter().filter_map(Result::transpose).collect()
    }

    /// One of the layers.
    async fn layer(&self, wanted: Wanted) -> Result<Option<Staged>> {
        let blob = self.blob(&wanted).await;
        if blob.is_err() {
            self.registry.stop();
        }
        blob
    }

    /// Downloads a blob unless the store has it.
    async fn blob(&self, wanted: &Wanted) -> Result<Option<Staged>> {
        let (digest, size) = (wanted.digest, wanted.size);
        if self.store.cas().stat(&digest)? == Some(size) {
            self.progress.event(Event::Cached { digest, size });
            return Ok(None);
        }
        self.progress.event(Event::Started { digest, size });
        let received = |done| self.progress.event(Event::Bytes { digest, done });
        let staged = self.registry.blob(self.store.cas(), wanted, &received).await?;
        self.progress.event(Event::Done { digest });
        Ok(Some(staged))
    }

    fn wanted(&self, kind: &str, descriptor: &Descriptor) -> Result<Wanted> {
        let digest = oci_digest(descriptor)?;
        let media_type = descriptor.media_type().to_string();
        Ok(Wanted {
            digest,
            size: descriptor.size(),
            what: format!("{kind} {digest}"),
            foreign: media_type.contains(".foreign.") || media_type.contains(".nondistributable."),
        })
    }
}

fn descriptor_of(manifest: &ImageManifest, digest: &Digest, size: u64) -> Result<Descriptor> {
    let media_type = manifest
        .media_type()
        .clone()
        .unwrap_or_else(|| MediaType::from(OCI_MANIFEST));
    let invalid = |reason: String| Error::InvalidDocument {
        document: format!("manifest {digest}"),
        reason,
    };
    let digest: oci_spec::image::Digest = digest
        .to_string()
        .parse()
        .map_err(|e: oci_spec::OciSpecError| invalid(e.to_string()))?;
    DescriptorBuilder::default()
        .media_type(media_type)
        .digest(digest)
        .size(size)
        .build()
        .map_err(|e| invalid(e.to_string()))
}

/// Runs what blocks on a thread for that.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::Task(e.to_string()))?
}
