//! `wasi:http/proxy`: served, fetched from, limited.

mod common;

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::Duration,
};

use common::{Host, Output, annotate, id, skipped};
use magik_oci::{OciRuntime, Signal};
use oci_wasm::annotations::{ALLOW_OUTBOUND, FUEL, HTTP_CONCURRENCY, LISTEN};

/// Asks for a path: status and body.
fn get(port: u16, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(90))).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body = if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body.split("\r\n").nth(1).unwrap_or_default().to_owned()
    } else {
        body.to_owned()
    };
    (status, body)
}

async fn ask(port: u16, path: &'static str) -> (u16, String) {
    tokio::task::spawn_blocking(move || get(port, path))
        .await
        .unwrap()
}

fn proxy(host: &Host, name: &str, port: u16, annotations: &[(&str, &str)]) -> PathBuf {
    let module = magikrun_test_images::proxy_wasm().unwrap();
    host.bundle(name, &module, &[], |spec| {
        annotate(spec, LISTEN, &format!("127.0.0.1:{port}"));
        for (key, value) in annotations {
            annotate(spec, key, value);
        }
    })
}

async fn serve(host: &Host, name: &str, annotations: &[(&str, &str)]) -> (u16, Output) {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let bundle = proxy(host, name, port, annotations);
    let output = host.create(name, &bundle, None).await.unwrap();
    host.runtime.start(&id(name)).await.unwrap();
    (port, output)
}

#[tokio::test]
async fn answers_requests_until_it_is_asked_to_end() {
    if skipped("answers_requests_until_it_is_asked_to_end") {
        return;
    }
    let host = Host::new();
    for (name, fuel) in [("fuel", "1000000"), ("epochs", "off")] {
        let (port, output) = serve(&host, name, &[(FUEL, fuel)]).await;
        for path in ["/", "/a?b=c"] {
            assert_eq!(ask(port, path).await, (200, path.to_owned()));
        }
        let many: Vec<_> = (0..50).map(|_| ask(port, "/many")).collect();
        for answer in futures_util::future::join_all(many).await {
            assert_eq!(answer, (200, "/many".to_owned()));
        }
        let stats = host.runtime.stats(&id(name)).await.unwrap();
        assert_eq!(stats.fuel.is_some_and(|f| f > 1000), fuel != "off", "{stats:?}");
        host.runtime.kill(&id(name), Signal::TERM, false).await.unwrap();
        let outcome = host.finish(name, output).await;
        assert_eq!((outcome.exit.code, outcome.stderr.as_str()), (0, ""));
    }
}

#[tokio::test]
async fn a_request_that_fails_is_its_own_failure() {
    if skipped("a_request_that_fails_is_its_own_failure") {
        return;
    }
    let host = Host::new();
    let (port, output) = serve(&host, "c", &[(FUEL, "1000000")]).await;
    assert_eq!(ask(port, "/trap").await.0, 500);
    assert_eq!(ask(port, "/spin").await.0, 500);
    assert_eq!(ask(port, "/").await.0, 200);
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    let outcome = host.finish("c", output).await;
    assert_eq!(outcome.exit.code, 137);
    assert!(outcome.stderr.contains("magikrun: Trap: "), "{}", outcome.stderr);
    assert!(
        outcome.stderr.contains("magikrun: FuelExhausted: "),
        "{}",
        outcome.stderr
    );
}

#[tokio::test]
async fn requests_that_compute_do_not_hold_up_the_others() {
    if skipped("requests_that_compute_do_not_hold_up_the_others") {
        return;
    }
    let host = Host::new();
    let (port, output) = serve(&host, "c", &[(FUEL, "off"), (HTTP_CONCURRENCY, "8")]).await;
    // More of them than there are threads.
    let spinning: Vec<_> = (0..6)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream
                .write_all(b"GET /spin HTTP/1.1\r\nHost: test\r\n\r\n")
                .unwrap();
            stream
        })
        .collect();
    for _ in 0..3 {
        assert_eq!(ask(port, "/").await.0, 200);
    }
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    assert_eq!(host.finish("c", output).await.exit.code, 137);
    drop(spinning);
}

#[tokio::test]
async fn no_more_requests_than_allowed_run_at_a_time() {
    if skipped("no_more_requests_than_allowed_run_at_a_time") {
        return;
    }
    let host = Host::new();
    let (port, output) = serve(&host, "c", &[(FUEL, "off"), (HTTP_CONCURRENCY, "1")]).await;
    let mut busy = TcpStream::connect(("127.0.0.1", port)).unwrap();
    busy.write_all(b"GET /spin HTTP/1.1\r\nHost: test\r\n\r\n")
        .unwrap();
    let used = async || host.runtime.stats(&id("c")).await.unwrap().cpu.usage_ns;
    let idle = used().await;
    while used().await < idle + 50_000_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let waiting = tokio::time::timeout(Duration::from_millis(500), ask(port, "/")).await;
    assert!(waiting.is_err(), "it waits for its turn");
    host.runtime.kill(&id("c"), Signal::KILL, false).await.unwrap();
    host.finish("c", output).await;
}

#[tokio::test]
async fn fetches_only_from_where_it_may() {
    if skipped("fetches_only_from_where_it_may") {
        return;
    }
    let host = Host::new();
    let (backend, backend_output) = serve(&host, "backend", &[]).await;
    // Another runtime, so that loopback is not shared.
    let other = Host::new();
    let path: &'static str = format!("/fetch/127.0.0.1:{backend}").leak();
    let (port, output) = serve(&other, "closed", &[]).await;
    assert_eq!(ask(port, path).await, (200, "denied".to_owned()));
    let allowed = format!("127.0.0.1:{backend}");
    let (open, open_output) = serve(&other, "open", &[(ALLOW_OUTBOUND, &allowed)]).await;
    assert_eq!(ask(open, path).await, (200, "200".to_owned()));
    for (host, name) in [(&other, "closed"), (&other, "open"), (&host, "backend")] {
        host.runtime.delete(&id(name), true).await.unwrap();
    }
    drop((output, open_output, backend_output));
}
