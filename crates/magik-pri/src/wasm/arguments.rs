//! What a WebAssembly pod's process is told, and works with.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::isolation::Kind;
use crate::pods::init::Config;

/// What it is told besides.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Told {
    pub(super) isolation: Kind,
    /// Directories outside of the pod's own, and whether they are written to.
    pub(super) shared: Vec<(PathBuf, bool)>,
}

/// What it is confined to.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) isolation: Kind,
    pub(super) host_network: bool,
    pub(super) pod_data: PathBuf,
    pub(super) sandbox: PathBuf,
    /// Directories outside of the pod's own, and whether they are written to.
    pub(super) shared: Vec<(PathBuf, bool)>,
}

impl Arguments {
    pub(super) fn new(config: &Config<Told>, sandbox: &Path) -> Self {
        Self {
            isolation: config.backend.isolation,
            host_network: config.host_network,
            pod_data: config.data.join("pods").join(&config.id),
            sandbox: sandbox.to_owned(),
            shared: config.backend.shared.clone(),
        }
    }

    /// Of a pod that root made.
    #[cfg(test)]
    pub(super) fn of_root(pod_data: PathBuf, sandbox: PathBuf) -> Self {
        Self {
            isolation: Kind::Root,
            host_network: false,
            pod_data,
            sandbox,
            shared: Vec::new(),
        }
    }
}
