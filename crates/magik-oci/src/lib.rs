//! What every container runtime of magikrun has in common.
//!
//! - [`OciRuntime`]: the operations of the OCI runtime-spec, plus exec, pause, update and stats.
//!   `oci-native` and `oci-wasm` implement it; `magik-infra` supervises pods through it only.
//! - [`ContainerId`]: validated before any state is touched.
//! - [`ContainerState`], [`Exit`], [`Stats`]: what a runtime answers.
//! - [`Platform`]: what this host can run, and why not.
//!
//! This crate starts nothing and knows no backend. It is for Linux; it compiles for macOS and
//! Windows, where [`Platform`] finds little.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod environment;
mod error;
mod id;
mod io;
mod log;
pub mod mounts;
mod platform;
mod runtime;
mod state;
mod stats;

pub use environment::helper_environment;
pub use error::{Error, ExecFailure, Result};
pub use id::{ContainerId, InvalidId, MAX_CONTAINER_ID_LEN};
pub use io::{ExecIo, OwnedStream, Stdio};
pub use log::event_text;
pub use oci_spec;
pub use platform::{Capability, KVM, Platform};
pub use runtime::{CreateOptions, ExecOptions, OciRuntime};
pub use state::{ContainerState, Exit, ExitReason, Signal, Status, UnknownSignal};
pub use stats::{CpuStats, MemoryStats, PidsStats, Stats};
