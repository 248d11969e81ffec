//! `image pull`, `load`, `save` and `push`: images in and out.

use std::{
    io::{self, IsTerminal as _, Read as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::ValueEnum;
use magik_image::{
    Image, ImageSource, ImageStore, Reference,
    layout::{self, ImportOptions, SaveFormat},
    platform::Platform,
    policy::PolicySource,
    pull::{PullOptions, PullPolicy},
};
#[cfg(feature = "registry")]
use magik_image::{connect::ConnectOptions, push::PushOptions};

use super::list::Summary;
use crate::{
    output::{self, FormatArg, StdoutClosed},
    progress::Bars,
    roots::GlobalArgs,
    terminal,
};

pub(crate) const PULL_EXAMPLE: &str = "\
Examples: magikrun image pull nginx:1.27 ghcr.io/user/app@sha256:…
          magikrun image pull oci:./layout:v1
          magikrun image pull --http registry.lan:5000/app
Credentials, registries.conf, certs.d and policy.json are read from where podman reads them.";
pub(crate) const LOAD_EXAMPLE: &str = "\
Examples: magikrun image load -i app.tar
          docker save app | magikrun image load
          magikrun image load -i hello.wasm -t localhost/hello:1
Reads OCI archives, docker archives (both also gzip or zstd), OCI layout directories and WebAssembly, binary or text.";
pub(crate) const SAVE_EXAMPLE: &str = "\
Examples: magikrun image save -o nginx.tar nginx
          magikrun image save --type oci-dir -o ./layout nginx";

#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    // Not a doc comment: rustdoc would take the brackets for a link.
    #[arg(
        required = true,
        value_name = "SOURCE",
        help = "Names, or oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE"
    )]
    sources: Vec<ImageSource>,
    /// The platform to take from an index [default: this host's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Leave the layers packed: a pod will unpack them
    #[arg(long)]
    no_unpack: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    policy: PolicyArg,
    /// Print no progress, only the ids
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// How registries are reached.
#[derive(Debug, clap::Args)]
pub(crate) struct RegistryArgs {
    /// Talk plain HTTP to the registry (loopback ones need no such option)
    #[arg(long)]
    http: bool,
    /// *.crt to trust, *.cert and *.key to show [default: certs.d/HOST:PORT in ~/.config/containers, /etc/containers, /etc/docker]
    #[arg(long, value_name = "DIR", hide_default_value = true)]
    cert_dir: Option<PathBuf>,
}

#[cfg(feature = "registry")]
impl RegistryArgs {
    fn apply(&self, connect: &mut ConnectOptions) {
        connect.insecure_http = self.http;
        connect.certificates.clone_from(&self.cert_dir);
    }

    fn for_pull(&self, global: &GlobalArgs, mut options: PullOptions) -> PullOptions {
        self.apply(&mut options.connect);
        if let Some(timeout) = global.images.pull_timeout() {
            options.connect.timeout = timeout;
        }
        options
    }
}

/// Which images may be used.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArg {
    /// The policy.json that says which images may be used [default: podman's, if there is one]
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
}

impl PolicyArg {
    fn source(&self) -> PolicySource {
        match &self.signature_policy {
            Some(path) => PolicySource::File(path.clone()),
            None => PolicySource::System,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct LoadArgs {
    /// An archive, or the directory of an OCI layout [default: standard input]
    #[arg(short, long, value_name = "FILE|DIR")]
    input: Option<PathBuf>,
    /// What to call the image [default: as the archive does]
    #[arg(short, long, value_name = "NAME")]
    tag: Option<Reference>,
    #[command(flatten)]
    policy: PolicyArg,
    /// Print no progress, only the names
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SaveArgs {
    /// The image: a name, an id or the start of one
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Where to: a file, or a directory with --type oci-dir [default: standard output]
    #[arg(short, long, value_name = "FILE|DIR")]
    output: Option<PathBuf>,
    /// What to write
    #[arg(
        long = "type",
        value_name = "oci-archive|docker-archive|oci-dir",
        hide_possible_values = true,
        default_value = "oci-archive"
    )]
    kind: SaveKind,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PushArgs {
    /// The image: a name, an id or the start of one
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Under which name [default: its own]
    #[arg(value_name = "DESTINATION")]
    destination: Option<Reference>,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Print no progress, only the digest
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub(super) async fn pull(global: &GlobalArgs, args: &PullArgs) -> Result<()> {
    let store = super::store(global)?;
    #[cfg_attr(
        not(feature = "registry"),
        expect(
            clippy::needless_update,
            reason = "how registries are reached is a field more"
        )
    )]
    let options = PullOptions {
        policy: PullPolicy::Always,
        platform: args.platform.clone(),
        unpack: !args.no_unpack,
        signature_policy: args.policy.source(),
        ..PullOptions::default()
    };
    #[cfg(feature = "registry")]
    let options = args.registry.for_pull(global, options);
    let mut pulled = Vec::new();
    for source in &args.sources {
        let bars = Bars::new(&format!("pulling {source}"), args.quiet);
        let image = store.pull(source, &options, &bars).await?;
        drop(bars);
        if args.format.json() {
            pulled.push(Summary::of(&image));
        } else {
            output::line(image.config_digest)?;
        }
    }
    if args.format.json() {
        output::json(&pulled)?;
    }
    Ok(())
}

pub(super) fn load(global: &GlobalArgs, args: &LoadArgs) -> Result<()> {
    let store = super::store(global)?;
    let options = ImportOptions {
        name: args.tag.clone(),
        signature_policy: args.policy.source(),
        ..ImportOptions::default()
    };
    let bars = Bars::new("loading", args.quiet);
    let images = match &args.input {
        Some(path) if path != Path::new("-") => {
            if path.is_dir() {
                vec![layout::import_oci_dir(&store, path, &options)?]
            } else {
                layout::load(&store, path, &options)?
            }
        }
        _ => load_stdin(&store, &options)?,
    };
    drop(bars);
    if args.format.json() {
        return output::json(&images.iter().map(Summary::of).collect::<Vec<_>>());
    }
    images.iter().try_for_each(|image| output::line(image.name()))
}

/// Standard input may be a pipe, and an archive is opened by its path: so it goes through a file without a name first.
fn load_stdin(store: &ImageStore, options: &ImportOptions) -> Result<Vec<Image>> {
    if terminal::stdin_is_one() {
        bail!("stdin: is a terminal: give an archive with -i FILE, or pipe one in");
    }
    let limit = store.limits().max_rootfs_size;
    let mut file = tempfile::tempfile_in(store.cas().tmp_dir()).context("stdin: temporary file")?;
    let copied = io::copy(&mut io::stdin().lock().take(limit + 1), &mut file).context("stdin")?;
    if copied > limit {
        bail!("stdin: larger than {}, which is the limit", output::size(limit));
    }
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    layout::load(store, Path::new(&path), options).map_err(|e| anyhow!(e.to_string().replace(&path, "stdin")))
}

pub(super) fn save(global: &GlobalArgs, args: &SaveArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = store.find(&args.image)?;
    let format = args.kind.into();
    match &args.output {
        Some(path) if path != Path::new("-") => {
            if path.symlink_metadata().is_ok() {
                bail!(
                    "{}: exists: remove it first, or choose another name",
                    path.display()
                );
            }
            Ok(layout::save(&store, &image, path, format)?)
        }
        _ if format == SaveFormat::OciDir => bail!("stdout: a layout is a directory: give -o DIR"),
        _ if io::stdout().is_terminal() => bail!("stdout: is a terminal: give -o FILE, or redirect it"),
        _ => {
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

pub(super) async fn push(global: &GlobalArgs, args: &PushArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = store.find(&args.image)?;
    let target = match args.destination.as_ref().or(image.reference.as_ref()) {
        Some(target) => target,
        None => bail!("image {}: has no name: give a destination", args.image),
    };
    let digest = upload(&store, &image, target, args).await?;
    if args.format.json() {
        return output::json(&serde_json::json!({"name": target.to_string(), "digest": digest}));
    }
    output::line(digest)
}

/// The digest of what a registry has then.
#[cfg(feature = "registry")]
async fn upload(store: &ImageStore, image: &Image, target: &Reference, args: &PushArgs) -> Result<String> {
    let mut options = PushOptions::default();
    args.registry.apply(&mut options.connect);
    let bars = Bars::new(&format!("pushing to {target}"), args.quiet);
    let digest = store.push(image, target, &options, &bars).await?;
    Ok(digest.to_string())
}

#[cfg(not(feature = "registry"))]
#[expect(clippy::unused_async, reason = "as with registries")]
async fn upload(_: &ImageStore, _: &Image, target: &Reference, _: &PushArgs) -> Result<String> {
    bail!(magik_image::Error::MissingFeature {
        what: target.to_string(),
        feature: "registry",
    })
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
