//! Writing a bundle.

use std::{io::Write as _, path::Path};

use oci_spec::runtime::Spec;

use super::BundleError;

/// Writes `spec` as `dir/config.json`, which appears complete or not at all; makes `dir`.
///
/// # Errors
/// [`BundleError::Io`] names the file.
pub fn write_bundle(dir: &Path, spec: &Spec) -> Result<(), BundleError> {
    let path = dir.join("config.json");
    let write = || {
        std::fs::create_dir_all(dir)?;
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        // Not fsynced: if the host crashes, the container is gone, too.
        file.write_all(&serde_json::to_vec(spec)?)?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|source| BundleError::Io {
        path: path.clone(),
        source,
    })
}
