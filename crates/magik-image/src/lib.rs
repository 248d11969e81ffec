//! OCI images: from a registry, a layout or an archive into a local store, and from there to
//! unpacked layers and runtime bundles.
//!
//! - [`Reference`] names an image as docker and podman do; [`ImageStore`] keeps images.
//! - [`ImageStore::unpack`] unpacks each layer once, by chain id, for overlayfs to stack;
//!   [`ImageStore::unpack_flat`] makes one flat root filesystem.
//! - [`layout`] imports and exports `oci:`, `oci-archive:` and `docker-archive:`.
//! - [`limits`] bounds everything that comes from outside, while it streams.
//!
//! Everything in an image is hostile until its digest, its size and its paths have been checked.
//! [`store::format`] and [`magik_cas::format`] describe the files.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod auth;
mod bounded;
pub mod bundle;
pub mod connect;
mod error;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod platform;
pub mod policy;
pub mod pull;
pub mod push;
pub mod reference;
pub mod registries;
pub mod registry;
pub mod source;
pub mod store;
mod unpack;
pub mod wasm;

#[cfg(fuzzing)]
pub use unpack::fuzzing;

pub use error::{Error, Result};
pub use limits::Limits;
pub use reference::Reference;
pub use source::ImageSource;
pub use store::{Damage, Image, ImageStore, PruneOptions, PruneReport, RemoveReport};
