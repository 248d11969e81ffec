//! `cargo xtask bench --plot`: the tables of docs/benchmarks.md as pictures, in docs/images.
//!
//! The page itself is read, so that a picture never says anything else than the table above it. A
//! table is drawn if the page shows its picture below it, and a test draws all of them again.

mod chart;
mod draw;
mod table;

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use xtask::host;

use self::{
    chart::{Chart, Shape},
    draw::THEMES,
};

/// The page with the tables.
const PAGE: &str = "docs/benchmarks.md";
/// Where the pictures are.
const DIRECTORY: &str = "docs/images";

/// All pictures.
const CHARTS: &[Chart] = &[
    Chart {
        name: "pods",
        title: "Pods of 1, 4 and 16 containers, beside the newest podman and containerd",
        shape: PODS,
    },
    Chart {
        name: "pods-debian",
        title: "Pods of 1, 4 and 16 containers, beside Debian 12's podman",
        shape: PODS,
    },
    Chart {
        name: "oci",
        title: "The OCI command line, beside crun and runc",
        shape: OCI,
    },
    Chart {
        name: "oci-guest",
        title: "The OCI command line in an emulated guest, beside crun",
        shape: OCI,
    },
    Chart {
        name: "images-tmpfs",
        title: "Pulling and unpacking 630 MB, on a tmpfs",
        shape: IMAGES,
    },
    Chart {
        name: "images-disk",
        title: "Pulling and unpacking 630 MB, on a disk",
        shape: IMAGES,
    },
    Chart {
        name: "wasm",
        title: "WebAssembly from start to exit, beside the wasmtime command line",
        shape: Shape::Rows {
            panels: &[1, 2],
            unit: Some("ms"),
        },
    },
];

const PODS: Shape = Shape::Grouped {
    panels: &[2, 3, 4, 5],
};
const OCI: Shape = Shape::Crossed {
    panels: &["wall, ms", "CPU, ms"],
};
const IMAGES: Shape = Shape::Rows {
    panels: &[1, 2, 3],
    unit: None,
};

/// A file of docs/images.
#[derive(Debug)]
struct File {
    name: String,
    svg: String,
}

/// Draws every picture anew.
pub(crate) fn run() -> Result<()> {
    let page = host::workspace().join(PAGE);
    let directory = host::workspace().join(DIRECTORY);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    for file in files(&page)? {
        let path = directory.join(&file.name);
        fs::write(&path, file.svg).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}

/// What the tables of the page look like now.
fn files(page: &Path) -> Result<Vec<File>> {
    let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
    let mut tables = table::with_pictures(&text).with_context(|| page.display().to_string())?;
    let mut files = vec![];
    for chart in CHARTS {
        let name = chart.name;
        let table = tables.remove(name).with_context(|| {
            let picture = table::file_name(name, THEMES[0].name);
            format!("{}: no table is followed by images/{picture}", page.display())
        })?;
        let picture = chart
            .read(&table)
            .with_context(|| format!("{}: the table of {name}", page.display()))?;
        for theme in &THEMES {
            files.push(File {
                name: table::file_name(name, theme.name),
                svg: draw::draw(&picture, theme).with_context(|| name.to_owned())?,
            });
        }
    }
    let unknown: Vec<String> = tables.into_keys().collect();
    ensure!(
        unknown.is_empty(),
        "{}: pictures that nothing here draws: {}",
        page.display(),
        unknown.join(", ")
    );
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_pictures_are_what_the_tables_say() {
        let directory = host::workspace().join(DIRECTORY);
        let drawn = files(&host::workspace().join(PAGE)).unwrap();
        for file in &drawn {
            let kept = fs::read_to_string(directory.join(&file.name)).unwrap_or_default();
            let remedy = "differs from its table: run cargo xtask bench --plot";
            assert!(kept == file.svg, "{DIRECTORY}/{} {remedy}", file.name);
        }
        let drawn: BTreeSet<String> = drawn.into_iter().map(|file| file.name).collect();
        let there: BTreeSet<String> = fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".svg"))
            .collect();
        assert_eq!(there, drawn, "pictures without a table");
    }

    #[test]
    fn pages_show_pictures_that_exist_in_both_variants() {
        for (page, directory) in [("README.md", "docs/images"), (PAGE, "images")] {
            let text = fs::read_to_string(host::workspace().join(page)).unwrap();
            for chart in CHARTS {
                let names = THEMES.map(|t| table::file_name(chart.name, t.name));
                let shown = names
                    .iter()
                    .filter(|name| text.contains(&format!("\"{directory}/{name}\"")))
                    .count();
                let wanted: &[usize] = if page == PAGE { &[2] } else { &[0, 2] };
                assert!(wanted.contains(&shown), "{page} shows {shown} of {names:?}");
            }
        }
    }
}
