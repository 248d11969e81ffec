//! All layers into one directory.

use std::{fs, io, os::fd::AsFd, path::Path};

use super::{
    Source,
    budget::{Budget, RootfsBudget},
    extract::Extractor,
    finish,
    remove::{names, remove_at},
    tree::open_root,
};
use crate::{Error, Image, ImageStore, Result};

impl ImageStore {
    /// Unpacks an image into one flat root in `dir`, which is empty or absent; applies whiteouts.
    ///
    /// # Errors
    /// As [`unpack`](Self::unpack), and [`Error::Io`] if `dir` is not empty. `dir` is left as it
    /// was, empty or absent.
    pub fn unpack_flat(&self, image: &Image, dir: &Path) -> Result<()> {
        let context = || format!("unpack image {} to {}", image.name(), dir.display());
        let created = match fs::create_dir(dir) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(source) => {
                return Err(Error::io(context())(source));
            }
        };
        let root = open_root(dir).map_err(Error::io(context()))?;
        if !names(root.as_fd()).map_err(Error::io(context()))?.is_empty() {
            let source = io::Error::from(io::ErrorKind::DirectoryNotEmpty);
            return Err(Error::io(context())(source));
        }
        let unpacked = self.unpack_all(image, dir);
        if unpacked.is_err() {
            for name in names(root.as_fd()).unwrap_or_default() {
                if let Err(error) = remove_at(root.as_fd(), name.to_bytes()) {
                    tracing::warn!(dir = %dir.display(), %error, "leftover of an unpack that failed");
                }
            }
            if created {
                // It is empty, or the line above has said why not.
                let _ = fs::remove_dir(dir);
            }
        }
        unpacked
    }

    fn unpack_all(&self, image: &Image, dir: &Path) -> Result<()> {
        let _blobs = self.cas().lease()?;
        let rootfs = RootfsBudget::new(image.name(), self.limits());
        for (index, layer) in image.layers().iter().enumerate() {
            let root = open_root(dir).map_err(Error::io(format!("open {}", dir.display())))?;
            let mut extractor = Extractor::flat(root, index == 0);
            let mut budget = Budget::new(&rootfs, self.limits(), format!("layer {}", layer.digest));
            self.extract(layer, Source::Store, &mut extractor, &mut budget)?;
            finish(extractor, layer)?;
        }
        Ok(())
    }
}
