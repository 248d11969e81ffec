//! Pulling images.
//!
//! **One pass.** While a layer arrives it is hashed and written to a file; while that is written it
//! is decompressed, hashed again (its diff id) and unpacked. Layers do so in parallel.
//!
//! **All or nothing.** Blobs and layers lie apart until every blob has its size and digest and
//! every layer its diff id; only then they appear in the store and the image gets its name. A
//! refused pull leaves nothing.
//!
//! **A pull that is cut short** (connection lost, time up, killed) leaves what has arrived of large
//! blobs, from 1 MiB on. The next pull hashes it and asks for the rest. It belongs to no image:
//! [`prune`](ImageStore::prune) removes it at once, a pull when it is a day old.
//!
//! **A busy registry** (408, 429, 500, 502-504) or a broken connection is retried, after growing
//! random pauses or `Retry-After` (up to [`MAX_RETRY_AFTER`](crate::registry::MAX_RETRY_AFTER)).

#[cfg(feature = "registry")]
mod arriving;
#[cfg(feature = "registry")]
mod fetch;
#[cfg(feature = "registry")]
mod network;

use std::time::Duration;

use magik_cas::Digest;

#[cfg(feature = "registry")]
use crate::connect::ConnectOptions;
use crate::{
    Error, Image, ImageSource, ImageStore, Reference, Result,
    background::blocking,
    layout::{self, ImportOptions},
    platform::{self, Platform},
    policy::PolicySource,
};

#[cfg(feature = "registry")]
pub(crate) use arriving::Arriving;

/// How long a pull may take altogether.
pub const IMAGE_PULL_TIMEOUT: Duration = Duration::from_secs(300);
/// How long what an interrupted pull has left is kept for another.
pub const PARTIAL_AGE: Duration = Duration::from_secs(24 * 3600);

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

/// How an image is pulled. End a literal with `..PullOptions::default()`: the feature `registry`,
/// which another crate may ask for, adds a field.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// When a registry is asked. Local sources are always read.
    pub policy: PullPolicy,
    /// Which image of an index; absent: the one for this machine.
    pub platform: Option<Platform>,
    /// Unpack layers from registries while they arrive, for [`ImageStore::unpack`]. Only on Linux.
    pub unpack: bool,
    /// Which images may be used.
    pub signature_policy: PolicySource,
    /// How registries are reached.
    #[cfg(feature = "registry")]
    pub connect: ConnectOptions,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            policy: PullPolicy::default(),
            platform: None,
            unpack: true,
            signature_policy: PolicySource::default(),
            #[cfg(feature = "registry")]
            connect: ConnectOptions::within(IMAGE_PULL_TIMEOUT),
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
    /// The layer in the blob has been unpacked, its diff id verified.
    Unpacked {
        /// Which blob.
        digest: Digest,
    },
}

/// Hears of a transfer's progress, from several tasks at once. It should not block.
pub trait Progress: Send + Sync {
    /// Something happened.
    fn event(&self, event: Event);
}

/// No progress is shown.
impl Progress for () {
    fn event(&self, _: Event) {}
}

impl ImageStore {
    /// Brings an image into the store, from a registry, a layout or an archive, and returns it.
    ///
    /// # Errors
    /// [`Error::Registry`] names image, registry and problem; [`Error::InvalidDocument`] and its
    /// likes a manifest that is refused; [`Error::MissingFeature`] an image at a registry, without
    /// the feature `registry`; [`Error::Platform`] an image that is for other machines;
    /// [`Error::NotFound`] an image that is absent and must not be pulled. Nothing is left in the
    /// store.
    pub async fn pull(
        &self,
        source: &ImageSource,
        options: &PullOptions,
        progress: &dyn Progress,
    ) -> Result<Image> {
        // Also for images that are there: the policy may be stricter now.
        let (policy, asked) = (options.signature_policy.clone(), source.clone());
        blocking(move || Ok(policy.check(&asked)?)).await?;
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
            // Asked already.
            signature_policy: PolicySource::Given(crate::policy::Policy::accept_anything()),
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
                    (_, count) => Err(Error::archive(
                        path,
                        format!("holds {count} images; say which one as docker-archive:FILE:NAME"),
                    )),
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
                // An image of another platform does not count.
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
        self.pull_anew(reference, &wanted, options, progress).await
    }

    #[cfg(not(feature = "registry"))]
    #[expect(clippy::unused_async, reason = "as with the feature")]
    async fn pull_anew(
        &self,
        reference: &Reference,
        _: &Platform,
        _: &PullOptions,
        _: &dyn Progress,
    ) -> Result<Image> {
        Err(Error::MissingFeature {
            what: format!("pulling {reference}"),
            feature: "registry",
        })
    }
}
