//! The bounds on everything an image brings along.
//!
//! Sizes are in bytes and hold for compressed as well as for decompressed data. They are enforced
//! while the data streams, so nothing larger is ever held or written.

/// The largest layer, compressed and decompressed: 512 MiB.
pub const MAX_LAYER_SIZE: u64 = 512 << 20;
/// The largest root filesystem, as the sum of its layers' file contents: 4 GiB.
pub const MAX_ROOTFS_SIZE: u64 = 4 << 30;
/// The most layers of an image.
pub const MAX_LAYERS: usize = 128;
/// The most entries of a layer, counting directories that the layer only implies.
pub const MAX_FILES_PER_LAYER: u64 = 100_000;
/// The most memory for the names of a layer's entries and its directories' attributes, which are
/// kept until its end: 64 MiB.
pub const MAX_NAMES_SIZE: u64 = 64 << 20;
/// The largest image manifest or index: 1 MiB.
pub const MAX_MANIFEST_SIZE: u64 = 1 << 20;
/// The largest image configuration: 1 MiB.
pub const MAX_CONFIG_SIZE: u64 = 1 << 20;
/// The largest extended header (long name, PAX records) of an entry: 1 MiB, as in Go's `tar`.
pub const MAX_TAR_HEADER_SIZE: u64 = 1 << 20;
/// The most entries of an archive that is imported. `docker save` writes four for each layer.
pub const MAX_ARCHIVE_ENTRIES: usize = 10_000;

/// The limits in force, the constants of this module unless changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// See [`MAX_LAYER_SIZE`].
    pub max_layer_size: u64,
    /// See [`MAX_ROOTFS_SIZE`].
    pub max_rootfs_size: u64,
    /// See [`MAX_LAYERS`].
    pub max_layers: usize,
    /// See [`MAX_FILES_PER_LAYER`].
    pub max_files_per_layer: u64,
    /// See [`MAX_NAMES_SIZE`].
    pub max_names_size: u64,
    /// See [`MAX_MANIFEST_SIZE`].
    pub max_manifest_size: u64,
    /// See [`MAX_CONFIG_SIZE`].
    pub max_config_size: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_layer_size: MAX_LAYER_SIZE,
            max_rootfs_size: MAX_ROOTFS_SIZE,
            max_layers: MAX_LAYERS,
            max_files_per_layer: MAX_FILES_PER_LAYER,
            max_names_size: MAX_NAMES_SIZE,
            max_manifest_size: MAX_MANIFEST_SIZE,
            max_config_size: MAX_CONFIG_SIZE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_the_design() {
        let limits = Limits::default();
        assert_eq!(limits.max_layer_size, 536_870_912);
        assert_eq!(limits.max_rootfs_size, 4_294_967_296);
        assert_eq!(limits.max_layers, 128);
        assert_eq!(limits.max_files_per_layer, 100_000);
        assert_eq!(limits.max_manifest_size, 1_048_576);
        assert_eq!(limits.max_config_size, 1_048_576);
    }
}
