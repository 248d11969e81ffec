//! Volumes, as a container's program sees them.

mod images;
mod kit;
mod limits;
mod machine;
mod mounts;
mod named;
mod parts;
mod wasm;
