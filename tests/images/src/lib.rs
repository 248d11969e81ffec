//! OCI images made from this machine's own files, without a network.
//!
//! [`LayerBuilder`] collects files into a layer: [`LayerBuilder::busybox`] adds a shell with its applets,
//! [`LayerBuilder::packages`] the files of installed Debian packages and the libraries they are linked with.
//! [`Layout`] writes layers and a configuration as an image of an OCI layout directory (image-spec, "Image Layout").
//! With the feature `wasm`, `hello_wasm` and its like compile WebAssembly programs.
//! `xtask demo`, `xtask bench` and the end-to-end tests all make their images here.

mod debian;
mod layer;
mod layout;
#[cfg(feature = "wasm")]
mod wasm;

pub use layer::{Layer, LayerBuilder};
pub use layout::{ImageConfig, Layout};
#[cfg(feature = "wasm")]
pub use wasm::{
    WASM_PACKAGES, component, hello_wasm, proxy_wasm, shell_wasm, socket_wasm, sqlite_wasm, tool_wasm,
    wasm_compiler_missing,
};
