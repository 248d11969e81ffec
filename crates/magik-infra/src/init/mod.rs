//! The pod init itself.

mod changes;
mod container;
mod ending;
mod handler;
mod happening;
mod measuring;
mod message;
mod pod;
mod probes;
mod restarting;
mod rootfs;
mod starting;
mod stopping;
mod supervise;

pub use rootfs::mount_layers;

use std::{fmt, io, net::TcpListener, path::PathBuf, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use magik_oci::OciRuntime;
use tokio::io::{AsyncRead, AsyncWrite};

use self::pod::{Before, Pod};
use crate::{
    containers::Local,
    error::LaunchError,
    extension::{EXTENSION_TIMEOUT, ExtensionRegistry, Extensions, InfraExtension},
    life::{self, CommitCheck, Ends, Life, PodOutcome},
    logs::MAX_LOG_SIZE,
    plan::PodPlan,
    service::Acceptor,
    state_dir::StateDir,
};

/// What differs between the backends.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// `native`, `microvm` or `wasm`; for the status.
    pub runtime_class: String,
    /// How long one call of an extension may take.
    pub extension_timeout: Duration,
    /// The size at which a container's log is rotated, in bytes; two files of it are kept.
    pub max_log_size: u64,
    /// Nobody but the init reaches the files of the pod, as in a guest: it makes the writable layers
    /// of containers that are added, and takes away layers and logs of those that are removed.
    pub own_files: bool,
}

impl Default for InitOptions {
    fn default() -> Self {
        Self {
            runtime_class: "native".to_owned(),
            extension_timeout: EXTENSION_TIMEOUT,
            max_log_size: MAX_LOG_SIZE,
            own_files: false,
        }
    }
}

/// See [`PodInit::prepare`].
type Preparation = Box<dyn FnOnce(Arc<PodPlan>) -> BoxFuture<'static, Result<(), LaunchError>> + Send + Sync>;

/// See [`PodInit::when_over`].
type Over = Box<dyn FnOnce() + Send + Sync>;

/// A pod init, ready to run. One pod, one process, one thread.
///
/// The process must exit when [`run`](Self::run) returns: as PID 1 of the pod's pid namespace it takes
/// everything with it that is left.
///
/// ```no_run
/// use std::{os::fd::OwnedFd, sync::Arc};
/// use magik_infra::{InitOptions, PodInit, PodOutcome, StateDir};
/// # async fn f(runtime: Arc<dyn magik_oci::OciRuntime>, directory: OwnedFd, launch: tokio::net::UnixStream) -> std::io::Result<()> {
/// let state = StateDir::new(directory);
/// let control = state.bind_control()?;
/// match PodInit::new(runtime, state, InitOptions::default()).run(launch, control).await? {
///     PodOutcome::Finished(status) => std::process::exit(status.exit_code()),
///     PodOutcome::Failed(_) | PodOutcome::Abandoned => std::process::exit(1),
/// }
/// # }
/// ```
pub struct PodInit {
    runtime: Arc<dyn OciRuntime>,
    state_dir: StateDir,
    options: InitOptions,
    extensions: Vec<Box<dyn InfraExtension>>,
    registry: ExtensionRegistry,
    listeners: Vec<TcpListener>,
    committed: CommitCheck,
    preparation: Option<Preparation>,
    shared_processes: Option<PathBuf>,
    when_ready: Option<fn()>,
    when_over: Option<Over>,
}

impl fmt::Debug for PodInit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PodInit")
            .field("runtime", &self.runtime)
            .field("state_dir", &self.state_dir)
            .field("options", &self.options)
            .field("extensions", &self.extensions)
            .finish_non_exhaustive()
    }
}

impl PodInit {
    /// An init that starts its containers with `runtime` and keeps its status in `state_dir`.
    #[must_use]
    pub fn new(runtime: Arc<dyn OciRuntime>, state_dir: StateDir, options: InitOptions) -> Self {
        Self {
            runtime,
            state_dir,
            options,
            extensions: Vec::new(),
            registry: &[],
            listeners: Vec::new(),
            // A directory whose name cannot be read is not known to be committed.
            committed: Box::new(|dir| matches!(dir.is_pending(), Ok(false))),
            preparation: None,
            shared_processes: None,
            when_ready: None,
            when_over: None,
        }
    }

    /// Adds an extension; they are called in the order they were added.
    #[must_use]
    pub fn extension(mut self, extension: Box<dyn InfraExtension>) -> Self {
        self.extensions.push(extension);
        self
    }

    /// The extensions that plans may ask for; one that asks for another is not started.
    #[must_use]
    pub fn registry(mut self, registry: ExtensionRegistry) -> Self {
        self.registry = registry;
        self
    }

    /// Listeners of the host for the plan's [`published`](PodPlan::published) ports, in that order. They are served once the
    /// pod has started.
    #[must_use]
    pub fn publish(mut self, listeners: Vec<TcpListener>) -> Self {
        self.listeners = listeners;
        self
    }

    /// The containers share a process namespace, which they find in this directory, to be made: its
    /// [file](crate::pause::namespace) and a [`/proc`](crate::pause::procfs) for each. Its PID 1 is
    /// a process that may do nothing (see [`pause`](crate::pause)): this one stays outside. The
    /// program's `main` must become that process if its arguments are
    /// [`pause::ARGUMENTS`](crate::pause::ARGUMENTS).
    #[must_use]
    pub fn shared_processes(mut self, dir: Option<PathBuf>) -> Self {
        self.shared_processes = dir;
        self
    }

    /// What is done a moment after the pod is ready and its launcher has been told.
    #[must_use]
    pub fn when_ready(mut self, call: fn()) -> Self {
        self.when_ready = Some(call);
        self
    }

    /// What is done once no container of the pod runs any more and before its status says so; it may block.
    #[must_use]
    pub fn when_over(mut self, call: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.when_over = Some(Box::new(call));
        self
    }

    /// How to find out, once the launch connection has ended without `Commit`, whether the pod was committed all the
    /// same. The default looks whether the state directory lost its `.pending`.
    #[must_use]
    pub fn committed_when(mut self, check: impl Fn(&StateDir) -> bool + Send + Sync + 'static) -> Self {
        self.committed = Box::new(check);
        self
    }

    /// What is done once all file systems of the pod, its containers' included, are mounted, and before anything of a container
    /// runs: an init that will not need them any more can give up its rights then. The pod does not start if it fails.
    #[must_use]
    pub fn prepare<F>(mut self, preparation: impl FnOnce(Arc<PodPlan>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), LaunchError>> + Send + 'static,
    {
        self.preparation = Some(Box::new(move |plan| Box::pin(preparation(plan))));
        self
    }

    /// Serves the launch connection and the control connections until the pod is over.
    ///
    /// # Errors
    /// The process cannot take signals. Everything else is an outcome.
    pub async fn run<S, A>(self, launch: S, control: A) -> io::Result<PodOutcome>
    where
        S: AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        A: Acceptor,
    {
        let life = Life {
            state_dir: self.state_dir,
            runtime_class: self.options.runtime_class,
            max_log_size: self.options.max_log_size,
            committed: self.committed,
            signals: true,
        };
        let extensions = Extensions::new(self.extensions, self.registry, self.options.extension_timeout);
        let before = Before {
            shared_processes: self.shared_processes,
            preparation: self.preparation,
            when_ready: self.when_ready,
            when_over: self.when_over,
            own_files: self.options.own_files,
        };
        let ends = Ends {
            launch,
            control,
            listeners: self.listeners,
        };
        let containers = Arc::new(Local(self.runtime.clone()));
        let runtime = self.runtime;
        let begin = |shared, plan, updates| Pod::new(runtime, shared, plan, extensions, updates, before);
        life::run(life, containers, ends, begin).await
    }
}

#[cfg(test)]
mod tests;
