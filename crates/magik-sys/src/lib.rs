//! System calls that a container runtime needs and neither std nor rustix has, each in one place.
//!
//! This crate is below all others of the project and knows nothing of containers. Most of the
//! project's `unsafe` is here.
//!
//! - Processes: making them ([`clone`]), executing programs ([`program`]) that no process can write
//!   to ([`seal`]), knowing a process again ([`process`]), keys that are not shared
//!   ([`own_keyring`]), and filters on system calls ([`seccomp`]).
//! - Mounts: by descriptor ([`mount`]), and the table of them ([`mountinfo`]).
//! - Paths below a directory that they cannot leave ([`beneath`]).
//! - Directory trees, and their removal ([`tree`]).
//! - Control groups: where they are, and their removal ([`cgroup`]).
//! - Sockets that carry descriptors ([`socket`]), and the interface [`lo`](raise_loopback).
//!
//! It is no general binding of Linux: what rustix has is not here, nor what no runtime needs. On
//! other systems it is empty.
#![cfg(target_os = "linux")]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod beneath;
pub mod cgroup;
pub mod clone;
mod keyring;
mod loopback;
pub mod mount;
pub mod mountinfo;
pub mod process;
pub mod program;
pub mod seal;
pub mod seccomp;
pub mod socket;
pub mod sysctl;
pub mod tree;

pub use keyring::own_keyring;
pub use loopback::raise_loopback;
