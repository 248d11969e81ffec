//! What is done with pods: [`PodRuntime`] for [`Pods`].

use std::{
    collections::BTreeMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use magik_infra::{
    AttachRequest, ControlError, EventStream, ExecRequest, ExecSession, PortForward,
    plan::EphemeralPlan,
    processes::Process,
    status::{PodStatus, Resized},
};
use magik_oci::{Capability, Stats};
use oci_spec::runtime::LinuxResources;
use tokio::sync::oneshot;

use super::{
    Pods,
    add::{self, Addition},
    background::blocking,
    data,
    files::remove_files,
    init,
    opened::Opened,
    run::{self, Run},
    store::{PodDir, Store},
    update, volumes,
};
use crate::{
    ContainerSpec, Error, LogOptions, LogStream, PodRuntime, PodSpec, Result, RunOptions, RuntimeClass,
    SweepReport, Watch, session::LogFile,
};

/// How long somebody else may take to delete a pod that one would stop.
const DELETION_TIME: Duration = Duration::from_secs(10);
/// How long is waited before the pod is looked for once more.
const DELETION_PAUSE: Duration = Duration::from_millis(10);

#[async_trait]
impl PodRuntime for Pods {
    fn runtime_classes(&self) -> Vec<RuntimeClass> {
        self.backends.iter().map(|backend| backend.class()).collect()
    }

    async fn availability(&self, class: RuntimeClass) -> Result<Capability> {
        let backend = self.backend(class)?.clone();
        blocking(move || Ok(backend.availability())).await
    }

    fn check_pod(&self, spec: &PodSpec, class: Option<RuntimeClass>) -> Result<RuntimeClass> {
        let backend = self.backend_for(spec, class)?;
        run::check(&**backend, spec)?;
        Ok(backend.class())
    }

    async fn run_pod(&self, spec: &PodSpec, options: RunOptions) -> Result<PodStatus> {
        let backend = self.backend_for(spec, options.runtime_class)?.clone();
        run::check(&*backend, spec)?;
        spec.check_sysctls(&options.allowed_unsafe_sysctls)?;
        run::check_rights(backend.class(), spec)?;
        let (of, class, namespaces) = (spec.clone(), backend.class(), options.user_namespaces);
        let prepared = self.with_opened(move |opened| {
            let store = opened.swept()?;
            let spec = volumes::with_claims(&store.paths, &of)?;
            let users = run::users(store, class, &spec, namespaces)?;
            Ok((store.clone(), users, Arc::new(spec)))
        });
        let (store, users, spec) = prepared.await?;
        backend.check(&spec)?;
        let run = Run {
            busy: store.busy.subscribe(),
            store,
            backend,
            spec,
            users,
            options,
        };
        // A task of its own, so that what has to be undone is, where it may take its time, when
        // this is dropped.
        let (taken, given_up) = oneshot::channel();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(run.run(answer, given_up));
        let answered = answered.await;
        let (status, pending) =
            answered.map_err(|e| Error::io("a background task")(io::Error::other(e)))??;
        pending.keep();
        let _ = taken.send(());
        Ok(status)
    }

    async fn settled(&self) {
        if let Some(store) = self.opened.store.get() {
            store.busy.closed().await;
        }
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
                    let status = self.ended(pod).await?;
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

    async fn create_container(
        &self,
        pod: &str,
        container: &ContainerSpec,
        options: RunOptions,
    ) -> Result<PodStatus> {
        self.add_container(pod, container, None, options).await
    }

    async fn debug_container(
        &self,
        pod: &str,
        container: &ContainerSpec,
        target: Option<&str>,
        options: RunOptions,
    ) -> Result<PodStatus> {
        let target = target.map(str::to_owned);
        self.add_container(pod, container, Some(EphemeralPlan { target }), options)
            .await
    }

    async fn start_container(&self, pod: &str, container: &str) -> Result<PodStatus> {
        let (client, _) = self.connect(pod, "start a container").await?;
        let started = client.start_container(container).await;
        started.map_err(|e| Error::control(pod, "start a container", &e))
    }

    async fn update_container(
        &self,
        pod: &str,
        container: &str,
        resources: &LinuxResources,
    ) -> Result<PodStatus> {
        let (client, _) = self.connect(pod, "update a container").await?;
        let updated = client.update_container(container, resources).await;
        updated.map_err(|e| Error::control(pod, "update a container", &e))
    }

    async fn resize_container(&self, pod: &str, container: &str, by: Resized) -> Result<PodStatus> {
        self.resize(pod, container, by).await
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
        let (client, status) = self.connect(pod, "remove a container").await?;
        let (id, name) = (status.id, container.to_owned());
        // Who adds one of that name waits until the files are gone.
        let of = id.clone();
        let turn = self.with_store(move |store| add::take_turn(&store.paths.bundles(&of)));
        let turn = turn.await?;
        let removed = client.remove_container(container).await;
        let now = removed.map_err(|e| Error::control(pod, "remove a container", &e))?;
        let files = move |store: &Arc<Store>| {
            let _turn = turn;
            let removed = remove_files(&store.paths, &id, &name);
            removed
                .map_err(|failure| Error::io(format!("container {name}"))(io::Error::other(failure.reason)))
        };
        self.with_store(files).await?;
        Ok(now)
    }

    async fn delete_pod(&self, pod: &str, force: bool) -> Result<()> {
        let pod = pod.to_owned();
        let deleted = self.with_opened(move |opened| {
            let store = opened.swept()?;
            match store.resolve(&pod) {
                Err(Error::NotFound(_)) if force => Ok(()),
                found => store.delete(&found?, force),
            }
        });
        deleted.await
    }

    async fn pod_status(&self, pod: &str) -> Result<PodStatus> {
        self.with_pod(pod, |_, found| found.status()).await
    }

    async fn pod_spec(&self, pod: &str) -> Result<PodSpec> {
        self.with_pod(pod, |_, found| found.spec()).await
    }

    async fn update_pod(&self, pod: &str, spec: &PodSpec) -> Result<()> {
        let (client, status) = self.connect(pod, "update").await?;
        let known = self.pod_spec(&status.id).await?;
        update::check(&known, spec)?;
        let failed = |e: ControlError| Error::control(pod, "update", &e);
        for (volume, files) in data::files(spec, &status.id, spec.changeable())? {
            client.stage_files(&volume, files).await.map_err(failed)?;
        }
        client.update_files().await.map_err(failed)
    }

    async fn wait_pod(&self, pod: &str) -> Result<PodStatus> {
        self.ended(pod).await
    }

    async fn pod_ids(&self) -> Result<Vec<String>> {
        let ids = |store: &Arc<Store>| Ok(store.all()?.into_iter().map(|pod| pod.id).collect());
        self.with_store(ids).await
    }

    async fn list_pods(&self) -> Result<Vec<PodStatus>> {
        let listed = self.with_store(|store| {
            let mut pods = Vec::new();
            for pod in store.all()? {
                match pod.status() {
                    Ok(status) => pods.push(status),
                    // Deleted since it was listed.
                    Err(Error::NotFound(_)) => {}
                    // One pod whose status cannot be read does not hide the others.
                    Err(error) => tracing::warn!(id = pod.id, %error, "a pod is not listed"),
                }
            }
            pods.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            Ok(pods)
        });
        listed.await
    }

    async fn exec(&self, pod: &str, request: ExecRequest) -> Result<ExecSession> {
        let (client, status) = self.connect(pod, "exec").await?;
        let named = Some(request.container.as_str()).filter(|name| !name.is_empty());
        let request = ExecRequest {
            container: container(&status, pod, named)?,
            ..request
        };
        let session = client.exec(&request).await;
        session.map_err(|e| Error::control(pod, "exec", &e))
    }

    async fn attach(&self, pod: &str, request: AttachRequest) -> Result<ExecSession> {
        let (client, status) = self.connect(pod, "attach").await?;
        let named = Some(request.container.as_str()).filter(|name| !name.is_empty());
        let request = AttachRequest {
            container: container(&status, pod, named)?,
            ..request
        };
        let session = client.attach_to(&request).await;
        session.map_err(|e| Error::control(pod, "attach", &e))
    }

    async fn logs(&self, pod: &str, options: LogOptions) -> Result<LogStream> {
        let (given, wanted) = (pod.to_owned(), options.clone());
        let found = self.with_pod(pod, move |store, found| {
            let name = container(&found.status()?, &given, wanted.container.as_deref())?;
            let file = LogFile {
                path: store.paths.log(&found.id, &name),
                options: wanted.of_reader(),
                pod: given,
            };
            Ok((name, file))
        });
        let (name, file) = found.await?;
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

    async fn processes(&self, pod: &str) -> Result<BTreeMap<String, Vec<Process>>> {
        let (client, _) = self.connect(pod, "top").await?;
        let processes = client.processes().await;
        processes.map_err(|e| Error::control(pod, "top", &e))
    }

    async fn events(&self, pod: &str, follow: bool) -> Result<EventStream> {
        match self.connect(pod, "events").await {
            Ok((client, _)) => {
                let events = client.events(follow).await;
                events.map_err(|e| Error::control(pod, "events", &e))
            }
            Err(over @ Error::WrongState { .. }) => {
                let past = |_: &Store, found: PodDir| match found.status()?.phase.is_final() {
                    true => found.past_events(),
                    false => Err(over),
                };
                self.with_pod(pod, past).await
            }
            Err(e) => Err(e),
        }
    }

    async fn port_forward(&self, pod: &str, port: u16) -> Result<PortForward> {
        let (client, _) = self.connect(pod, "port-forward").await?;
        let forward = client.port_forward(port).await;
        forward.map_err(|e| Error::control(pod, "port-forward", &e))
    }

    async fn watch(&self, position: u64) -> Result<Watch> {
        let watcher = self.with_opened(Opened::watcher).await?;
        Ok(Watch::new(watcher.changes.clone(), position, watcher))
    }

    async fn sweep(&self) -> Result<SweepReport> {
        self.with_opened(|opened| opened.open()?.0.sweep()).await
    }
}

impl Pods {
    async fn add_container(
        &self,
        pod: &str,
        container: &ContainerSpec,
        ephemeral: Option<EphemeralPlan>,
        options: RunOptions,
    ) -> Result<PodStatus> {
        let (client, status) = self.connect(pod, "create a container").await?;
        let id = status.id.clone();
        let found = self.with_store(move |store| {
            let class = init::class(&store.paths.sandbox(&id));
            let class = class.map_err(Error::io(format!("pod {id}: find its runtime class")))?;
            Ok((store.clone(), class))
        });
        let (store, class) = found.await?;
        let addition = Addition {
            store,
            backend: self.backend(class)?.clone(),
            container: container.clone(),
            options,
            ephemeral,
            pod: status,
        };
        addition.create(client).await
    }
}

/// The container that is meant: the one named, or the only one there is.
fn container(status: &PodStatus, pod: &str, named: Option<&str>) -> Result<String> {
    let all = || {
        status
            .containers
            .iter()
            .chain(&status.init_containers)
            .chain(&status.ephemeral_containers)
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
