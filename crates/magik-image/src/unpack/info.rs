//! The description beside an unpacked layer.

use std::{fs, io::Read, path::Path};

use magik_cas::Digest;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

const FILE: &str = "layer.json";
const MAX_SIZE: u64 = 4096;

/// `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayerInfo {
    /// The digest of the archive it was unpacked from.
    pub(crate) diff_id: Digest,
    /// The bytes of its files' content.
    pub(crate) size: u64,
    /// Its entries.
    pub(crate) files: u64,
    /// Whether an overlay of it must be mounted with `userxattr`.
    pub(crate) user_xattr: bool,
}

impl LayerInfo {
    /// Reads the description of the layer in `dir`.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let mut text = Vec::new();
        fs::File::open(&path)
            .and_then(|f| f.take(MAX_SIZE).read_to_end(&mut text))
            .map_err(Error::io(format!("read {}", path.display())))?;
        serde_json::from_slice(&text).map_err(|e| {
            Error::document(
                path.display().to_string(),
                format!("{e}; remove the layer's directory"),
            )
        })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_vec(self).map_err(Error::io(format!("write {}", path.display())))?;
        fs::write(&path, text).map_err(Error::io(format!("write {}", path.display())))
    }
}
