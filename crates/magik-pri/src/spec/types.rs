//! The types of a parsed pod.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use magik_image::source::ImageSource;
use magik_infra::plan::{ConsolePlan, IgnoredField, Lifecycle, RestartPolicy};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    EnvFrom, EnvVar, Mount, PodData, ResizeRestarts, TerminationMessage, Volume, VolumeClaim, VolumeSource,
};

/// A pod that has been checked: names are unique, volumes and what it refers to exist, bounds are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct PodSpec {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, by default `default`.
    pub namespace: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `metadata.annotations`.
    pub annotations: BTreeMap<String, String>,
    /// `spec.hostname`.
    pub hostname: Option<String>,
    /// `spec.hostAliases`: what containers find in `/etc/hosts` beside the pod's own names.
    pub host_aliases: Vec<(IpAddr, Vec<String>)>,
    /// The host's network instead of one of its own.
    pub host_network: bool,
    /// The host's processes are seen, and those of the pod are among them.
    #[serde(default)]
    pub host_pid: bool,
    /// The host's System V IPC, POSIX message queues and `/dev/shm`.
    #[serde(default)]
    pub host_ipc: bool,
    /// `spec.subdomain`.
    #[serde(default)]
    pub subdomain: Option<String>,
    /// Whether the host name has the pod's domain, if there is a `subdomain`.
    #[serde(default)]
    pub set_hostname_as_fqdn: bool,
    /// `spec.dnsPolicy` and `spec.dnsConfig`.
    #[serde(default)]
    pub dns: Dns,
    /// `spec.securityContext.sysctls`, each of a namespace that is the pod's own.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// What all containers may use together at most (`spec.resources.limits`).
    #[serde(default)]
    pub limits: Limits,
    /// What they may expect to get together (`spec.resources.requests`).
    #[serde(default)]
    pub requests: Limits,
    /// The Secrets that hold credentials for its images (`spec.imagePullSecrets`).
    #[serde(default)]
    pub image_pull_secrets: Vec<String>,
    /// `spec.securityContext.fsGroup`: whose the volumes are that are made for the pod.
    #[serde(default)]
    pub fs_group: Option<u32>,
    /// `spec.hostUsers`: `false` asks for a user namespace of the pod's own; absent leaves it to
    /// [`UserNamespaces`](crate::UserNamespaces).
    pub host_users: Option<bool>,
    /// One process namespace for all containers.
    pub share_process_namespace: bool,
    /// Run to completion one after the other, before the others start.
    pub init_containers: Vec<ContainerSpec>,
    /// Started in this order; at least one.
    pub containers: Vec<ContainerSpec>,
    /// What containers mount.
    pub volumes: Vec<Volume>,
    /// Of a pod that is run: which of its volumes have names, and stay when it goes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<VolumeClaim>,
    /// `spec.terminationGracePeriodSeconds`.
    pub termination_grace_period: Duration,
    /// `spec.activeDeadlineSeconds`: the pod is killed and counts as failed after that.
    pub active_deadline: Option<Duration>,
    /// `spec.restartPolicy`; absent it is `Always`. What it means for each container is in
    /// [`ContainerSpec::lifecycle`].
    #[serde(default)]
    pub restart_policy: RestartPolicy,
    /// `spec.runtimeClassName`.
    pub runtime_class: Option<RuntimeClass>,
    /// `spec` as the manifest has it, without what changes nothing; for the status of Kubernetes'
    /// form.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub given: serde_json::Value,
    /// What the manifest says beside that and changes nothing, whatever runs the pod.
    #[serde(default)]
    pub ignored_fields: Vec<IgnoredField>,
    /// `spec.serviceAccountName`, which containers can be told; `default` where it is absent.
    #[serde(default)]
    pub service_account_name: String,
    /// The ConfigMaps and Secrets that it refers to. They are not written with it.
    #[serde(skip)]
    pub data: PodData,
}

impl PodSpec {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// The backend the pod asks for: by `runtimeClassName`, else by one of the annotations that other runtimes take for
    /// WebAssembly, `run.oci.handler: wasm` (crun) and `module.wasm.image/variant: compat[-smart]`.
    #[must_use]
    pub fn runtime(&self) -> Option<RuntimeClass> {
        let says = |key: &str, values: &[&str]| {
            let value = self.annotations.get(key).map(String::as_str);
            value.is_some_and(|value| values.contains(&value))
        };
        let wasm = says("run.oci.handler", &["wasm"])
            || says("module.wasm.image/variant", &["compat", "compat-smart"]);
        self.runtime_class.or(wasm.then_some(RuntimeClass::Wasm))
    }

    /// The names of the volumes that it claims, each as often as it does.
    pub(crate) fn claim_names(&self) -> impl Iterator<Item = String> {
        self.volumes.iter().filter_map(|volume| match &volume.source {
            VolumeSource::Claim(claim) => Some(claim.name.clone()),
            _ => None,
        })
    }

    /// The init containers, then the others, in order.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerSpec> {
        self.init_containers.iter().chain(&self.containers)
    }
}

/// What a pod's `/etc/resolv.conf` is made from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dns {
    /// `dnsPolicy`.
    pub policy: DnsPolicy,
    /// `dnsConfig.nameservers`.
    pub nameservers: Vec<IpAddr>,
    /// `dnsConfig.searches`.
    pub searches: Vec<String>,
    /// `dnsConfig.options`: names, with their values.
    pub options: Vec<(String, Option<String>)>,
}

/// `dnsPolicy`. There is no cluster: all but `None` begin with what the host has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DnsPolicy {
    /// The cluster's names first.
    #[default]
    ClusterFirst,
    /// The same on the host's network.
    ClusterFirstWithHostNet,
    /// As the host has it.
    Default,
    /// Only what `dnsConfig` says.
    None,
}

/// The backends a pod can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeClass {
    /// Linux namespaces and control groups.
    Native,
    /// A virtual machine per pod.
    MicroVm,
    /// WebAssembly.
    Wasm,
}

impl RuntimeClass {
    /// The name, as `runtimeClassName` has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::MicroVm => "microvm",
            Self::Wasm => "wasm",
        }
    }
}

impl fmt::Display for RuntimeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RuntimeClass {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        [Self::Native, Self::MicroVm, Self::Wasm]
            .into_iter()
            .find(|class| class.as_str() == s)
            .ok_or_else(|| format!("{s:?} is no runtime class: use native, microvm or wasm"))
    }
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct ContainerSpec {
    /// Its name, unique in the pod.
    pub name: String,
    /// Its image.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub image: ImageSource,
    /// `imagePullPolicy`; see [`pull_policy`](Self::pull_policy) for what holds where it is absent.
    pub image_pull_policy: Option<PullPolicy>,
    /// Replaces the image's entrypoint, as it is written: `$(NAME)` is replaced when the pod is run.
    pub command: Option<Vec<String>>,
    /// Replaces the image's command, as it is written.
    pub args: Option<Vec<String>>,
    /// Variables that objects hold; those of `env` go before them.
    #[serde(default)]
    pub env_from: Vec<EnvFrom>,
    /// Added to the image's environment, in order.
    pub env: Vec<EnvVar>,
    /// Replaces the image's working directory.
    pub working_dir: Option<PathBuf>,
    /// What it may use at most.
    pub limits: Limits,
    /// What it may expect to get.
    pub requests: Limits,
    /// What it may do.
    pub security: Security,
    /// Volumes it mounts, outer ones before inner ones.
    pub mounts: Vec<Mount>,
    /// Ports it says it listens on; for people, nothing is opened or closed by them.
    pub ports: Vec<Port>,
    /// When it is run again, and its probes and hooks.
    #[serde(default)]
    pub lifecycle: Lifecycle,
    /// Whether it has standard input and a terminal.
    #[serde(default)]
    pub console: ConsolePlan,
    /// What it says about its end.
    #[serde(default)]
    pub termination_message: TerminationMessage,
    /// Whether it is run again when it is given other resources (`resizePolicy`).
    #[serde(default)]
    pub resize_restarts: ResizeRestarts,
}

impl ContainerSpec {
    /// The pull policy in force: where the container does not say, `Always` for an image tagged `latest` or not at all,
    /// else `IfNotPresent`, as in Kubernetes. Local sources (`oci:` and the like) are only read again when asked.
    #[must_use]
    pub fn pull_policy(&self) -> PullPolicy {
        self.image_pull_policy
            .unwrap_or_else(|| PullPolicy::of_image(&self.image))
    }
}

pub(super) fn as_text<T: fmt::Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

pub(super) fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ImageSource, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(de::Error::custom)
}

/// When an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Always ask the registry; only what changed is transferred.
    Always,
    /// If it is not in the store.
    IfNotPresent,
    /// Not at all: it has to be in the store.
    Never,
}

impl PullPolicy {
    /// What holds where nothing is said.
    pub(crate) fn of_image(image: &ImageSource) -> Self {
        let latest = image.reference().is_some() && image.to_string().ends_with(":latest");
        if latest { Self::Always } else { Self::IfNotPresent }
    }
}

/// Amounts of resources.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes on disk.
    #[serde(default)]
    pub ephemeral_storage: Option<u64>,
    /// Bytes in huge pages of 2 MiB.
    #[serde(default)]
    pub huge_pages_2mi: Option<u64>,
    /// Bytes in huge pages of 1 GiB.
    #[serde(default)]
    pub huge_pages_1gi: Option<u64>,
}

/// `securityContext` of a container, with what the pod's says where the container's is silent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Security {
    /// `runAsUser`.
    pub run_as_user: Option<u32>,
    /// `runAsGroup`.
    pub run_as_group: Option<u32>,
    /// `runAsNonRoot`: the container is refused if its user, the image's included, is 0 or cannot
    /// be shown not to be.
    pub run_as_non_root: bool,
    /// `supplementalGroups` of the pod, added to those that the image's `/etc/group` gives the
    /// user.
    pub supplemental_groups: Vec<u32>,
    /// `supplementalGroupsPolicy: Strict`: none of the image's.
    pub strict_supplemental_groups: bool,
    /// `allowPrivilegeEscalation`; `false` sets `no_new_privs`.
    pub allow_privilege_escalation: bool,
    /// `readOnlyRootFilesystem`.
    pub read_only_root_filesystem: bool,
    /// `privileged`.
    pub privileged: bool,
    /// `capabilities.add`.
    pub add_capabilities: Vec<String>,
    /// `capabilities.drop`.
    pub drop_capabilities: Vec<String>,
    /// `seccompProfile`; a privileged container has none.
    pub seccomp: Seccomp,
    /// `appArmorProfile`.
    pub app_armor: Option<AppArmor>,
    /// `seLinuxOptions`.
    pub se_linux_options: Option<SeLinuxOptions>,
    /// `procMount`.
    pub proc_mount: ProcMount,
}

/// The filter on system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Seccomp {
    /// The default profile.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// A profile of the host.
    #[serde(rename_all = "camelCase")]
    Localhost {
        /// A relative path without `..`, below the host's directory of profiles.
        #[serde(rename = "localhostProfile")]
        profile: String,
    },
}

/// The AppArmor profile, where the host has AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum AppArmor {
    /// The runtime's.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One that is loaded on the host.
    Localhost {
        /// Its name.
        #[serde(rename = "localhostProfile")]
        profile: String,
    },
}

/// Parts of an SELinux label; what is absent is as containers have it. Without effect where SELinux
/// is not enabled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeLinuxOptions {
    /// The user.
    pub user: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// The type.
    #[serde(rename = "type")]
    pub type_: Option<String>,
    /// The level.
    pub level: Option<String>,
}

/// How `/proc` is mounted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProcMount {
    /// With what tells of the host hidden, and what changes it read-only.
    #[default]
    Default,
    /// All of it; only for a pod with a user namespace of its own.
    Unmasked,
}

/// A port a container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Port {
    /// Its name.
    pub name: Option<String>,
    /// 1 to 65535.
    pub container_port: u16,
    /// Where the host listens for it (`hostIP` and `hostPort`; any address where there is only a port).
    pub host: Option<SocketAddr>,
    /// Its protocol.
    pub protocol: Protocol,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}
