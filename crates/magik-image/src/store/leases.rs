//! The files under `leases/`: what outlives a process and prune must leave.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use magik_cas::{Digest, Durability};
use serde::{Deserialize, Serialize};

use super::{Image, ImageStore};
use crate::{Error, Result};

/// The longest lease name, in bytes.
const MAX_NAME_LEN: usize = 200;
/// The largest lease file: 64 containers with 128 layers each stay well below.
const MAX_LEASE_SIZE: u64 = 4 << 20;

/// What a lease holds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LeaseFile {
    /// The digests of manifests.
    pub(crate) images: BTreeSet<Digest>,
    /// Chain ids.
    pub(crate) layers: BTreeSet<Digest>,
}

impl ImageStore {
    /// Adds an image's layers to a lease, made if missing. Hold a [`magik_cas::Lease`].
    pub(crate) fn add_to_lease(&self, name: &str, image: &Image) -> Result<()> {
        let path = self.lease_path(name)?;
        let _lock = self.lock_leases()?;
        let before = self.read_lease(name)?;
        let mut lease = before.clone().unwrap_or_default();
        lease.images.insert(image.manifest_digest);
        lease.layers.extend(image.layers().iter().map(|l| l.chain_id));
        if before.as_ref() == Some(&lease) {
            return Ok(());
        }
        let text = serde_json::to_vec(&lease).map_err(io::Error::from);
        // Not synced: a lease protects a running pod, which no power failure leaves.
        text.and_then(|text| super::replace(&self.cas().tmp_dir(), &path, &text, Durability::None))
            .map_err(Error::io(format!("write lease {}", path.display())))
    }

    /// Gives a lease up; one that does not exist is no error.
    ///
    /// # Errors
    /// [`Error::InvalidLease`], or [`Error::Io`].
    pub fn release(&self, lease: &str) -> Result<()> {
        let path = self.lease_path(lease)?;
        let _lock = self.lock_leases()?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove lease {}", path.display()))(e))
            }
            _ => Ok(()),
        }
    }

    /// The names of all leases.
    ///
    /// # Errors
    /// [`Error::Io`] if they cannot be listed.
    pub fn leases(&self) -> Result<Vec<String>> {
        let mut names = super::file_names(&self.leases_dir())?;
        names.retain(|n| is_name(n));
        names.sort_unstable();
        Ok(names)
    }

    /// What all leases hold together.
    pub(super) fn leased(&self) -> Result<LeaseFile> {
        let mut all = LeaseFile::default();
        for name in self.leases()? {
            if let Some(lease) = self.read_lease(&name)? {
                all.images.extend(lease.images);
                all.layers.extend(lease.layers);
            }
        }
        Ok(all)
    }

    pub(super) fn read_lease(&self, name: &str) -> Result<Option<LeaseFile>> {
        let path = self.lease_path(name)?;
        let read = super::read_small(&path, MAX_LEASE_SIZE);
        let text = read.map_err(Error::io(format!("read lease {}", path.display())))?;
        // It was renamed when complete: only a power failure can tear it, which ended its pod.
        let Some(text) = text.filter(|text| !text.is_empty()) else {
            return Ok(None);
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let remedy = "remove the file if its pod is gone";
            Error::document(path.display().to_string(), format!("{e}; {remedy}"))
        })
    }

    fn lease_path(&self, name: &str) -> Result<PathBuf> {
        if is_name(name) {
            return Ok(self.leases_dir().join(name));
        }
        Err(Error::InvalidLease(name.chars().take(MAX_NAME_LEN).collect()))
    }

    fn lock_leases(&self) -> Result<fs::File> {
        super::lock_file(&self.leases_dir().join(".lock"))
    }
}

/// A lease's name is a file name that starts with no dot.
fn is_name(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'.');
    let first = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    first && name.len() <= MAX_NAME_LEN && name.bytes().all(inner)
}
