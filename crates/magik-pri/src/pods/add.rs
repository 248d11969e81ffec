//! A container that is added to a pod that runs.

use std::{io, os::fd::OwnedFd, path::Path, sync::Arc};

use magik_infra::{
    ControlClient, ControlError,
    plan::EphemeralPlan,
    status::{ContainerPhase, PodStatus},
};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use super::{
    backend::Backend,
    background::blocking,
    failure::Failure,
    files::{ContainerImage, PodFiles, remove_files},
    run::Run,
    store::Store,
    users::Users,
};
use crate::{
    ContainerSpec, Error, PodSpec, Result, RunOptions, SpecError, Step,
    limits::{MAX_CONTAINERS_PER_POD, MAX_EPHEMERAL_CONTAINERS},
    spec::dns_label,
};

/// A container to be added to a pod.
#[derive(Debug)]
pub(crate) struct Addition {
    pub(crate) store: Arc<Store>,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) container: ContainerSpec,
    pub(crate) options: RunOptions,
    /// It is for looking at others.
    pub(crate) ephemeral: Option<EphemeralPlan>,
    /// The pod as it stands.
    pub(crate) pod: PodStatus,
}

impl Addition {
    /// Creates the container; its program waits to be started. Once its image is there this goes on to
    /// its end, also where nobody waits for it any more.
    pub(crate) async fn create(self, client: ControlClient) -> Result<PodStatus> {
        let (store, id) = (self.store.clone(), self.pod.id.clone());
        let spec = blocking(move || store.resolve(&id)?.spec()).await?;
        self.check(&self.pod, &spec)?;
        let run = Run {
            busy: self.store.busy.subscribe(),
            store: self.store.clone(),
            backend: self.backend.clone(),
            spec: Arc::new(PodSpec {
                init_containers: Vec::new(),
                containers: vec![self.container.clone()],
                // What they are made of is there.
                volumes: Vec::new(),
                ..spec.clone()
            }),
            // Those of the pod, which has them already.
            users: Users::OfHost,
            options: self.options.clone(),
        };
        let mut images = run.images(&self.pod.id, &Arc::new(())).await?;
        let image = images.pop().ok_or_else(|| Error::NotFound(self.pod.id.clone()))?;
        let created = tokio::spawn(Arc::new(self).write_and_create(client, run, spec, image));
        created
            .await
            .unwrap_or_else(|e| Err(Error::io("a background task")(io::Error::other(e))))
    }

    /// What nobody else may do at the same time for this pod: another addition of that name would write
    /// the same files.
    async fn write_and_create(
        self: Arc<Self>,
        client: ControlClient,
        run: Run,
        spec: PodSpec,
        image: ContainerImage,
    ) -> Result<PodStatus> {
        let (store, id) = (self.store.clone(), self.pod.id.clone());
        let turn = Arc::new(blocking(move || take_turn(&store.paths.bundles(&id))).await?);
        let refused = |error: &ControlError| Error::control(&self.pod.id, "create a container", error);
        let now = client.status().await.map_err(|e| refused(&e))?;
        self.check(&now, &spec)?;

        let (this, own_spec, held) = (self.clone(), spec.clone(), turn.clone());
        let plan = blocking(move || {
            let _held = held;
            let (backend, container) = (&this.backend, &this.container);
            let files = this.files(&own_spec)?;
            let write = || {
                let plan = backend.container(&files, container, &image)?;
                backend.show_layers(&files, container, &image)?;
                Ok(plan)
            };
            Ok(files.add(container, write))
        });
        let failed =
            |failure: Failure| run.failed(Step::Launch, Some(self.container.name.clone()), failure.reason);
        let plan = plan.await?.map_err(failed)?;
        let created = client.create_container(&plan).await;
        let error = match created {
            Ok(status) => return Ok(status),
            Err(error) => refused(&error),
        };
        let this = self.clone();
        let undone = blocking(move || {
            let _turn = turn;
            Ok(remove_files(
                &this.store.paths,
                &this.pod.id,
                &this.container.name,
            ))
        });
        // What stays is removed with the pod.
        let _ = undone.await;
        Err(error)
    }

    fn files<'a>(&'a self, spec: &'a PodSpec) -> Result<PodFiles<'a>> {
        let users = self.pod.user_namespace.map(|own| own.host_id);
        let (paths, images) = (&self.store.paths, &self.store.images);
        let files = PodFiles::new(paths, images, &self.pod.id, spec, users);
        Ok(files.of_added(paths.new_id()?, self.ephemeral.clone()))
    }

    /// Whether the pod, which stands so, can have such a container; nothing is touched.
    fn check(&self, pod: &PodStatus, spec: &PodSpec) -> Result<()> {
        let container = &self.container;
        // It is a directory's name, too.
        dns_label(&container.name)
            .map_err(|reason| SpecError::invalid("name", format!("{:?} {reason}", container.name)))?;
        let refused = |reason: String| Error::Container {
            pod: pod.id.clone(),
            reason,
        };
        if pod.container(&container.name).is_some() {
            return Err(refused(format!("it has a container {}", container.name)));
        }
        let is_ephemeral = self.ephemeral.is_some();
        let (count, most, what) = if is_ephemeral {
            (
                pod.ephemeral_containers.len(),
                MAX_EPHEMERAL_CONTAINERS,
                "ephemeral containers",
            )
        } else {
            let own = pod.init_containers.len() + pod.containers.len();
            (own, MAX_CONTAINERS_PER_POD, "containers")
        };
        if count >= most {
            return Err(refused(format!("it has {most} {what}, which is the most")));
        }
        let target = self.ephemeral.as_ref().and_then(|own| own.target.as_deref());
        if let Some(target) = target {
            match pod.container(target).map(|target| &target.state) {
                None => return Err(refused(format!("it has no container {target} to look at"))),
                Some(ContainerPhase::Running { .. }) => {}
                Some(_) => return Err(refused(format!("its container {target} does not run"))),
            }
        }
        let missing = |volume: &str| spec.volumes.iter().all(|known| known.name != volume);
        if let Some(mount) = container.mounts.iter().find(|mount| missing(&mount.volume)) {
            return Err(refused(format!("it has no volume {}", mount.volume)));
        }
        let added = self.backend.check_added(spec, container, is_ephemeral);
        added.map_err(|why| Error::Unsupported {
            what: format!("create a container in pod {}", pod.id),
            why: why.to_owned(),
        })
    }
}

/// Waits until nobody else adds a container to this pod, or removes one.
pub(crate) fn take_turn(bundles: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lock = || {
        let dir = open(bundles, flags, Mode::empty())?;
        flock(&dir, FlockOperation::LockExclusive)?;
        io::Result::Ok(dir)
    };
    lock().map_err(Error::io(format!("lock {}", bundles.display())))
}
