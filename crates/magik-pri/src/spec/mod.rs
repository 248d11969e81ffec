//! A pod as a user writes it.

mod check;
mod container;
mod convert;
mod expand;
mod fields;
mod names;
mod parse;
mod quantity;
mod security;
mod types;

pub use fields::{PodField, pod_fields};
#[cfg(target_os = "linux")]
pub(crate) use names::dns_label;
pub use parse::SpecError;
pub use quantity::parse_whole as parse_quantity;
#[cfg(target_os = "linux")]
pub(crate) use security::capability;
pub use types::{
    AppArmor, ContainerSpec, EmptyDir, HostPath, HostPathKind, Limits, Mount, PodSpec, Port, ProcMount,
    Protocol, PullPolicy, RuntimeClass, SeLinuxOptions, Seccomp, Security, Volume, VolumeSource,
};

#[cfg(test)]
mod tests;
