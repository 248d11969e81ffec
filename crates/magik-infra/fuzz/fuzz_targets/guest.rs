//! A guest that says anything: the host's side of a microVM pod, from its first byte to the status file, takes it.
#![no_main]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use arbitrary::Arbitrary;
use async_trait::async_trait;
use libfuzzer_sys::fuzz_target;
use magik_infra::{
    ControlClient, StateDir,
    guest::{Guest, Hello, Kind, NONCE}, Relay,
    logs::MAX_LOG_SIZE,
    plan::{ContainerPlan, PodPlan, RootfsPlan},
    status::PodStatus,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

/// A guest's answer to one frame of the host.
#[derive(Debug, Arbitrary)]
enum Frame {
    /// The answer of a call, with any payload.
    Response(Vec<u8>),
    /// The answer of the version handshake.
    Hello { major: u8 },
    /// An answer with nothing in it: that of Commit, or a Launch that is ready.
    Empty,
    /// The launch is ready.
    Ready,
    /// A status, as JSON.
    Status(Status),
    /// A failed call: code and message.
    Failed(u8, String),
    /// A frame of a stream, with its flags.
    Data(u8, Vec<u8>),
    /// A piece of a log.
    Log { stderr: bool, length: u16, byte: u8 },
    /// Something that happened.
    Event { kind: u8, name: String, detail: String },
    /// The end of a stream.
    Close,
    /// A frame of another stream, or of a type there is not.
    Odd {
        stream: u32,
        kind: u8,
        flags: u8,
        payload: Vec<u8>,
    },
    /// A header that claims more than there is.
    Claim(u32),
    /// No frame at all.
    Bytes(Vec<u8>),
}

/// What a guest may say of its pod.
#[derive(Debug, Arbitrary)]
struct Status {
    id: String,
    phase: u8,
    reason: Option<String>,
    message: Option<String>,
    names: Vec<String>,
    exited: Option<i32>,
}

/// One connection: it begins as an honest guest's, or no bytes that a fuzzer thinks of would get past the handshake.
#[derive(Debug, Arbitrary)]
struct Connection {
    /// So many calls are answered as they should be: this, modulo 8.
    honest: u8,
    /// Per frame of the host that follows, what is answered.
    answers: Vec<Vec<Frame>>,
    /// It hangs up at the script's end, or says no more.
    hangs_up: bool,
}

/// One guest.
#[derive(Debug, Arbitrary)]
struct Script {
    connections: Vec<Connection>,
    stop: bool,
}

fn frame(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len())
        .expect("short")
        .to_be_bytes()
        .to_vec();
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, flags]);
    bytes.extend(payload);
    bytes
}

/// A field of a protobuf message that has a length.
fn field(number: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = contents.len();
    while length >= 0x80 {
        bytes.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    bytes.extend(contents);
    bytes
}

impl Status {
    fn json(&self) -> Vec<u8> {
        let phase = ["Pending", "Running", "Succeeded", "Failed", "x"][usize::from(self.phase % 5)];
        let text = |t: &str| format!("{t:?}");
        let option = |t: &Option<String>| t.as_deref().map_or("null".to_owned(), text);
        let containers: Vec<String> = self
            .names
            .iter()
            .chain(CONTAINERS.map(str::to_owned).iter())
            .map(|name| {
                let state = match self.exited {
                    Some(code) => format!(
                        r#"{{"phase":"exited","exit":{{"code":{code}}},"startedAt":"2024-01-01T00:00:00Z","finishedAt":"2024-01-01T00:00:00Z"}}"#
                    ),
                    None => r#"{"phase":"running","pid":7,"startedAt":"2024-01-01T00:00:00Z"}"#.to_owned(),
                };
                format!(r#"{{"name":{},"image":"x","state":{state}}}"#, text(name))
            })
            .collect();
        format!(
            r#"{{"id":{},"name":"liar","namespace":"liar","labels":{{}},"createdAt":"2024-01-01T00:00:00Z","runtimeClass":"liar","phase":"{phase}","reason":{},"message":{},"initContainers":[],"containers":[{}]}}"#,
            text(&self.id),
            option(&self.reason),
            option(&self.message),
            containers.join(",")
        )
        .into_bytes()
    }
}

impl Frame {
    fn encode(&self, call: u32) -> Vec<u8> {
        let response = |payload: &[u8]| frame(call, 2, 0, &field(2, payload));
        match self {
            Self::Response(payload) => response(payload),
            Self::Hello { major } => response(&[8, *major]),
            Self::Empty => response(&[]),
            Self::Ready => frame(call, 3, 0, &[0x12, 0]),
            Self::Status(status) => response(&field(1, &status.json())),
            Self::Failed(code, message) => {
                let status = [vec![8, *code], field(2, message.as_bytes())].concat();
                frame(call, 2, 0, &field(1, &status))
            }
            Self::Data(flags, payload) => frame(call, 3, *flags, payload),
            Self::Log { stderr, length, byte } => {
                let data = vec![*byte; usize::from(*length)];
                let chunk = [vec![8, u8::from(*stderr)], field(2, &data)].concat();
                frame(call, 3, 0, &chunk)
            }
            Self::Event { kind, name, detail } => {
                let kinds = [
                    "container.created",
                    "container.started",
                    "container.exited",
                    "container.oom",
                    "pod.ready",
                    "pod.stopping",
                    "pod.stopped",
                    "x",
                ];
                let event = [
                    field(1, b"2024-01-01T00:00:00Z"),
                    field(2, kinds[usize::from(*kind) % kinds.len()].as_bytes()),
                    field(3, name.as_bytes()),
                    field(4, detail.as_bytes()),
                ];
                frame(call, 3, 0, &event.concat())
            }
            Self::Close => frame(call, 3, 5, &[]),
            Self::Odd {
                stream,
                kind,
                flags,
                payload,
            } => frame(*stream, *kind, *flags, payload),
            Self::Claim(length) => [&length.to_be_bytes()[..], &call.to_be_bytes(), &[2, 0]].concat(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

/// The method that a request calls: a ttrpc Request has the service first, then it.
fn method(request: &[u8]) -> Option<&[u8]> {
    let service = usize::from(*request.get(1)?);
    let rest = request.get(2 + service..)?;
    rest.get(2..2 + usize::from(*rest.get(1)?))
}

/// What an honest guest, whose pod runs, answers.
fn honest(request: &[u8]) -> Vec<Frame> {
    match method(request) {
        Some(b"Hello") => vec![Frame::Hello { major: 1 }],
        Some(b"Launch") => vec![Frame::Ready, Frame::Close],
        Some(b"Commit") => vec![Frame::Empty],
        Some(b"Status" | b"Stop") => vec![Frame::Status(Status {
            id: "honest".to_owned(),
            phase: 1,
            reason: None,
            message: None,
            names: vec![],
            exited: None,
        })],
        // They follow, and nothing has happened yet.
        Some(b"Logs" | b"Events") => vec![],
        _ => vec![Frame::Failed(12, "not here".to_owned())],
    }
}

/// Answers one connection after its script.
async fn speak(mut stream: UnixStream, connection: Connection) {
    let Connection {
        honest: calls,
        answers,
        hangs_up,
    } = connection;
    let honest_calls = std::iter::repeat_with(|| None).take(usize::from(calls % 8));
    for scripted in honest_calls.chain(answers.into_iter().map(Some)) {
        let mut header = [0; 10];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes(header[..4].try_into().expect("four"));
        let call = u32::from_be_bytes(header[4..8].try_into().expect("four"));
        let mut payload = vec![0; length as usize];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        for answer in scripted.unwrap_or_else(|| honest(&payload)) {
            if stream.write_all(&answer.encode(call)).await.is_err() {
                return;
            }
        }
    }
    if !hangs_up {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    }
}

#[derive(Debug)]
struct Liar {
    scripts: Mutex<VecDeque<Connection>>,
}

impl Liar {
    fn dial(&self) -> Option<UnixStream> {
        let script = self.scripts.lock().expect("lock").pop_front()?;
        let (host, guest) = UnixStream::pair().expect("a socket pair");
        tokio::spawn(speak(guest, script));
        Some(host)
    }
}

#[async_trait]
impl Guest for Liar {
    async fn boot(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), String> {
        Ok((self.dial().ok_or("no script")?, plan.clone()))
    }

    async fn connection(&self) -> Option<UnixStream> {
        self.dial()
    }

    async fn ended(&self) -> String {
        // A machine ends some time after its script.
        tokio::time::sleep(Duration::from_millis(20)).await;
        "the machine\x1b[2J ended".to_owned()
    }
}

const CONTAINERS: [&str; 2] = ["a", "b"];

fn plan(dir: &std::path::Path) -> PodPlan {
    let container = |name: &str| ContainerPlan {
        name: name.to_owned(),
        image: "image".to_owned(),
        image_id: None,
        rootfs: RootfsPlan::Overlay {
            lower: vec!["/layers".into()],
            upper: None,
        },
        bundle: dir.join(name),
        log: dir.join(format!("{name}.log")),
        attach: None,
            lifecycle: magik_infra::plan::Lifecycle::default(),
            message: None,
            console: magik_infra::plan::ConsolePlan::default(),
            ephemeral: None,
    };
    PodPlan {
        id: "honest".into(),
        name: "pod".into(),
        namespace: "default".into(),
        labels: Default::default(),
        annotations: Default::default(),
        published: vec![],
        tmpfs: vec![],
        data: vec![],
        init_containers: vec![],
        containers: CONTAINERS.map(container).to_vec(),
        grace_period_s: 0,
        active_deadline_s: None,
        ..PodPlan::default()
    }
}

/// What the host keeps of a pod is its own, whatever the guest said.
fn check(status: &PodStatus) {
    assert_eq!((status.id.as_str(), status.name.as_str()), ("honest", "pod"));
    let names: Vec<_> = status.containers.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, CONTAINERS);
    assert!(status.init_containers.is_empty());
    for text in &status.message {
        assert!(
            text.chars().count() <= 8192,
            "{} characters",
            text.chars().count()
        );
    }
}

async fn life(script: Script, dir: &std::path::Path) {
    let state = std::fs::File::open(dir).expect("a directory");
    let guest = Arc::new(Liar {
        scripts: Mutex::new(script.connections.into()),
    });
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let state = StateDir::new(state.into());
    let control = state.bind_control().expect("a control socket");
    let relay = Relay::new(guest, state, "microvm".into());
    let running = tokio::spawn(relay.run(theirs, control));
    let launcher = async {
        let client = ControlClient::over(ours).await.ok()?;
        let mut launch = client.start_sandbox(&plan(dir)).await.ok()?;
        while let Ok(Some(_)) = launch.next().await {}
        client.commit().await.ok()?;
        check(&client.status().await.ok()?);
        if script.stop {
            check(&client.stop(Some(Duration::ZERO)).await.ok()?);
        }
        Some(())
    };
    let _ = timeout(Duration::from_secs(2), launcher).await;
    let outcome = timeout(Duration::from_secs(20), running)
        .await
        .expect("the relay ends");
    outcome.expect("no panic").expect("an outcome");
    if let Ok(text) = std::fs::read(dir.join("status.json")) {
        check(&serde_status(&text));
    }
    for name in CONTAINERS {
        for suffix in ["log", "log.1"] {
            if let Ok(meta) = std::fs::metadata(dir.join(format!("{name}.{suffix}"))) {
                assert!(meta.len() <= MAX_LOG_SIZE + (1 << 20), "{}", meta.len());
            }
        }
    }
}

fn serde_status(text: &[u8]) -> PodStatus {
    serde_json::from_slice(text).expect("our own status")
}

fuzz_target!(|input: (Vec<u8>, Script)| {
    let (bytes, script) = input;
    if let Ok(hello) = <&[u8; Hello::LEN]>::try_from(bytes.as_slice()) {
        let nonce = [7; NONCE];
        if let Ok(kind) = Hello::decode(hello, &nonce) {
            assert!(matches!(kind, Kind::Launch | Kind::Control) && bytes[9..] == nonce);
        }
    }
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Nobody waits: when all do, the clock goes on.
        .start_paused(true)
        .build()
        .expect("tokio");
    runtime.block_on(life(script, dir.path()));
});
