//! A guest that lies: what the host's side of a microVM pod makes of it. The fuzz target `guest` says everything else.
#![cfg(target_os = "linux")]

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use magik_infra::{
    ControlClient, ControlError, PodOutcome, Relay, StateDir,
    guest::Guest,
    plan::{ContainerPlan, PodPlan, RootfsPlan},
    status::{Phase, PodStatus},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    task::JoinHandle,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A frame of ttrpc: length, stream, type (2: response, 3: data), flags.
fn frame(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [
        &length.to_be_bytes()[..],
        &stream.to_be_bytes(),
        &[kind, flags],
        payload,
    ]
    .concat()
}

/// A field of a protobuf message that has a length.
fn field(number: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = contents.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).unwrap());
    bytes.extend(contents);
    bytes
}

/// What a guest does with one frame of the host, of this stream.
type Answer = Box<dyn Fn(u32) -> Vec<u8> + Send>;

fn response(payload: Vec<u8>) -> Answer {
    Box::new(move |call| frame(call, 2, 0, &field(2, &payload)))
}

/// The version handshake.
fn hello() -> Answer {
    response(vec![8, u8::try_from(magik_infra::MAJOR).unwrap()])
}

/// Everything was started.
fn ready() -> Answer {
    Box::new(|call| frame(call, 3, 0, &[0x12, 0]))
}

fn status(status: &serde_json::Value) -> Answer {
    response(field(1, status.to_string().as_bytes()))
}

fn event(kind: &str, container: &str) -> Vec<u8> {
    [
        field(1, b"2024-01-01T00:00:00Z"),
        field(2, kind.as_bytes()),
        field(3, container.as_bytes()),
        field(4, b"\x1b[2Jdetail"),
    ]
    .concat()
}

/// A guest after a script: what it answers on each connection, in turn; then it says nothing more.
struct Liar {
    connections: Mutex<VecDeque<Vec<Answer>>>,
}

impl std::fmt::Debug for Liar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Liar")
    }
}

impl Liar {
    fn dial(&self) -> Option<UnixStream> {
        let answers = self.connections.lock().unwrap().pop_front()?;
        let (host, guest) = UnixStream::pair().unwrap();
        tokio::spawn(speak(guest, answers));
        Some(host)
    }
}

async fn speak(mut stream: UnixStream, answers: Vec<Answer>) {
    for answer in answers {
        let mut header = [0; 10];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let mut payload = vec![0; number(0) as usize];
        if stream.read_exact(&mut payload).await.is_err()
            || stream.write_all(&answer(number(4))).await.is_err()
        {
            return;
        }
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
}

#[async_trait]
impl Guest for Liar {
    async fn boot(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), String> {
        Ok((self.dial().unwrap(), plan.clone()))
    }

    async fn connection(&self) -> Option<UnixStream> {
        match self.dial() {
            Some(stream) => Some(stream),
            None => std::future::pending().await,
        }
    }

    async fn ended(&self) -> String {
        std::future::pending().await
    }
}

fn plan(dir: &Path) -> PodPlan {
    PodPlan {
        id: "the-pod".into(),
        name: "web".into(),
        namespace: "default".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        annotations: Default::default(),
        published: vec![],
        tmpfs: vec![],
        data: vec![],
        init_containers: vec![],
        containers: vec![ContainerPlan {
            name: "c".into(),
            image: "image".into(),
            image_id: None,
            rootfs: RootfsPlan::Overlay {
                lower: vec!["/layers".into()],
                upper: None,
            },
            bundle: dir.join("bundle"),
            log: dir.join("c.log"),
            attach: None,
            lifecycle: magik_infra::plan::Lifecycle::default(),
            message: None,
            console: magik_infra::plan::ConsolePlan::default(),
            ephemeral: None,
        }],
        grace_period_s: 0,
        active_deadline_s: None,
        ..PodPlan::default()
    }
}

struct Pod {
    dir: tempfile::TempDir,
    client: ControlClient,
    relay: JoinHandle<std::io::Result<PodOutcome>>,
}

/// A relay with this guest, and a launcher's connection to it.
async fn pod(connections: Vec<Vec<Answer>>) -> Pod {
    let dir = tempfile::tempdir().unwrap();
    let pending = dir.path().join("pod.pending");
    std::fs::create_dir(&pending).unwrap();
    let state = StateDir::new(std::fs::File::open(&pending).unwrap().into());
    let control = state.bind_control().unwrap();
    let guest = Arc::new(Liar {
        connections: Mutex::new(connections.into()),
    });
    let (ours, theirs) = UnixStream::pair().unwrap();
    let relay = Relay::new(guest, state, "microvm".into());
    let relay = tokio::spawn(relay.run(theirs, control));
    let client = ControlClient::over(ours).await.unwrap();
    Pod { dir, client, relay }
}

impl Pod {
    async fn launch(&self) -> Result<(), ControlError> {
        let mut launch = self.client.start_sandbox(&plan(self.dir.path())).await?;
        timeout(PATIENCE, async {
            while launch.next().await?.is_some() {}
            Ok(())
        })
        .await
        .unwrap()
    }
}

fn lies() -> serde_json::Value {
    let running = json!({"phase": "running", "startedAt": "2024-01-01T00:00:00Z", "pid": 1});
    json!({
        "id": "another", "name": "other", "namespace": "kube-system", "runtimeClass": "native",
        "labels": {"app": "other"}, "phase": "Running", "reason": "a\u{1b}[2Jb",
        "createdAt": "1970-01-01T00:00:00Z", "startedAt": "1970-01-01T00:00:00Z",
        "initContainers": [{"name": "invented", "image": "x", "state": running}],
        "containers": [
            {"name": "invented", "image": "x", "state": running},
            {"name": "c", "image": "another", "state": running},
        ],
    })
}

/// What is the host's to say is as the host knows it.
#[track_caller]
fn is_honest(status: &PodStatus) {
    assert_eq!(
        (
            status.id.as_str(),
            status.name.as_str(),
            status.namespace.as_str(),
            status.runtime_class.as_str()
        ),
        ("the-pod", "web", "default", "microvm")
    );
    assert_eq!(status.labels["app"], "web");
    assert!(status.init_containers.is_empty());
    let containers: Vec<_> = status
        .containers
        .iter()
        .map(|c| (c.name.as_str(), c.image.as_str()))
        .collect();
    assert_eq!(containers, [("c", "image")]);
    assert!(
        status.created_at.as_second() > 1_700_000_000
            && status.started_at.is_none_or(|t| t.as_second() > 1_700_000_000)
    );
    let texts = status.message.iter();
    assert!(texts.into_iter().all(|text| !text.contains(char::is_control)));
}

#[tokio::test]
async fn a_guest_that_lies_about_its_pod_changes_nothing_but_its_containers() {
    let flood = |call| {
        let mut bytes = Vec::new();
        for _ in 0..1000 {
            bytes.extend(frame(call, 3, 0, &event("container.started", "invented")));
        }
        bytes
    };
    // Which connection comes first is the relay's affair: each answers as a log and as events may.
    let other = || -> Vec<Answer> { vec![hello(), Box::new(flood)] };
    let launch = vec![
        hello(),
        ready(),
        response(vec![]),
        status(&lies()),
        status(&lies()),
    ];
    let pod = pod(vec![launch, other(), other()]).await;
    pod.launch().await.unwrap();
    let told = pod.client.status().await.unwrap();
    assert_eq!(told.phase, Phase::Running);
    is_honest(&told);
    // The launcher goes before it has committed: nothing keeps the pod, however much its guest has to say.
    drop(pod.client);
    let outcome = timeout(PATIENCE, pod.relay).await.unwrap().unwrap().unwrap();
    assert!(matches!(outcome, PodOutcome::Abandoned), "{outcome:?}");
}

#[tokio::test]
async fn a_guest_that_does_not_keep_to_the_protocol_fails_its_pod() {
    let cases: Vec<(&str, Vec<Answer>)> = vec![
        ("another version", vec![response(vec![8, 9])]),
        ("nonsense", vec![Box::new(|_| b"GET / HTTP/1.1\r\n\r\n".to_vec())]),
        // A header that claims four gigabytes: nothing is made ready for them.
        (
            "a large claim",
            vec![Box::new(|call| {
                [&[0xff; 4][..], &call.to_be_bytes(), &[2, 0]].concat()
            })],
        ),
        (
            "no launch event",
            vec![hello(), Box::new(|call| frame(call, 3, 0, &[]))],
        ),
        (
            "a status that is none",
            vec![hello(), ready(), response(vec![]), response(field(1, b"{"))],
        ),
        (
            "a refusal",
            vec![
                hello(),
                Box::new(|call| {
                    let failed = [
                        field(1, b"c\x1b[2J"),
                        field(2, b"start"),
                        field(3, b"no\nsuch\x07program"),
                    ]
                    .concat();
                    frame(call, 3, 0, &field(3, &failed))
                }),
            ],
        ),
    ];
    let cases = cases.into_iter().map(|(what, answers)| async move {
        let pod = pod(vec![answers]).await;
        let error = pod.launch().await.expect_err(what).to_string();
        assert!(!error.contains(char::is_control), "{what}: {error:?}");
        let outcome = timeout(PATIENCE, pod.relay).await.unwrap().unwrap().unwrap();
        assert!(matches!(outcome, PodOutcome::Failed(_)), "{what}: {outcome:?}");
    });
    futures_util::future::join_all(cases).await;
}
