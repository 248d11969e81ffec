//! A pod as a tree, for a terminal: its containers with their ports and what they use of their limits.

use std::collections::BTreeMap;

use jiff::Timestamp;
use magik_oci::Stats;
use magik_pri::{ContainerSpec, PodSpec, status::PodStatus};

use super::{list::phase, status::row};
use crate::output;

/// How many characters a bar has.
const BAR: usize = 10;

/// What it is drawn with.
struct Characters {
    branch: &'static str,
    last: &'static str,
    full: &'static str,
    empty: &'static str,
    arrow: &'static str,
}

const UNICODE: Characters = Characters {
    branch: "├─ ",
    last: "└─ ",
    full: "█",
    empty: "░",
    arrow: "→",
};
const ASCII: Characters = Characters {
    branch: "|- ",
    last: "`- ",
    full: "#",
    empty: ".",
    arrow: "->",
};

/// Draws the pod and its containers; `spec` and `stats` are left out where nothing is known of them.
pub(super) fn draw(
    pod: &PodStatus,
    spec: Option<&PodSpec>,
    stats: &BTreeMap<String, Stats>,
    now: Timestamp,
    utf8: bool,
) -> String {
    let characters = if utf8 { &UNICODE } else { &ASCII };
    let init = pod.init_containers.iter().map(|c| (c, "init"));
    let apps = pod.containers.iter().map(|c| (c, "app"));
    let added = pod.ephemeral_containers.iter().map(|c| (c, "ephemeral"));
    let containers: Vec<_> = init.chain(apps).chain(added).collect();
    let top = [pod.name.clone(), String::new(), String::new(), phase(pod)];
    let mut rows = vec![top.into_iter().chain(vec![String::new(); 4]).collect::<Vec<_>>()];
    for (at, (container, kind)) in containers.iter().enumerate() {
        let branch = if at + 1 == containers.len() {
            characters.last
        } else {
            characters.branch
        };
        let mut cells = row(container, kind, now).to_vec();
        cells[0] = format!("{branch}{}", cells[0]);
        let found = spec.and_then(|spec| spec.all_containers().find(|c| c.name == container.name));
        cells.push(found.map_or_else(String::new, |spec| ports(spec, characters)));
        let used = stats.get(&container.name);
        cells.push(used.map_or_else(String::new, |stats| memory(stats, characters)));
        rows.push(cells);
    }
    let header = [
        "CONTAINER",
        "KIND",
        "IMAGE",
        "STATE",
        "RESTARTS",
        "AGE",
        "PORTS",
        "MEMORY",
    ];
    let rows = rows
        .into_iter()
        .map(|cells| std::array::from_fn(|i| cells[i].clone()));
    output::columns(header, rows)
}

/// `0.0.0.0:8080→80, 9090`.
fn ports(container: &ContainerSpec, characters: &Characters) -> String {
    let port = |port: &magik_pri::Port| match port.host {
        Some(host) => format!("{host}{}{}", characters.arrow, port.container_port),
        None => port.container_port.to_string(),
    };
    container.ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

/// What it uses, with a bar where there is a limit.
fn memory(stats: &Stats, characters: &Characters) -> String {
    let used = stats.memory.working_set;
    match stats.memory.limit.filter(|limit| *limit > 0) {
        Some(limit) => format!(
            "{} {} of {}",
            bar(used, limit, characters),
            output::size(used),
            output::size(limit)
        ),
        None => output::size(used),
    }
}

/// Something is always seen of what is not nothing, and only what is full is drawn as full.
fn bar(part: u64, whole: u64, characters: &Characters) -> String {
    let tenths = u128::from(part) * BAR as u128 / u128::from(whole.max(1));
    let full = usize::try_from(tenths)
        .unwrap_or(BAR)
        .clamp(usize::from(part > 0), BAR);
    format!(
        "{}{}",
        characters.full.repeat(full),
        characters.empty.repeat(BAR - full)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_a_part_of_a_whole() {
        for (part, whole, expected) in [
            (0, 100, ".........."),
            (1, 100, "#........."),
            (55, 100, "#####....."),
            (99, 100, "#########."),
            (100, 100, "##########"),
            (u64::MAX, 1, "##########"),
        ] {
            assert_eq!(bar(part, whole, &ASCII), expected, "{part} of {whole}");
        }
    }
}
