//! `system df`: what takes room, and what of it can be had back.

use std::collections::BTreeMap;

use anyhow::Result;
use magik_image::{StoreUsage, Usage};
use magik_pri::{PodRuntime, PodUsage, Pods, status::PodStatus};
use serde::Serialize;

use crate::{
    image,
    output::{self, FormatArg},
    pod::backend,
    roots::GlobalArgs,
};

pub(crate) const EXAMPLE: &str = "\
Example: magikrun system df -v
RECLAIMABLE is what 'magikrun system prune --all' frees; of pods, what 'magikrun pod delete' of those that are over does.";

#[derive(Debug, clap::Args)]
pub(crate) struct UsageArgs {
    /// Show every image, layer and pod
    #[arg(short, long, conflicts_with = "format")]
    verbose: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// What is shown.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    images: Usage,
    layers: Usage,
    pods: Usage,
    programs: Usage,
    temporary: Usage,
    image_list: Vec<magik_image::ImageUsage>,
    layer_list: Vec<magik_image::LayerUsage>,
    pod_list: Vec<PodRow>,
}

/// A pod's room.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct PodRow {
    id: String,
    /// Absent: files of no pod, or of a pod of another state root.
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// `Running`, say; `Unknown` of a pod of another state root, `Leftover` of no pod.
    phase: String,
    size: u64,
}

pub(super) async fn run(global: &GlobalArgs, args: &UsageArgs) -> Result<()> {
    let store = image::store(global)?.usage()?;
    // It needs no backend.
    let pods = Pods::new(backend::roots(global)?);
    let sizes = pods.disk_usage().await?;
    // Later: a pod that came meanwhile has its files already.
    let (pods, pod_list) = of_pods(sizes, &pods.list_pods().await?);
    let StoreUsage {
        images,
        layers,
        programs,
        temporary,
        image_list,
        layer_list,
    } = store;
    let shown = Shown {
        images,
        layers,
        pods,
        programs,
        temporary,
        image_list,
        layer_list,
        pod_list,
    };
    if let Some(document) = args.format.document() {
        return document.print(&shown);
    }
    summary(&shown)?;
    if args.verbose {
        each(&shown)?;
    }
    Ok(())
}

/// Together, and each.
fn of_pods(sizes: Vec<PodUsage>, pods: &[PodStatus]) -> (Usage, Vec<PodRow>) {
    let known: BTreeMap<&str, &PodStatus> = pods.iter().map(|pod| (pod.id.as_str(), pod)).collect();
    let mut usage = Usage::default();
    let rows = sizes.into_iter().map(|PodUsage { id, own, size }| {
        let pod = known.get(id.as_str());
        let is_over = match pod {
            Some(pod) => pod.phase.is_final(),
            // Of a pod that begins or ends just now, or left over.
            None => false,
        };
        usage.count += 1;
        usage.size += size;
        if is_over {
            usage.reclaimable += size;
        } else {
            usage.active += 1;
        }
        let phase = match pod {
            Some(pod) => format!("{:?}", pod.phase),
            None if own => "Leftover".to_owned(),
            None => "Unknown".to_owned(),
        };
        PodRow {
            id,
            namespace: pod.map(|pod| pod.namespace.clone()),
            name: pod.map(|pod| pod.name.clone()),
            phase,
            size,
        }
    });
    let rows = rows.collect();
    (usage, rows)
}

fn summary(shown: &Shown) -> Result<()> {
    let rows = [
        ("Images", &shown.images),
        ("Unpacked layers", &shown.layers),
        ("Pods", &shown.pods),
        ("Compiled wasm", &shown.programs),
        ("Temporary", &shown.temporary),
    ];
    let header = ["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"];
    output::table(header, rows.map(|(name, usage)| row(name, usage)))
}

fn row(name: &str, usage: &Usage) -> [String; 5] {
    let percent = (usage.reclaimable * 100).checked_div(usage.size).unwrap_or(0);
    [
        name.to_owned(),
        usage.count.to_string(),
        usage.active.to_string(),
        output::size(usage.size),
        format!("{} ({percent}%)", output::size(usage.reclaimable)),
    ]
}

fn each(shown: &Shown) -> Result<()> {
    let short = |digest: &str| -> String {
        let hex = digest.rsplit(':').next().unwrap_or(digest);
        hex.chars().take(12).collect()
    };
    output::line("")?;
    output::table(
        ["IMAGE", "ID", "SIZE", "SHARED", "UNIQUE", "PODS"],
        shown.image_list.iter().map(|image| {
            [
                image.name.clone(),
                short(&image.id),
                output::size(image.size),
                output::size(image.shared),
                output::size(image.size.saturating_sub(image.shared)),
                image.used_by.len().to_string(),
            ]
        }),
    )?;
    output::line("")?;
    output::table(
        ["LAYER", "SIZE", "PODS"],
        shown.layer_list.iter().map(|layer| {
            let pods = layer.used_by.len().to_string();
            [short(&layer.chain_id), output::size(layer.size), pods]
        }),
    )?;
    output::line("")?;
    output::table(
        ["POD", "ID", "STATUS", "SIZE"],
        shown.pod_list.iter().map(|pod| {
            let name = match (&pod.namespace, &pod.name) {
                (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
                _ => "-".to_owned(),
            };
            [name, pod.id.clone(), pod.phase.clone(), output::size(pod.size)]
        }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_pods_that_are_not_known_are_counted_and_not_reclaimable() {
        let of = |id: &str, own| PodUsage {
            id: id.to_owned(),
            own,
            size: 10,
        };
        let (usage, rows) = of_pods(vec![of("a", true), of("b", false)], &[]);
        assert_eq!(
            (usage.count, usage.active, usage.size, usage.reclaimable),
            (2, 2, 20, 0)
        );
        let phases: Vec<_> = rows.iter().map(|row| row.phase.as_str()).collect();
        assert_eq!(phases, ["Leftover", "Unknown"]);
        assert_eq!(row("Pods", &usage)[4], "0 B (0%)");
    }
}
