//! The bounds on what a pod may ask for.

use std::time::Duration;

/// The most containers of a pod, init containers included.
pub const MAX_CONTAINERS_PER_POD: usize = 16;
/// How many ephemeral containers a pod gets in its life, those that have ended counted.
pub const MAX_EPHEMERAL_CONTAINERS: usize = 16;
/// The most volumes of a pod.
pub const MAX_VOLUMES_PER_POD: usize = 64;
/// The most entries of a container's `env`.
pub const MAX_ENV_VARS_PER_CONTAINER: usize = 256;
/// The most pods under one state root, pending ones included.
pub const MAX_PODS: usize = 1024;
/// The time between SIGTERM and SIGKILL where the pod does not say.
pub const DEFAULT_GRACE_PERIOD: Duration = Duration::from_secs(30);
/// The largest manifest that is read, in bytes.
pub const MAX_SPEC_SIZE: usize = 1 << 20;
/// The most bytes of all manifests that are read together: pods, and the data beside them.
pub const MAX_MANIFEST_SIZE: usize = 16 << 20;
/// The most documents of all manifests that are read together.
pub const MAX_DOCUMENTS: usize = 512;
/// The most bytes in a ConfigMap or a Secret, decoded, as in Kubernetes.
pub const MAX_DATA_OBJECT_SIZE: usize = 1 << 20;
/// The longest key of a ConfigMap or a Secret, as in Kubernetes.
pub const MAX_DATA_KEY_LEN: usize = 253;
/// The longest path of a file in a volume of data, in bytes.
pub const MAX_DATA_PATH_LEN: usize = 4095;
/// The most names in such a path.
pub const MAX_DATA_PATH_DEPTH: usize = 64;
/// The most files of a volume of data.
pub const MAX_DATA_FILES_PER_VOLUME: usize = 4096;
/// The most files of all volumes of data of a pod.
pub const MAX_DATA_FILES_PER_POD: usize = magik_infra::MAX_DATA_FILES;
/// The most bytes in all volumes of data of a pod.
pub const MAX_DATA_SIZE_PER_POD: usize = magik_infra::MAX_DATA_SIZE;
/// The most mistakes of a manifest that are named; the others are counted.
pub const MAX_SPEC_ERRORS: usize = 20;
/// The most fields that change nothing of which a pod's status tells.
pub const MAX_IGNORED_FIELDS: usize = 64;
/// The most ports of a pod that the host listens for (`hostPort`).
pub const MAX_HOST_PORTS_PER_POD: usize = 64;
/// The most processes and threads of a pod, all its containers together, where the host counts them (the cgroup
/// controller `pids`). Each container has at most [`DEFAULT_PIDS_LIMIT`](magik_image::bundle::DEFAULT_PIDS_LIMIT) of them.
pub const MAX_PIDS_PER_POD: u32 = 4096;
/// The longest `metadata.name`, in bytes: `<namespace>_<name>` has to be a file name.
pub const MAX_POD_NAME_LEN: usize = 191;
/// The most bytes of a container's command, arguments and environment together once `$(NAME)` is expanded.
pub const MAX_EXPANDED_SIZE: usize = 1 << 20;
/// The most headers of a probe's or a hook's request.
pub const MAX_PROBE_HEADERS: usize = 64;
/// The longest name of a gRPC service that a probe asks for, in bytes.
pub const MAX_PROBE_SERVICE: usize = 1024;
/// The most exit codes of a restart rule, as in Kubernetes.
pub const MAX_RESTART_CODES: usize = 255;
/// The smallest memory limit, in bytes: below it no program starts.
pub const MIN_MEMORY_LIMIT: u64 = 1 << 20;
/// The most bytes of all annotations together, as in Kubernetes.
pub const MAX_ANNOTATIONS_SIZE: usize = 256 << 10;
/// The size at which a container's log is rotated, in bytes, unless
/// [`RunOptions::max_log_size`](crate::RunOptions) says otherwise; the file before is kept.
pub const MAX_LOG_SIZE: u64 = magik_infra::logs::MAX_LOG_SIZE;
