//! The files under `images/`.

use std::{fmt::Display, fs, io, path::PathBuf};

use magik_cas::Digest;
use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::ImageStore;
use crate::{Error, Reference, Result};

/// What the temporary files of records are called in `tmp/`.
pub(super) const PREFIX: &str = "image-";
/// The largest record, in bytes; ours are about 300.
const MAX_RECORD_SIZE: u64 = 64 << 10;

/// One name and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    pub(crate) reference: Option<Reference>,
    pub(crate) manifest: Descriptor,
}

impl Record {
    pub(super) fn name(&self) -> String {
        match &self.reference {
            Some(reference) => reference.to_string(),
            None => self.manifest.digest().to_string(),
        }
    }

    pub(super) fn key(&self) -> String {
        match &self.reference {
            Some(reference) => key(reference),
            None => unnamed_key(self.manifest.digest()),
        }
    }
}

/// The file name, without `.json`, of a reference's record.
pub(super) fn key(reference: &Reference) -> String {
    Digest::sha256(reference.to_string().as_bytes()).hex()
}

/// The same for an image without a name.
pub(super) fn unnamed_key(manifest: &impl Display) -> String {
    Digest::sha256(format!("@{manifest}").as_bytes()).hex()
}

impl ImageStore {
    fn record_path(&self, key: &str) -> PathBuf {
        self.images_dir().join(format!("{key}.json"))
    }

    pub(super) fn read_record(&self, key: &str) -> Result<Option<Record>> {
        let path = self.record_path(key);
        let read = super::read_small(&path, MAX_RECORD_SIZE);
        let Some(text) = read.map_err(Error::io(format!("read {}", path.display())))? else {
            return Ok(None);
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let remedy = "remove the file and pull the image again";
            Error::document(path.display().to_string(), format!("{e}; {remedy}"))
        })
    }

    /// Every well-formed record; others are logged.
    pub(super) fn read_records(&self) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        for key in self.record_keys()? {
            match self.read_record(&key) {
                Ok(record) => records.extend(record),
                Err(error @ Error::InvalidDocument { .. }) => {
                    tracing::warn!(%error, "image record left out");
                }
                Err(other) => return Err(other),
            }
        }
        Ok(records)
    }

    pub(super) fn record_keys(&self) -> Result<Vec<String>> {
        let names = super::file_names(&self.images_dir())?;
        Ok(names
            .iter()
            .filter_map(|n| n.strip_suffix(".json"))
            .map(str::to_owned)
            .collect())
    }

    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        let path = self.record_path(&record.key());
        let text = serde_json::to_vec(record).map_err(io::Error::from);
        text.and_then(|text| super::replace(&self.cas().tmp_dir(), &path, &text, self.cas().durability()))
            .map_err(Error::io(format!("write {}", path.display())))
    }

    pub(super) fn remove_record(&self, key: &str) -> Result<bool> {
        let path = self.record_path(key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::io(format!("remove {}", path.display()))(source)),
        }
    }
}
