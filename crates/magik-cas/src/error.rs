//! The errors of the store.

use crate::Digest;

/// The result of a store operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store has no such blob.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The bytes written do not hash to what was expected.
    #[error("content has the digest {found}, expected {expected}")]
    DigestMismatch {
        /// The digest asked for.
        expected: Digest,
        /// The digest of the bytes; boxed, because two digests would make every `Result` large.
        found: Box<Digest>,
    },
    /// More or fewer bytes were written than expected.
    #[error("content of {expected} has {found} bytes, expected {size}")]
    SizeMismatch {
        /// The digest asked for.
        expected: Digest,
        /// The size asked for, in bytes.
        size: u64,
        /// The bytes written.
        found: u64,
    },
    /// More bytes than the cap given to `begin`, or than a reader of a blob allows.
    #[error("content is larger than {cap} bytes, which is the limit")]
    TooLarge {
        /// The cap in bytes.
        cap: u64,
    },
    /// A stored blob's bytes no longer hash to its name.
    #[error("blob {digest} is damaged: its bytes hash to {found}; remove and fetch it again")]
    Damaged {
        /// The blob.
        digest: Digest,
        /// What its bytes hash to.
        found: Box<Digest>,
    },
    /// The source of an ingest failed.
    #[error("reading the content failed: {0}")]
    Source(#[source] std::io::Error),
    /// A directory or lock file of the store could be another user's to use.
    #[error("{}: {reason}", path.display())]
    NotPrivate {
        /// The directory or file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: crate::private::NotPrivate,
    },
    /// A file or system call failed.
    #[error("{context}: {source}")]
    Io {
        /// What was being done, to which path.
        context: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl Error {
    /// Wraps an I/O error with what was being done, for use in `map_err`.
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Self::Io { context, source }
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::NotFound(_) => std::io::ErrorKind::NotFound,
            Error::TooLarge { .. } => std::io::ErrorKind::FileTooLarge,
            Error::NotPrivate { .. } => std::io::ErrorKind::PermissionDenied,
            Error::Io { source, .. } | Error::Source(source) => source.kind(),
            _ => std::io::ErrorKind::InvalidData,
        };
        Self::new(kind, error)
    }
}
