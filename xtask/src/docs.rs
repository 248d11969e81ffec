//! `cargo xtask docs`: the documentation as a book.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use xshell::{Shell, cmd};

use xtask::host;

/// What builds it, at the version that its theme was looked at with.
const TOOL: &str = "mdbook";
const VERSION: &str = "^0.5";

/// Options of `cargo xtask docs`.
#[derive(Debug, clap::Args)]
pub(crate) struct DocsArgs {
    /// Installs nothing: fails where mdbook is missing.
    #[arg(long)]
    no_install: bool,
}

pub(crate) fn run(args: &DocsArgs) -> Result<()> {
    let sh = host::shell()?;
    if !is_here() {
        ensure!(
            !args.no_install,
            "{TOOL} is missing: `cargo install {TOOL}`, or leave --no-install out"
        );
        println!("installing {TOOL} (cargo install; some minutes, once)");
        cmd!(
            sh,
            "cargo install --quiet --locked --debug {TOOL} --version {VERSION} --no-default-features --features search"
        )
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .quiet()
        .run()?;
    }
    let book = build(&sh)?;
    println!("{}", book.join("index.html").display());
    Ok(())
}

/// Builds the book where mdbook is, and says so where it is not.
pub(crate) fn build_if_possible(sh: &Shell) -> Result<()> {
    if is_here() {
        build(sh).map(drop)
    } else {
        println!("NOT BUILT: {TOOL} is not here; `cargo xtask docs` installs it");
        Ok(())
    }
}

fn is_here() -> bool {
    host::has_program(TOOL) || host::cargo_home_has(TOOL)
}

/// Builds the book into the target directory.
fn build(sh: &Shell) -> Result<PathBuf> {
    let book = host::target_dir(sh)?.join("book");
    let program = if host::has_program(TOOL) {
        TOOL.into()
    } else {
        host::cargo_home().unwrap_or_default().join("bin").join(TOOL)
    };
    cmd!(sh, "{program} build docs --dest-dir {book}").quiet().run()?;
    Ok(book)
}
