//! What the command line reads of a bundle.

use std::{collections::HashMap, path::Path};

use anyhow::{Context as _, Result};
use oci_spec::runtime::User;
use serde::Deserialize;

use super::{process, users};

/// The longest config.json that is read.
const MAX_CONFIG_SIZE: u64 = 16 << 20;

/// What we need of a bundle's configuration before it is handed to the backend.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Config {
    process: Option<ConfigProcess>,
    /// Which backend is asked for, among other things.
    #[serde(default)]
    pub(super) annotations: Option<HashMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
struct ConfigProcess {
    #[serde(default)]
    terminal: bool,
    user: Option<User>,
}

impl Config {
    /// Reads the bundle's configuration.
    pub(super) fn read(bundle: &Path) -> Result<Self> {
        let path = bundle.join("config.json");
        let config: Self = serde_json::from_slice(&process::read(&path, MAX_CONFIG_SIZE)?)
            .with_context(|| format!("{}: not a runtime-spec configuration", path.display()))?;
        if let Some(user) = config.process.as_ref().and_then(|p| p.user.as_ref()) {
            users::check(user).with_context(|| path.display().to_string())?;
        }
        Ok(config)
    }

    pub(super) fn terminal(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.terminal)
    }
}
