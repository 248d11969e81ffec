//! `image save` and `push`: images out.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use clap::ValueEnum;
use magik_image::{
    ImageSource,
    layout::{self, SaveFormat},
    source::InvalidSource,
};

#[cfg(feature = "registry")]
use {
    crate::progress::Bars,
    magik_image::{Image, ImageStore, Reference, magik_cas::Digest, push::PushOptions},
};

use super::source::{Source, SourceArgs};
use crate::{
    output::{self, FormatArg, StdoutClosed},
    roots::GlobalArgs,
};

pub(crate) const SAVE_EXAMPLE: &str = "\
Examples: magikrun image save -o nginx.tar nginx
          magikrun image save nginx docker-archive:nginx.tar:nginx:copy
          magikrun image save docker://quay.io/user/app oci:./layout:v1";
pub(crate) const PUSH_EXAMPLE: &str = "\
Examples: magikrun image push nginx localhost:5000/nginx:copy
          magikrun image push nginx oci-archive:nginx.tar";

#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    #[arg(
        value_name = "DESTINATION",
        value_parser = to_save,
        conflicts_with_all = ["output", "kind"],
        help = "oci:DIR[:TAG], oci-archive:FILE[:TAG] or docker-archive:FILE[:NAME]"
    )]
    destination: Option<ImageSource>,
    /// Where to: a file, or a directory for oci-dir [default: stdout]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// oci-archive, docker-archive or oci-dir
    #[arg(
        long = "type",
        alias = "format",
        value_name = "TYPE",
        hide_possible_values = true,
        default_value = "oci-archive"
    )]
    kind: SaveKind,
    #[command(flatten)]
    how: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        value_name = "DESTINATION",
        help = "A name, or oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:NAME] [default: its own name]"
    )]
    destination: Option<ImageSource>,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

/// A place that is no registry.
fn to_save(text: &str) -> Result<ImageSource, String> {
    let place: ImageSource = text.parse().map_err(|e: InvalidSource| e.to_string())?;
    match place {
        ImageSource::Registry(name) => Err(format!(
            "neither oci:, oci-archive: nor docker-archive:; 'magikrun image push IMAGE {name}' sends it to a registry"
        )),
        local => Ok(local),
    }
}

pub(super) async fn save(global: &GlobalArgs, args: &SaveArgs) -> Result<()> {
    let store = super::store(global)?;
    let format = args.kind.into();
    let file = args.output.as_deref().filter(|path| *path != Path::new("-"));
    match (&args.destination, file) {
        (Some(destination), _) => must_be_free(destination)?,
        (None, Some(path)) => must_not_exist(path)?,
        (None, None) if format == SaveFormat::OciDir => bail!("stdout: a layout is a directory: give -o DIR"),
        (None, None) if io::stdout().is_terminal() => {
            bail!("stdout: is a terminal: give -o FILE, or redirect it")
        }
        (None, None) => {}
    }
    let image = args.how.image(global, &store, &args.image).await?;
    match (&args.destination, file) {
        (Some(destination), _) => Ok(layout::save_to(&store, &image, destination)?),
        (None, Some(path)) => Ok(layout::save(&store, &image, path, format)?),
        (None, None) => {
            let saved = layout::write_archive(&store, &image, io::stdout().lock(), format);
            saved.map_err(|e| match e {
                magik_image::Error::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe => {
                    StdoutClosed.into()
                }
                other => other.into(),
            })
        }
    }
}

/// Refuses to replace a file; a layout takes another image.
fn must_be_free(destination: &ImageSource) -> Result<()> {
    match destination {
        ImageSource::OciDir { path, .. } => {
            let is_layout = path.join("oci-layout").is_file();
            let is_free = match fs::read_dir(path) {
                Ok(mut entries) => entries.next().is_none(),
                Err(e) => e.kind() == io::ErrorKind::NotFound,
            };
            if !is_layout && !is_free {
                bail!(
                    "{}: is neither an OCI layout nor an empty directory: choose another",
                    path.display()
                );
            }
            Ok(())
        }
        ImageSource::OciArchive { path, .. } | ImageSource::DockerArchive { path, .. } => {
            must_not_exist(path)
        }
        ImageSource::Registry(_) => Ok(()),
    }
}

fn must_not_exist(path: &Path) -> Result<()> {
    if path.symlink_metadata().is_ok() {
        bail!(
            "{}: exists: remove it first, or choose another name",
            path.display()
        );
    }
    Ok(())
}

pub(super) async fn push(global: &GlobalArgs, args: &PushArgs) -> Result<()> {
    let store = super::store(global)?;
    if let Some(destination) = &args.destination {
        must_be_free(destination)?;
    }
    // How a registry is reached is said of the destination.
    let source = match &args.destination {
        #[cfg(feature = "registry")]
        Some(ImageSource::Registry(_)) | None => SourceArgs {
            registry: args.how.registry.of_another(),
            ..args.how.clone()
        },
        _ => args.how.clone(),
    };
    let image = source.image(global, &store, &args.image).await?;
    let target = match (&args.destination, &image.reference) {
        (Some(target), _) => target.clone(),
        (None, Some(name)) => ImageSource::Registry(name.clone()),
        (None, None) => bail!("image {}: has no name: give a destination", args.image),
    };
    let digest = match &target {
        #[cfg(feature = "registry")]
        ImageSource::Registry(name) => upload(global, &store, &image, name, &args.how).await?,
        #[cfg(not(feature = "registry"))]
        ImageSource::Registry(name) => bail!(magik_image::Error::MissingFeature {
            what: name.to_string(),
            feature: "registry",
        }),
        local => {
            layout::save_to(&store, &image, local)?;
            image.manifest_digest
        }
    };
    if let Some(document) = args.format.document() {
        return document
            .print(&serde_json::json!({"name": target.to_string(), "digest": digest.to_string()}));
    }
    output::line(digest)
}

/// Pushes to a registry; gives the digest of what it has then.
#[cfg(feature = "registry")]
async fn upload(
    global: &GlobalArgs,
    store: &ImageStore,
    image: &Image,
    name: &Reference,
    how: &SourceArgs,
) -> Result<Digest> {
    let mut options = PushOptions::default();
    how.registry.apply(&mut options.connect, global).await?;
    let bars = Bars::new(&format!("pushing to {name}"), how.quiet);
    Ok(store.push(image, name, &options, &bars).await?)
}

/// `--type` of `save`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum SaveKind {
    OciArchive,
    DockerArchive,
    OciDir,
}

impl From<SaveKind> for SaveFormat {
    fn from(kind: SaveKind) -> Self {
        match kind {
            SaveKind::OciArchive => Self::OciArchive,
            SaveKind::DockerArchive => Self::DockerArchive,
            SaveKind::OciDir => Self::OciDir,
        }
    }
}
