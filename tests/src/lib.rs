//! Helpers of the end-to-end tests.
//!
//! - [`isolated`]: runs a test in namespaces and a cgroup tree of its own, so that what it sees is what it made.
//! - [`Census`]: everything a runtime could leave behind; taken before and after, it must be the same.
//! - [`Magikrun`]: the binary as a user runs it, on roots of its own.
//! - [`MachinePart`]: the processes of a microVM pod, to be killed.
//! - [`Registry`]: Debian's docker-registry on a loopback port.
//! - [`dropin`]: podman, containerd and dockerd with it as their runtime.
//! - [`manifests`]: runs `tests/manifests` and looks at what their headers say.
//! - [`contract`]: what every pod runtime promises, written once.

mod census;
pub mod contract;
pub mod dropin;
mod images;
mod isolation;
mod machine;
mod magikrun;
pub mod manifests;
mod registry;
mod yaml;

pub use census::Census;
pub use images::{BUSYBOX, busybox_layout, redis_nginx_layout};
pub use isolation::{Scene, as_root, run_isolated};
pub use machine::{MachinePart, PATIENCE, has_machines, wait_for};
pub use magikrun::{Magikrun, Output, binary, without_place};
pub use registry::Registry;
pub use yaml::{container, pod};
