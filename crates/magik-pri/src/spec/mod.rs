//! A pod as a user writes it.

mod bind;
mod check;
mod claim_fields;
mod claims;
mod container;
mod convert;
mod data;
mod data_fields;
mod data_volume;
mod document;
mod documents;
mod elsewhere;
mod env;
mod errors;
mod expand;
pub(crate) mod facts;
mod fields;
mod host;
mod ignored;
mod lifecycle;
mod names;
mod order;
mod parse;
mod pull_secrets;
mod quantity;
mod quote;
mod refs;
mod resize;
mod resources;
mod schema;
mod security;
mod streams;
mod types;
mod volume_types;
mod volumes;
mod walk;
mod workloads;

#[cfg(test)]
use bind::{Bound, BoundFiles};
pub use data::{DataEntry, DataObject, PodData};
pub use documents::{DocumentErrors, DocumentPod, Documents, pod_names};
#[cfg(target_os = "linux")]
pub(crate) use errors::Problems;
pub use errors::{SpecError, SpecErrors};
#[cfg(target_os = "linux")]
pub(crate) use facts::Facts;
pub use magik_infra::plan::IgnoredField;
pub use names::check_namespace;
#[cfg(target_os = "linux")]
pub(crate) use names::{dns_label, dns_subdomain};
pub use order::Location;
pub use quantity::{parse_milli as parse_millis, parse_whole as parse_quantity};
pub use refs::{
    DataKind, DataSource, DataVolume, DownwardFile, DownwardValue, EnvFrom, EnvValue, EnvVar, FieldPath,
    KeyToPath, ResourceName, ResourceRef,
};
pub use resize::ResizeRestarts;
pub use resources::QosClass;
#[cfg(target_os = "linux")]
pub(crate) use resources::cpu_shares;
pub use schema::{FieldKind, PodField, pod_fields};
#[cfg(target_os = "linux")]
pub(crate) use security::capability;
pub(crate) use streams::MESSAGE_PATH;
pub use streams::{MessagePolicy, TerminationMessage};
pub use types::{
    AppArmor, ContainerSpec, Dns, DnsPolicy, Limits, PodSpec, Port, ProcMount, Protocol, PullPolicy,
    RuntimeClass, SeLinuxOptions, Seccomp, Security,
};
pub use volume_types::{
    Claim, EmptyDir, HostPath, HostPathKind, ImageVolume, Mount, MountPropagation, SubPath, Volume,
    VolumeClaim, VolumeSource,
};

#[cfg(test)]
mod tests;
