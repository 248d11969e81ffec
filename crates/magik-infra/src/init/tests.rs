//! Extensions and order, with a runtime that only pretends: real containers are in `tests/pods`.

mod planned;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use magik_oci::{
    ContainerId, ContainerState, CreateOptions, Error, ExecIo, ExecOptions, Exit, OciRuntime, Result, Signal,
    Stats, Status, Stdio,
};
use oci_spec::runtime::{LinuxResources, Process};
use tokio::{
    io::{DuplexStream, duplex},
    sync::{mpsc, watch},
};

use super::*;
use crate::{
    client::ControlClient,
    error::ControlError,
    events::{Event, EventKind},
    extension::{ExtensionError, PodContext},
    plan::{ContainerPlan, PodPlan, RootfsPlan},
    status::Phase,
};

/// Remembers what it was asked to do; its containers run until they are signalled.
#[derive(Debug, Default)]
struct Pretender {
    calls: Mutex<Vec<String>>,
    containers: Mutex<HashMap<String, Pretended>>,
}

#[derive(Debug)]
struct Pretended {
    exit: watch::Sender<Option<Exit>>,
    _stdio: Option<Stdio>,
}

impl Pretender {
    fn note(&self, what: &str, id: &ContainerId) {
        self.calls.lock().unwrap().push(format!("{what} {id}"));
    }

    fn calls(&self, of: &str) -> Vec<String> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter_map(|c| c.strip_prefix(of))
            .map(|c| c.trim().to_owned())
            .collect()
    }

    fn state(id: &ContainerId) -> ContainerState {
        ContainerState {
            pid: Some(7),
            ..ContainerState::new(id.clone(), Status::Created)
        }
    }
}

#[async_trait]
impl OciRuntime for Pretender {
    fn name(&self) -> &'static str {
        "pretender"
    }
    async fn create(
        &self,
        id: &ContainerId,
        _: &Path,
        stdio: Stdio,
        _: CreateOptions,
    ) -> Result<ContainerState> {
        self.note("create", id);
        // The later ones are the faster ones.
        let delay = 5u64.saturating_sub(id.as_str().len() as u64);
        tokio::time::sleep(Duration::from_millis(delay)).await;
        let container = Pretended {
            exit: watch::Sender::new(None),
            _stdio: Some(stdio),
        };
        self.containers.lock().unwrap().insert(id.to_string(), container);
        Ok(Self::state(id))
    }
    async fn start(&self, id: &ContainerId) -> Result<()> {
        self.note("start", id);
        Ok(())
    }
    async fn state(&self, id: &ContainerId) -> Result<ContainerState> {
        Ok(Self::state(id))
    }
    async fn wait(&self, id: &ContainerId) -> Result<Exit> {
        let mut exit = self.containers.lock().unwrap()[id.as_str()].exit.subscribe();
        let exit = exit
            .wait_for(Option::is_some)
            .await
            .map_err(|_| Error::NotFound(id.clone()))?;
        Ok(exit.unwrap())
    }
    async fn kill(&self, id: &ContainerId, signal: Signal, _: bool) -> Result<()> {
        self.note("kill", id);
        self.containers.lock().unwrap()[id.as_str()]
            .exit
            .send_replace(Some(Exit::signalled(signal.0)));
        Ok(())
    }
    async fn delete(&self, id: &ContainerId, _: bool) -> Result<()> {
        self.note("delete", id);
        Ok(())
    }
    async fn exec(&self, id: &ContainerId, _: &Process, _: ExecIo, _: ExecOptions) -> Result<i32> {
        Err(Error::NotFound(id.clone()))
    }
    async fn wait_exec(&self, id: &ContainerId, _: i32) -> Result<Exit> {
        Err(Error::NotFound(id.clone()))
    }
    async fn pause(&self, _: &ContainerId) -> Result<()> {
        Ok(())
    }
    async fn resume(&self, _: &ContainerId) -> Result<()> {
        Ok(())
    }
    async fn update(&self, _: &ContainerId, _: &LinuxResources) -> Result<()> {
        Ok(())
    }
    async fn stats(&self, _: &ContainerId) -> Result<Stats> {
        Ok(Stats::default())
    }
    async fn processes(&self, _: &ContainerId) -> Result<Vec<i32>> {
        Ok(Vec::new())
    }
    async fn list(&self) -> Result<Vec<ContainerState>> {
        Ok(Vec::new())
    }
}

/// Takes connections from a queue.
struct Queue(mpsc::Receiver<DuplexStream>);

impl Acceptor for Queue {
    type Stream = DuplexStream;
    async fn accept(&mut self) -> io::Result<DuplexStream> {
        match self.0.recv().await {
            Some(stream) => Ok(stream),
            None => std::future::pending().await,
        }
    }
}

/// Fails, hangs or panics where it is told to, and remembers what it was called with.
#[derive(Debug, Clone, Default)]
struct Troublemaker {
    required: bool,
    on: &'static str,
    how: &'static str,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Troublemaker {
    fn new(required: bool, on: &'static str, how: &'static str) -> Self {
        Self {
            required,
            on,
            how,
            calls: Arc::default(),
        }
    }

    async fn called(&self, what: &str) -> Result<(), ExtensionError> {
        self.calls.lock().unwrap().push(what.to_owned());
        match self.how {
            how if !what.starts_with(self.on) || how.is_empty() => Ok(()),
            "fail" => Err("did not want to".into()),
            "panic" => panic!("on purpose"),
            _ => std::future::pending().await,
        }
    }
}

#[async_trait]
impl InfraExtension for Troublemaker {
    fn name(&self) -> &str {
        "troublemaker"
    }
    fn required(&self) -> bool {
        self.required
    }
    async fn on_start(&self, pod: &PodContext) -> Result<(), ExtensionError> {
        self.called(&format!("start {}", pod.plan().name)).await
    }
    async fn on_ready(&self, _: &PodContext) -> Result<(), ExtensionError> {
        self.called("ready").await
    }
    async fn on_event(&self, event: &Event) -> Result<(), ExtensionError> {
        self.called(&format!("event {}", event.kind)).await
    }
    async fn on_stop(&self, _: &PodContext) -> Result<(), ExtensionError> {
        self.called("stop").await
    }
}

struct World {
    _dir: tempfile::TempDir,
    runtime: Arc<Pretender>,
    client: ControlClient,
    connections: mpsc::Sender<DuplexStream>,
    init: tokio::task::JoinHandle<io::Result<PodOutcome>>,
    plan: PodPlan,
}

async fn world(containers: &[&str], extension: Troublemaker) -> World {
    let dir = tempfile::tempdir().unwrap();
    let container = |name: &&str| ContainerPlan {
        name: (*name).to_owned(),
        image: "none".into(),
        image_id: None,
        bundle: dir.path().to_owned(),
        rootfs: RootfsPlan::Directory {
            path: dir.path().to_owned(),
        },
        log: dir.path().join(format!("{name}.log")),
        attach: None,
        lifecycle: crate::plan::Lifecycle::default(),
        message: None,
        console: crate::plan::ConsolePlan::default(),
        ephemeral: None,
    };
    let plan = PodPlan {
        id: "id".into(),
        name: "pod".into(),
        namespace: "default".into(),
        containers: containers.iter().map(container).collect(),
        grace_period_s: 5,
        ..PodPlan::default()
    };
    let runtime = Arc::new(Pretender::default());
    let state = StateDir::new(std::fs::File::open(dir.path()).unwrap().into());
    let options = InitOptions {
        extension_timeout: Duration::from_millis(50),
        ..InitOptions::default()
    };
    let (ours, theirs) = duplex(4096);
    let (connections, queue) = mpsc::channel(1);
    let init = PodInit::new(runtime.clone(), state, options)
        .extension(Box::new(extension))
        .registry(&[("note", planned::Note::make)]);
    let init = tokio::spawn(init.run(theirs, Queue(queue)));
    let client = ControlClient::over(ours).await.unwrap();
    World {
        _dir: dir,
        runtime,
        client,
        connections,
        init,
        plan,
    }
}

impl World {
    async fn launch(&self) -> Result<(), ControlError> {
        self.client.start_sandbox(&self.plan).await?.ready().await
    }

    async fn another_client(&self) -> ControlClient {
        let (ours, theirs) = duplex(4096);
        self.connections.send(theirs).await.unwrap();
        ControlClient::over(ours).await.unwrap()
    }

    async fn events(&self) -> Vec<Event> {
        let client = self.another_client().await;
        let mut events = client.events(false).await.unwrap();
        let mut all = Vec::new();
        while let Some(event) = events.next().await.unwrap() {
            all.push(event);
        }
        all
    }

    async fn finished(self) -> PodOutcome {
        self.init.await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn containers_start_in_order_and_stop_in_reverse() {
    let world = world(&["a", "bb", "ccc"], Troublemaker::default()).await;
    world.launch().await.unwrap();
    world.client.commit().await.unwrap();
    let status = world.client.stop(None).await.unwrap();
    assert_eq!(world.runtime.calls("create"), ["a", "bb", "ccc"]);
    assert_eq!(world.runtime.calls("start"), ["a", "bb", "ccc"]);
    assert_eq!(world.runtime.calls("kill"), ["ccc", "bb", "a"]);
    assert_eq!((status.phase, status.exit_code()), (Phase::Failed, 143));
    assert!(matches!(world.finished().await, PodOutcome::Finished(_)));
}

#[tokio::test]
async fn who_follows_the_log_of_all_runs_hears_of_the_removal() {
    let world = world(&["a", "b"], Troublemaker::default()).await;
    world.launch().await.unwrap();
    world.client.commit().await.unwrap();
    let client = world.another_client().await;
    let mut log = client.logs_of_all_runs("a").await.unwrap();
    world.client.stop_container("a", None).await.unwrap();
    assert!(log.next().await.unwrap().unwrap().data.is_empty(), "all is there");
    world.client.remove_container("a").await.unwrap();
    let to_its_end = async {
        while let Some(chunk) = log.next().await.unwrap() {
            assert!(chunk.data.is_empty(), "{chunk:?}");
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), to_its_end);
    ended.await.expect("it ends");
}

#[tokio::test]
async fn an_extension_sees_the_whole_life() {
    let extension = Troublemaker::default();
    let world = world(&["a"], extension.clone()).await;
    world.launch().await.unwrap();
    world.client.stop(None).await.unwrap();
    let calls = extension.calls.lock().unwrap().clone();
    let expected = [
        "start pod",
        "event container.created",
        "event container.started",
        "ready",
        "event pod.ready",
        "event pod.stopping",
        "event container.exited",
        "event pod.stopped",
        "stop",
    ];
    // Events come from a queue of their own: only their order among themselves is certain.
    let events = |calls: &[String]| -> Vec<String> {
        calls.iter().filter(|c| c.starts_with("event")).cloned().collect()
    };
    let expected = expected.map(str::to_owned);
    assert_eq!(events(&calls), events(&expected));
    assert_eq!(
        (calls[0].as_str(), calls[calls.len() - 1].as_str(), calls.len()),
        ("start pod", "stop", expected.len())
    );
}

#[tokio::test]
async fn a_failing_hanging_or_panicking_extension_is_reported_and_the_pod_goes_on() {
    for on in ["start", "ready", "event", "stop"] {
        for how in ["fail", "hang", "panic"] {
            let world = world(&["a"], Troublemaker::new(false, on, how)).await;
            world.launch().await.unwrap();
            if on != "stop" {
                let hangs = how == "hang" && on == "event";
                tokio::time::sleep(Duration::from_millis(if hangs { 80 } else { 5 })).await;
                let failed = |e: &Event| {
                    e.kind == EventKind::ExtensionFailed && e.detail.starts_with("troublemaker: on_")
                };
                let events = world.events().await;
                assert!(events.iter().any(failed), "{on} {how}: {events:?}");
            }
            let status = world.client.stop(None).await.unwrap();
            assert_eq!(
                status.reason.map(crate::status::PodReason::as_str),
                Some("Stopped"),
                "{on} {how}"
            );
        }
    }
}

#[tokio::test]
async fn a_required_extension_fails_the_launch() {
    for on in ["start", "ready"] {
        for how in ["fail", "hang", "panic"] {
            let world = world(&["a"], Troublemaker::new(true, on, how)).await;
            let error = world.launch().await.unwrap_err();
            let ControlError::Launch(error) = error else {
                panic!("{error}")
            };
            assert_eq!(
                (error.step.as_str(), error.container),
                ("extension", None),
                "{on} {how}"
            );
            assert!(error.message.contains("troublemaker"), "{}", error.message);
            assert_eq!(world.runtime.calls("start").is_empty(), on == "start");
            assert!(matches!(world.finished().await, PodOutcome::Failed(_)));
        }
    }
}

#[tokio::test]
async fn a_required_extension_that_fails_later_fails_the_pod() {
    let world = world(&["a"], Troublemaker::new(true, "event pod.ready", "fail")).await;
    world.launch().await.unwrap();
    world.client.commit().await.unwrap();
    let PodOutcome::Finished(status) = world.finished().await else {
        panic!()
    };
    assert_eq!(
        (status.phase, status.reason.map(crate::status::PodReason::as_str)),
        (Phase::Failed, Some("ExtensionFailed"))
    );
}

#[tokio::test]
async fn a_client_of_another_major_version_is_told_so() {
    use crate::rpc::{control as proto, control_ttrpc};
    let world = world(&["a"], Troublemaker::default()).await;
    let (ours, theirs) = duplex(4096);
    world.connections.send(theirs).await.unwrap();
    let client = control_ttrpc::ControlClient::new(ttrpc::r#async::Client::new(
        ttrpc::r#async::transport::Socket::new(ours),
    ));
    let context = || ttrpc::context::with_timeout(0);
    let early = client
        .status(context(), &proto::StatusRequest::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(early.contains("must be Hello"), "{early}");
    let mut hello = proto::HelloRequest::new();
    hello.major = crate::MAJOR + 1;
    let refused = client.hello(context(), &hello).await.unwrap_err().to_string();
    let ours = format!("the pod init speaks {}.{}", crate::MAJOR, crate::MINOR);
    assert!(refused.contains(&ours), "{refused}");
}

#[tokio::test]
async fn a_stop_before_the_launch_ends_the_init() {
    let world = world(&["a"], Troublemaker::default()).await;
    assert!(world.client.stop(None).await.is_err());
    assert!(matches!(world.finished().await, PodOutcome::Abandoned));
}
