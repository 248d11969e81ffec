//! `image pull` and `load`: images in.

use std::{
    io::{self, Read as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use magik_image::{
    Image, ImageStore, Reference,
    layout::{self, ImportOptions},
};

use super::{
    list::Summary,
    source::{self, Source, SourceArgs},
};
use crate::{
    output::{self, FormatArg},
    progress::Bars,
    roots::GlobalArgs,
    terminal,
};

pub(crate) const PULL_EXAMPLE: &str = "\
Examples: magikrun image pull nginx:1.27 ghcr.io/user/app@sha256:…
          magikrun image pull oci:./layout:v1 ./app.tar
Credentials, registries.conf, certs.d and policy.json are read from where podman reads them.";
pub(crate) const LOAD_EXAMPLE: &str = "\
Examples: magikrun image load app.tar
          docker save app | magikrun image load
          magikrun image load hello.wasm -t localhost/hello:1
Files are OCI and docker archives (also gzip, zstd), OCI layout directories and WebAssembly.";

#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        required = true,
        value_name = "SOURCE",
        value_parser = source::to_pull,
        help = "Names, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, or paths: ./FILE"
    )]
    sources: Vec<Source>,
    /// Leave the layers packed: a pod will unpack them
    #[arg(long)]
    no_unpack: bool,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    #[arg(
        value_name = "FILE|DIR",
        value_parser = source::to_load,
        help = "An archive, layout or module, or docker://NAME, oci:DIR[:TAG] [default: stdin]"
    )]
    source: Option<Source>,
    /// The same, as docker and podman have it
    #[arg(short, long, value_name = "FILE|DIR", conflicts_with = "source")]
    input: Option<PathBuf>,
    /// What to call the image [default: as the archive does]
    #[arg(short, long, value_name = "NAME")]
    tag: Option<Reference>,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

pub(super) async fn pull(global: &GlobalArgs, args: &PullArgs) -> Result<()> {
    let store = super::store(global)?;
    let mut options = args.how.pull_options(global).await?;
    options.unpack = !args.no_unpack;
    let mut pulled = Vec::new();
    for source in &args.sources {
        let image = match source {
            Source::Place(place) => {
                let bars = Bars::new(&format!("pulling {place}"), args.how.quiet);
                store.pull(place, &options, &bars).await?
            }
            other => args.how.image(global, &store, other).await?,
        };
        if args.format.document().is_some() {
            pulled.push(Summary::of(&image));
        } else {
            output::line(image.config_digest)?;
        }
    }
    if let Some(document) = args.format.document() {
        document.print(&pulled)?;
    }
    Ok(())
}

pub(super) async fn load(global: &GlobalArgs, args: &LoadArgs) -> Result<()> {
    let store = super::store(global)?;
    let options = args.how.import_options(args.tag.as_ref());
    let source = match (&args.source, &args.input) {
        (Some(source), _) => Some(source.clone()),
        (None, Some(path)) => Some(Source::File(path.clone())),
        (None, None) => None,
    };
    let images = match source {
        Some(Source::File(path)) if path != Path::new("-") => {
            let bars = Bars::new("loading", args.how.quiet);
            let images = source::load_file(&store, &path, &options);
            drop(bars);
            images.map_err(|error| or_pull(error, &path))?
        }
        None | Some(Source::File(_)) => load_stdin(&store, &options, args.how.quiet)?,
        Some(place) => {
            let image = args.how.image(global, &store, &place).await?;
            vec![match &args.tag {
                Some(name) => store.tag(name, image.descriptor())?,
                None => image,
            }]
        }
    };
    if let Some(document) = args.format.document() {
        return document.print(&images.iter().map(Summary::of).collect::<Vec<_>>());
    }
    images.iter().try_for_each(|image| output::line(image.name()))
}

/// Where there is no such file, its name may be meant as an image's.
fn or_pull(error: anyhow::Error, path: &Path) -> anyhow::Error {
    let text = path.to_string_lossy();
    if path.exists() || text.parse::<Reference>().is_err() {
        return error;
    }
    anyhow!(
        "{text}: there is no such file: 'magikrun image pull {text}' takes an image of that name from a registry"
    )
}

/// Standard input may be a pipe, and an archive is opened by its path: so it goes through a file
/// without a name first.
fn load_stdin(store: &ImageStore, options: &ImportOptions, quiet: bool) -> Result<Vec<Image>> {
    if terminal::stdin_is_one() {
        bail!("stdin: is a terminal: name an archive, or pipe one in");
    }
    let _bars = Bars::new("loading", quiet);
    let limit = store.limits().max_rootfs_size;
    let mut file = tempfile::tempfile_in(store.cas().tmp_dir()).context("stdin: temporary file")?;
    let copied = io::copy(&mut io::stdin().lock().take(limit + 1), &mut file).context("stdin")?;
    if copied > limit {
        bail!("stdin: larger than {}, which is the limit", output::size(limit));
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    layout::load(store, Path::new(&path), options).map_err(|e| anyhow!(e.to_string().replace(&path, "stdin")))
}
