//! The Pod Runtime Interface: Kubernetes pods, run atomically.
//!
//! - [`PodSpec`]: a pod as a user writes it, parsed from Kubernetes v1 Pod YAML or JSON. A field that is not supported is an error
//!   naming the field, never dropped; all mistakes are found at once ([`SpecErrors`]).
//! - [`PodRuntime`]: what every backend promises. `run_pod` ends in one of two states: every container of the pod was started,
//!   or nothing of the pod exists.
//! - [`native`]: pods of Linux namespaces and control groups.
//! - `microvm` (feature `krun`): pods in virtual machines.
//! - `wasm` (feature `wasm`): pods of WebAssembly programs.
//!
//! A program that runs pods is also their init: its `main` begins with [`run_role_if_asked`].
//!
//! ```
//! use magik_pri::PodSpec;
//! let pod = PodSpec::from_yaml("
//! apiVersion: v1
//! kind: Pod
//! metadata: {name: web}
//! spec:
//!   containers:
//!   - {name: nginx, image: 'nginx:1.27', resources: {limits: {memory: 64Mi}}}
//! ")?;
//! assert_eq!(pod.containers[0].limits.memory, Some(64 << 20));
//!
//! let error = PodSpec::from_yaml("{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {contianers: []}}").unwrap_err();
//! assert_eq!(error.to_string(), "spec.contianers: unknown field, did you mean containers?");
//! # Ok::<(), magik_pri::SpecErrors>(())
//! ```
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

mod changes;
mod error;
pub mod limits;
#[cfg(all(feature = "krun", target_os = "linux"))]
pub mod microvm;
#[cfg(all(feature = "native", target_os = "linux"))]
pub mod native;
#[cfg(target_os = "linux")]
#[cfg_attr(
    not(any(feature = "native", feature = "krun", feature = "wasm")),
    allow(
        dead_code,
        unused_imports,
        reason = "what runs pods; what works on those that run is used"
    )
)]
mod pods;
#[cfg(target_os = "linux")]
mod role;
mod runtime;
mod session;
mod spec;
mod v1;
#[cfg(all(feature = "wasm", target_os = "linux"))]
pub mod wasm;

pub use changes::{Change, PodChange, Watch};
pub use error::{Error, Result, Step};
#[cfg(target_os = "linux")]
pub use pods::{NamedVolume, PodBackend, PodUsage, Pods, Roots, Volumes};
#[cfg(target_os = "linux")]
pub use role::{Role, run_role_if_asked};
pub use runtime::{PodRuntime, RunOptions, RunProgress, UserNamespaces};
pub use session::{LogOptions, LogStream, SweepReport};
pub use spec::{
    AppArmor, Claim, ContainerSpec, DataEntry, DataKind, DataObject, DataSource, DataVolume, Dns, DnsPolicy,
    DocumentErrors, DocumentPod, Documents, DownwardFile, DownwardValue, EmptyDir, EnvFrom, EnvValue, EnvVar,
    FieldKind, FieldPath, HostPath, HostPathKind, IgnoredField, ImageVolume, KeyToPath, Limits, Location,
    MessagePolicy, Mount, MountPropagation, PodData, PodField, PodSpec, Port, ProcMount, Protocol,
    PullPolicy, QosClass, ResizeRestarts, ResourceName, ResourceRef, RuntimeClass, SeLinuxOptions, Seccomp,
    Security, SpecError, SpecErrors, SubPath, TerminationMessage, Volume, VolumeClaim, VolumeSource,
    check_namespace, parse_millis, parse_quantity, pod_fields, pod_names,
};
pub use v1::v1_pod;

/// A pod's status, as its init writes it.
pub use magik_infra::status;
/// What goes in and out of a pod, as its init's control service has it.
pub use magik_infra::{
    AttachRequest, ControlError, EventStream, ExecEvent, ExecInput, ExecOutput, ExecRequest, ExecSession,
    LaunchStep, PortForward, PortReader, PortWriter,
    logs::{LogChunk, LogStream as StdStream},
    processes::Process,
};

/// What happens in a pod.
pub mod events {
    pub use magik_infra::{Event, EventKind};
}
