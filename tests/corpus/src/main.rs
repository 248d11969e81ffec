//! Writes the corpus to files, for trying it on other programs: `DIR/layers/NAME/{0,1,…}.tar…` are the blobs of one image's layers, the
//! lowest first, `DIR/layouts/NAME` is an OCI layout or an archive, and `expected` beside either says what must become of
//! it. Paths that lead out lead to `DIR/canary`.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use magikrun_test_corpus::{Bounds, Expected, layers, layouts};

fn main() -> Result<()> {
    let dir: PathBuf = std::env::args_os()
        .nth(1)
        .context("usage: magikrun-test-corpus DIR")?
        .into();
    fs::create_dir_all(&dir)?;
    let dir = dir.canonicalize()?;
    let canary = dir.join("canary");
    fs::create_dir_all(&canary)?;
    fs::write(canary.join("secret"), "secret")?;
    let canary = canary.to_str().context("a directory whose name is UTF-8")?;
    let text = |expected: &Expected| match expected {
        Expected::Refused(reason) => format!("refused: {reason}\n"),
        Expected::Taken(tree) => format!("{tree}\n"),
    };
    for case in layers::cases(canary, Bounds::DESIGN) {
        let at = dir.join("layers").join(case.name);
        fs::create_dir_all(&at)?;
        for (n, layer) in case.layers().iter().enumerate() {
            fs::write(at.join(n.to_string()), &layer.blob)?;
        }
        fs::write(at.join("expected"), text(&case.expected))?;
    }
    for case in layouts::cases(canary) {
        let at = dir.join("layouts").join(case.name);
        fs::create_dir_all(&at)?;
        case.write(&at.join("layout"))?;
        fs::write(at.join("expected"), text(&case.expected))?;
    }
    Ok(())
}
