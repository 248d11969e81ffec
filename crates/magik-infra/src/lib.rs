//! The pod init: PID 1 of a pod on every backend.
//!
//! It starts a pod's containers through [`magik_oci::OciRuntime`] and knows no backend: the native pod and the
//! microVM's `vminit` plug `NativeRuntime` into the same code.
//!
//! - [`plan`]: what the launcher hands to the init.
//! - [`status`]: what the init writes and everybody reads.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod plan;
pub mod status;
