//! A pod as a user writes it.

mod check;
mod container;
mod convert;
mod errors;
mod expand;
mod fields;
mod ignored;
mod names;
mod order;
mod parse;
mod quantity;
mod schema;
mod security;
mod types;
mod walk;

#[cfg(all(any(feature = "krun", feature = "wasm"), target_os = "linux"))]
pub(crate) use errors::Problems;
pub use errors::{SpecError, SpecErrors};
pub use magik_infra::plan::IgnoredField;
pub use names::check_namespace;
#[cfg(target_os = "linux")]
pub(crate) use names::dns_label;
pub use quantity::parse_whole as parse_quantity;
pub use schema::{FieldKind, PodField, pod_fields};
#[cfg(target_os = "linux")]
pub(crate) use security::capability;
pub use types::{
    AppArmor, ContainerSpec, EmptyDir, HostPath, HostPathKind, Limits, Mount, PodSpec, Port, ProcMount,
    Protocol, PullPolicy, RuntimeClass, SeLinuxOptions, Seccomp, Security, Volume, VolumeSource,
};

#[cfg(test)]
mod tests;
