//! The images that a pod needs: of its containers, and of its volumes.

use std::{collections::HashMap, fmt::Display, sync::Arc};

use futures_util::future::{BoxFuture, join_all, try_join_all};
#[cfg(feature = "registry")]
use magik_image::auth::{AuthSource, AuthText};
use magik_image::{
    Image, ImageStore,
    pull::{self, PullOptions},
    source::ImageSource,
};

use super::{files::ContainerImage, run::Run, volumes::image_volumes};
use crate::{Error, PodSpec, PullPolicy, Result, Step};

/// An image that a pod needs, and what for.
struct Wanted<'a> {
    source: &'a ImageSource,
    policy: PullPolicy,
    container: Option<&'a str>,
    volume: Option<&'a str>,
}

impl<'a> Wanted<'a> {
    /// Those of all containers, in order, then of the volumes that are images.
    fn all(spec: &'a PodSpec) -> impl Iterator<Item = Self> {
        let containers = spec.all_containers().map(|container| Self {
            source: &container.image,
            policy: container.pull_policy(),
            container: Some(&container.name),
            volume: None,
        });
        let volumes = image_volumes(spec).map(|(name, volume)| Self {
            source: &volume.image,
            policy: volume
                .pull_policy
                .unwrap_or_else(|| PullPolicy::of_image(&volume.image)),
            container: None,
            volume: Some(name),
        });
        containers.chain(volumes)
    }
}

impl Run {
    /// Brings every image into the store and unpacks it, with a lease that `held` keeps; of all containers, in order, then of
    /// the volumes that are images. Each image once.
    pub(super) async fn images<H: Send + Sync + 'static>(
        &self,
        lease: &str,
        held: &Arc<H>,
    ) -> Result<Vec<ContainerImage>> {
        let mut wanted: Vec<Wanted<'_>> = Vec::new();
        let mut index: HashMap<(String, PullPolicy, bool), usize> = HashMap::new();
        let mut places = Vec::new();
        for mut image in Wanted::all(&self.spec) {
            image.policy = self.options.pull_policy.unwrap_or(image.policy);
            let key = (image.source.to_string(), image.policy, image.volume.is_some());
            places.push(*index.entry(key).or_insert_with(|| {
                wanted.push(image);
                wanted.len() - 1
            }));
        }
        let pulled = self.pull_all(&wanted).await?;
        for (image, wanted) in pulled.iter().zip(&wanted) {
            // A volume may hold anything.
            if wanted.volume.is_none() {
                let checked = self.backend.check_image(image);
                checked.map_err(|why| self.image_failed(wanted, &why))?;
            }
        }
        let unpacks = pulled.iter().map(|image| {
            let (store, image, held) = (self.image_store(), image.clone(), held.clone());
            let (backend, lease) = (self.backend.clone(), lease.to_owned());
            tokio::task::spawn_blocking(move || {
                // Where this is given up the lease is taken all the same, and then given back.
                let _held = held;
                backend.unpack(&store, &image, &lease)
            })
        });
        let unpacked = join_all(unpacks.collect::<Vec<_>>()).await;
        let mut images = Vec::with_capacity(pulled.len());
        for ((image, layers), wanted) in pulled.into_iter().zip(unpacked).zip(&wanted) {
            let layers = layers.unwrap_or_else(|e| Err(magik_image::Error::Task(e.to_string())));
            let layers = layers.map_err(|e| self.image_failed(wanted, &e))?;
            images.push(ContainerImage { image, layers });
        }
        Ok(places
            .into_iter()
            .filter_map(|place| images.get(place).cloned())
            .collect())
    }

    /// Local images, which are read to their end in any case, then those of registries, whose transfers an error breaks off.
    async fn pull_all(&self, wanted: &[Wanted<'_>]) -> Result<Vec<Image>> {
        let (mut local, mut remote): (Vec<BoxFuture<'_, _>>, Vec<BoxFuture<'_, _>>) =
            (Vec::new(), Vec::new());
        for (place, wanted) in wanted.iter().enumerate() {
            let pull = async move { self.pull(wanted).await.map(|image| (place, image)) };
            let group = if wanted.source.reference().is_some() {
                &mut remote
            } else {
                &mut local
            };
            group.push(Box::pin(pull));
        }
        let mut pulled: Vec<(usize, Image)> = join_all(local).await.into_iter().collect::<Result<_>>()?;
        pulled.extend(try_join_all(remote).await?);
        pulled.sort_by_key(|(place, _)| *place);
        Ok(pulled.into_iter().map(|(_, image)| image).collect())
    }

    async fn pull(&self, wanted: &Wanted<'_>) -> Result<Image> {
        let options = PullOptions {
            policy: match wanted.policy {
                PullPolicy::Always => pull::PullPolicy::Always,
                PullPolicy::IfNotPresent => pull::PullPolicy::IfNotPresent,
                PullPolicy::Never => pull::PullPolicy::Never,
            },
            platform: self.backend.platform(),
            ..PullOptions::default()
        };
        #[cfg(feature = "registry")]
        let options = self.connect_as_asked(options);
        let progress: &dyn pull::Progress = match &self.options.progress {
            Some(progress) => progress.as_ref(),
            None => &(),
        };
        let store = self.image_store();
        let pulled = store.pull(wanted.source, &options, progress).await;
        pulled.map_err(|e| self.image_failed(wanted, &e))
    }

    /// How registries are reached.
    #[cfg(feature = "registry")]
    fn connect_as_asked(&self, mut options: PullOptions) -> PullOptions {
        if let Some(connect) = &self.options.connect {
            options.connect = connect.clone();
        }
        let credentials = self.spec.pull_credentials();
        // What was said for this command goes before what a manifest says.
        if !credentials.is_empty() && matches!(options.connect.auth, AuthSource::Default) {
            let texts = credentials
                .into_iter()
                .map(|(name, text)| AuthText::new(format!("Secret {name}"), text));
            options.connect.auth = AuthSource::Texts(texts.collect());
        }
        options.connect.insecure_http |= self.options.insecure_registries;
        if let Some(timeout) = self.options.pull_timeout {
            options.connect.timeout = timeout;
        }
        options
    }

    /// The images, within the limits that were asked for.
    fn image_store(&self) -> ImageStore {
        let limits = self.options.image_limits;
        self.store.images.clone().with_limits(limits)
    }

    fn image_failed(&self, wanted: &Wanted<'_>, error: &dyn Display) -> Error {
        let volume = wanted.volume.map(|name| format!("volume {name}: "));
        self.failed(
            Step::Images,
            wanted.container.map(str::to_owned),
            format!("{}image {}: {error}", volume.unwrap_or_default(), wanted.source),
        )
    }
}
