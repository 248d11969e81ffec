//! `magikrun image …`.

mod history;
mod list;
mod maintain;
mod policy;
#[cfg(feature = "registry")]
mod registry;
mod send;
mod source;
mod transfer;
mod unpack;

use anyhow::Result;
use clap::Subcommand;
use magik_image::ImageStore;

pub(crate) use self::maintain::{PruneArgs, pruned};
#[cfg(feature = "registry")]
pub(crate) use self::registry::{RegistryArgs, TrustArgs};
use crate::{output::ListArgs, roots::GlobalArgs};

#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Pull images from a registry, a layout or an archive
    #[command(after_help = transfer::PULL_EXAMPLE)]
    Pull(transfer::PullArgs),
    /// List images
    #[command(after_help = "Example: magikrun image ls --format json")]
    Ls(ListArgs),
    /// Show an image: digest, platform, configuration, layers
    #[command(after_help = "Example: magikrun image inspect nginx --format json")]
    Inspect(list::InspectArgs),
    /// Show how an image was made
    #[command(after_help = "Example: magikrun image history --no-trunc nginx")]
    History(history::HistoryArgs),
    /// Show which files differ between two images, or an image and its parent
    #[command(after_help = history::DIFF_EXAMPLE)]
    Diff(history::DiffArgs),
    /// Load images from a file, a directory or standard input
    #[command(after_help = transfer::LOAD_EXAMPLE)]
    Load(transfer::LoadArgs),
    /// Save an image as an archive or a layout
    #[command(after_help = send::SAVE_EXAMPLE)]
    Save(send::SaveArgs),
    /// Push an image to a registry, a layout or an archive
    #[command(after_help = send::PUSH_EXAMPLE)]
    Push(send::PushArgs),
    /// Give an image another name
    #[command(after_help = "Example: magikrun image tag 5b3dfa32b1c7 localhost/app:1")]
    Tag(maintain::TagArgs),
    /// Remove images
    #[command(after_help = "Example: magikrun image rm nginx:1.27")]
    Rm(maintain::RemoveArgs),
    /// Remove everything that no image needs
    #[command(after_help = "Example: magikrun image prune --all")]
    Prune(PruneArgs),
    /// Read everything again and compare it with its digest
    #[command(after_help = "Example: magikrun image verify --repair")]
    Verify(maintain::VerifyArgs),
    /// Unpack an image into a directory: its root file system
    #[command(after_help = unpack::UNPACK_EXAMPLE)]
    Unpack(unpack::UnpackArgs),
    /// Make a bundle for any OCI runtime: rootfs and config.json
    #[command(after_help = unpack::BUNDLE_EXAMPLE)]
    Bundle(unpack::BundleArgs),
}

pub(crate) async fn run(global: &GlobalArgs, command: &ImageCommand) -> Result<()> {
    let done = run_command(global, command).await;
    done.map_err(|error| global.images.advise(error))
}

async fn run_command(global: &GlobalArgs, command: &ImageCommand) -> Result<()> {
    match command {
        ImageCommand::Pull(args) => transfer::pull(global, args).await,
        ImageCommand::Ls(args) => list::list(global, args),
        ImageCommand::Inspect(args) => list::inspect(global, args).await,
        ImageCommand::History(args) => history::history(global, args).await,
        ImageCommand::Diff(args) => history::diff(global, args).await,
        ImageCommand::Load(args) => transfer::load(global, args).await,
        ImageCommand::Save(args) => send::save(global, args).await,
        ImageCommand::Push(args) => send::push(global, args).await,
        ImageCommand::Tag(args) => maintain::tag(global, args),
        ImageCommand::Rm(args) => maintain::remove(global, args),
        ImageCommand::Prune(args) => maintain::prune(global, args),
        ImageCommand::Verify(args) => maintain::verify(global, args),
        ImageCommand::Unpack(args) => unpack::unpack(global, args).await,
        ImageCommand::Bundle(args) => unpack::bundle(global, args).await,
    }
}

/// The store below the data root.
pub(crate) fn store(global: &GlobalArgs) -> Result<ImageStore> {
    let store = ImageStore::open(&global.data_root()?)?;
    Ok(store.with_limits(global.images.limits()))
}
