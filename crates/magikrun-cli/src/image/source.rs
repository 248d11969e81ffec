//! Where commands get an image from: the store, a registry, a layout, an archive, a file.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail};
use magik_image::{
    Image, ImageSource, ImageStore, Reference,
    layout::{self, ImportOptions},
    platform::{self, Platform},
    pull::{PullOptions, PullPolicy},
    source::InvalidSource,
};

use super::policy::PolicyArg;
#[cfg(feature = "registry")]
use super::registry::RegistryArgs;
use crate::{progress::Bars, roots::GlobalArgs};

/// What begins the name of an image that is not looked for in the store.
const TRANSPORTS: [&str; 4] = ["docker://", "oci:", "oci-archive:", "docker-archive:"];

/// An image as commands take it.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// A name, or an id or the start of one, of the store.
    Name(String),
    /// `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`.
    Place(ImageSource),
    /// A path: what `image load` takes.
    File(PathBuf),
}

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if is_path(text) {
            return Ok(Self::File(text.into()));
        }
        if TRANSPORTS.iter().any(|transport| text.starts_with(transport)) {
            return text.parse().map(Self::Place);
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Place(place) => place.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// No name of an image begins so; a module beside us may be called by its file's name alone.
fn is_path(text: &str) -> bool {
    let extension = Path::new(text).extension();
    ["/", "./", "../"].iter().any(|start| text.starts_with(start))
        || (extension.is_some_and(|e| e == "wasm" || e == "wat") && Path::new(text).is_file())
}

/// A source that is no image of the store: a name is one at a registry.
pub(super) fn to_pull(text: &str) -> Result<Source, InvalidSource> {
    Ok(match text.parse()? {
        Source::Name(name) => Source::Place(name.parse()?),
        other => other,
    })
}

/// What `image load` takes: a file of any name, or what is no plain name.
pub(super) fn to_load(text: &str) -> Result<Source, InvalidSource> {
    Ok(match text.parse()? {
        Source::Place(place) => Source::Place(place),
        _ => Source::File(text.into()),
    })
}

/// How an image that is not in the store comes into it.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SourceArgs {
    /// The platform to take from an image for several [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Option<Platform>,
    #[cfg(feature = "registry")]
    #[command(flatten)]
    pub(super) registry: RegistryArgs,
    #[command(flatten)]
    pub(super) policy: PolicyArg,
    /// Print no progress
    #[arg(short, long)]
    pub(super) quiet: bool,
}

impl SourceArgs {
    /// How to pull.
    pub(super) async fn pull_options(&self, global: &GlobalArgs) -> Result<PullOptions> {
        #[cfg_attr(
            not(feature = "registry"),
            expect(
                clippy::needless_update,
                reason = "how registries are reached is a field more"
            )
        )]
        let options = PullOptions {
            policy: PullPolicy::Always,
            platform: self.platform.clone(),
            // Commands that need the layers unpacked do that themselves.
            unpack: false,
            signature_policy: self.policy.source(),
            ..PullOptions::default()
        };
        #[cfg(feature = "registry")]
        let options = self.connect_as_asked(global, options).await?;
        let _ = global;
        Ok(options)
    }

    /// How registries are reached.
    #[cfg(feature = "registry")]
    async fn connect_as_asked(&self, global: &GlobalArgs, mut options: PullOptions) -> Result<PullOptions> {
        self.registry.apply(&mut options.connect, global).await?;
        if let Some(timeout) = global.images.pull_timeout() {
            options.connect.timeout = timeout;
        }
        Ok(options)
    }

    /// How to import; `name` replaces the archive's.
    pub(super) fn import_options(&self, name: Option<&Reference>) -> ImportOptions {
        ImportOptions {
            tag: None,
            platform: self.platform.clone().unwrap_or_else(Platform::host),
            name: name.cloned(),
            signature_policy: self.policy.source(),
        }
    }

    /// The image, which is in the store then: what is named by where it is, is pulled or imported first.
    pub(super) async fn image(
        &self,
        global: &GlobalArgs,
        store: &ImageStore,
        source: &Source,
    ) -> Result<Image> {
        match source {
            Source::Name(text) => self.named(store, text),
            Source::Place(place) => self.pulled(global, store, place).await,
            Source::File(path) => {
                let images = load_file(store, path, &self.import_options(None))?;
                let mut ids: Vec<_> = images.iter().map(|image| image.config_digest).collect();
                ids.dedup();
                match (images.into_iter().next(), ids.len()) {
                    (Some(image), 1) => Ok(image),
                    (_, count) => bail!(
                        "{}: holds {count} images: say which one as docker-archive:FILE:NAME",
                        path.display()
                    ),
                }
            }
        }
    }

    /// A name alone is the store's: nobody asks a registry for what was mistyped.
    fn named(&self, store: &ImageStore, text: &str) -> Result<Image> {
        let image = store.find(text)?;
        if let Some(platform) = &self.platform {
            platform::check(&image.config, platform).with_context(|| format!("image {text}"))?;
        }
        Ok(image)
    }

    async fn pulled(&self, global: &GlobalArgs, store: &ImageStore, place: &ImageSource) -> Result<Image> {
        let options = self.pull_options(global).await?;
        let bars = Bars::new(&format!("pulling {place}"), self.quiet);
        Ok(store.pull(place, &options, &bars).await?)
    }
}

/// Imports from a file or directory.
pub(super) fn load_file(store: &ImageStore, path: &Path, options: &ImportOptions) -> Result<Vec<Image>> {
    Ok(if path.is_dir() {
        vec![layout::import_oci_dir(store, path, options)?]
    } else {
        layout::load(store, path, options)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> &'static str {
        match text.parse() {
            Ok(Source::Name(_)) => "name",
            Ok(Source::Place(_)) => "place",
            Ok(Source::File(_)) => "file",
            Err(_) => "none",
        }
    }

    #[test]
    fn a_source_is_what_its_beginning_says() {
        for (text, expected) in [
            ("nginx", "name"),
            ("ghcr.io/a/app.wasm", "name"),
            ("5b3dfa32b1c7", "name"),
            ("docker://nginx", "place"),
            ("oci:dir:v1", "place"),
            ("oci-archive:x.tar", "place"),
            ("docker-archive:x.tar", "place"),
            ("oci:", "none"),
            ("docker://A", "none"),
            ("./app.tar", "file"),
            ("../app", "file"),
            ("/app.wasm", "file"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        assert!(matches!(
            to_pull("nginx"),
            Ok(Source::Place(ImageSource::Registry(_)))
        ));
        assert!(to_pull("Nginx").is_err());
        assert!(matches!(to_load("app.tar"), Ok(Source::File(_))));
        assert!(matches!(to_load("oci:dir"), Ok(Source::Place(_))));
    }
}
