//! What confines the process that becomes a virtual machine (`magikrun-vmm`, built with the feature `libkrun`).
//!
//! libkrun's own notes say that guest and monitor are one security context: a guest that breaks a virtio device is in that
//! process. So before it starts the guest it gives up everything the guest must not have:
//!
//! - [`Confinement::enter`]: namespaces of its own, in which there are the shares, `/dev/kvm`, the sockets the guest may
//!   dial and nothing else; a user who is nobody else; the capabilities that serving files takes, which are one where all
//!   shares are read-only; `no_new_privs`.
//! - [`seccomp`]: the system calls libkrun makes. No other program is executed, no file system mounted, no network reached.
#![cfg(target_os = "linux")]
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod confine;
pub mod seccomp;

pub use confine::{ConfineError, Confined, Confinement};
