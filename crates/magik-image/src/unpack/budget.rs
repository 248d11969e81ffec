//! What a layer may still use up.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Limits, Result};

/// The bytes left for an image's root filesystem; shared by layers that are unpacked together.
#[derive(Debug)]
pub(super) struct RootfsBudget {
    left: AtomicU64,
    limit: u64,
    image: String,
}

impl RootfsBudget {
    pub(super) fn new(image: String, limits: &Limits) -> Self {
        Self {
            left: AtomicU64::new(limits.max_rootfs_size),
            limit: limits.max_rootfs_size,
            image,
        }
    }

    pub(super) fn take(&self, bytes: u64) -> Result<()> {
        let taken = self
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            });
        taken
            .map(drop)
            .map_err(|_| Error::too_large(format!("root filesystem of image {}", self.image), self.limit))
    }
}

/// What one archive has used, and may.
#[derive(Debug)]
pub(super) struct Budget<'a> {
    rootfs: &'a RootfsBudget,
    limits: &'a Limits,
    /// What is unpacked, for messages: `layer sha256:…`.
    what: String,
    bytes: u64,
    files: u64,
    remembered: u64,
}

impl<'a> Budget<'a> {
    pub(super) const fn new(rootfs: &'a RootfsBudget, limits: &'a Limits, what: String) -> Self {
        Self {
            rootfs,
            limits,
            what,
            bytes: 0,
            files: 0,
            remembered: 0,
        }
    }

    /// Bytes of file content so far.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Entries so far.
    pub(super) const fn files(&self) -> u64 {
        self.files
    }

    /// Counts one entry, with a path of so many bytes.
    pub(super) fn entry(&mut self, path: usize) -> Result<()> {
        self.files += 1;
        if self.files > self.limits.max_files_per_layer {
            let what = format!("{}: files", self.what);
            return Err(Error::too_many(what, self.limits.max_files_per_layer));
        }
        self.remember(path)
    }

    /// Counts bytes that have to be kept in memory until the layer ends.
    pub(super) fn remember(&mut self, bytes: usize) -> Result<()> {
        self.remembered = self.remembered.saturating_add(bytes as u64);
        if self.remembered <= self.limits.max_names_size {
            return Ok(());
        }
        let what = format!("names and directories' attributes of {}", self.what);
        Err(Error::too_large(what, self.limits.max_names_size))
    }

    /// Counts file content before it is written. The layer's own limit matters only for sparse
    /// files, which are longer than their part of the archive.
    pub(super) fn content(&mut self, bytes: u64) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > self.limits.max_layer_size {
            let what = format!("content of {}", self.what);
            return Err(Error::too_large(what, self.limits.max_layer_size));
        }
        self.rootfs.take(bytes)
    }
}
