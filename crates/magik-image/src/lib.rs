//! OCI images: from a registry, a layout or an archive into a local store, and from there to
//! unpacked layers and runtime bundles.
//!
//! - [`Reference`] names an image as docker and podman do; [`ImageStore`] keeps images.
//! - [`ImageStore::unpack`] unpacks each layer once, by chain id, for overlayfs to stack;
//!   [`ImageStore::unpack_flat`] makes one flat root filesystem; [`ImageStore::changes`] compares.
//! - [`ReceivedTree`] unpacks an archive that is no layer, as a copy out of a container is.
//! - [`layout`] imports and exports `oci:`, `oci-archive:` and `docker-archive:`.
//! - [`limits`] bounds everything that comes from outside, while it streams.
//!
//! Everything in an image is hostile until its digest, its size and its paths have been checked.
//! What lies on disk is described in [`store::format`] and [`magik_cas::format`].
//!
//! It runs nothing (`oci-native` does), builds no images, and checks no signatures: what a policy
//! wants signed is refused. It is for Linux; other systems have not been tried.
//!
//! # Features
//! All are on by default. What would need a missing one is refused as [`Error::MissingFeature`].
//! - `registry`: pulling from registries and pushing to them. Without it there is no network, no
//!   reqwest and no rustls; [`ImageStore::pull`] takes local sources, and what is in the store.
//! - `zstd`: layers and archives compressed with zstd. Without it there is no library in C.
//! - `wasm`: images from WebAssembly modules as text. Those that are binary, and artifacts, need no
//!   feature.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

#[cfg(feature = "registry")]
pub mod auth;
mod background;
mod bounded;
pub mod bundle;
#[cfg(feature = "registry")]
pub mod connect;
mod environment;
mod error;
pub mod layout;
pub mod limits;
pub mod manifest;
mod one_line;
pub mod platform;
pub mod policy;
pub mod pull;
#[cfg(feature = "registry")]
pub mod push;
pub mod reference;
#[cfg(feature = "registry")]
pub mod registries;
#[cfg(feature = "registry")]
pub mod registry;
pub mod source;
pub mod store;
mod unpack;
pub mod wasm;

#[cfg(fuzzing)]
pub use unpack::fuzzing;

pub use environment::config_home;
pub use error::{Error, Result};
pub use limits::Limits;
pub use reference::Reference;
pub use source::ImageSource;
pub use store::{
    Damage, Image, ImageStore, ImageUsage, LayerUsage, PruneOptions, PruneReport, RemoveReport, StoreUsage,
    Usage,
};
pub use unpack::{Change, ChangeKind, MAX_CHANGES, ReceivedTree, Wanted};
pub use {magik_cas, oci_spec};
