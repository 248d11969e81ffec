//! Directory trees of other users: each step is by descriptor, and follows no symbolic link.

mod copy;
mod remove;
mod size;

pub use copy::copy;
pub use remove::{remove, remove_some};
pub use size::{Measure, size};
