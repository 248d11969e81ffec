//! Images in files: `oci:` directories, `oci-archive:` and `docker-archive:` tar files, in and out.
//!
//! Every blob is hashed on its way in; an image is published when all of it is there and checked.
//! Archives may be gzip'd or zstd'd as a whole, as `docker load` takes them.

mod contents;
mod docker;
mod oci;
mod save;

use std::path::Path;

use crate::{
    Error, Image, ImageSource, ImageStore, Reference, Result, platform::Platform, policy::PolicySource,
};
use contents::Contents;

pub use save::{SaveFormat, save, save_to, write_archive};

/// The annotation that docker and containerd put a full image name into.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// What to import and what to call it.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Which image: a layout's `org.opencontainers.image.ref.name`, or one of a docker archive's
    /// `RepoTags`. Default: the layout's only image, or all of a docker archive.
    pub tag: Option<String>,
    /// Which of several platforms.
    pub platform: Platform,
    /// What to call the image, instead of what the archive calls it.
    pub name: Option<Reference>,
    /// Which images may be used.
    pub signature_policy: PolicySource,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            tag: None,
            platform: Platform::host(),
            name: None,
            signature_policy: PolicySource::default(),
        }
    }
}

/// Imports an image from an OCI image layout in a directory.
///
/// Its name is from the options or its annotations; without a full name it is kept by its id.
///
/// # Errors
/// [`Error::InvalidArchive`] for no layout or no image, [`Error::Cas`] for a wrong blob,
/// [`Error::InvalidDocument`], [`Error::TooLarge`], [`Error::TooMany`], or [`Error::Io`].
pub fn import_oci_dir(store: &ImageStore, dir: &Path, options: &ImportOptions) -> Result<Image> {
    options.signature_policy.check(&ImageSource::OciDir {
        path: dir.to_owned(),
        tag: options.tag.clone(),
    })?;
    oci::import(store, dir, &mut oci::Directory::open(store, dir)?, options)
}

/// Imports an image from an OCI image layout in a tar file.
///
/// # Errors
/// As [`import_oci_dir`].
pub fn import_oci_archive(store: &ImageStore, file: &Path, options: &ImportOptions) -> Result<Image> {
    check_archive(file, false, options)?;
    oci::import_archive(store, file, Contents::read(store, file)?, options)
}

/// Imports images from what `docker save`, `podman save` and `skopeo copy docker-archive:` write.
///
/// Layers are kept as they are, mostly uncompressed; an OCI manifest is made for them. The names
/// are the archive's, or the options'. An image is returned once for each of its names.
///
/// # Errors
/// As [`import_oci_dir`].
pub fn import_docker_archive(store: &ImageStore, file: &Path, options: &ImportOptions) -> Result<Vec<Image>> {
    check_archive(file, true, options)?;
    docker::import(store, file, Contents::read(store, file)?, options)
}

/// Imports from a tar file of either kind; one that is both (`docker save` since 25.0) is docker's.
/// A bare WebAssembly file becomes an image of one module ([`wasm::load`](crate::wasm::load)).
///
/// # Errors
/// As [`import_oci_dir`].
pub fn load(store: &ImageStore, file: &Path, options: &ImportOptions) -> Result<Vec<Image>> {
    if crate::wasm::is_module_file(file).map_err(Error::io(format!("read {}", file.display())))? {
        return Ok(vec![crate::wasm::load(store, file, options.name.as_ref())?]);
    }
    let contents = Contents::read(store, file)?;
    check_archive(file, contents.has(docker::MANIFEST), options)?;
    if contents.has(docker::MANIFEST) {
        return docker::import(store, file, contents, options);
    }
    Ok(vec![oci::import_archive(store, file, contents, options)?])
}

/// Whether the policy lets an archive in.
fn check_archive(file: &Path, is_docker: bool, options: &ImportOptions) -> Result<()> {
    let (path, tag) = (file.to_owned(), options.tag.clone());
    let source = if is_docker {
        ImageSource::DockerArchive { path, tag }
    } else {
        ImageSource::OciArchive { path, tag }
    };
    Ok(options.signature_policy.check(&source)?)
}
