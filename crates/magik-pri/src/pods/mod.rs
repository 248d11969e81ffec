//! What every backend whose pods live under one host process has in common: the pods on disk, their locks and names, the
//! steps of `run_pod`, and every operation on a pod that runs, which goes through its control service.
//!
//! The init may be PID 1 of namespaces, a virtual machine's monitor or the one process of a WebAssembly pod: when it ends,
//! however that comes about, everything of the pod ends with it. What differs is a [`Backend`]. What lies where, and how a
//! pod is committed, is in docs/architecture.md.

mod backend;
#[cfg_attr(not(target_os = "linux"), path = "cgroup_none.rs")]
mod cgroup;
mod files;
mod hooks;
pub(crate) mod init;
#[cfg(target_os = "linux")]
pub(crate) mod linux_bundle;
mod lock;
mod paths;
mod process;
mod publish;
mod reserve;
mod run;
#[cfg(target_os = "linux")]
mod security;
#[cfg(target_os = "linux")]
pub(crate) mod spawn;
mod store;
mod streams;
mod sweep;
pub(crate) mod users;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use magik_image::ImageStore;
use magik_infra::{CONTROL_SOCKET, ControlClient, ControlError, logs, status::PodStatus};
use magik_oci::{Capability, Stats};

use self::{
    paths::Paths,
    run::Run,
    store::{PodDir, Store},
    streams::Context,
};
use crate::{
    Error, EventStream, ExecRequest, ExecSession, LogOptions, LogStream, PodRuntime, PodSpec, PortSession,
    Result, RunOptions, RuntimeClass, SweepReport,
};

/// What an init is started with.
pub(crate) use magik_oci::helper_environment as environment;

pub use self::paths::Roots;
pub(crate) use self::{
    backend::{Backend, Start, beside_own_binary},
    cgroup::Hierarchies,
    files::{ContainerImage, Failure, PodFiles},
    process::Process,
};

/// The log of a pod's init among those of its containers; no container is called that.
const INIT_LOG: &str = "_init";
/// How long somebody else may take to delete a pod that one would stop.
const DELETION_TIME: Duration = Duration::from_secs(10);
/// How long is waited before the pod is looked for once more.
const DELETION_PAUSE: Duration = Duration::from_millis(10);

/// The pods below one pair of roots, and how one backend adds to them.
///
/// It keeps nothing but its configuration: any number of them, in any number of processes and of any backends, may work on the
/// same roots, and each sees and works on all pods there. Its operations need a tokio runtime with I/O and time enabled.
#[derive(Debug)]
pub struct Pods<B> {
    roots: Roots,
    backend: Arc<B>,
    store: OnceLock<Arc<Store>>,
}

impl<B> Pods<B> {
    /// Nothing is touched before the first operation.
    pub(crate) fn with_backend(roots: Roots, backend: B) -> Self {
        Self {
            roots,
            backend: Arc::new(backend),
            store: OnceLock::new(),
        }
    }

    /// The same, with the backend changed.
    pub(crate) fn configured(self, change: impl FnOnce(B) -> B) -> Self {
        let Self { roots, backend, .. } = self;
        match Arc::into_inner(backend) {
            Some(backend) => Self::with_backend(roots, change(backend)),
            None => unreachable!("operations borrow the runtime, so none runs while it is moved"),
        }
    }

    /// What is particular to it.
    #[cfg(all(feature = "krun", target_os = "linux"))]
    pub(crate) fn backend(&self) -> &B {
        &self.backend
    }

    /// The store, opened once.
    fn store(&self) -> Result<&Arc<Store>> {
        if let Some(store) = self.store.get() {
            return Ok(store);
        }
        let paths = Paths::open(&self.roots)?;
        let images = ImageStore::open(paths.data_root())
            .map_err(|e| Error::io("open the image store")(std::io::Error::other(e)))?;
        let cgroups = Hierarchies::detect().map_err(Error::io("find the cgroup hierarchies"))?;
        let store = Arc::new(Store {
            paths,
            images,
            cgroups,
            children: std::sync::Mutex::default(),
        });
        Ok(self.store.get_or_init(|| store))
    }

    /// The store, swept.
    async fn swept(&self) -> Result<Arc<Store>> {
        let store = self.store()?.clone();
        blocking(move || match store.sweep() {
            Ok(_) => Ok(store),
            Err(error) => {
                // What cannot be removed now must not keep other pods from being run or deleted.
                tracing::warn!(%error, "sweep");
                Ok(store)
            }
        })
        .await
    }

    /// The store, swept, and a pod in it.
    async fn find(&self, pod: &str) -> Result<(Arc<Store>, PodDir)> {
        let store = self.swept().await?;
        let found = store.resolve(pod)?;
        Ok((store, found))
    }

    /// A connection to the init of a running pod.
    async fn connect(&self, pod: &str, operation: &'static str) -> Result<(ControlClient, PodDir, Context)> {
        let (_, found) = self.find(pod).await?;
        let context = Context {
            pod: pod.to_owned(),
            operation,
        };
        if !found.is_alive()? {
            return Err(Error::WrongState {
                pod: pod.to_owned(),
                operation,
                why: "does not run any more".into(),
            });
        }
        let client = ControlClient::connect(&found.dir.join(CONTROL_SOCKET)).await;
        let client = client.map_err(|e| match e {
            ControlError::Connect { .. } | ControlError::Disconnected => Error::WrongState {
                pod: pod.to_owned(),
                operation,
                why: "does not run any more".into(),
            },
            other => context.error(&other),
        })?;
        Ok((client, found, context))
    }
}

/// Runs what waits for files, locks or processes where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::io("a background task")(std::io::Error::other(e)))?
}

/// The container that is meant: the one named, or the only one there is.
fn container(status: &PodStatus, pod: &str, named: Option<&str>) -> Result<String> {
    let all = || {
        status
            .containers
            .iter()
            .chain(&status.init_containers)
            .map(|c| c.name.as_str())
    };
    let listed = || all().collect::<Vec<_>>().join(", ");
    let error = |reason| Error::Container {
        pod: pod.to_owned(),
        reason,
    };
    match (named, status.containers.as_slice()) {
        (Some(name), _) if all().any(|n| n == name) => Ok(name.to_owned()),
        (Some(name), _) => {
            let name: String = name.chars().take(64).collect();
            Err(error(format!(
                "there is no container {name:?}: it has {}",
                listed()
            )))
        }
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => Err(error(format!("which container? It has {}", listed()))),
    }
}

#[async_trait]
impl<B: Backend> PodRuntime for Pods<B> {
    fn runtime_class(&self) -> RuntimeClass {
        B::CLASS
    }

    fn is_available(&self) -> Capability {
        self.backend.availability()
    }

    async fn run_pod(&self, spec: &PodSpec, options: RunOptions) -> Result<PodStatus> {
        if let Some(class) = spec.runtime_class.filter(|class| *class != B::CLASS) {
            let why = format!("the pod is for the runtime {class}, this is {}", B::CLASS);
            return Err(Error::Unsupported {
                what: "spec.runtimeClassName".into(),
                why,
            });
        }
        let store = self.swept().await?;
        Run {
            store: &store,
            backend: &self.backend,
            spec,
            options: &options,
        }
        .run()
        .await
    }

    async fn stop_pod(&self, pod: &str, grace: Option<Duration>) -> Result<PodStatus> {
        let stopped = match self.connect(pod, "stop").await {
            Ok((client, _, context)) => client.stop(grace).await.map_err(|e| context.error(&e)),
            Err(e) => Err(e),
        };
        match stopped {
            Ok(status) => Ok(status),
            // Others may have stopped it, or killed its init, while we tried: then it is stopped, which is what was asked.
            Err(error @ (Error::WrongState { .. } | Error::Control { .. })) => {
                let begun = Instant::now();
                loop {
                    let (_, found) = self.find(pod).await?;
                    wait_for_end(&found).await?;
                    let status = found.status()?;
                    if status.phase.is_final() {
                        return Ok(status);
                    }
                    // Its init is gone and its lock is not free: somebody is deleting it.
                    if begun.elapsed() > DELETION_TIME {
                        return Err(error);
                    }
                    tokio::time::sleep(DELETION_PAUSE).await;
                }
            }
            Err(error) => Err(error),
        }
    }

    async fn stop_container(&self, pod: &str, container: &str, grace: Option<Duration>) -> Result<PodStatus> {
        let (client, _, context) = self.connect(pod, "stop a container").await?;
        let stopped = client.stop_container(container, grace).await;
        stopped.map_err(|e| context.error(&e))
    }

    async fn restart_container(
        &self,
        pod: &str,
        container: &str,
        grace: Option<Duration>,
    ) -> Result<PodStatus> {
        let (client, _, context) = self.connect(pod, "restart a container").await?;
        let restarted = client.restart_container(container, grace).await;
        restarted.map_err(|e| context.error(&e))
    }

    async fn remove_container(&self, pod: &str, container: &str) -> Result<PodStatus> {
        let (client, _, context) = self.connect(pod, "remove a container").await?;
        let removed = client.remove_container(container).await;
        removed.map_err(|e| context.error(&e))
    }

    async fn delete_pod(&self, pod: &str, force: bool) -> Result<()> {
        let (store, found) = match self.find(pod).await {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        blocking(move || store.delete(&found, force)).await
    }

    async fn pod_status(&self, pod: &str) -> Result<PodStatus> {
        self.find(pod).await?.1.status()
    }

    async fn wait_pod(&self, pod: &str) -> Result<PodStatus> {
        let (store, found) = self.find(pod).await?;
        wait_for_end(&found).await?;
        store.reap();
        found.status()
    }

    async fn list_pods(&self) -> Result<Vec<PodStatus>> {
        let store = self.swept().await?;
        let mut pods = Vec::new();
        for pod in store.all()? {
            match pod.status() {
                Ok(status) => pods.push(status),
                // Deleted since it was listed.
                Err(Error::NotFound(_)) => {}
                Err(e) => return Err(e),
            }
        }
        pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        Ok(pods)
    }

    async fn exec(&self, pod: &str, request: ExecRequest) -> Result<ExecSession> {
        let (client, found, context) = self.connect(pod, "exec").await?;
        let request = magik_infra::ExecRequest {
            container: container(&found.status()?, pod, request.container.as_deref())?,
            args: request.args,
            env: request
                .env
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect(),
            cwd: request.cwd,
            user: request.user,
            tty: request.tty.is_some(),
            stdin: request.stdin,
            size: request.tty.map(|size| (size.rows, size.columns)),
            process: None,
        };
        let session = client.exec(&request).await.map_err(|e| context.error(&e))?;
        Ok(streams::exec(session, context))
    }

    async fn logs(&self, pod: &str, options: LogOptions) -> Result<LogStream> {
        let (store, found) = self.find(pod).await?;
        let name = container(&found.status()?, pod, options.container.as_deref())?;
        let wanted = logs::LogOptions {
            tail: options.tail,
            since: options.since,
            timestamps: options.timestamps,
        };
        let path = store.paths.log(&found.id, &name);
        let opened = (path, pod.to_owned());
        let file = move |wanted| -> Result<LogStream> {
            let (path, pod) = opened;
            let reader = logs::LogReader::open(&path, wanted)
                .map_err(Error::io(format!("pod {pod}: read {}", path.display())))?;
            Ok(streams::log_file(reader, pod))
        };
        if options.follow {
            match self.connect(pod, "logs").await {
                Ok((client, _, context)) => match client.logs(&name, &wanted, true).await {
                    Ok(output) => return Ok(streams::live_log(output, context, move || file(wanted))),
                    // It ended since it was found.
                    Err(ControlError::Disconnected) => {}
                    Err(e) => return Err(context.error(&e)),
                },
                // It is over: what is there is all there will be.
                Err(Error::WrongState { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        file(wanted)
    }

    async fn stats(&self, pod: &str) -> Result<BTreeMap<String, Stats>> {
        let (client, _, context) = self.connect(pod, "stats").await?;
        client.stats().await.map_err(|e| context.error(&e))
    }

    async fn events(&self, pod: &str, follow: bool) -> Result<EventStream> {
        let (client, _, context) = self.connect(pod, "events").await?;
        let events = client.events(follow).await.map_err(|e| context.error(&e))?;
        Ok(streams::events(events, context))
    }

    async fn port_forward(&self, pod: &str, port: u16) -> Result<PortSession> {
        let (client, _, context) = self.connect(pod, "port-forward").await?;
        let forward = client.port_forward(port).await.map_err(|e| context.error(&e))?;
        Ok(streams::port(forward, context))
    }

    async fn sweep(&self) -> Result<SweepReport> {
        let store = self.store()?.clone();
        blocking(move || store.sweep()).await
    }
}

/// Waits until a pod's init has ended.
async fn wait_for_end(pod: &PodDir) -> Result<()> {
    let Some(init) = pod.init()? else { return Ok(()) };
    let ended = process::ended(init).await;
    ended
        .map(drop)
        .map_err(Error::io(format!("pod {}: wait for its init", pod.id)))
}
