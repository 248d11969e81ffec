//! What takes room in a store, and what of it [`ImageStore::prune`] could free.

use std::collections::{HashMap, HashSet};

use magik_cas::Digest;

use super::{ImageStore, oci_digest, remove::Live};
use crate::{Error, Result, unpack};

/// Things of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// How many there are.
    pub count: u64,
    /// How many of them pods use.
    pub active: u64,
    /// Their bytes together; what several share counts once.
    pub size: u64,
    /// The bytes that [`prune`](ImageStore::prune) would free, also of unused images.
    pub reclaimable: u64,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageUsage {
    /// Its reference, or its manifest's digest.
    pub name: String,
    /// The digest of its configuration.
    pub id: String,
    /// The bytes of its blobs, as they are stored.
    pub size: u64,
    /// The bytes of those of them that another image has, too.
    pub shared: u64,
    /// The leases that use it: a pod's is its id.
    pub used_by: Vec<String>,
}

/// One unpacked layer.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerUsage {
    /// Its chain id.
    pub chain_id: String,
    /// The bytes of its files.
    pub size: u64,
    /// The leases that use it.
    pub used_by: Vec<String>,
}

/// What takes room in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreUsage {
    /// Images, by their blobs; blobs that no image needs are reclaimable here.
    pub images: Usage,
    /// Unpacked layers, by the content of their files.
    pub layers: Usage,
    /// Compiled programs of WebAssembly.
    pub programs: Usage,
    /// What is being written, and leftovers. Nothing is reclaimable while somebody writes.
    pub temporary: Usage,
    /// Each image.
    pub image_list: Vec<ImageUsage>,
    /// Each unpacked layer.
    pub layer_list: Vec<LayerUsage>,
}

impl ImageStore {
    /// What takes room here, from the store's own records. What others write meanwhile may be
    /// counted or not.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Cas`], or [`Error::InvalidDocument`] if a lease is malformed. Images
    /// that are refused or incomplete are no images here; their blobs are reclaimable.
    pub fn usage(&self) -> Result<StoreUsage> {
        let mut usage = StoreUsage::default();
        let mut holders: HashMap<Digest, Vec<String>> = HashMap::new();
        // What stays when unused images go.
        let mut live = Live::default();
        for name in self.leases()? {
            let lease = self.read_lease(&name)?.unwrap_or_default();
            for digest in lease.images.iter().chain(&lease.layers) {
                holders.entry(*digest).or_default().push(name.clone());
            }
            live.layers.extend(lease.layers);
        }
        self.image_usage(&holders, &mut live, &mut usage)?;
        self.layer_usage(&holders, &mut usage)?;
        usage.programs = self.compiled_usage(&live)?;
        usage.temporary = self.temporary_usage()?;
        Ok(usage)
    }

    fn image_usage(
        &self,
        holders: &HashMap<Digest, Vec<String>>,
        live: &mut Live,
        usage: &mut StoreUsage,
    ) -> Result<()> {
        let images = self.list()?;
        // How many images have a blob; a name more for the same one is no image more.
        let mut owners: HashMap<Digest, HashSet<Digest>> = HashMap::new();
        for image in &images {
            for descriptor in image.blobs() {
                let digest = oci_digest(descriptor)?;
                owners.entry(digest).or_default().insert(image.manifest_digest);
            }
        }
        for image in &images {
            let used_by = holders.get(&image.manifest_digest).cloned().unwrap_or_default();
            usage.images.count += 1;
            if !used_by.is_empty() {
                usage.images.active += 1;
                live.add(image)?;
            }
            let mut shared: u64 = 0;
            for descriptor in image.blobs() {
                let of = owners.get(&oci_digest(descriptor)?);
                if of.is_some_and(|images| images.len() > 1) {
                    shared = shared.saturating_add(descriptor.size());
                }
            }
            usage.image_list.push(ImageUsage {
                name: image.name(),
                id: image.config_digest.to_string(),
                size: image.size(),
                shared,
                used_by,
            });
        }
        for blob in self.cas().list()? {
            usage.images.size += blob.size;
            if !live.blobs.contains(&blob.digest) {
                usage.images.reclaimable += blob.size;
            }
        }
        Ok(())
    }

    fn layer_usage(&self, holders: &HashMap<Digest, Vec<String>>, usage: &mut StoreUsage) -> Result<()> {
        let dir = self.layers_dir();
        for name in super::file_names(&dir)? {
            if name.contains('.') {
                continue;
            }
            let Ok(chain_id) = format!("sha256:{name}").parse::<Digest>() else {
                continue;
            };
            // One that has just been removed takes no room.
            let Ok(info) = unpack::LayerInfo::read(&dir.join(&name)) else {
                continue;
            };
            let used_by = holders.get(&chain_id).cloned().unwrap_or_default();
            usage.layers.count += 1;
            usage.layers.size += info.size;
            if used_by.is_empty() {
                usage.layers.reclaimable += info.size;
            } else {
                usage.layers.active += 1;
            }
            usage.layer_list.push(LayerUsage {
                chain_id: chain_id.to_string(),
                size: info.size,
                used_by,
            });
        }
        usage
            .layer_list
            .sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.chain_id.cmp(&b.chain_id)));
        Ok(())
    }

    /// What processes write to `tmp`, and layers that are being unpacked or removed.
    fn temporary_usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        let tmp = self.cas().tmp_dir();
        for path in super::file_names(&tmp)?.iter().map(|name| tmp.join(name)) {
            // Gone already is nothing.
            if let Ok(meta) = std::fs::symlink_metadata(&path) {
                usage.count += 1;
                usage.size += meta.len();
            }
        }
        let layers = self.layers_dir();
        for name in super::file_names(&layers)? {
            if name.ends_with(unpack::TEMP_SUFFIX) {
                let path = layers.join(&name);
                let mut size = 0;
                let counted = unpack::each_file(&path, |file| {
                    size += file.metadata()?.len();
                    Ok(())
                });
                match counted {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io(format!("read {}", path.display()))(e));
                    }
                    _ => {}
                }
                usage.count += 1;
                usage.size += size;
            }
        }
        // Whoever writes holds a lease on the blobs.
        if self.cas().try_exclusive()?.is_some() {
            usage.reclaimable = usage.size;
        } else {
            usage.active = usage.count;
        }
        Ok(usage)
    }
}
