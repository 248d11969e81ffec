//! One pull from one place: all that the store lacks, checked, and not visible yet.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use futures_util::{StreamExt as _, future::BoxFuture};
use magik_cas::{Digest, Staged};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest, MediaType};
use tokio::sync::mpsc;

use super::{Arriving, Event, Progress, PullOptions, arriving::FailOnDrop};
use crate::{
    Error, Image, ImageStore, Reference, Result,
    background::blocking,
    manifest::{self, Document, MAX_INDEX_DEPTH, OCI_MANIFEST, descriptor},
    platform::{self, Platform},
    registry::{Fetch, Problem, Registry, Wanted},
    store::{Layer, layers_of, oci_digest},
    unpack::{Placement, Source, StagedLayer, Work},
};

/// One pull from one registry.
pub(super) struct Pull<'a> {
    store: &'a ImageStore,
    registry: Registry,
    platform: &'a Platform,
    progress: &'a dyn Progress,
    options: &'a PullOptions,
    /// Why it fails: the first error is the cause, those after it come from being stopped.
    cause: Mutex<Option<Error>>,
    /// A reader's error that follows from missing data; reported if there is no other error.
    consequence: Mutex<Option<Error>>,
}

/// What a pull brings.
#[derive(Debug)]
pub(super) struct Fetched {
    descriptor: Descriptor,
    blobs: Vec<Staged>,
    layers: Vec<StagedLayer>,
    /// All layers of the image, if they are to be unpacked.
    unpack: Vec<Layer>,
}

impl Fetched {
    /// Makes it the store's: the blobs, the layers, and last the name.
    pub(super) async fn publish(
        self,
        store: &ImageStore,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Image> {
        let (store, name) = (store.clone(), reference.clone());
        let (image, unpacked) = blocking(move || {
            let together = !self.layers.is_empty();
            if together {
                store.sync_layers(store.root())?;
            }
            for blob in self.blobs {
                if together {
                    blob.publish_synced()?;
                } else {
                    blob.publish()?;
                }
            }
            for layer in self.layers {
                layer.publish()?;
            }
            if together {
                store.sync_layer_names()?;
            }
            let image = store.tag(&name, &self.descriptor)?;
            // What others were unpacking at the same time.
            let mut unpacked = Vec::new();
            if !self.unpack.iter().all(|layer| store.has_layer(layer)) {
                let done = Mutex::new(&mut unpacked);
                let work = Work {
                    source: &|_| Source::Store,
                    done: &|index| {
                        done.lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(self.unpack[index].digest);
                    },
                };
                store.unpack_layers(image.name(), &self.unpack, &work, Placement::AtOnce)?;
            }
            Ok((image, unpacked))
        })
        .await?;
        for digest in unpacked {
            progress.event(Event::Unpacked { digest });
        }
        Ok(image)
    }
}

/// Whether bytes of an earlier pull can be what is wrong.
pub(super) fn may_be_the_beginning(error: &Error) -> bool {
    match error {
        Error::Registry(e) => matches!(
            e.problem,
            Problem::DigestMismatch { .. } | Problem::Protocol { .. } | Problem::SizeMismatch { .. }
        ),
        Error::InvalidLayer { .. } | Error::InvalidEntry { .. } | Error::DiffIdMismatch { .. } => true,
        _ => false,
    }
}

impl<'a> Pull<'a> {
    pub(super) fn new(
        store: &'a ImageStore,
        registry: Registry,
        platform: &'a Platform,
        progress: &'a dyn Progress,
        options: &'a PullOptions,
    ) -> Self {
        Self {
            store,
            registry,
            platform,
            progress,
            options,
            cause: Mutex::default(),
            consequence: Mutex::default(),
        }
    }

    /// Fetches all that the store lacks. `place` is the image's name at this registry, `image`
    /// here. With `resume`, large blobs begin with what an earlier pull left, which is noted.
    pub(super) async fn fetch(
        &self,
        place: &Reference,
        image: &Reference,
        resume: Option<&AtomicBool>,
    ) -> Result<Fetched> {
        let (descriptor, bytes, manifest) = self.resolve(place).await?;
        let wanted = self.wanted("config", manifest.config())?;
        let config_blob = self.blob(&wanted, None, None).await?;
        let config = self.config(&manifest, &wanted, config_blob.as_ref()).await?;
        let manifest_digest = oci_digest(&descriptor)?;
        let layers = layers_of(&manifest, &manifest_digest, &config, &wanted.digest)
            .map_err(|e| self.registry.answered(e))?;
        platform::check(&config, self.platform).map_err(|source| Error::Platform {
            image: image.to_string(),
            source: Box::new(source),
        })?;

        let mut blobs: Vec<Staged> = config_blob.into_iter().collect();
        let unpack = if self.options.unpack && cfg!(target_os = "linux") {
            layers
        } else {
            Vec::new()
        };
        let (layer_blobs, staged_layers) = self.layers(&manifest, image, &unpack, resume).await?;
        blobs.extend(layer_blobs);
        let cas = self.store.cas().clone();
        let document = blocking(move || {
            let size = bytes.len() as u64;
            if cas.stat(&manifest_digest)? == Some(size) {
                return Ok(None);
            }
            let mut writer = cas.begin(manifest_digest.algorithm(), size)?;
            writer.append(&bytes)?;
            Ok(Some(writer.finish_as(&manifest_digest, Some(size))?))
        });
        blobs.extend(document.await?);
        Ok(Fetched {
            descriptor,
            blobs,
            layers: staged_layers,
            unpack,
        })
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
            let parsed = manifest::parse(&fetched.bytes, &fetched.digest, given_as, limits);
            match parsed.map_err(|e| self.registry.answered(e))? {
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
        Err(Error::document(
            format!("index {name}"),
            format!("indexes lie in one another more than {MAX_INDEX_DEPTH} deep"),
        ))
    }

    /// Reads the configuration, before anything large is downloaded.
    async fn config(
        &self,
        manifest: &ImageManifest,
        wanted: &Wanted,
        staged: Option<&Staged>,
    ) -> Result<ImageConfiguration> {
        let (digest, of) = (wanted.digest, manifest.clone());
        let limits = *self.store.limits();
        let file = staged.map(Staged::open).transpose()?;
        let cas = self.store.cas().clone();
        blocking(move || {
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
        .await
        .map_err(|e| self.registry.answered(e))
    }

    /// All layers in parallel: downloaded and, those of `unpack`, unpacked. The first failure stops
    /// the others, and this returns when they have stopped.
    async fn layers(
        &self,
        manifest: &ImageManifest,
        image: &Reference,
        unpack: &[Layer],
        resume: Option<&AtomicBool>,
    ) -> Result<(Vec<Staged>, Vec<StagedLayer>)> {
        let mut wanted: Vec<(Wanted, Option<Arc<Arriving>>)> = Vec::new();
        let mut arriving: HashMap<Digest, Arc<Arriving>> = HashMap::new();
        for layer in manifest.layers() {
            let layer = self.wanted("layer", layer)?;
            // Empty layers repeat in many images.
            if wanted.iter().any(|(other, _)| other.digest == layer.digest) {
                continue;
            }
            let is_here = self.store.cas().stat(&layer.digest)? == Some(layer.size);
            let follow = (!is_here && !unpack.is_empty()).then(Arc::<Arriving>::default);
            if let Some(follow) = &follow {
                arriving.insert(layer.digest, Arc::clone(follow));
            }
            wanted.push((layer, follow));
        }
        // However this ends, no reader waits for a blob that will not come.
        let never_waiting = FailOnDrop(arriving.values().cloned().collect());
        let (done, unpacked) = mpsc::unbounded_channel();
        let unpacking = self.unpack(image, unpack, arriving, done);

        // Boxed, so that the compiler sees the future is `Send` (rust-lang/rust#64552).
        let downloads =
            futures_util::stream::iter(wanted).map(|(layer, follow)| -> BoxFuture<'_, Option<Staged>> {
                Box::pin(self.layer(layer, follow, resume))
            });
        let downloads = async {
            let blobs: Vec<Option<Staged>> = downloads
                .buffer_unordered(self.options.connect.concurrency.get())
                .collect()
                .await;
            drop(never_waiting);
            blobs
        };
        let (blobs, layers, ()) = tokio::join!(downloads, unpacking, self.report(unpacked));
        let taken =
            |error: &Mutex<Option<Error>>| error.lock().unwrap_or_else(PoisonError::into_inner).take();
        let cause = taken(&self.cause).or_else(|| taken(&self.consequence));
        let blobs = blobs.into_iter().flatten();
        match cause {
            None => Ok((blobs.collect(), layers)),
            Some(cause) => {
                let keep = matches!(&cause, Error::Registry(e) if e.problem.is_interruption());
                if !keep {
                    blobs.for_each(Staged::discard);
                }
                Err(cause)
            }
        }
    }

    /// Downloads one of the layers, or stops everything.
    async fn layer(
        &self,
        wanted: Wanted,
        follow: Option<Arc<Arriving>>,
        resume: Option<&AtomicBool>,
    ) -> Option<Staged> {
        match self.blob(&wanted, follow.clone(), resume).await {
            Ok(blob) => blob,
            Err(error) => {
                self.failed(error);
                if let Some(follow) = follow {
                    follow.fail();
                }
                None
            }
        }
    }

    /// Notes the first error and stops what is under way.
    fn failed(&self, error: Error) {
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        cause.get_or_insert(error);
        self.registry.stop();
    }

    /// Unpacks `layers` on threads that may block, reading those that are `arriving` while they do.
    async fn unpack(
        &self,
        image: &Reference,
        layers: &[Layer],
        arriving: HashMap<Digest, Arc<Arriving>>,
        done: mpsc::UnboundedSender<Digest>,
    ) -> Vec<StagedLayer> {
        if layers.iter().all(|layer| self.store.has_layer(layer)) {
            return Vec::new();
        }
        let (store, layers, name) = (self.store.clone(), layers.to_vec(), image.to_string());
        let followed: Vec<Arc<Arriving>> = arriving.values().cloned().collect();
        let unpacked = blocking(move || {
            let work = Work {
                source: &|index| match arriving.get(&layers[index].digest) {
                    Some(blob) => Source::Arriving(Box::new(blob.reader())),
                    None => Source::Store,
                },
                done: &|index| {
                    // A pull that was given up has no listener.
                    let _ = done.send(layers[index].digest);
                },
            };
            store.unpack_layers(name, &layers, &work, Placement::Later)
        });
        unpacked.await.unwrap_or_else(|error| {
            if followed.iter().any(|blob| blob.was_missed()) {
                let mut consequence = self.consequence.lock().unwrap_or_else(PoisonError::into_inner);
                consequence.get_or_insert(error);
            } else {
                self.failed(error);
            }
            Vec::new()
        })
    }

    async fn report(&self, mut unpacked: mpsc::UnboundedReceiver<Digest>) {
        while let Some(digest) = unpacked.recv().await {
            self.progress.event(Event::Unpacked { digest });
        }
    }

    /// Downloads a blob unless the store has it.
    async fn blob(
        &self,
        wanted: &Wanted,
        arriving: Option<Arc<Arriving>>,
        resume: Option<&AtomicBool>,
    ) -> Result<Option<Staged>> {
        let (digest, size) = (wanted.digest, wanted.size);
        if self.store.cas().stat(&digest)? == Some(size) {
            self.progress.event(Event::Cached { digest, size });
            return Ok(None);
        }
        self.progress.event(Event::Started { digest, size });
        let is_first = AtomicBool::new(true);
        let received = |done| {
            if is_first.swap(false, Relaxed)
                && done > 0
                && let Some(resumed) = resume
            {
                resumed.store(true, Relaxed);
            }
            self.progress.event(Event::Bytes { digest, done });
        };
        let fetch = Fetch {
            store: self.store.cas(),
            resume: resume.is_some(),
            arriving,
            received: &received,
        };
        let staged = self.registry.blob(wanted, fetch).await?;
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
    descriptor(media_type, digest, size)
}
