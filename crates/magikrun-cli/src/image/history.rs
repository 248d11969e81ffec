//! `image history` and `diff`.

use anyhow::Result;
use jiff::Timestamp;
use magik_image::{Change, ChangeKind, Image, oci_spec::image::History, store::Layer};
use serde::Serialize;

use super::source::{Source, SourceArgs};
use crate::{
    output::{self, FormatArg},
    roots::GlobalArgs,
};

/// How much of a command the table shows, in characters.
const SHOWN: usize = 60;

pub(crate) const DIFF_EXAMPLE: &str = "\
Examples: magikrun image diff localhost/app:2
          magikrun image diff localhost/app:2 localhost/app:1
A: added, C: changed, D: deleted. A time of modification alone is no change.";

#[derive(Debug, clap::Args)]
pub(crate) struct HistoryArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    /// Show the whole of each command
    #[arg(long)]
    no_trunc: bool,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The image: a name, an id, or what 'image pull' takes
    #[arg(value_name = "IMAGE")]
    image: Source,
    /// What it is compared with, as podman does it [default: the image without its last layer]
    #[arg(value_name = "OTHER")]
    other: Option<Source>,
    #[command(flatten)]
    how: SourceArgs,
    #[command(flatten)]
    format: FormatArg,
}

/// A step of an image's history, the last one first.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    /// RFC 3339, as the image says.
    created: Option<String>,
    created_by: Option<String>,
    /// The bytes of its layer, as they are stored.
    size: u64,
    comment: Option<String>,
    author: Option<String>,
    /// The digest of its layer; null for one that changed only the configuration.
    layer: Option<String>,
}

impl Step {
    fn new(history: Option<&History>, layer: Option<&Layer>) -> Self {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        Self {
            created: history.and_then(|h| given(h.created())),
            created_by: history.and_then(|h| given(h.created_by())),
            size: layer.map_or(0, |layer| layer.size),
            comment: history.and_then(|h| given(h.comment())),
            author: history.and_then(|h| given(h.author())),
            layer: layer.map(|layer| layer.digest.to_string()),
        }
    }
}

pub(super) async fn history(global: &GlobalArgs, args: &HistoryArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = args.how.image(global, &store, &args.image).await?;
    let history = image.config.history().as_deref().unwrap_or_default();
    let steps = steps(history, image.layers());
    if let Some(document) = args.format.document() {
        return document.print(&steps);
    }
    let now = Timestamp::now();
    output::table(
        ["CREATED", "CREATED BY", "SIZE", "COMMENT"],
        steps.into_iter().map(|step| row(step, args.no_trunc, now)),
    )
}

/// The steps that a configuration tells of and the layers that they made. Layers that it does not
/// tell of are the last ones.
fn steps(history: &[History], layers: &[Layer]) -> Vec<Step> {
    let mut layers = layers.iter();
    let told: Vec<Step> = history
        .iter()
        .map(|step| {
            let layer = if step.empty_layer().unwrap_or(false) {
                None
            } else {
                layers.next()
            };
            Step::new(Some(step), layer)
        })
        .collect();
    let untold = layers.map(|layer| Step::new(None, Some(layer)));
    let mut steps: Vec<Step> = told.into_iter().chain(untold).collect();
    steps.reverse();
    steps
}

fn row(step: Step, whole: bool, now: Timestamp) -> [String; 4] {
    let created = step.created.and_then(|time| time.parse().ok());
    let by = step.created_by.unwrap_or_else(|| "<missing>".to_owned());
    [
        created.map_or_else(
            || "-".to_owned(),
            |time| format!("{} ago", output::age(time, now)),
        ),
        if whole { by } else { shortened(&by) },
        output::size(step.size),
        step.comment.unwrap_or_default(),
    ]
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// What `diff` found, in podman's form.
#[derive(Debug, Default, Serialize)]
struct Differences {
    added: Vec<String>,
    changed: Vec<String>,
    deleted: Vec<String>,
}

pub(super) async fn diff(global: &GlobalArgs, args: &DiffArgs) -> Result<()> {
    let store = super::store(global)?;
    let image = args.how.image(global, &store, &args.image).await?;
    let other: Option<Image> = match &args.other {
        Some(other) => Some(args.how.image(global, &store, other).await?),
        None => None,
    };
    let changes = store.changes(other.as_ref(), &image)?;
    if let Some(document) = args.format.document() {
        return document.print(&differences(&changes));
    }
    let mut text = String::new();
    for change in &changes {
        let letter = match change.kind {
            ChangeKind::Added => 'A',
            ChangeKind::Changed => 'C',
            ChangeKind::Deleted => 'D',
        };
        let path = change.path.to_string_lossy();
        text.push_str(&format!("{letter} {}\n", output::printable(&path)));
    }
    output::write(text.as_bytes())
}

fn differences(changes: &[Change]) -> Differences {
    let mut all = Differences::default();
    for change in changes {
        let list = match change.kind {
            ChangeKind::Added => &mut all.added,
            ChangeKind::Changed => &mut all.changed,
            ChangeKind::Deleted => &mut all.deleted,
        };
        list.push(change.path.to_string_lossy().into_owned());
    }
    all
}

#[cfg(test)]
mod tests {
    use magik_image::oci_spec::image::HistoryBuilder;

    use super::*;

    fn layer(n: u8) -> Layer {
        let digest = magik_image::magik_cas::Digest::sha256(&[n]);
        Layer {
            digest,
            size: n.into(),
            diff_id: digest,
            chain_id: digest,
            is_module: false,
        }
    }

    fn told(by: &str, empty: bool) -> History {
        let step = HistoryBuilder::default().created_by(by).empty_layer(empty);
        step.build().unwrap()
    }

    #[test]
    fn steps_have_the_layers_that_they_made_whatever_the_history_leaves_out() {
        let of = |history: &[History], layers: &[Layer]| -> Vec<(Option<String>, u64)> {
            let steps = steps(history, layers).into_iter();
            steps.map(|step| (step.created_by, step.size)).collect()
        };
        let some = |text: &str| Some(text.to_owned());
        let history = [told("ADD", false), told("ENV", true), told("RUN", false)];
        assert_eq!(
            of(&history, &[layer(1), layer(2)]),
            [(some("RUN"), 2), (some("ENV"), 0), (some("ADD"), 1)]
        );
        assert_eq!(
            of(&history, &[]),
            [(some("RUN"), 0), (some("ENV"), 0), (some("ADD"), 0)]
        );
        assert_eq!(
            of(&[told("ADD", false)], &[layer(1), layer(2)]),
            [(None, 2), (some("ADD"), 1)]
        );
        assert_eq!(of(&[], &[layer(3)]), [(None, 3)]);
    }

    #[test]
    fn long_commands_are_cut_between_characters() {
        assert_eq!(shortened("ä"), "ä");
        let cut = shortened(&"ä".repeat(SHOWN + 1));
        assert_eq!(cut, format!("{}…", "ä".repeat(SHOWN)));
    }
}
