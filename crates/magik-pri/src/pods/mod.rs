//! What every backend whose pods live under one host process has in common: the pods on disk, their locks and names, the
//! steps of `run_pod`, and every operation on a pod that runs, which goes through its control service.
//!
//! The init may be PID 1 of namespaces, a virtual machine's monitor or the one process of a WebAssembly pod: when it ends,
//! however that comes about, everything of the pod ends with it. What differs is a [`Backend`]. What lies where, and how a
//! pod is committed, is in docs/architecture.md.

mod add;
mod backend;
mod background;
mod cgroup;
mod data;
mod etc;
mod failure;
mod files;
mod group;
mod hooks;
mod images;
pub(crate) mod init;
pub(crate) mod linux_bundle;
mod lock;
mod messages;
mod named;
mod opened;
mod operations;
mod paths;
mod process;
mod publish;
mod reserve;
mod resize;
mod resources;
mod run;
mod security;
pub(crate) mod spawn;
mod store;
mod sweep;
mod update;
mod usage;
pub(crate) mod users;
pub(crate) mod volumes;
mod watch;

use std::sync::Arc;

use magik_infra::{CONTROL_SOCKET, ControlClient, ControlError, status::PodStatus};

use self::{
    background::blocking,
    opened::Opened,
    store::{PodDir, Store},
};
use crate::{Error, PodSpec, Result, RuntimeClass};

/// What an init is started with.
pub(crate) use magik_oci::helper_environment as environment;

#[cfg(feature = "wasm")]
pub(crate) use self::paths::BUNDLES;
pub use self::{
    backend::PodBackend,
    named::{NamedVolume, Volumes},
    paths::Roots,
    usage::PodUsage,
};
pub(crate) use self::{
    backend::{Backend, SELF, Start, beside_own_binary},
    cgroup::Hierarchies,
    failure::Failure,
    files::{ContainerImage, PodFiles},
    process::Process,
};

/// The pods below one pair of roots, and the backends that run more of them.
///
/// It keeps nothing but its configuration: any number of them, in any number of processes and with
/// any backends, may work on the same roots, and each sees and works on all pods there. Without a
/// backend it runs no pods and does all else. Its operations need a tokio runtime with I/O and time
/// enabled.
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
    /// The first one runs the pods that name no class.
    backends: Vec<Arc<dyn Backend>>,
    opened: Arc<Opened>,
}

impl Pods {
    /// Nothing is touched before the first operation.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self {
            backends: Vec::new(),
            opened: Arc::new(Opened::new(roots)),
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

    /// The room that each pod takes below the data root: what its containers write, its volumes and
    /// its logs. Pods of other state roots that use the same data root are among them.
    ///
    /// # Errors
    /// The pods' files cannot be read.
    pub async fn disk_usage(&self) -> Result<Vec<PodUsage>> {
        self.with_store(|store| usage::of_pods(&store.paths)).await
    }

    /// The backend of a class.
    fn backend(&self, class: RuntimeClass) -> Result<&Arc<dyn Backend>> {
        let found = self.backends.iter().find(|backend| backend.class() == class);
        found.ok_or_else(|| {
            let all: Vec<_> = self
                .backends
                .iter()
                .map(|backend| backend.class().as_str())
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

    /// Does work on the store, where it may wait for files and locks.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.with_opened(move |opened| work(opened.swept_once()?)).await
    }

    /// Does work on the store, in whatever state, where it may wait for files and locks.
    async fn with_opened<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Opened) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let opened = self.opened.clone();
        let done = blocking(move || work(&opened)).await;
        self.opened.keep_swept();
        done
    }

    /// Does work on one pod, where it may wait for files and locks.
    async fn with_pod<T: Send + 'static>(
        &self,
        pod: &str,
        work: impl FnOnce(&Store, PodDir) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let pod = pod.to_owned();
        self.with_store(move |store| work(store, store.resolve(&pod)?))
            .await
    }

    /// A connection to the init of a running pod, and how the pod stands.
    async fn connect(&self, pod: &str, operation: &'static str) -> Result<(ControlClient, PodStatus)> {
        let over = || Error::WrongState {
            pod: pod.to_owned(),
            operation,
            why: "does not run any more".into(),
        };
        let found = self.with_pod(pod, |_, found| {
            let alive = found.is_alive()?;
            Ok(alive.then_some((found.status()?, found.dir.join(CONTROL_SOCKET))))
        });
        let (status, socket) = found.await?.ok_or_else(over)?;
        match ControlClient::connect(&socket).await {
            Ok(client) => Ok((client, status)),
            Err(ControlError::Connect { .. } | ControlError::Disconnected) => Err(over()),
            Err(other) => Err(Error::control(pod, operation, &other)),
        }
    }

    /// Waits until a pod's init has ended; how the pod stands then.
    async fn ended(&self, pod: &str) -> Result<PodStatus> {
        let found = self.with_pod(pod, |_, found| Ok((found.init()?, found)));
        let (init, found) = found.await?;
        if let Some(init) = init {
            let ended = process::ended(&init).await;
            ended.map_err(Error::io(format!("pod {}: wait for its init", found.id)))?;
        }
        blocking(move || found.status()).await
    }
}
