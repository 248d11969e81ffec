//! The files under `images/`.

use std::{
    fs,
    io::{self, Read, Write},
    path::PathBuf,
};

use magik_cas::{Digest, Durability};
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
            None => sha256_hex(&format!("@{}", self.manifest.digest())),
        }
    }
}

/// The file name, without `.json`, of a reference's record.
pub(super) fn key(reference: &Reference) -> String {
    sha256_hex(&reference.to_string())
}

/// The same for an image without a name.
pub(super) fn unnamed_key(manifest: &Digest) -> String {
    sha256_hex(&format!("@{manifest}"))
}

fn sha256_hex(text: &str) -> String {
    Digest::sha256(text.as_bytes()).hex()
}

impl ImageStore {
    fn record_path(&self, key: &str) -> PathBuf {
        self.images_dir().join(format!("{key}.json"))
    }

    pub(super) fn read_record(&self, key: &str) -> Result<Option<Record>> {
        let path = self.record_path(key);
        let mut text = Vec::new();
        let read = fs::File::open(&path).and_then(|f| f.take(MAX_RECORD_SIZE).read_to_end(&mut text));
        match read {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Io {
                    context: format!("read {}", path.display()),
                    source,
                });
            }
        }
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::InvalidDocument {
                document: path.display().to_string(),
                reason: format!("{e}; remove the file and pull the image again"),
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
        let context = || format!("write {}", path.display());
        let text = serde_json::to_vec(record).map_err(Error::io(context()))?;
        let durable = self.cas().durability() == Durability::Full;
        let write = || -> io::Result<()> {
            let mut temp = tempfile::Builder::new()
                .prefix(PREFIX)
                .tempfile_in(self.cas().tmp_dir())?;
            temp.write_all(&text)?;
            if durable {
                temp.as_file().sync_all()?;
            }
            temp.persist(&path)?;
            if durable && cfg!(unix) {
                fs::File::open(self.images_dir())?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(Error::io(context()))
    }

    pub(super) fn remove_record(&self, key: &str) -> Result<bool> {
        let path = self.record_path(key);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(source) => Err(Error::Io {
                context: format!("remove {}", path.display()),
                source,
            }),
        }
    }
}
