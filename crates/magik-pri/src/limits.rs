//! The bounds on what a pod may ask for.

use std::time::Duration;

/// The most containers of a pod, init containers included.
pub const MAX_CONTAINERS_PER_POD: usize = 16;
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
/// The smallest memory limit, in bytes: below it no program starts.
pub const MIN_MEMORY_LIMIT: u64 = 1 << 20;
/// The most bytes of all annotations together, as in Kubernetes.
pub const MAX_ANNOTATIONS_SIZE: usize = 256 << 10;
/// The size at which a container's log is rotated, in bytes, unless
/// [`RunOptions::max_log_size`](crate::RunOptions) says otherwise; the file before is kept.
pub const MAX_LOG_SIZE: u64 = magik_infra::logs::MAX_LOG_SIZE;
