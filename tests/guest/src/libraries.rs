//! What a program is linked with.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// The shared libraries that a program is loaded with on the system at `system`, and its loader; none for a static one.
pub(crate) fn of(program: &Path, system: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut list = if system == Path::new("/") {
        Command::new("ldd")
    } else {
        let mut command = Command::new(system.join(LOADER));
        let directories = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"]
            .map(|directory| system.join(directory).display().to_string());
        command.args([
            "--inhibit-cache",
            "--library-path",
            &directories.join(":"),
            "--list",
        ]);
        command
    };
    let listed = list.arg(program).output().context("ldd")?;
    let said =
        String::from_utf8_lossy(&listed.stdout).into_owned() + &String::from_utf8_lossy(&listed.stderr);
    if said.contains("not a dynamic executable") || said.contains("statically linked") {
        return Ok(BTreeSet::new());
    }
    ensure!(listed.status.success(), "{list:?}: {said}");
    let inside = |word: &str| {
        let path = Path::new(word);
        match path.strip_prefix(system) {
            Ok(_) => path.to_owned(),
            Err(_) => system.join(word.trim_start_matches('/')),
        }
    };
    Ok(said
        .split_whitespace()
        .filter(|word| word.starts_with('/') && !word.ends_with(':'))
        .map(inside)
        .collect())
}
