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
mod resources;
mod run;
#[cfg(target_os = "linux")]
mod security;
#[cfg(target_os = "linux")]
pub(crate) mod spawn;
mod store;
mod sweep;
pub(crate) mod users;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use magik_image::ImageStore;
use magik_infra::{
    CONTROL_SOCKET, ControlClient, ControlError, EventStream, ExecRequest, ExecSession, PortForward,
    status::PodStatus,
};
use magik_oci::{Capability, Stats};

use self::{
    paths::Paths,
    run::Run,
    store::{PodDir, Store},
};
use crate::{
    Error, LogOptions, LogStream, PodRuntime, PodSpec, Result, RunOptions, RuntimeClass, SweepReport,
    session::LogFile,
};

pub use self::{backend::PodBackend, paths::Roots};
pub(crate) use self::{
    backend::{Backend, Start, beside_own_binary, environment},
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

/// The pods below one pair of roots, and the backends that run more of them.
///
/// It keeps nothing but its configuration: any number of them, in any number of processes and with any backends, may work on
/// the same roots, and each sees and works on all pods there. Without a backend it runs no pods and does all else.
/// Its operations need a tokio runtime with I/O and time enabled.
///
/// ```
/// # #[cfg(all(feature = "native", target_os = "linux"))] {
/// use magik_pri::{Pods, Roots, native::Native};
/// let roots = Roots { data: "/var/lib/magikrun".into(), state: "/run/magikrun".into() };
/// let pods = Pods::new(roots).with(Native::new());
/// # }
/// ```
#[derive(Debug)]
pub struct Pods {
    roots: Roots,
    /// The first one runs the pods that name no class.
    backends: Vec<Arc<dyn Backend>>,
    store: OnceLock<Arc<Store>>,
}

impl Pods {
    /// Nothing is touched before the first operation.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self {
            roots,
            backends: Vec::new(),
            store: OnceLock::new(),
        }
    }

    /// With another backend, in place of one of the same class.
    #[must_use]
    pub fn with(mut self, backend: impl Into<PodBackend>) -> Self {
        let PodBackend(backend) = backend.into();
        self.backends.retain(|other| other.class() != backend.class());
        self.backends.push(backend);
        self
    }

    /// The backend of a class.
    fn backend(&self, class: RuntimeClass) -> Result<&Arc<dyn Backend>> {
        let found = self.backends.iter().find(|backend| backend.class() == class);
        found.ok_or_else(|| {
            let all: Vec<_> = self
                .runtime_classes()
                .iter()
                .map(|class| class.as_str())
                .collect();
            Error::Unsupported {
                what: format!("runtime class {class}"),
                why: format!("this build has no such backend: it has {}", all.join(", ")),
            }
        })
    }

    /// The backend for a pod: the one that the caller names, or the pod, or the first.
    fn backend_for(&self, spec: &PodSpec, named: Option<RuntimeClass>) -> Result<&Arc<dyn Backend>> {
        let first = || self.backends.first().map(|backend| backend.class());
        let class = named.or_else(|| spec.runtime()).or_else(first);
        let class = class.unwrap_or(RuntimeClass::Native);
        if let Some(own) = spec.runtime_class.filter(|own| *own != class) {
            return Err(Error::Unsupported {
                what: "spec.runtimeClassName".into(),
                why: format!("the pod is for the runtime {own}, this is {class}"),
            });
        }
        self.backend(class)
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
    async fn connect(&self, pod: &str, operation: &'static str) -> Result<(ControlClient, PodDir)> {
        let over = || Error::WrongState {
            pod: pod.to_owned(),
            operation,
            why: "does not run any more".into(),
        };
        let (_, found) = self.find(pod).await?;
        if !found.is_alive()? {
            return Err(over());
        }
        match ControlClient::connect(&found.dir.join(CONTROL_SOCKET)).await {
            Ok(client) => Ok((client, found)),
            Err(ControlError::Connect { .. } | ControlError::Disconnected) => Err(over()),
            Err(other) => Err(Error::control(pod, operation, &other)),
        }
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
impl PodRuntime for Pods {
    fn runtime_classes(&self) -> Vec<RuntimeClass> {
        self.backends.iter().map(|backend| backend.class()).collect()
    }

    async fn availability(&self, class: RuntimeClass) -> Result<Capability> {
        let backend = self.backend(class)?.clone();
        blocking(move || Ok(backend.availability())).await
    }

    async fn run_pod(&self, spec: &PodSpec, options: RunOptions) -> Result<PodStatus> {
        let backend = self.backend_for(spec, options.runtime_class)?;
        let store = self.swept().await?;
        Run {
            store: &store,
            backend,
            spec,
            options: &options,
        }
        .run()
        .await
    }

    async fn stop_pod(&self, pod: &str, grace: Option<Duration>) -> Result<PodStatus> {
        let stopped = match self.connect(pod, "stop").await {
            Ok((client, _)) => {
                let stopped = client.stop(grace).await;
                stopped.map_err(|e| Error::control(pod, "stop", &e))
            }
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
        let (client, _) = self.connect(pod, "stop a container").await?;
        let stopped = client.stop_container(container, grace).await;
        stopped.map_err(|e| Error::control(pod, "stop a container", &e))
    }

    async fn restart_container(
        &self,
        pod: &str,
        container: &str,
        grace: Option<Duration>,
    ) -> Result<PodStatus> {
        let (client, _) = self.connect(pod, "restart a container").await?;
        let restarted = client.restart_container(container, grace).await;
        restarted.map_err(|e| Error::control(pod, "restart a container", &e))
    }

    async fn remove_container(&self, pod: &str, container: &str) -> Result<PodStatus> {
        let (client, _) = self.connect(pod, "remove a container").await?;
        let removed = client.remove_container(container).await;
        removed.map_err(|e| Error::control(pod, "remove a container", &e))
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
        let (client, found) = self.connect(pod, "exec").await?;
        let named = Some(request.container.as_str()).filter(|name| !name.is_empty());
        let request = ExecRequest {
            container: container(&found.status()?, pod, named)?,
            ..request
        };
        let session = client.exec(&request).await;
        session.map_err(|e| Error::control(pod, "exec", &e))
    }

    async fn logs(&self, pod: &str, options: LogOptions) -> Result<LogStream> {
        let (store, found) = self.find(pod).await?;
        let name = container(&found.status()?, pod, options.container.as_deref())?;
        let file = LogFile {
            pod: pod.to_owned(),
            path: store.paths.log(&found.id, &name),
            options: options.of_reader(),
        };
        if options.follow {
            match self.connect(pod, "logs").await {
                Ok((client, _)) => match client.logs(&name, &file.options, true).await {
                    Ok(output) => return Ok(LogStream::live(output, file)),
                    // It ended since it was found.
                    Err(ControlError::Disconnected) => {}
                    Err(e) => return Err(Error::control(pod, "logs", &e)),
                },
                // It is over: what is there is all there will be.
                Err(Error::WrongState { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(file.read())
    }

    async fn stats(&self, pod: &str) -> Result<BTreeMap<String, Stats>> {
        let (client, _) = self.connect(pod, "stats").await?;
        client.stats().await.map_err(|e| Error::control(pod, "stats", &e))
    }

    async fn events(&self, pod: &str, follow: bool) -> Result<EventStream> {
        let (client, _) = self.connect(pod, "events").await?;
        let events = client.events(follow).await;
        events.map_err(|e| Error::control(pod, "events", &e))
    }

    async fn port_forward(&self, pod: &str, port: u16) -> Result<PortForward> {
        let (client, _) = self.connect(pod, "port-forward").await?;
        let forward = client.port_forward(port).await;
        forward.map_err(|e| Error::control(pod, "port-forward", &e))
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
