//! `run_pod`, step by step.

use std::{
    fmt::Display,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    sync::Arc,
};

use magik_infra::{
    ControlClient, ControlError, LaunchError, LaunchProgress, LaunchStep,
    plan::{BackOff, PodPlan},
    status::{PodReason, PodStatus},
};
use rustix::fs::{Mode, OFlags};
use tokio::sync::{oneshot, watch};

use super::{
    backend::{Backend, SELF, Start},
    background::blocking,
    data,
    failure::Failure,
    files::{ContainerImage, PodFiles},
    hooks,
    paths::INIT_LOG,
    process, publish,
    reserve::{Intent, Pending},
    store::{PodDir, Store},
    users::{self, Users},
};
use crate::{
    Error, PodSpec, Result, RunOptions, RuntimeClass, SpecError, Step, UserNamespaces,
    limits::MAX_IGNORED_FIELDS, role, spec::facts,
};

/// One `run_pod`.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) store: Arc<Store>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) spec: Arc<PodSpec>,
    pub(crate) users: Users,
    pub(crate) options: RunOptions,
    /// One of the store's, until there is a pod or nothing is left of it.
    pub(crate) busy: watch::Receiver<()>,
}

/// A pod that was committed, and is still to be kept.
pub(crate) type Ran = (PodStatus, Arc<Pending>);

/// What has to be undone where a run does not come to its end.
#[derive(Debug, Default)]
struct Held {
    intent: Option<Arc<Intent>>,
    pending: Option<Arc<Pending>>,
}

/// Whether a pod can be run at all; nothing is touched. One whose requests the host does not have
/// would wait for ever on a cluster; here it is refused.
pub(crate) fn check(backend: &dyn Backend, spec: &PodSpec) -> Result<()> {
    backend.check(spec)?;
    if backend.binary() == Path::new(SELF) && !role::has_looked() {
        return Err(Error::Unsupported {
            what: "running pods in this program".into(),
            why: "it is their init, too, and its main does not begin with magik_pri::run_role_if_asked"
                .into(),
        });
    }
    let total = facts::host_memory();
    let of_containers: u64 = spec.containers.iter().filter_map(|c| c.requests.memory).sum();
    let requested = of_containers.max(spec.requests.memory.unwrap_or_default());
    if requested > total {
        return Err(Error::Run {
            pod: spec.full_name(),
            step: Step::Validate,
            container: None,
            reason: format!("resources.requests: {requested} bytes of memory, and the host has {total}"),
        });
    }
    Ok(())
}

/// Whether the caller may run pods of that kind, which is better said before images are pulled.
pub(crate) fn check_rights(class: RuntimeClass, spec: &PodSpec) -> Result<()> {
    if class == RuntimeClass::Wasm || rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::Run {
        pod: spec.full_name(),
        step: Step::Validate,
        container: None,
        reason: format!("{class} pods need root: become root, or run WebAssembly (runtimeClassName: wasm)"),
    })
}

/// Whose users the pod's are to be.
pub(crate) fn users(
    store: &Store,
    class: RuntimeClass,
    spec: &PodSpec,
    namespaces: UserNamespaces,
) -> Result<Users> {
    // A machine's users are its own; a WebAssembly program has none.
    if class != RuntimeClass::Native || spec.host_users == Some(true) {
        return Ok(Users::OfHost);
    }
    let asked = spec.host_users.is_some();
    // Whether it is possible here costs some system calls.
    let auto = || namespaces == UserNamespaces::Auto && users::asks_nothing_of_the_host(spec);
    if !asked && !auto() {
        return Ok(Users::OfHost);
    }
    match users::impossible(&store.paths, spec) {
        None if asked => Ok(Users::Own),
        None => Ok(Users::OwnIfLeft),
        Some(why) if asked => Err(SpecError::unsupported("spec.hostUsers: false", why).into()),
        Some(_) => Ok(Users::OfHost),
    }
}

impl Run {
    /// Runs the pod and gives it to who waits for the answer; that one keeps it. Where nobody waits
    /// any more (`taken` is closed), as after a failure, nothing is left of it in the end.
    pub(crate) async fn run(self, answer: oneshot::Sender<Result<Ran>>, mut taken: oneshot::Receiver<()>) {
        let mut held = Held::default();
        let done = tokio::select! {
            biased;
            _ = &mut taken => None,
            done = self.steps(&mut held) => Some(done),
        };
        let error = match done {
            Some(Ok(ran)) => {
                let init = ran.1.init.get().cloned();
                if answer.send(Ok(ran)).is_ok() && taken.await.is_ok() {
                    drop((self, held));
                    // A caller may live longer than its pods: the child is waited for.
                    if let Some(init) = init {
                        let _ = process::ended(&init).await;
                    }
                    return;
                }
                None
            }
            Some(Err(error)) => Some((error, answer)),
            None => None,
        };
        let undone = blocking(move || {
            drop(held);
            Ok(())
        });
        let _ = undone.await;
        if let Some((error, answer)) = error {
            let _ = answer.send(Err(error));
        }
    }

    async fn steps(&self, held: &mut Held) -> Result<Ran> {
        hooks::reached(Step::Validate).await;
        self.begins(Step::Images);

        let id = self.store.paths.new_id()?;
        let (store, new_id, busy) = (self.store.clone(), id.clone(), self.busy.clone());
        let intent = blocking(move || Intent::new(&store, &new_id, busy).map(Arc::new)).await;
        let intent = intent.map_err(|e| self.failed(Step::Images, None, e))?;
        held.intent = Some(intent.clone());
        let images = self.images(intent.id(), &intent).await?;
        hooks::reached(Step::Images).await;

        held.intent = None;
        self.begins(Step::Reserve);
        let (store, spec, users) = (self.store.clone(), self.spec.clone(), self.users);
        let pending = blocking(move || {
            let pending = store.reserve(&id, &spec, users)?;
            intent.hand_over();
            Ok(Arc::new(pending))
        });
        let pending = pending.await.map_err(|e| match e {
            Error::Io { .. } => self.failed(Step::Reserve, None, e),
            other => other,
        })?;
        held.pending = Some(pending.clone());
        hooks::reached(Step::Reserve).await;
        self.begins(Step::Launch);

        let (plan, socket) = self.launch(&pending, images).await?;
        let client = self.connect(&pending, socket).await?;
        hooks::reached(Step::Launch).await;
        self.begins(Step::Start);

        self.start(&pending, &client, &plan).await?;
        hooks::reached(Step::Start).await;
        self.begins(Step::Commit);

        let renamed = pending.clone();
        let renamed = blocking(move || Ok(renamed.commit())).await?;
        let pod = renamed.map_err(|e| self.failed(Step::Commit, None, e))?;
        hooks::reached(Step::Commit).await;
        let answer = client.commit().await;
        let status = self.committed(&pending, pod, answer).await?;
        Ok((status, pending))
    }

    fn begins(&self, step: Step) {
        if let Some(progress) = &self.options.progress {
            progress.step(step);
        }
    }

    pub(super) fn failed(&self, step: Step, container: Option<String>, reason: impl Display) -> Error {
        Error::Run {
            pod: self.spec.full_name(),
            step,
            container,
            reason: reason.to_string(),
        }
    }

    /// Writes the pod's files and starts its init.
    async fn launch(
        &self,
        pending: &Arc<Pending>,
        images: Vec<ContainerImage>,
    ) -> Result<(PodPlan, UnixStream)> {
        let (store, spec, backend) = (self.store.clone(), self.spec.clone(), self.backend.clone());
        let (pending, extensions) = (pending.clone(), self.options.extensions.clone());
        let max_log_size = self.options.max_log_size;
        let back_off = self.options.max_restart_delay.map(BackOff::at_most);
        let launched = blocking(move || {
            let files = PodFiles::new(&store.paths, &store.images, &pending.id, &spec, pending.users);
            let launch = || {
                let mut plan = files.write(&images, &*backend)?;
                plan.extensions.clone_from(&extensions);
                plan.max_log_size = max_log_size;
                plan.ignored = spec.ignored(backend.class());
                plan.ignored.truncate(MAX_IGNORED_FIELDS);
                plan.back_off = back_off.unwrap_or_default();
                let listeners = publish::listen(&spec)?;
                let socket = start_init(&store, &*backend, &files, listeners, &pending).map_err(|e| {
                    Failure::new(format!("start the pod init {}: {e}", backend.binary().display()))
                })?;
                Ok((plan, socket))
            };
            Ok(launch())
        });
        let failed = |failure: Failure| self.failed(Step::Launch, failure.container, failure.reason);
        launched.await?.map_err(failed)
    }

    async fn connect(&self, pending: &Arc<Pending>, socket: UnixStream) -> Result<ControlClient> {
        let socket = socket
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(socket));
        let socket = socket.map_err(|e| self.failed(Step::Launch, None, e))?;
        match ControlClient::over(socket).await {
            Ok(client) => Ok(client),
            Err(e) => Err(self.init_failed(pending, Step::Launch, e).await),
        }
    }

    async fn start(&self, pending: &Arc<Pending>, client: &ControlClient, plan: &PodPlan) -> Result<()> {
        let started = async {
            self.hand_over_data(pending, client).await?;
            let mut launch = client.start_sandbox(plan).await?;
            while let Some(LaunchProgress { step, container }) = launch.next().await? {
                if let Some(progress) = &self.options.progress {
                    progress.launch(step, Some(container.as_str()).filter(|c| !c.is_empty()));
                }
            }
            Ok(())
        };
        match started.await {
            Ok(()) => Ok(()),
            Err(ControlError::Launch(e)) => {
                Err(self.failed(Step::Start, e.container, format!("{}: {}", e.step, e.message)))
            }
            Err(other) => Err(self.init_failed(pending, Step::Start, other).await),
        }
    }

    /// Gives the init the files of ConfigMaps, Secrets and the like, which lie nowhere else.
    async fn hand_over_data(&self, pending: &Pending, client: &ControlClient) -> Result<(), ControlError> {
        let files = data::files(&self.spec, &pending.id, data::all(&self.spec));
        let files = files.map_err(|e| ControlError::Launch(LaunchError::pod(LaunchStep::Plan, &e)))?;
        for (volume, files) in files {
            client.stage_files(&volume, files).await?;
        }
        Ok(())
    }

    /// The pod stands once its init has heard of the commit, or has come to its end since.
    async fn committed(
        &self,
        pending: &Arc<Pending>,
        pod: PodDir,
        answer: Result<(), ControlError>,
    ) -> Result<PodStatus> {
        let status = blocking(move || pod.status()).await?;
        match answer {
            Err(e) if !status.phase.is_final() || status.reason == Some(PodReason::InitDied) => {
                Err(self.init_failed(pending, Step::Commit, e).await)
            }
            _ => Ok(status),
        }
    }

    /// The init did not answer: if it has ended, how is what matters.
    async fn init_failed(&self, pending: &Arc<Pending>, step: Step, error: ControlError) -> Error {
        let pending = pending.clone();
        let words = blocking(move || Ok(pending.last_words())).await;
        let reason = match (words.ok().flatten(), error) {
            (Some(words), ControlError::Disconnected) => format!("the pod init ended ({words})"),
            (Some(words), error) => format!("{error}; the pod init ended ({words})"),
            (None, error) => error.to_string(),
        };
        self.failed(step, None, reason)
    }
}

fn start_init(
    store: &Store,
    backend: &dyn Backend,
    pod: &PodFiles<'_>,
    listeners: Vec<OwnedFd>,
    pending: &Pending,
) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let null = |flags| rustix::fs::open("/dev/null", flags | OFlags::CLOEXEC, Mode::empty());
    let log = store.paths.log(&pending.id, INIT_LOG);
    let log_flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let state = rustix::fs::open(
        pending.dir(),
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let descriptors: [OwnedFd; 6] = [
        null(OFlags::RDONLY)?,
        null(OFlags::WRONLY)?,
        rustix::fs::open(&log, log_flags, Mode::from_raw_mode(0o600))?,
        theirs.into(),
        pending.lock()?,
        state,
    ];
    let process = backend.start(Start {
        id: &pending.id,
        spec: pod.spec,
        hostname: &pod.hostname,
        sandbox: store.paths.sandbox(&pending.id),
        data: store.paths.data_root(),
        users: pending.users,
        cgroups: &store.cgroups,
        descriptors,
        listeners,
    })?;
    // From here on dropping `pending` kills it.
    let dir = pending.dir();
    pending.init.get_or_init(|| Arc::new(process)).record(&dir)?;
    Ok(ours)
}
