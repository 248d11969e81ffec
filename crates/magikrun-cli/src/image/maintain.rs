//! `image tag`, `rm`, `prune` and `verify`.

use anyhow::{Result, bail};
use magik_image::{PruneOptions, PruneReport, Reference};

use crate::{
    output::{self, FormatArg},
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct TagArgs {
    /// The image: a name, an id or the start of one
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Another name for it; what had that name before loses it
    #[arg(value_name = "NAME")]
    name: Reference,
}

#[derive(Debug, clap::Args)]
pub(crate) struct RemoveArgs {
    /// Names, ids or the starts of ids
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    /// Also images that no pod uses
    #[arg(short, long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// Remove damaged blobs, so that the next pull fetches them
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    format: FormatArg,
}

pub(super) fn tag(global: &GlobalArgs, args: &TagArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = store.find(&args.image)?;
    store.tag(&args.name, image.descriptor())?;
    Ok(())
}

pub(super) fn remove(global: &GlobalArgs, args: &RemoveArgs) -> Result<()> {
    let store = super::store(global)?;
    // All or none where one is misspelt.
    let images = args
        .images
        .iter()
        .map(|text| store.find(text))
        .collect::<Result<Vec<_>, _>>()?;
    let report = store.remove_images(&images)?;
    if let Some(document) = args.format.document() {
        return document.print(&report);
    }
    report.images.iter().try_for_each(output::line)?;
    if !report.used_by.is_empty() {
        tracing::warn!(
            "its layers stay until the pods that use it are deleted: {}",
            report.used_by.join(", ")
        );
    }
    if report.deferred {
        tracing::warn!("an image is being pulled or unpacked: 'magikrun image prune' will free the space");
    }
    Ok(())
}

pub(super) fn prune(global: &GlobalArgs, args: &PruneArgs) -> Result<()> {
    let report = super::store(global)?.prune(PruneOptions {
        unused_images: args.all,
    })?;
    if let Some(document) = args.format.document() {
        document.print(&report)
    } else {
        output::line(pruned(&report))
    }
}

/// What was removed, for a person.
pub(crate) fn pruned(report: &PruneReport) -> String {
    let images = report
        .images
        .iter()
        .map(|name| format!("removed image {}\n", output::printable(name)));
    let mut text: String = images.collect();
    if *report == PruneReport::default() {
        text.push_str("removed nothing: no image, layer, blob or program is unused");
    } else {
        let PruneReport {
            blobs,
            layers,
            programs,
            leftovers,
            bytes,
            ..
        } = report;
        text.push_str(&format!(
            "removed {blobs} blobs, {layers} unpacked layers, {programs} compiled programs and {leftovers} leftovers: {}",
            output::size(*bytes)
        ));
    }
    text
}

pub(super) fn verify(global: &GlobalArgs, args: &VerifyArgs) -> Result<()> {
    let store = super::store(global)?;
    let damage = store.verify()?;
    if let Some(document) = args.format.document() {
        document.print(&damage.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    } else {
        damage
            .iter()
            .try_for_each(|d| output::line(output::printable(&d.to_string())))?;
    }
    if damage.is_empty() {
        return if args.format.document().is_some() {
            Ok(())
        } else {
            output::line("no damage")
        };
    }
    let removed = if args.repair {
        store.remove_damaged(&damage)?
    } else {
        0
    };
    let root = store.root().display();
    match (args.repair, damage.len()) {
        (true, found) => {
            bail!("image store {root}: {found} damaged, {removed} blobs removed: pull their images again")
        }
        (false, found) => bail!(
            "image store {root}: {found} damaged: 'magikrun image verify --repair' removes damaged blobs"
        ),
    }
}
