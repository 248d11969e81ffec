//! [`NativeRuntime`]: its configuration, and the trait.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use magik_oci::{
    ContainerId, ContainerState, CreateOptions, Error, ExecIo, ExecOptions, Exit, OciRuntime, Result, Signal,
    Stats, Stdio,
};
use oci_spec::runtime::{LinuxResources, Process, Spec};

use crate::{
    cgroup::{Cgroup, Layout},
    children::Children,
    runner::Runner,
    seccomp::Filters,
    store::Store,
};

/// The cgroup below which containers go whose bundle names none.
pub const DEFAULT_CGROUP_ROOT: &str = "/magikrun";

/// Linux containers; see the [crate's documentation](crate).
///
/// Cloning it is cheap, and clones share what they know of their children. Its operations need a
/// tokio runtime with I/O and time enabled.
///
/// ```no_run
/// # async fn run() -> magik_oci::Result<()> {
/// use magik_oci::{CreateOptions, OciRuntime, Stdio};
/// use oci_native::NativeRuntime;
///
/// let runtime = NativeRuntime::builder("/run/example".into()).build();
/// let id = "web".parse()?;
/// runtime.create(&id, "/bundle".as_ref(), Stdio::default(), CreateOptions::default()).await?;
/// runtime.start(&id).await?;
/// let exit = runtime.wait(&id).await?;
/// runtime.delete(&id, false).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct NativeRuntime {
    pub(crate) config: Arc<Config>,
}

/// What all clones of a runtime share.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) store: Store,
    pub(crate) helper: PathBuf,
    pub(crate) cgroup_root: PathBuf,
    pub(crate) systemd: bool,
    pub(crate) children: Arc<Children>,
    pub(crate) filters: Filters,
    pub(crate) runner: Option<Runner>,
    pub(crate) new_keyrings: bool,
    pub(crate) own_domains: bool,
    layout: OnceLock<Layout>,
}

impl NativeRuntime {
    /// A runtime whose containers' state lies below `root` (created when needed, mode 0700).
    #[must_use]
    pub fn builder(root: PathBuf) -> NativeRuntimeBuilder {
        NativeRuntimeBuilder {
            root,
            helper: "/proc/self/exe".into(),
            cgroup_root: DEFAULT_CGROUP_ROOT.into(),
            systemd: false,
            reap_orphans: false,
            filters: None,
            runner: None,
            new_keyrings: false,
            own_domains: false,
        }
    }

    /// As [`create`](OciRuntime::create), from this spec in place of the bundle's own.
    ///
    /// # Errors
    /// Those of [`create`](OciRuntime::create).
    pub async fn create_from(
        &self,
        id: &ContainerId,
        bundle: &Path,
        spec: Spec,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState> {
        self.create_container(id, bundle, Some(spec), stdio, options)
            .await
    }

    /// The host's cgroups, looked up once.
    pub(crate) fn layout(&self) -> Result<&Layout> {
        if let Some(layout) = self.config.layout.get() {
            return Ok(layout);
        }
        let layout = Layout::detect().map_err(Error::io("finding the cgroup hierarchies"))?;
        Ok(self.config.layout.get_or_init(|| layout))
    }

    pub(crate) fn cgroup<'a>(&'a self, path: &'a Path) -> Result<Cgroup<'a>> {
        Ok(Cgroup::new(self.layout()?, path))
    }
}

/// Configures a [`NativeRuntime`].
#[derive(Debug)]
pub struct NativeRuntimeBuilder {
    root: PathBuf,
    helper: PathBuf,
    cgroup_root: PathBuf,
    systemd: bool,
    reap_orphans: bool,
    filters: Option<PathBuf>,
    runner: Option<Runner>,
    new_keyrings: bool,
    own_domains: bool,
}

impl NativeRuntimeBuilder {
    /// The binary that starts workers of a process with several threads; its `main` begins with
    /// [`run_worker_if_asked`](crate::run_worker_if_asked). Default: `/proc/self/exe`.
    #[must_use]
    pub fn helper(mut self, helper: PathBuf) -> Self {
        self.helper = helper;
        self
    }

    /// The parent of default cgroups, `<root>/<id>`. Default: [`DEFAULT_CGROUP_ROOT`].
    #[must_use]
    pub fn cgroup_root(mut self, cgroup_root: impl Into<PathBuf>) -> Self {
        self.cgroup_root = cgroup_root.into();
        self
    }

    /// Systemd makes the cgroups: `cgroupsPath` is then `slice:prefix:name`. Not supported yet.
    #[must_use]
    pub fn systemd_cgroup(mut self, systemd: bool) -> Self {
        self.systemd = systemd;
        self
    }

    /// The directory for compiled seccomp filters, at most 64; only this user may have write
    /// access. Default: `<root>/.filters`. Runtimes may share one.
    #[must_use]
    pub fn filters(mut self, directory: PathBuf) -> Self {
        self.filters = Some(directory);
        self
    }

    /// Reaps every child of this process, not only containers: for PID 1 of a pod, which inherits
    /// orphans. No other part of the process can then wait for children of its own.
    #[must_use]
    pub fn reap_orphans(mut self, reap_orphans: bool) -> Self {
        self.reap_orphans = reap_orphans;
        self
    }

    /// Runs this runtime's new containers with a program of the host. `exec` still executes
    /// programs of the container.
    #[must_use]
    pub fn runner(mut self, runner: Runner) -> Self {
        self.runner = Some(runner);
        self
    }

    /// Gives every container and exec'd process a new session keyring (keyrings(7)), without the
    /// caller's keys. Default: the caller's keyring.
    #[must_use]
    pub fn new_keyrings(mut self, new_keyrings: bool) -> Self {
        self.new_keyrings = new_keyrings;
        self
    }

    /// Keeps every container and exec'd process from looking into processes that it has not begun
    /// itself, by a Landlock domain of its own, unless it has `CAP_SYS_PTRACE` or `CAP_SYS_ADMIN`.
    /// Among the host's processes others' roots would be as open to it as to their users. Without
    /// effect where the kernel has no Landlock of version 2 (Linux 5.19). Default: it is not kept.
    #[must_use]
    pub fn own_domains(mut self, own_domains: bool) -> Self {
        self.own_domains = own_domains;
        self
    }

    /// The runtime. Nothing is touched before its first operation.
    #[must_use]
    pub fn build(self) -> NativeRuntime {
        NativeRuntime {
            config: Arc::new(Config {
                filters: Filters::new(self.filters.unwrap_or_else(|| self.root.join(".filters"))),
                store: Store::new(self.root),
                helper: self.helper,
                cgroup_root: self.cgroup_root,
                systemd: self.systemd,
                children: Arc::new(Children::new(self.reap_orphans)),
                runner: self.runner,
                new_keyrings: self.new_keyrings,
                own_domains: self.own_domains,
                layout: OnceLock::new(),
            }),
        }
    }
}

#[async_trait]
impl OciRuntime for NativeRuntime {
    fn name(&self) -> &'static str {
        "native"
    }

    async fn create(
        &self,
        id: &ContainerId,
        bundle: &Path,
        stdio: Stdio,
        options: CreateOptions,
    ) -> Result<ContainerState> {
        self.create_container(id, bundle, None, stdio, options).await
    }

    async fn start(&self, id: &ContainerId) -> Result<()> {
        self.start_container(id).await
    }

    async fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        let record = self.config.store.read(id)?;
        let status = self.status(&record)?;
        Ok(record.state(status))
    }

    async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        self.wait_container(id).await
    }

    async fn kill(&self, id: &ContainerId, signal: Signal, all: bool) -> Result<()> {
        self.kill_container(id, signal, all).await
    }

    async fn delete(&self, id: &ContainerId, force: bool) -> Result<()> {
        self.delete_container(id, force).await
    }

    async fn exec(
        &self,
        id: &ContainerId,
        process: &Process,
        io: ExecIo,
        options: ExecOptions,
    ) -> Result<i32> {
        self.exec_process(id, process, io, options).await
    }

    async fn wait_exec(&self, id: &ContainerId, pid: i32) -> Result<Exit> {
        self.wait_process(id, pid).await
    }

    async fn pause(&self, id: &ContainerId) -> Result<()> {
        self.freeze_container(id, true).await
    }

    async fn resume(&self, id: &ContainerId) -> Result<()> {
        self.freeze_container(id, false).await
    }

    async fn update(&self, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
        self.update_container(id, resources).await
    }

    async fn stats(&self, id: &ContainerId) -> Result<Stats> {
        let record = self.config.store.read(id)?;
        Ok(self.cgroup(&record.cgroup)?.stats())
    }

    async fn processes(&self, id: &ContainerId) -> Result<Vec<i32>> {
        let record = self.config.store.read(id)?;
        self.cgroup(&record.cgroup)?
            .pids()
            .map_err(Error::io(format!("listing the processes of container {id}")))
    }

    async fn list(&self) -> Result<Vec<ContainerState>> {
        self.list_containers()
    }
}
