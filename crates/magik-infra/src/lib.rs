//! The pod init: PID 1 of a pod on every backend, and its control service.
//!
//! The init starts a pod's containers through [`magik_oci::OciRuntime`] and knows no backend: the native pod and the
//! microVM's `vminit` plug `NativeRuntime` into the same code.
//!
//! - [`PodInit`] runs a pod from [`plan::PodPlan`] to its end, in one thread.
//! - [`ControlClient`] talks to a running init: the service is defined in `proto/control.proto`.
//! - [`status`]: what the init writes and everybody reads.
//! - [`logs`]: the format of the containers' logs, and [`logs::LogReader`], which reads those of dead pods too.
//! - [`publish`]: ports of a pod on the host.
//! - [`pause`]: PID 1 of a process namespace that the containers of a pod share.
//! - [`InfraExtension`]: code that runs along with a pod.
//!
//! It knows neither images nor Kubernetes (`magik-pri` does), and it is no init for a whole
//! machine. It is for Linux; the client and the logs need a unix, and have been compiled on Linux
//! only.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod client;
mod console;
mod containers;
mod data;
mod error;
mod events;
mod extension;
pub mod guest;
mod init;
mod life;
pub mod logs;
#[cfg(target_os = "linux")]
pub mod pause;
pub mod plan;
pub mod processes;
pub mod publish;
mod relay;
mod rpc;
mod service;
mod shared;
mod state_dir;
pub mod status;
mod streams;
mod table;
mod unexecutable;
mod wire;

pub use client::{
    AttachRequest, ControlClient, EventStream, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecSession,
    Launch, LaunchProgress, LogOutput, MAJOR, MINOR, PortForward, PortReader, PortWriter,
};
pub use data::{DataFile, MAX_DATA_FILES, MAX_DATA_SIZE};
pub use error::{ControlError, LaunchError, LaunchStep};
pub use events::{Event, EventKind, MAX_REMEMBERED_EVENTS};
pub use extension::{
    EXTENSION_QUEUE, EXTENSION_TIMEOUT, ExtensionConstructor, ExtensionError, ExtensionRegistry,
    InfraExtension, PodContext,
};
pub use init::{InitOptions, PodInit, mount_layers};
pub use life::PodOutcome;
pub use publish::MAX_PUBLISHED_CONNECTIONS;
pub use relay::Relay;
pub use service::{Acceptor, MAX_CONNECTIONS};
pub use shared::MAX_EXECS;
pub use state_dir::{CONTROL_SOCKET, EVENTS_FILE, PENDING_SUFFIX, STATUS_FILE, StateDir};
pub use unexecutable::CannotExecute;
