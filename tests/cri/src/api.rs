//! The messages of `runtime.v1`, the container runtime interface of Kubernetes, as far as tests use them: names and
//! numbers are those of <https://github.com/kubernetes/cri-api/blob/master/pkg/apis/runtime/v1/api.proto>, which says
//! what each means.

#![allow(
    missing_docs,
    reason = "the interface documents its fields; nothing here has a meaning of its own"
)]

use std::collections::HashMap;

use prost::Message;

/// A request, the method it belongs to, and what that answers.
pub trait Call: Message + Default + 'static {
    /// The method's path.
    const PATH: &'static str;
    /// The answer.
    type Answer: Message + Default + 'static;
}

macro_rules! messages {
    ($($name:ident { $($(#[$meta:meta])* $field:ident: $kind:ty,)* })*) => {
        $(#[derive(Clone, PartialEq, Message)]
        pub struct $name { $($(#[$meta])* pub $field: $kind,)* })*
    };
}

macro_rules! calls {
    ($($method:literal: $request:ident => $answer:ident;)*) => {
        $(impl Call for $request {
            const PATH: &'static str = concat!("/runtime.v1.RuntimeService/", $method);
            type Answer = $answer;
        })*
    };
}

calls! {
    "Attach": AttachRequest => UrlResponse;
    "ContainerStats": ContainerStatsRequest => ContainerStatsResponse;
    "ContainerStatus": ContainerStatusRequest => ContainerStatusResponse;
    "CreateContainer": CreateContainerRequest => CreateContainerResponse;
    "Exec": ExecRequest => UrlResponse;
    "ExecSync": ExecSyncRequest => ExecSyncResponse;
    "ListContainerStats": ListContainerStatsRequest => ListContainerStatsResponse;
    "ListContainers": ListContainersRequest => ListContainersResponse;
    "PodSandboxStatus": PodSandboxStatusRequest => PodSandboxStatusResponse;
    "PortForward": PortForwardRequest => UrlResponse;
    "RemoveContainer": RemoveContainerRequest => Nothing;
    "RemovePodSandbox": RemovePodSandboxRequest => Nothing;
    "ReopenContainerLog": ReopenContainerLogRequest => Nothing;
    "RunPodSandbox": RunPodSandboxRequest => RunPodSandboxResponse;
    "StartContainer": StartContainerRequest => Nothing;
    "Status": StatusRequest => StatusResponse;
    "StopContainer": StopContainerRequest => Nothing;
    "StopPodSandbox": StopPodSandboxRequest => Nothing;
    "UpdateContainerResources": UpdateContainerResourcesRequest => Nothing;
}

/// `NamespaceMode`.
pub mod namespace {
    pub const POD: i32 = 0;
    pub const CONTAINER: i32 = 1;
    pub const NODE: i32 = 2;
    pub const TARGET: i32 = 3;
}

/// `MountPropagation`.
pub mod propagation {
    pub const HOST_TO_CONTAINER: i32 = 1;
    pub const BIDIRECTIONAL: i32 = 2;
}

/// `SecurityProfile.ProfileType`.
pub mod profile {
    pub const RUNTIME_DEFAULT: i32 = 0;
    pub const LOCALHOST: i32 = 2;
}

/// `ContainerState`.
pub mod state {
    pub const CREATED: i32 = 0;
    pub const RUNNING: i32 = 1;
    pub const EXITED: i32 = 2;
}

/// `PodSandboxState`.
pub mod sandbox {
    pub const READY: i32 = 0;
    pub const NOT_READY: i32 = 1;
}

messages! {
    Nothing {}
    Int64Value { #[prost(int64, tag = 1)] value: i64, }
    UInt64Value { #[prost(uint64, tag = 1)] value: u64, }
    KeyValue { #[prost(string, tag = 1)] key: String, #[prost(string, tag = 2)] value: String, }

    StatusRequest { #[prost(bool, tag = 1)] verbose: bool, }
    StatusResponse { #[prost(message, optional, tag = 1)] status: Option<RuntimeStatus>, }
    RuntimeStatus { #[prost(message, repeated, tag = 1)] conditions: Vec<RuntimeCondition>, }
    RuntimeCondition {
        #[prost(string, tag = 1)] r#type: String,
        #[prost(bool, tag = 2)] status: bool,
        #[prost(string, tag = 3)] reason: String,
        #[prost(string, tag = 4)] message: String,
    }

    RunPodSandboxRequest {
        #[prost(message, optional, tag = 1)] config: Option<PodSandboxConfig>,
        #[prost(string, tag = 2)] runtime_handler: String,
    }
    RunPodSandboxResponse { #[prost(string, tag = 1)] pod_sandbox_id: String, }
    StopPodSandboxRequest { #[prost(string, tag = 1)] pod_sandbox_id: String, }
    RemovePodSandboxRequest { #[prost(string, tag = 1)] pod_sandbox_id: String, }
    PodSandboxConfig {
        #[prost(message, optional, tag = 1)] metadata: Option<PodSandboxMetadata>,
        #[prost(string, tag = 2)] hostname: String,
        #[prost(string, tag = 3)] log_directory: String,
        #[prost(map = "string, string", tag = 6)] labels: HashMap<String, String>,
        #[prost(message, optional, tag = 8)] linux: Option<LinuxPodSandboxConfig>,
    }
    PodSandboxMetadata {
        #[prost(string, tag = 1)] name: String,
        #[prost(string, tag = 2)] uid: String,
        #[prost(string, tag = 3)] namespace: String,
    }
    LinuxPodSandboxConfig {
        #[prost(string, tag = 1)] cgroup_parent: String,
        #[prost(message, optional, tag = 2)] security_context: Option<LinuxSandboxSecurityContext>,
        #[prost(map = "string, string", tag = 3)] sysctls: HashMap<String, String>,
    }
    LinuxSandboxSecurityContext {
        #[prost(message, optional, tag = 1)] namespace_options: Option<NamespaceOption>,
        #[prost(bool, tag = 6)] privileged: bool,
    }
    NamespaceOption {
        #[prost(int32, tag = 1)] network: i32,
        #[prost(int32, tag = 2)] pid: i32,
        #[prost(int32, tag = 3)] ipc: i32,
        #[prost(string, tag = 4)] target_id: String,
    }
    PodSandboxStatusRequest {
        #[prost(string, tag = 1)] pod_sandbox_id: String,
        #[prost(bool, tag = 2)] verbose: bool,
    }
    PodSandboxStatusResponse {
        #[prost(message, optional, tag = 1)] status: Option<PodSandboxStatus>,
        #[prost(map = "string, string", tag = 2)] info: HashMap<String, String>,
    }
    PodSandboxStatus {
        #[prost(string, tag = 1)] id: String,
        #[prost(int32, tag = 3)] state: i32,
        #[prost(message, optional, tag = 5)] network: Option<PodSandboxNetworkStatus>,
        #[prost(string, tag = 9)] runtime_handler: String,
    }
    PodSandboxNetworkStatus { #[prost(string, tag = 1)] ip: String, }

    CreateContainerRequest {
        #[prost(string, tag = 1)] pod_sandbox_id: String,
        #[prost(message, optional, tag = 2)] config: Option<ContainerConfig>,
        #[prost(message, optional, tag = 3)] sandbox_config: Option<PodSandboxConfig>,
    }
    CreateContainerResponse { #[prost(string, tag = 1)] container_id: String, }
    StartContainerRequest { #[prost(string, tag = 1)] container_id: String, }
    StopContainerRequest { #[prost(string, tag = 1)] container_id: String, #[prost(int64, tag = 2)] timeout: i64, }
    RemoveContainerRequest { #[prost(string, tag = 1)] container_id: String, }
    ReopenContainerLogRequest { #[prost(string, tag = 1)] container_id: String, }
    ContainerConfig {
        #[prost(message, optional, tag = 1)] metadata: Option<ContainerMetadata>,
        #[prost(message, optional, tag = 2)] image: Option<ImageSpec>,
        #[prost(string, repeated, tag = 3)] command: Vec<String>,
        #[prost(string, repeated, tag = 4)] args: Vec<String>,
        #[prost(string, tag = 5)] working_dir: String,
        #[prost(message, repeated, tag = 6)] envs: Vec<KeyValue>,
        #[prost(message, repeated, tag = 7)] mounts: Vec<Mount>,
        #[prost(message, repeated, tag = 8)] devices: Vec<Device>,
        #[prost(map = "string, string", tag = 9)] labels: HashMap<String, String>,
        #[prost(string, tag = 11)] log_path: String,
        #[prost(bool, tag = 12)] stdin: bool,
        #[prost(bool, tag = 13)] stdin_once: bool,
        #[prost(bool, tag = 14)] tty: bool,
        #[prost(message, optional, tag = 15)] linux: Option<LinuxContainerConfig>,
    }
    ContainerMetadata { #[prost(string, tag = 1)] name: String, }
    ImageSpec { #[prost(string, tag = 1)] image: String, }
    Mount {
        #[prost(string, tag = 1)] container_path: String,
        #[prost(string, tag = 2)] host_path: String,
        #[prost(bool, tag = 3)] readonly: bool,
        #[prost(int32, tag = 5)] propagation: i32,
    }
    Device {
        #[prost(string, tag = 1)] container_path: String,
        #[prost(string, tag = 2)] host_path: String,
        #[prost(string, tag = 3)] permissions: String,
    }
    LinuxContainerConfig {
        #[prost(message, optional, tag = 1)] resources: Option<LinuxContainerResources>,
        #[prost(message, optional, tag = 2)] security_context: Option<LinuxContainerSecurityContext>,
    }
    LinuxContainerResources {
        #[prost(int64, tag = 1)] cpu_period: i64,
        #[prost(int64, tag = 2)] cpu_quota: i64,
        #[prost(int64, tag = 3)] cpu_shares: i64,
        #[prost(int64, tag = 4)] memory_limit_in_bytes: i64,
        #[prost(int64, tag = 5)] oom_score_adj: i64,
        #[prost(string, tag = 6)] cpuset_cpus: String,
        #[prost(string, tag = 7)] cpuset_mems: String,
    }
    LinuxContainerSecurityContext {
        #[prost(message, optional, tag = 1)] capabilities: Option<Capability>,
        #[prost(bool, tag = 2)] privileged: bool,
        #[prost(message, optional, tag = 3)] namespace_options: Option<NamespaceOption>,
        #[prost(message, optional, tag = 5)] run_as_user: Option<Int64Value>,
        #[prost(message, optional, tag = 12)] run_as_group: Option<Int64Value>,
        #[prost(string, tag = 6)] run_as_username: String,
        #[prost(bool, tag = 7)] readonly_rootfs: bool,
        #[prost(int64, repeated, tag = 8)] supplemental_groups: Vec<i64>,
        #[prost(bool, tag = 11)] no_new_privs: bool,
        #[prost(string, repeated, tag = 13)] masked_paths: Vec<String>,
        #[prost(string, repeated, tag = 14)] readonly_paths: Vec<String>,
        #[prost(message, optional, tag = 15)] seccomp: Option<SecurityProfile>,
    }
    Capability {
        #[prost(string, repeated, tag = 1)] add_capabilities: Vec<String>,
        #[prost(string, repeated, tag = 2)] drop_capabilities: Vec<String>,
    }
    SecurityProfile { #[prost(int32, tag = 1)] profile_type: i32, #[prost(string, tag = 2)] localhost_ref: String, }

    ContainerStatusRequest { #[prost(string, tag = 1)] container_id: String, #[prost(bool, tag = 2)] verbose: bool, }
    ContainerStatusResponse {
        #[prost(message, optional, tag = 1)] status: Option<ContainerStatus>,
        #[prost(map = "string, string", tag = 2)] info: HashMap<String, String>,
    }
    ContainerStatus {
        #[prost(string, tag = 1)] id: String,
        #[prost(int32, tag = 3)] state: i32,
        #[prost(int64, tag = 4)] created_at: i64,
        #[prost(int64, tag = 5)] started_at: i64,
        #[prost(int64, tag = 6)] finished_at: i64,
        #[prost(int32, tag = 7)] exit_code: i32,
        #[prost(string, tag = 10)] reason: String,
        #[prost(string, tag = 11)] message: String,
    }
    ListContainersRequest { #[prost(message, optional, tag = 1)] filter: Option<ContainerFilter>, }
    ListContainersResponse { #[prost(message, repeated, tag = 1)] containers: Vec<Container>, }
    ContainerFilter { #[prost(string, tag = 1)] id: String, #[prost(string, tag = 3)] pod_sandbox_id: String, }
    Container {
        #[prost(string, tag = 1)] id: String,
        #[prost(string, tag = 2)] pod_sandbox_id: String,
        #[prost(int32, tag = 6)] state: i32,
    }

    UpdateContainerResourcesRequest {
        #[prost(string, tag = 1)] container_id: String,
        #[prost(message, optional, tag = 2)] linux: Option<LinuxContainerResources>,
    }
    ContainerStatsRequest { #[prost(string, tag = 1)] container_id: String, }
    ContainerStatsResponse { #[prost(message, optional, tag = 1)] stats: Option<ContainerStats>, }
    ListContainerStatsRequest { #[prost(message, optional, tag = 1)] filter: Option<ContainerStatsFilter>, }
    ListContainerStatsResponse { #[prost(message, repeated, tag = 1)] stats: Vec<ContainerStats>, }
    ContainerStatsFilter { #[prost(string, tag = 1)] id: String, #[prost(string, tag = 2)] pod_sandbox_id: String, }
    ContainerStats {
        #[prost(message, optional, tag = 1)] attributes: Option<ContainerAttributes>,
        #[prost(message, optional, tag = 2)] cpu: Option<CpuUsage>,
        #[prost(message, optional, tag = 3)] memory: Option<MemoryUsage>,
    }
    ContainerAttributes { #[prost(string, tag = 1)] id: String, }
    CpuUsage {
        #[prost(int64, tag = 1)] timestamp: i64,
        #[prost(message, optional, tag = 2)] usage_core_nano_seconds: Option<UInt64Value>,
    }
    MemoryUsage {
        #[prost(int64, tag = 1)] timestamp: i64,
        #[prost(message, optional, tag = 2)] working_set_bytes: Option<UInt64Value>,
    }

    ExecSyncRequest {
        #[prost(string, tag = 1)] container_id: String,
        #[prost(string, repeated, tag = 2)] cmd: Vec<String>,
        #[prost(int64, tag = 3)] timeout: i64,
    }
    ExecSyncResponse {
        #[prost(bytes = "vec", tag = 1)] stdout: Vec<u8>,
        #[prost(bytes = "vec", tag = 2)] stderr: Vec<u8>,
        #[prost(int32, tag = 3)] exit_code: i32,
    }
    ExecRequest {
        #[prost(string, tag = 1)] container_id: String,
        #[prost(string, repeated, tag = 2)] cmd: Vec<String>,
        #[prost(bool, tag = 3)] tty: bool,
        #[prost(bool, tag = 4)] stdin: bool,
        #[prost(bool, tag = 5)] stdout: bool,
        #[prost(bool, tag = 6)] stderr: bool,
    }
    AttachRequest {
        #[prost(string, tag = 1)] container_id: String,
        #[prost(bool, tag = 2)] stdin: bool,
        #[prost(bool, tag = 3)] tty: bool,
        #[prost(bool, tag = 4)] stdout: bool,
        #[prost(bool, tag = 5)] stderr: bool,
    }
    PortForwardRequest {
        #[prost(string, tag = 1)] pod_sandbox_id: String,
        #[prost(int32, repeated, tag = 2)] port: Vec<i32>,
    }
    UrlResponse { #[prost(string, tag = 1)] url: String, }
}
