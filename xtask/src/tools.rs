//! Chores with many dependencies: packages of their own, built when they are asked for.

use std::{ffi::OsStr, os::unix::process::CommandExt, path::Path, process::Command};

use anyhow::{Context, Error, Result, ensure};

/// The package that compares magikrun with others.
pub const BENCH: &str = "magikrun-bench";
/// The package that makes what virtual machines need.
pub const MACHINES: &str = "magikrun-machines";

/// Runs the program of a package, which is built first.
///
/// # Errors
/// It cannot be built, or it failed.
pub fn run<I: AsRef<OsStr>>(package: &str, arguments: impl IntoIterator<Item = I>) -> Result<()> {
    let status = command(package, arguments).status().context("cargo")?;
    ensure!(status.success(), "{package}: {status}");
    Ok(())
}

/// Becomes the program of a package, which is built first: what it says and its exit code are those
/// of this process. Returns only if there is no cargo.
pub fn become_program<I: AsRef<OsStr>>(package: &str, arguments: impl IntoIterator<Item = I>) -> Error {
    Error::new(command(package, arguments).exec()).context("cargo")
}

/// It runs where this process runs, so that relative paths mean the same.
fn command<I: AsRef<OsStr>>(package: &str, arguments: impl IntoIterator<Item = I>) -> Command {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("Cargo.toml");
    let mut command = Command::new("cargo");
    command
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            package,
            "--manifest-path",
        ])
        .arg(manifest)
        .arg("--")
        .args(arguments);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_passed_on_as_they_are() {
        let command = command(BENCH, ["pods", "--help", "a b"]);
        let arguments: Vec<&OsStr> = command.get_args().collect();
        let end = arguments.iter().position(|argument| *argument == "--").unwrap();
        assert_eq!(arguments[end + 1..], ["pods", "--help", "a b"]);
        assert!(arguments[..end].contains(&OsStr::new(BENCH)), "{arguments:?}");
    }

    #[test]
    fn the_manifest_is_that_of_the_workspace() {
        let command = command(MACHINES, [""; 0]);
        let manifest = command
            .get_args()
            .find(|argument| Path::new(argument).is_absolute());
        let manifest = std::fs::read_to_string(manifest.unwrap()).unwrap();
        for package in ["tests/bench", "tests/machines"] {
            assert!(manifest.contains(package), "{package} is no member");
        }
    }
}
