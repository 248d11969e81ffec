//! The errors of the image store.

use std::path::PathBuf;

use magik_cas::Digest;

#[cfg(feature = "registry")]
use crate::{
    auth::AuthError,
    registries::{RegistriesError, Unavailable},
    registry::RegistryError,
};
use crate::{
    bundle::BundleError, platform::NoImageForPlatform, policy::PolicyError, reference::InvalidReference,
    source::InvalidSource,
};

/// The result of an image operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with an image; every message says what, where and, if needed, what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is not an image reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// A text names no source of images.
    #[error(transparent)]
    Source(#[from] InvalidSource),
    /// A registry did not give, or did not take, what it should have.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registry(#[from] Box<RegistryError>),
    /// What is known of registries could not be read.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Registries(RegistriesError),
    /// The image is not to be had from anywhere.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The signature policy keeps the image out.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Credentials for a registry could not be had.
    #[cfg(feature = "registry")]
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The image is for other machines.
    #[error("{image}: {source}")]
    Platform {
        /// The image.
        image: String,
        /// What there is instead.
        source: Box<NoImageForPlatform>,
    },
    /// No bundle can be made of these settings and this image.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The blob store refused or failed.
    #[error(transparent)]
    Cas(#[from] magik_cas::Error),
    /// A file or system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to which path.
        context: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// No image of that name or id is in the store.
    #[error("image {0} is not in the store: pull or load it first")]
    NotFound(String),
    /// A prefix of an id means several images.
    #[error("image id {0} is ambiguous: give more of its digits")]
    Ambiguous(String),
    /// Something is larger than allowed.
    #[error("{what} is larger than {limit} bytes, which is the limit")]
    TooLarge {
        /// What is too large, naming the layer, blob or file.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// There are more of something than allowed.
    #[error("{what}: more than {limit}, which is the limit")]
    TooMany {
        /// What there is too much of.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// A manifest, index or configuration is malformed or asks for something refused.
    #[error("{document}: {reason}")]
    InvalidDocument {
        /// Which document, with its digest or file.
        document: String,
        /// What is wrong, naming the field.
        reason: String,
    },
    /// A layer's archive is malformed.
    #[error("layer {layer}: {reason}")]
    InvalidLayer {
        /// The layer's digest.
        layer: Digest,
        /// What is wrong.
        reason: String,
    },
    /// An entry of a layer's archive is refused.
    #[error("layer {layer}: entry {entry:?}: {reason}")]
    InvalidEntry {
        /// The layer's digest.
        layer: Digest,
        /// The entry's name, shortened.
        entry: String,
        /// Why it is refused, or what failed.
        reason: String,
    },
    /// An archive that is no layer is malformed.
    #[error("the archive: {reason}")]
    InvalidTree {
        /// What is wrong.
        reason: String,
    },
    /// An entry of an archive that is no layer is refused.
    #[error("entry {entry:?} of the archive: {reason}")]
    InvalidTreeEntry {
        /// The entry's name, shortened.
        entry: String,
        /// Why it is refused, or what failed.
        reason: String,
    },
    /// What was received cannot be moved to where it is to be.
    #[error("{path}: {reason}", path = path.display())]
    NotPlaced {
        /// Where it was to be.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// A layer's decompressed bytes do not hash to the diff id its configuration names.
    #[error("layer {layer}: its content is {found}, the image's configuration says {expected}")]
    DiffIdMismatch {
        /// The layer's digest.
        layer: Digest,
        /// The diff id of the configuration.
        expected: Box<Digest>,
        /// What its content hashes to.
        found: Box<Digest>,
    },
    /// A layout or archive is malformed.
    #[error("{path}: {reason}", path = path.display())]
    InvalidArchive {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The store was written by another version of this crate.
    #[error(
        "image store {root}: its format has the version {found}, this magikrun knows {known}: use the magikrun that wrote it, or another data root",
        root = root.display(), known = crate::store::format::VERSION
    )]
    StoreVersion {
        /// The data root.
        root: PathBuf,
        /// The version found.
        found: u32,
    },
    /// A lease's name cannot be a file name.
    #[error(
        "lease name {0:?} may hold only letters, digits, '_', '-' and '.', and starts with a letter or digit"
    )]
    InvalidLease(String),
    /// A background task was cancelled or panicked.
    #[error("image task ended early: {0}")]
    Task(String),
    /// This program was built without a part of this crate that it would need for that.
    #[error(
        "{what}: this program was built without the feature \"{feature}\" of magik-image, which that needs"
    )]
    MissingFeature {
        /// What was asked for.
        what: String,
        /// The feature, as Cargo.toml calls it.
        feature: &'static str,
    },
    /// This system cannot do that.
    #[error("{what} is not supported: {why}")]
    Unsupported {
        /// The operation.
        what: String,
        /// The reason.
        why: String,
    },
}

impl Error {
    pub(crate) fn too_large(what: impl Into<String>, limit: u64) -> Self {
        let what = what.into();
        Self::TooLarge { what, limit }
    }

    pub(crate) fn too_many(what: impl Into<String>, limit: u64) -> Self {
        let what = what.into();
        Self::TooMany { what, limit }
    }

    pub(crate) fn document(document: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidDocument {
            document: document.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn archive(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::InvalidArchive {
            path: path.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn unsupported(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Unsupported {
            what: what.into(),
            why: why.into(),
        }
    }

    /// Wraps an I/O error with what was being done, for use in `map_err`.
    pub fn io<E: Into<std::io::Error>>(context: impl Into<String>) -> impl FnOnce(E) -> Self {
        let context = context.into();
        move |source| Self::Io {
            context,
            source: source.into(),
        }
    }
}
