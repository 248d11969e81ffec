//! The machine and the checkout xtask runs in.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use xshell::{Shell, cmd};

/// The workspace's root directory.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("/"))
        .to_owned()
}

/// A shell in the workspace's root.
///
/// # Errors
/// This process has no current directory.
pub fn shell() -> Result<Shell> {
    let sh = Shell::new()?;
    sh.change_dir(workspace());
    Ok(sh)
}

/// Cargo's target directory, as the environment or the configuration set it.
///
/// # Errors
/// Cargo cannot read the workspace.
pub fn target_dir(sh: &Shell) -> Result<PathBuf> {
    let metadata = cmd!(sh, "cargo metadata --format-version 1 --no-deps --offline")
        .quiet()
        .read()?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata)?;
    Ok(metadata["target_directory"]
        .as_str()
        .map_or_else(|| workspace().join("target"), PathBuf::from))
}

/// What virtual machines are made of: `target/vm`, which is made if it is not there.
///
/// # Errors
/// It cannot be made.
pub fn machine_files(sh: &Shell) -> Result<PathBuf> {
    let directory = target_dir(sh)?.join("vm");
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    Ok(directory)
}

/// Whether this process may do everything containers need.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a program is found in `PATH` or in the directories of an administrator.
#[must_use]
pub fn has_program(name: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .any(|dir| Path::new(dir).join(name).is_file())
}

/// Whether cargo has installed a program, which need not be in `PATH` then.
#[must_use]
pub fn cargo_home_has(program: &str) -> bool {
    cargo_home().is_some_and(|home| home.join("bin").join(program).is_file())
}

/// Where cargo keeps what it installs.
#[must_use]
pub fn cargo_home() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
}
