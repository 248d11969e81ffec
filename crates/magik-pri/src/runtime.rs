//! The trait every pod backend implements.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
#[cfg(feature = "registry")]
use magik_image::connect::ConnectOptions;
use magik_image::pull::Progress;
use magik_infra::{
    AttachRequest, EventStream, ExecRequest, ExecSession, LaunchStep, PortForward,
    plan::ExtensionPlan,
    processes::Process,
    status::{PodStatus, Resized},
};
use magik_oci::{Capability, Stats};
use oci_spec::runtime::LinuxResources;

use crate::{
    ContainerSpec, LogOptions, LogStream, PodSpec, PullPolicy, Result, RuntimeClass, Step, SweepReport, Watch,
};

/// What `run_pod` takes beside the specification.
#[derive(Clone, Default)]
pub struct RunOptions {
    /// The class of the backend; absent: what the pod says
    /// ([`PodSpec::runtime`]), else the first of [`PodRuntime::runtime_classes`]. A pod that says
    /// another one is refused.
    pub runtime_class: Option<RuntimeClass>,
    /// Holds for every container instead of what the specification says.
    pub pull_policy: Option<PullPolicy>,
    /// Registries may be spoken to over plain HTTP; loopback ones are in any case.
    pub insecure_registries: bool,
    /// The size at which a container's log is rotated, in bytes; absent: 10 MiB.
    pub max_log_size: Option<u64>,
    /// How registries are reached, where the defaults and
    /// [`insecure_registries`](Self::insecure_registries) are not meant. Credentials in it are
    /// shown to the registries of all images of the pod.
    #[cfg(feature = "registry")]
    pub connect: Option<ConnectOptions>,
    /// What images may have.
    pub image_limits: magik_image::Limits,
    /// How long the pull of one image may take; absent:
    /// [`IMAGE_PULL_TIMEOUT`](magik_image::pull::IMAGE_PULL_TIMEOUT).
    pub pull_timeout: Option<Duration>,
    /// The sysctls that a pod may set beside Kubernetes' safe ones: names, or what they begin with and
    /// `*`.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Is told how far it is.
    pub progress: Option<Arc<dyn RunProgress>>,
    /// Extensions of the pod's init, which must have them ([`Role::extensions`](crate::Role::extensions)).
    pub extensions: Vec<ExtensionPlan>,
    /// How long its containers wait at most before they are run again; absent: 5 minutes.
    pub max_restart_delay: Option<Duration>,
    /// Which pods that do not say (`hostUsers`) have users of their own.
    pub user_namespaces: UserNamespaces,
}

/// Is told how far a `run_pod` is: what is pulled, and each step as it begins.
///
/// It is called in between, so it must not block.
pub trait RunProgress: Progress {
    /// A step begins, and the one before it is done.
    fn step(&self, step: Step) {
        let _ = step;
    }

    /// What the pod's init does next, within [`Step::Start`], and with which container.
    fn launch(&self, step: LaunchStep, container: Option<&str>) {
        let _ = (step, container);
    }
}

/// Which native pods run in a user namespace, where root is nobody on the host, if their specification does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UserNamespaces {
    /// Those that ask for nothing of the host's (network, processes, files, devices, capabilities that only the host's root
    /// can have), where the kernel and the file systems can do it.
    #[default]
    Auto,
    /// None.
    Never,
}

impl Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunOptions")
            .field("runtime_class", &self.runtime_class)
            .field("pull_policy", &self.pull_policy)
            .field("insecure_registries", &self.insecure_registries)
            .field("extensions", &self.extensions)
            .field("user_namespaces", &self.user_namespaces)
            .finish_non_exhaustive()
    }
}

/// A pod runtime. Only `run_pod` needs a pod's backend: all else works on pods of every class.
///
/// Pods are addressed by id, by the start of an id that only one pod has, by name (in the namespace
/// `default`), or by `namespace/name`. What a caller that died has left is swept away when a
/// runtime is first used, when it runs and deletes pods, and every minute. No operation holds up
/// the thread that awaits it.
///
/// All operations may be called at the same time, from several processes; those on one pod take turns where they have to.
#[async_trait]
pub trait PodRuntime: Send + Sync + Debug {
    /// The classes of pods that can be run; pods of others can still be worked on. Pods that name
    /// no class are of the first.
    fn runtime_classes(&self) -> Vec<RuntimeClass>;

    /// Whether pods of a class can be run here, and how or why not.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported): it is none of
    /// [`runtime_classes`](Self::runtime_classes).
    async fn availability(&self, class: RuntimeClass) -> Result<Capability>;

    /// Whether a pod could be run, as far as that can be told without touching anything: its images
    /// are not looked for. Returns the class that would run it; `class` is as in
    /// [`RunOptions::runtime_class`].
    ///
    /// # Errors
    /// [`Error::Spec`](crate::Error::Spec) names every field that the backend cannot honour; else as
    /// [`run_pod`](Self::run_pod).
    fn check_pod(&self, spec: &PodSpec, class: Option<RuntimeClass>) -> Result<RuntimeClass>;

    /// Runs a pod: once it returns, either every container was started or, on error, nothing of the pod exists.
    ///
    /// Dropping the future before it is done also leaves nothing, once [`settled`](Self::settled)
    /// returns.
    ///
    /// # Errors
    /// [`Error::Run`](crate::Error::Run) names the step and the container; [`Error::NameInUse`](crate::Error::NameInUse) the other pod.
    async fn run_pod(&self, spec: &PodSpec, options: RunOptions) -> Result<PodStatus>;

    /// Gives the volumes of a pod that runs another version of their data: the ConfigMaps and Secrets of `spec`, which is
    /// otherwise what the pod was run with. The files of a volume are replaced at once; a volume of an object that is
    /// immutable stays as it is, and so do variables.
    ///
    /// # Errors
    /// There is no such pod, or it does not run; [`Error::Spec`](crate::Error::Spec) names what differs besides data.
    async fn update_pod(&self, pod: &str, spec: &PodSpec) -> Result<()>;

    /// Waits until each `run_pod` of this runtime has come to its end, or, where it was dropped,
    /// nothing is left of it but what the store has of its images.
    async fn settled(&self);

    /// Stops a pod: SIGTERM to its containers in reverse order, SIGKILL after `grace` (absent: what the pod says). Returns
    /// the final status once nothing of the pod runs; a pod that has ended stays as it is.
    ///
    /// # Errors
    /// There is no such pod.
    async fn stop_pod(&self, pod: &str, grace: Option<Duration>) -> Result<PodStatus>;

    /// Creates one more app container in a pod that runs: with the pod's volumes, users and network. Its
    /// image is pulled first. Its program waits for [`start_container`](Self::start_container). After an
    /// error the pod is as it was.
    ///
    /// # Errors
    /// There is no such pod, or it does not run, or it has a container of that name or lacks a volume;
    /// [`Error::Run`](crate::Error::Run): the image cannot be had, or the container's files not be written;
    /// [`Error::Unsupported`](crate::Error::Unsupported): this kind of pod has the containers that it
    /// began with.
    async fn create_container(
        &self,
        pod: &str,
        container: &ContainerSpec,
        options: RunOptions,
    ) -> Result<PodStatus>;

    /// Creates an ephemeral container in a pod that runs, for looking at its others: it is never run again, and how it ends
    /// does not matter to the pod. It joins the process namespace of `target`, a container that runs. Its program waits for
    /// [`start_container`](Self::start_container).
    ///
    /// # Errors
    /// As [`create_container`](Self::create_container); the target does not run.
    async fn debug_container(
        &self,
        pod: &str,
        container: &ContainerSpec,
        target: Option<&str>,
        options: RunOptions,
    ) -> Result<PodStatus>;

    /// Runs the program of a container that was created.
    ///
    /// # Errors
    /// There is no such pod or container, or it was started before. If its program cannot be run it has
    /// ended; it can be restarted.
    async fn start_container(&self, pod: &str, container: &str) -> Result<PodStatus>;

    /// Changes the limits of an app container; what is absent stays as it is.
    ///
    /// # Errors
    /// There is no such pod or container, or the container has ended, or the kernel refuses;
    /// [`Error::Unsupported`](crate::Error::Unsupported): this kind of pod cannot.
    async fn update_container(
        &self,
        pod: &str,
        container: &str,
        resources: &LinuxResources,
    ) -> Result<PodStatus>;

    /// Gives an app container or a sidecar other limits and requests of processors and memory, for this run and its later ones.
    /// It goes on, unless its `resizePolicy` says that it is run again. The pod's class of service stays.
    ///
    /// # Errors
    /// As [`update_container`](Self::update_container); [`Error::Spec`](crate::Error::Spec): it cannot have these amounts.
    async fn resize_container(&self, pod: &str, container: &str, by: Resized) -> Result<PodStatus>;

    /// Stops one app container: SIGTERM, and SIGKILL after `grace` (absent: what the pod says).
    /// Returns the pod's status once it has ended; one that has ended already stays as it is. A pod
    /// whose last container that is has ended, too.
    ///
    /// # Errors
    /// There is no such pod or container, or the pod does not run;
    /// [`Error::Unsupported`](crate::Error::Unsupported): this kind of pod lives and ends as a
    /// whole.
    async fn stop_container(&self, pod: &str, container: &str, grace: Option<Duration>) -> Result<PodStatus>;

    /// Stops one app container, if it runs, and runs it again: with its volumes, and a writable
    /// layer that is empty. Returns once it was started.
    ///
    /// # Errors
    /// As [`stop_container`](Self::stop_container). If it cannot be started the pod goes on without
    /// it.
    async fn restart_container(
        &self,
        pod: &str,
        container: &str,
        grace: Option<Duration>,
    ) -> Result<PodStatus>;

    /// Has a pod forget an app container that has ended; its log stays until the pod is deleted.
    ///
    /// # Errors
    /// As [`stop_container`](Self::stop_container); the container runs.
    async fn remove_container(&self, pod: &str, container: &str) -> Result<PodStatus>;

    /// Removes a pod that has ended, or, with `force`, kills it first. Afterwards no process, mount, namespace, cgroup or
    /// file of it remains.
    ///
    /// # Errors
    /// There is no such pod (with `force`: no error), or it runs and `force` is not set.
    async fn delete_pod(&self, pod: &str, force: bool) -> Result<()>;

    /// A pod as it stands. One whose init died is `Failed`, reason `InitDied`.
    ///
    /// # Errors
    /// There is no such pod.
    async fn pod_status(&self, pod: &str) -> Result<PodStatus>;

    /// What a pod was run with. Containers that were added later are only in its status.
    ///
    /// # Errors
    /// There is no such pod.
    async fn pod_spec(&self, pod: &str) -> Result<PodSpec>;

    /// Waits until nothing of the pod runs any more, and returns its final status.
    ///
    /// # Errors
    /// There is no such pod, or it was deleted meanwhile.
    async fn wait_pod(&self, pod: &str) -> Result<PodStatus>;

    /// The ids of all pods below this runtime's roots, also of those that cannot be listed.
    ///
    /// # Errors
    /// The pods' state cannot be read.
    async fn pod_ids(&self) -> Result<Vec<String>>;

    /// All pods whose status can be read below this runtime's roots, of whatever class, sorted by namespace and name.
    ///
    /// # Errors
    /// The pods' state cannot be read.
    async fn list_pods(&self) -> Result<Vec<PodStatus>>;

    /// Starts a program in a running container. Without a name, in the only one there is.
    ///
    /// # Errors
    /// There is no such pod or container, it does not run, or the program cannot be executed.
    async fn exec(&self, pod: &str, request: ExecRequest) -> Result<ExecSession>;

    /// Attaches to a container that runs or was created: what it writes from now on, and its input, if it has one. It goes on
    /// when the session ends. Without a name, to the only one there is.
    ///
    /// # Errors
    /// There is no such pod or container, it does not run, or it has no input, or none any more.
    async fn attach(&self, pod: &str, request: AttachRequest) -> Result<ExecSession>;

    /// The log of a container, also of one that has ended.
    ///
    /// # Errors
    /// There is no such pod or container.
    async fn logs(&self, pod: &str, options: LogOptions) -> Result<LogStream>;

    /// What the containers of a running pod use, by container name.
    ///
    /// # Errors
    /// There is no such pod, or it does not run.
    async fn stats(&self, pod: &str) -> Result<BTreeMap<String, Stats>>;

    /// The processes of the running containers of a pod, by container name.
    ///
    /// # Errors
    /// There is no such pod, or it does not run; [`Error::Unsupported`](crate::Error::Unsupported):
    /// its programs are no processes (WebAssembly), or its init is too old to say.
    async fn processes(&self, pod: &str) -> Result<BTreeMap<String, Vec<Process>>>;

    /// What happened in a pod so far and, with `follow`, from now on. Of one that is over: all that
    /// its init remembered, and nothing where that died.
    ///
    /// # Errors
    /// There is no such pod.
    async fn events(&self, pod: &str, follow: bool) -> Result<EventStream>;

    /// Connects to 127.0.0.1:`port` as the pod's containers see it.
    ///
    /// # Errors
    /// There is no such pod, or it does not run. A refused connection comes with the output.
    async fn port_forward(&self, pod: &str, port: u16) -> Result<PortForward>;

    /// What changes among all pods, of whatever class and whoever runs them, from a position on: 0,
    /// how each pod is, and then what changes; that of a [`Change`](crate::Change), what changed
    /// since. Only the last change of each pod is told, and positions are this runtime's own: with
    /// one that is too old, or somebody else's, it begins with
    /// [`Resync`](crate::PodChange::Resync), and then as with 0.
    ///
    /// For CRI's `GetContainerEvents`: a container that was not there, runs, has ended, or whose
    /// `restart_count` is another than in the status before was created, started, stopped or both;
    /// those of a pod that is gone were deleted.
    ///
    /// # Errors
    /// The kernel watches no more directories for this user (inotify), or this process has no
    /// descriptor left: it takes one per pod that runs.
    async fn watch(&self, position: u64) -> Result<Watch>;

    /// Removes what callers that died have left, now.
    ///
    /// # Errors
    /// Something of it cannot be removed.
    async fn sweep(&self) -> Result<SweepReport>;
}
