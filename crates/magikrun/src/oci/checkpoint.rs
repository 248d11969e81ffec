//! `checkpoint` and `restore`: CRIU's, as far as the backend goes.

use std::{env, path::PathBuf};

use anyhow::{Result, bail};
use magik_oci::{ContainerId, Status};

use super::{
    args::{CheckpointArgs, RestoreArgs},
    backend::Backend,
};

/// `checkpoint`.
pub(super) fn checkpoint(backend: &Backend, id: &ContainerId, args: &CheckpointArgs) -> Result<()> {
    if let Some(option) = args.refused.given() {
        bail!("checkpoint {option}: not supported");
    }
    let state = backend.block_on(backend.runtime().state(id))?;
    if !matches!(state.status, Status::Running | Status::Paused) {
        bail!("cannot checkpoint container {id} in state {}", state.status);
    }
    if in_path("criu").is_none() {
        bail!("checkpoint needs CRIU, and there is no criu in PATH: install the package criu");
    }
    bail!(
        "checkpoint of container {id} to {}: the native backend cannot checkpoint yet",
        args.criu.image_path.display()
    )
}

/// `restore`.
pub(super) fn restore(id: &ContainerId, args: &RestoreArgs) -> Result<()> {
    bail!(
        "restore of container {id} from {}: not supported by the native backend yet",
        args.criu.image_path.display()
    )
}

/// The program of that name, as a shell finds it.
fn in_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}
