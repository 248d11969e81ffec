//! `image unpack` and `bundle`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use magik_image::{
    Image,
    bundle::{ContainerSettings, runtime_spec, write_bundle},
};

use super::source::{Source, SourceArgs};
use crate::roots::GlobalArgs;

pub(crate) const UNPACK_EXAMPLE: &str = "\
Examples: magikrun image unpack debian:12 ./rootfs
          magikrun image unpack oci-archive:app.tar ./rootfs";
pub(crate) const BUNDLE_EXAMPLE: &str = "\
Example: magikrun image bundle busybox ./bundle -- echo hello && runc run -b ./bundle test";

#[derive(Debug, clap::Args)]
pub(crate) struct UnpackArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    /// A directory that is empty or does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    how: SourceArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct BundleArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    /// A directory that is empty or does not exist
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The program and its arguments, instead of the image's
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
    #[command(flatten)]
    how: SourceArgs,
}

pub(super) async fn unpack(global: &GlobalArgs, args: &UnpackArgs) -> Result<()> {
    let store = super::store(global)?;
    must_be_empty(&args.dir)?;
    let image = args.how.image(global, &store, &args.image).await?;
    Ok(store.unpack_flat(&image, &args.dir)?)
}

pub(super) async fn bundle(global: &GlobalArgs, args: &BundleArgs) -> Result<()> {
    let store = super::store(global)?;
    let existed = must_be_empty(&args.dir)?;
    let image = args.how.image(global, &store, &args.image).await?;
    let made = || -> Result<()> {
        fs::create_dir_all(&args.dir).with_context(|| args.dir.display().to_string())?;
        let rootfs = args.dir.join("rootfs");
        store.unpack_flat(&image, &rootfs)?;
        write_config(&image, rootfs, args)
    };
    made().inspect_err(|_| {
        // What is half made is no bundle.
        let dir = if existed {
            args.dir.join("rootfs")
        } else {
            args.dir.clone()
        };
        if let Err(error) = fs::remove_dir_all(&dir) {
            tracing::debug!(dir = %dir.display(), %error, "cannot remove what is left of a bundle");
        }
    })
}

fn write_config(image: &Image, rootfs: PathBuf, args: &BundleArgs) -> Result<()> {
    let settings = ContainerSettings {
        command: Some(args.command.clone()).filter(|c| !c.is_empty()),
        rootfs_layers: vec![rootfs],
        ..ContainerSettings::default()
    };
    let spec = runtime_spec(&image.config, &settings).with_context(|| format!("image {}", image.name()))?;
    Ok(write_bundle(&args.dir, &spec)?)
}

/// Refuses a directory that holds something; says whether it exists.
fn must_be_empty(dir: &Path) -> Result<bool> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(true),
            Some(_) => bail!(
                "{}: is not empty: give an empty directory, or one that does not exist",
                dir.display()
            ),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| dir.display().to_string()),
    }
}
