//! A pod as a user writes it.

mod container;
mod convert;
mod expand;
mod fields;
mod names;
mod parse;
mod quantity;
mod types;

pub use parse::SpecError;
pub use types::{
    ContainerSpec, EmptyDir, HostPath, HostPathKind, Limits, Mount, PodSpec, Port, Protocol, PullPolicy,
    RuntimeClass, Security, Volume, VolumeSource,
};

#[cfg(test)]
mod tests;
