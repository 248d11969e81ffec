//! Sockets: what is listed, and nothing else.

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    time::Duration,
};

use common::{Host, annotate, id, skipped};
use magik_oci::OciRuntime;
use oci_wasm::annotations::{ALLOW_OUTBOUND, LISTEN};

/// A port that is free just now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

fn echo(port: u16, text: &str) -> String {
    let mut stream = connect(port);
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_serves_on_its_port() {
    if skipped("a_module_serves_on_its_port") {
        return;
    }
    let host = Host::new();
    let module = magikrun_test_images::tool_wasm().unwrap();
    let data = host.path("data");
    std::fs::create_dir(&data).unwrap();
    for what in ["serve", "serve-polling"] {
        let port = free_port();
        let bundle = host.bundle(what, &module, &[what], |spec| {
            annotate(spec, LISTEN, &format!("127.0.0.1:{port}"));
            common::mount(spec, &data, "/data", &["bind"]);
        });
        let output = host.create(what, &bundle, None).await.unwrap();
        host.runtime.start(&id(what)).await.unwrap();
        let talk = tokio::task::spawn_blocking(move || {
            let answers = (echo(port, "one"), echo(port, "two"));
            let mut last = connect(port);
            last.write_all(b"quit").unwrap();
            answers
        });
        assert_eq!(
            talk.await.unwrap(),
            ("one".to_owned(), "two".to_owned()),
            "{what}"
        );
        let outcome = host.finish(what, output).await;
        assert_eq!(outcome.exit.code, 0, "{what}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_fails_the_creation() {
    if skipped("a_port_that_is_taken_fails_the_creation") {
        return;
    }
    let host = Host::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let module = magikrun_test_images::tool_wasm().unwrap();
    let bundle = host.bundle("c", &module, &["serve"], |spec| annotate(spec, LISTEN, &address));
    let error = host.create("c", &bundle, None).await.err().unwrap().to_string();
    assert!(error.contains(&address), "{error}");
    assert!(host.runtime.list().await.unwrap().is_empty());
}

/// Whether the socket component may do that.
async fn may(host: &Host, name: &str, what: &str, port: u16, annotation: Option<(&str, String)>) -> bool {
    let module = magikrun_test_images::socket_wasm().unwrap();
    let bundle = host.bundle(name, &module, &[what, &port.to_string()], |spec| {
        if let Some((key, value)) = annotation {
            annotate(spec, key, &value);
        }
    });
    let outcome = host.run(name, &bundle).await;
    assert_eq!(outcome.exit.reason, None, "{outcome:?}");
    outcome.exit.code == 0
}

#[tokio::test]
async fn a_component_connects_only_where_it_may() {
    if skipped("a_component_connects_only_where_it_may") {
        return;
    }
    let host = Host::new();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    assert!(!may(&host, "default", "connect", port, None).await);
    let other = format!("127.0.0.1:{}, 10.0.0.0/8:*", port ^ 1);
    assert!(!may(&host, "other", "connect", port, Some((ALLOW_OUTBOUND, other))).await);
    let listed = format!("127.0.0.1:{port}");
    assert!(may(&host, "listed", "connect", port, Some((ALLOW_OUTBOUND, listed))).await);
    let named = format!("localhost:{port}");
    assert!(may(&host, "named", "connect", port, Some((ALLOW_OUTBOUND, named))).await);
}

#[tokio::test]
async fn a_component_listens_only_where_it_may() {
    if skipped("a_component_listens_only_where_it_may") {
        return;
    }
    let host = Host::new();
    let port = free_port();
    assert!(!may(&host, "default", "listen", port, None).await);
    assert!(!may(&host, "any", "listen", 0, None).await);
    assert!(may(&host, "listed", "listen", port, Some((LISTEN, port.to_string()))).await);
}

#[tokio::test]
async fn containers_of_one_runtime_meet_over_loopback() {
    if skipped("containers_of_one_runtime_meet_over_loopback") {
        return;
    }
    let host = Host::new();
    let port = free_port();
    let module = magikrun_test_images::tool_wasm().unwrap();
    let bundle = host.bundle("server", &module, &["serve"], |spec| {
        annotate(spec, LISTEN, &format!("127.0.0.1:{port}"));
    });
    let output = host.create("server", &bundle, None).await.unwrap();
    host.runtime.start(&id("server")).await.unwrap();
    assert!(may(&host, "client", "connect", port, None).await);
    // Another runtime's containers do not.
    assert!(!may(&Host::new(), "stranger", "connect", port, None).await);
    host.runtime.delete(&id("server"), true).await.unwrap();
    drop(output);
}
