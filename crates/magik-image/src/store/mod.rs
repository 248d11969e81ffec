//! The image store: names, and what they mean, over a [`magik_cas::Store`].

mod compiled;
pub mod format;
mod image;
mod leases;
mod prune;
mod record;
mod remove;
mod usage;
mod verify;
mod version;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use magik_cas::{Digest, Durability, Staged, private};
use oci_spec::image::Descriptor;

use crate::{Error, Limits, Reference, Result};

pub use image::{Image, Layer};
pub use prune::{PruneOptions, PruneReport};
pub use remove::RemoveReport;
pub use usage::{ImageUsage, LayerUsage, StoreUsage, Usage};
pub use verify::Damage;

#[cfg(feature = "registry")]
pub(crate) use image::layers_of;
pub(crate) use image::oci_digest;

/// Images below one data root, shared by all processes; see [`mod@format`]. Clones share it.
///
/// ```no_run
/// use std::path::Path;
/// use magik_image::ImageStore;
/// # fn main() -> magik_image::Result<()> {
/// let store = ImageStore::open(Path::new("/var/lib/magikrun"))?;
/// for image in store.list()? {
///     println!("{} {}", image.name(), image.size());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ImageStore {
    root: Arc<Path>,
    cas: magik_cas::Store,
    limits: Limits,
}

impl ImageStore {
    /// Opens the store below `data_root`; creates what is missing. The data root is closed to other
    /// users (0700); see [`magik_cas::private`].
    ///
    /// # Errors
    /// [`Error::Cas`]: a directory fails or may be another user's; [`Error::StoreVersion`].
    pub fn open(data_root: &Path) -> Result<Self> {
        let cas = magik_cas::Store::open(data_root)?;
        for dir in ["images", "layers", "leases"] {
            private::directory(&data_root.join(dir))?;
        }
        version::check(data_root, cas.tmp_dir().as_ref())?;
        // Mounts and bundles hold these paths; their users have other working directories.
        let root = data_root
            .canonicalize()
            .map_err(Error::io(format!("resolve {}", data_root.display())))?;
        Ok(Self {
            root: root.into(),
            cas,
            limits: Limits::default(),
        })
    }

    /// The blobs.
    #[must_use]
    pub const fn cas(&self) -> &magik_cas::Store {
        &self.cas
    }

    /// The limits in force.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The same store with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The same store with another durability: [`Durability::None`] never syncs.
    #[must_use]
    pub fn with_durability(mut self, durability: Durability) -> Self {
        self.cas = self.cas.with_durability(durability);
        self
    }

    /// The data root, absolute.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Publishes blobs, the last one last: what names the others comes after them.
    pub(crate) fn publish(&self, blobs: Vec<Staged>) -> Result<()> {
        for blob in blobs {
            let info = blob.info();
            if self.cas().stat(&info.digest)? != Some(info.size) {
                blob.publish()?;
            }
        }
        Ok(())
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(crate) fn leases_dir(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// The image of that name; `None` if there is none, or blobs of it are missing.
    ///
    /// # Errors
    /// [`Error::InvalidDocument`] for a refused document, [`Error::Cas`], or [`Error::Io`].
    pub fn get(&self, reference: &Reference) -> Result<Option<Image>> {
        match self.read_record(&record::key(reference))? {
            Some(record) => self.load_if_complete(&record),
            None => Ok(None),
        }
    }

    /// The image that `text` means: a reference, the digest of a manifest or configuration, or the
    /// first digits (four or more) of an image id.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], and as [`get`](Self::get).
    pub fn find(&self, text: &str) -> Result<Image> {
        if let Ok(reference) = text.parse::<Reference>()
            && let Some(image) = self.get(&reference)?
        {
            return Ok(image);
        }
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_id = digits.len() >= 4 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_id {
            return Err(Error::NotFound(text.to_owned()));
        }
        let means = |digest: &Digest| digest.hex().starts_with(digits);
        let mut found: Option<Image> = None;
        for image in self.list()? {
            if !means(&image.config_digest) && !means(&image.manifest_digest) {
                continue;
            }
            match &found {
                Some(other) if other.config_digest != image.config_digest => {
                    return Err(Error::Ambiguous(text.to_owned()));
                }
                Some(_) => {}
                None => found = Some(image),
            }
        }
        found.ok_or_else(|| Error::NotFound(text.to_owned()))
    }

    /// Names a manifest whose blobs are in the store; replaces the name's former manifest.
    ///
    /// Hold a [`magik_cas::Lease`] from before the blobs were looked up until this returns.
    ///
    /// # Errors
    /// [`Error::Cas`] (blob missing), [`Error::InvalidDocument`], or [`Error::Io`].
    pub fn tag(&self, reference: &Reference, manifest: &Descriptor) -> Result<Image> {
        self.record(Some(reference), manifest)
    }

    /// Keeps an image without a name, to be found by its id.
    ///
    /// # Errors
    /// As [`tag`](Self::tag).
    pub fn keep(&self, manifest: &Descriptor) -> Result<Image> {
        self.record(None, manifest)
    }

    fn record(&self, reference: Option<&Reference>, manifest: &Descriptor) -> Result<Image> {
        let _lease = self.cas.lease()?;
        let record = record::Record {
            reference: reference.cloned(),
            manifest: manifest.clone(),
        };
        let image = self.load(&record)?;
        for descriptor in image.blobs() {
            let digest = oci_digest(descriptor)?;
            match self.cas.stat(&digest)? {
                Some(size) if size == descriptor.size() => {}
                Some(found) => {
                    let size = descriptor.size();
                    return Err(magik_cas::Error::SizeMismatch {
                        expected: digest,
                        size,
                        found,
                    }
                    .into());
                }
                None => return Err(magik_cas::Error::NotFound(digest).into()),
            }
        }
        if self.read_record(&record.key())?.as_ref() != Some(&record) {
            self.write_record(&record)?;
        }
        Ok(image)
    }

    /// Every complete image, in the order of their names; those without one come first.
    ///
    /// # Errors
    /// [`Error::Io`]. Images that are incomplete or refused are left out and logged.
    pub fn list(&self) -> Result<Vec<Image>> {
        let mut images = Vec::new();
        for record in self.read_records()? {
            let name = record.name();
            match self.load_if_complete(&record) {
                Ok(Some(image)) => images.push(image),
                Ok(None) => {}
                Err(error) => tracing::warn!(image = %name, %error, "image left out"),
            }
        }
        images.sort_by(|a, b| (&a.reference, a.manifest_digest).cmp(&(&b.reference, b.manifest_digest)));
        Ok(images)
    }
}

/// Opens (and makes) a lock file and waits until it is ours; closing it gives it up.
pub(crate) fn lock_file(path: &Path) -> Result<std::fs::File> {
    let file = private::lock_file(path)?;
    loop {
        match file.lock() {
            Ok(()) => return Ok(file),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(format!("lock {}", path.display()))(e)),
        }
    }
}

/// As [`lock_file`], but `None` instead of waiting.
pub(crate) fn try_lock_file(path: &Path) -> Result<Option<std::fs::File>> {
    let file = private::lock_file(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(std::fs::TryLockError::WouldBlock) => Ok(None),
        Err(std::fs::TryLockError::Error(e)) => Err(Error::io(format!("lock {}", path.display()))(e)),
    }
}

/// The beginning of a small file, up to `limit` bytes; `None` if there is none.
fn read_small(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Puts a file in its place, which has the old one or the whole new one. `tmp` is a directory of
/// the same file system.
fn replace(tmp: &Path, path: &Path, bytes: &[u8], durability: Durability) -> io::Result<()> {
    let mut temp = tempfile::Builder::new().prefix(record::PREFIX).tempfile_in(tmp)?;
    temp.write_all(bytes)?;
    let durable = durability == Durability::Full;
    if durable {
        temp.as_file().sync_all()?;
    }
    temp.persist(path)?;
    match path.parent() {
        Some(directory) if durable && cfg!(unix) => File::open(directory)?.sync_all(),
        _ => Ok(()),
    }
}

/// The names in one of the store's own directories; ours are all UTF-8.
pub(crate) fn file_names(dir: &Path) -> Result<Vec<String>> {
    let context = || format!("list {}", dir.display());
    let entries = std::fs::read_dir(dir).map_err(Error::io(context()))?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: std::io::Result<Vec<_>> = names.collect();
    Ok(names
        .map_err(Error::io(context()))?
        .into_iter()
        .flatten()
        .collect())
}
