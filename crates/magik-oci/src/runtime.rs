//! The trait every backend implements.

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use oci_spec::runtime::{LinuxResources, Mount, Process};

use crate::{ContainerId, ContainerState, ExecIo, Exit, OwnedStream, Result, Signal, Stats, Stdio};

/// What `create` takes beside id, bundle and streams: the default, with fields set.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CreateOptions {
    /// A file that gets the first process's pid, written before `create` returns.
    pub pid_file: Option<PathBuf>,
    /// A connected unix socket for the terminal's master; needs `process.terminal`.
    pub console: Option<OwnedStream>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
    /// Change the root with `MS_MOVE` and chroot where `pivot_root` cannot (an initramfs).
    pub no_pivot: bool,
    /// Variables (`NAME=VALUE`) added to the process's environment.
    pub env: Vec<String>,
    /// Mounts added to the bundle's, after them.
    pub mounts: Vec<Mount>,
}

/// What `exec` takes beside the process: the default, with fields set.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ExecOptions {
    /// A file that gets the process's pid.
    pub pid_file: Option<PathBuf>,
    /// How many descriptors from 3 on the process inherits.
    pub preserve_fds: u32,
}

/// A runtime for single containers (runtime-spec "Operations", and what runc's callers expect).
///
/// A container made by one process can be started, inspected and deleted by another; state lies
/// under the runtime's root. No operation leaves anything of a container that it failed to create.
#[async_trait]
pub trait OciRuntime: Send + Sync + Debug {
    /// The backend's name: `native`, `krun` or `wasm`.
    fn name(&self) -> &'static str;

    /// Creates a container from a bundle; its program waits for [`start`](Self::start).
    async fn create(
        &self,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState>;

    /// Runs the program of a created container.
    async fn start(&self, id: &ContainerId) -> Result<()>;

    /// The container's present state.
    async fn state(&self, id: &ContainerId) -> Result<ContainerState>;

    /// Waits for the end of the container's first process. Only its creator gets the exit code; for
    /// others it is [`Error::Unsupported`](crate::Error::Unsupported).
    async fn wait(&self, id: &ContainerId) -> Result<Exit>;

    /// Sends a signal to the first process, or to every process of the container.
    async fn kill(&self, id: &ContainerId, signal: Signal, all: bool) -> Result<()>;

    /// Removes a stopped container. `force` first kills a living one, and accepts an unknown one.
    async fn delete(&self, id: &ContainerId, force: bool) -> Result<()>;

    /// Starts another process in the whole sandbox of a running container; returns its pid.
    async fn exec(
        &self,
        id: &ContainerId,
        process: &Process,
        io: ExecIo,
        options: ExecOptions,
    ) -> Result<i32>;

    /// Waits for a process that [`exec`](Self::exec) started from this same process.
    async fn wait_exec(&self, id: &ContainerId, pid: i32) -> Result<Exit>;

    /// Freezes every process of the container.
    async fn pause(&self, id: &ContainerId) -> Result<()>;

    /// Thaws a paused container.
    async fn resume(&self, id: &ContainerId) -> Result<()>;

    /// Changes resource limits; what is absent stays as it is.
    async fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()>;

    /// Present resource use.
    async fn stats(&self, id: &ContainerId) -> Result<Stats>;

    /// The pids of every process in the container, as the host numbers them.
    async fn processes(&self, id: &ContainerId) -> Result<Vec<i32>>;

    /// All containers under this runtime's root.
    async fn list(&self) -> Result<Vec<ContainerState>>;
}
