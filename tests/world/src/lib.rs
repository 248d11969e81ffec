//! A world of its own for what runs containers.
//!
//! [`World`] starts a program in new pid, mount, network, ipc, uts and cgroup namespaces, [`enter`] finishes them from
//! inside. What the program sees is then what it made, and the kernel removes it when the program ends, however it ends.

mod cgroups;
mod mounts;
mod processes;
mod world;

pub use cgroups::{all_cgroups, cgroup_file, cgroup_of, cgroups_named};
pub use mounts::with_own_mounts;
pub use processes::{catches, ending, has_ended};
pub use world::{World, enter, mount_tmpfs};
