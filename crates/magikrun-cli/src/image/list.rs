//! `image ls` and `inspect`.

use anyhow::Result;
use jiff::Timestamp;
use magik_image::{Image, store::Layer};
use serde::Serialize;

use super::source::{Source, SourceArgs};
use crate::{
    output::{self, FormatArg, ListArgs, ListFormat},
    roots::GlobalArgs,
};

#[derive(Debug, clap::Args)]
pub(crate) struct InspectArgs {
    /// The image: a name, an id, a digest, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

/// An image as `ls` shows it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary {
    /// The whole reference; null for an image that has only its id.
    name: Option<String>,
    /// The digest of the configuration.
    id: String,
    /// The digest of the manifest.
    digest: String,
    platform: String,
    /// RFC 3339, as the image says.
    created: Option<String>,
    /// Bytes, as they are stored.
    size: u64,
    layers: usize,
}

impl Summary {
    pub(super) fn of(image: &Image) -> Self {
        Self {
            name: image.reference.as_ref().map(ToString::to_string),
            id: image.config_digest.to_string(),
            digest: image.manifest_digest.to_string(),
            platform: platform(image),
            created: image.config.created().clone(),
            size: image.size(),
            layers: image.layers().len(),
        }
    }
}

/// An image as `inspect` shows it: the summary, and its documents as they are.
#[derive(Debug, Serialize)]
struct Details<'a> {
    #[serde(flatten)]
    summary: Summary,
    config: &'a oci_spec::image::ImageConfiguration,
    manifest: &'a oci_spec::image::ImageManifest,
}

pub(super) fn list(global: &GlobalArgs, args: &ListArgs) -> Result<()> {
    let images = super::store(global)?.list()?;
    if args.quiet {
        return images
            .iter()
            .try_for_each(|image| output::line(image.config_digest));
    }
    if let Some(document) = args.format.document() {
        return document.print(&images.iter().map(Summary::of).collect::<Vec<_>>());
    }
    if args.format == ListFormat::Name {
        return images.iter().try_for_each(|image| output::line(image.name()));
    }
    let now = Timestamp::now();
    if args.format == ListFormat::Wide {
        let header = ["NAME", "ID", "PLATFORM", "CREATED", "SIZE", "LAYERS", "DIGEST"];
        return output::table(header, images.iter().map(|image| wide(image, now)));
    }
    output::table(
        ["NAME", "ID", "PLATFORM", "CREATED", "SIZE"],
        images.iter().map(|image| row(image, now)),
    )
}

fn row(image: &Image, now: Timestamp) -> [String; 5] {
    let created = image.config.created().as_deref().and_then(|t| t.parse().ok());
    [
        image
            .reference
            .as_ref()
            .map_or_else(|| "<none>".to_owned(), magik_image::Reference::familiar),
        image.config_digest.hex().chars().take(12).collect(),
        platform(image),
        created.map_or_else(|| "-".to_owned(), |t| format!("{} ago", output::age(t, now))),
        output::size(image.size()),
    ]
}

fn wide(image: &Image, now: Timestamp) -> [String; 7] {
    let [name, id, platform, created, size] = row(image, now);
    let summary = Summary::of(image);
    [
        name,
        id,
        platform,
        created,
        size,
        summary.layers.to_string(),
        summary.digest,
    ]
}

/// `linux/amd64`, `linux/arm/v7`.
fn platform(image: &Image) -> String {
    let config = &image.config;
    let variant = config
        .variant()
        .as_ref()
        .map_or_else(String::new, |v| format!("/{v}"));
    format!("{}/{}{variant}", config.os(), config.architecture())
}

pub(super) async fn inspect(global: &GlobalArgs, args: &InspectArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = args.how.image(global, &store, &args.image).await?;
    if let Some(document) = args.format.document() {
        return document.print(&Details {
            summary: Summary::of(&image),
            config: &image.config,
            manifest: &image.manifest,
        });
    }
    output::line(for_a_person(&image))
}

fn for_a_person(image: &Image) -> String {
    let summary = Summary::of(image);
    let config = image.config.config().as_ref();
    let words = |words: Option<&Vec<String>>| words.map(|w| serde_json::to_string(w).unwrap_or_default());
    let ports = config
        .and_then(|c| c.exposed_ports().as_ref())
        .map(|p| p.join(", "));
    let fields = [
        ("Name", summary.name),
        ("Id", Some(summary.id)),
        ("Digest", Some(summary.digest)),
        ("Platform", Some(summary.platform)),
        ("Created", summary.created),
        ("Size", Some(output::size(summary.size))),
        ("Entrypoint", words(config.and_then(|c| c.entrypoint().as_ref()))),
        ("Command", words(config.and_then(|c| c.cmd().as_ref()))),
        ("User", config.and_then(|c| c.user().clone())),
        ("Directory", config.and_then(|c| c.working_dir().clone())),
        ("Ports", ports),
    ];
    let mut text = output::fields(fields);
    for variable in config.and_then(|c| c.env().as_ref()).into_iter().flatten() {
        text.push_str(&output::fields([("Env", Some(variable.clone()))]));
    }
    text.push('\n');
    text.push_str(&output::columns(
        ["LAYER", "SIZE"],
        image.layers().iter().map(layer),
    ));
    text
}

fn layer(layer: &Layer) -> [String; 2] {
    [layer.digest.to_string(), output::size(layer.size)]
}
