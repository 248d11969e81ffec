//! A content-addressed store: blobs by the digest of their bytes, in a directory that several
//! processes share.
//!
//! - [`Store::begin`] starts a streaming ingest. Nothing appears under a digest until its bytes
//!   hash to it, and no reader, in this process or another, ever sees part of a blob.
//! - [`Store::resume`] goes on with an ingest that was cut short, in this process or another.
//! - [`Store::open_blob`] reads, [`Store::open_verified`] checks; [`Store::verify`] reports damage.
//! - [`Store::lease`] keeps every blob while it is held. Without leases [`Store::gc`] removes what
//!   is not live. See [`locking`], [`mod@format`] (what lies on disk), [`private`] (other users).
//!
//! The crate knows nothing of images, and it is no database: a blob is a file. Its interface is
//! blocking `std::io`; [`Store`] is `Send + Sync` and cheap to clone. It is tested on Linux; its
//! code is for every unix.
//!
//! ```
//! use std::io::{Read, Write};
//! use magik_cas::{Algorithm, Digest, Store};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let dir = tempfile::tempdir()?;
//! let store = Store::open(dir.path())?;
//!
//! let expected = Digest::sha256(b"hello");
//! let mut writer = store.begin(Algorithm::Sha256, 1024)?; // no more than 1024 bytes
//! writer.write_all(b"hello")?;
//! writer.commit(&expected, Some(5))?;
//!
//! let mut text = String::new();
//! store.open_verified(&expected)?.read_to_string(&mut text)?;
//! assert_eq!(text, "hello");
//! # Ok(())
//! # }
//! ```
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod digest;
mod error;
pub mod format;
pub mod locking;
mod partial;
pub mod private;
mod reader;
mod store;
mod writer;

pub use digest::{Algorithm, Digest, Hasher, InvalidDigest};
pub use error::{Error, Result};
pub use locking::{Exclusive, Lease, SweepReport};
pub use reader::{Blob, VerifiedReader};
pub use store::{BlobInfo, Damage, Durability, Store};
pub use writer::{Staged, Writer};
