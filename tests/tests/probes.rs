//! Probes that speak more than plain HTTP, asked of servers that the test itself runs: the pod has the
//! test's network, which is none but loopback.

use std::{
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use magikrun_tests::{BUSYBOX, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

/// A pod that lives on, with a startup and a liveness probe; in the network of the test.
fn pod(probe: &Value) -> String {
    let every_second = |more: Value| {
        let mut all = probe.clone();
        all.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        all["periodSeconds"] = json!(1);
        all
    };
    let container = json!({
        "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["busybox", "sleep", "1000"],
        "startupProbe": every_second(json!({"failureThreshold": 2})),
        "livenessProbe": every_second(json!({"failureThreshold": 1, "terminationGracePeriodSeconds": 1})),
    });
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 1, "containers": [container]},
    })
    .to_string()
}

fn restarts(magikrun: &Magikrun) -> u64 {
    let status = magikrun.json(&["pod", "status", "p"]);
    status["containers"][0]["restartCount"].as_u64().unwrap()
}

/// What `pod run` says where the startup probe does not succeed.
fn refused(magikrun: &Magikrun, probe: &Value) -> String {
    let file = magikrun.manifest(pod(probe));
    let said = magikrun.error(&["pod", "run", "-f", &file]);
    assert_eq!(magikrun.pods(), [""; 0]);
    said
}

/// A port of loopback that nobody listens at.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A server of gRPC's health service, which knows the service `web` and is as healthy as the number
/// that it was given.
fn serve_health(listener: TcpListener, health: &Arc<AtomicU8>) {
    let tasks = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    listener.set_nonblocking(true).unwrap();
    tasks.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let health = health.clone();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(answer(
                        request.into_body(),
                        respond,
                        health.load(Ordering::SeqCst),
                    ));
                }
            });
        }
    });
}

async fn answer(mut asked: h2::RecvStream, mut respond: h2::server::SendResponse<bytes::Bytes>, health: u8) {
    let mut question = Vec::new();
    while let Some(data) = asked.data().await {
        question.extend_from_slice(&data.unwrap());
    }
    let known = question == b"\0\0\0\0\x05\x0a\x03web";
    let head = http::Response::builder().header("content-type", "application/grpc");
    if !known {
        let head = head
            .header("grpc-status", "5")
            .header("grpc-message", "unknown service");
        respond.send_response(head.body(()).unwrap(), true).unwrap();
        return;
    }
    let mut sent = respond.send_response(head.body(()).unwrap(), false).unwrap();
    sent.send_data(vec![0, 0, 0, 0, 2, 8, health].into(), false)
        .unwrap();
    let ok = [("grpc-status", "0")].map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    sent.send_trailers(ok.into_iter().collect()).unwrap();
}

isolated!(
    fn a_probe_asks_by_grpc(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let health = Arc::new(AtomicU8::new(1));
        let served = health.clone();
        thread::spawn(move || serve_health(listener, &served));

        let probe = json!({"grpc": {"port": port, "service": "web"}});
        let file = magikrun.manifest(pod(&probe));
        magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
        assert_eq!(restarts(&magikrun), 0);
        // NOT_SERVING.
        health.store(2, Ordering::SeqCst);
        wait_for("the restart", || restarts(&magikrun) > 0);
        let events = magikrun.ok(&["pod", "events", "p"]);
        assert!(events.contains("the service is NOT_SERVING"), "{events}");
        magikrun.ok(&["pod", "delete", "--force", "p"]);

        let said = refused(&magikrun, &json!({"grpc": {"port": port, "service": "other"}}));
        assert!(said.contains("gRPC status 5: unknown service"), "{said}");
        let said = refused(&magikrun, &json!({"grpc": {"port": free_port()}}));
        assert!(said.contains("cannot connect to 127.0.0.1:"), "{said}");
    }
);

/// A server of TLS by OpenSSL, which answers every GET with a page.
struct OpenSsl(Child);

impl OpenSsl {
    fn start(directory: &std::path::Path, port: u16, more: &[&str]) -> Self {
        let at = |name: &str| directory.join(name).display().to_string();
        let (key, certificate) = (at("key.pem"), at("certificate.pem"));
        // Signed by itself, and for another host: nobody asks.
        let made = Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-nodes",
                "-newkey",
                "rsa:2048",
                "-subj",
                "/CN=nobody.invalid",
            ])
            .args(["-days", "1", "-keyout", &key, "-out", &certificate])
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let server = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-key", &key, "-cert", &certificate])
            .args(["-accept", &format!("127.0.0.1:{port}")])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        wait_for("openssl", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self(server)
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        // It is a child of this process: it is there until it was waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

isolated!(
    fn a_probe_asks_by_https_and_takes_every_certificate(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        for version in ["-tls1_2", "-tls1_3"] {
            let port = free_port();
            let server = OpenSsl::start(scene.dir(), port, &[version]);
            let probe = json!({"httpGet": {"port": port, "scheme": "HTTPS"}});
            let file = magikrun.manifest(pod(&probe));
            magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
            assert_eq!(restarts(&magikrun), 0, "{version}");
            drop(server);
            wait_for("the restart", || restarts(&magikrun) > 0);
            magikrun.ok(&["pod", "delete", "--force", "p"]);
        }
        // A server that speaks no TLS: one that asks by it is told so.
        let plain = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = plain.local_addr().unwrap().port();
        thread::spawn(move || {
            for stream in plain.incoming() {
                let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.0 400 Bad Request\r\n\r\n");
            }
        });
        let said = refused(&magikrun, &json!({"httpGet": {"port": port, "scheme": "HTTPS"}}));
        assert!(said.contains("no TLS: "), "{said}");
    }
);
