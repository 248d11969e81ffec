//! Registries that stall, lie and lead astray: each one clear line, and nothing left in the store.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use magik_cas::Digest;
use magik_image::{
    ImageSource,
    auth::{AuthSource, Credential},
    manifest::{OCI_INDEX, OCI_MANIFEST},
    pull::PullOptions,
};
use serde_json::json;

use crate::{
    fixture::{LAYER, Served, World, descriptor, impatient, index, options, reference, within},
    server::{Reply, Request, Server},
};

/// Pulls from a server that answers so, and returns the error, having checked what holds for all of them.
async fn refused(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static, options: &PullOptions) -> String {
    let server = Server::start(reply).await;
    refused_from(&server.address, "", options).await
}

async fn refused_from(address: &str, suffix: &str, options: &PullOptions) -> String {
    let world = World::new();
    let before = world.census();
    let source: ImageSource = format!(
        "{}{suffix}",
        reference(address).familiar().trim_end_matches(":latest")
    )
    .parse()
    .unwrap();
    let message = world
        .store
        .pull(&source, options, &())
        .await
        .expect_err("must be refused")
        .to_string();
    assert!(
        !message.contains(['\n', '\r', '\u{1b}']) && message.len() < 700,
        "one clear line: {message:?}"
    );
    assert_eq!(world.census(), before, "something was left behind by: {message}");
    message
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

fn is_layer(request: &Request, image: &Served) -> bool {
    image.manifest["layers"]
        .as_array()
        .unwrap()
        .iter()
        .any(|l| request.path.ends_with(l["digest"].as_str().unwrap()))
}

/// An honest registry but for its layers.
async fn refused_layer(answer: Reply, options: &PullOptions) -> String {
    let image = Served::new(&[&[b'a'; 3000]]);
    let served = image.clone();
    refused(
        move |r| {
            if is_layer(r, &served) {
                answer.clone()
            } else {
                served.reply(r)
            }
        },
        options,
    )
    .await
}

#[tokio::test]
async fn stalls_end_with_an_error_that_names_image_registry_and_blob() {
    let message = refused(|_| Reply::Stall, &impatient()).await;
    says(
        &message,
        &[
            "127.0.0.1",
            "/test/image:latest: registry 127.0.0.1:",
            "manifest latest",
            "stalled",
            "0.8 s",
        ],
    );
    let message = refused(
        |_| Reply::StallAfter {
            length: 100,
            body: b"{".to_vec(),
        },
        &impatient(),
    )
    .await;
    says(&message, &["manifest latest", "stalled"]);
    let stalled = Reply::StallAfter {
        length: 3000,
        body: vec![b'a'; 1000],
    };
    let message = refused_layer(stalled, &impatient()).await;
    says(&message, &["layer sha256:", "stalled"]);
}

#[tokio::test]
async fn a_trickle_ends_at_the_limit_for_the_whole_image() {
    let options = within(|connect| connect.timeout = Duration::from_millis(900));
    let message = refused(
        |_| Reply::Drip {
            every: Duration::from_millis(50),
        },
        &options,
    )
    .await;
    says(&message, &["manifest latest", "not done within 0.9 s"]);
}

#[tokio::test]
async fn lies_about_sizes_are_found_before_they_cost_anything() {
    says(
        &refused_layer(Reply::Endless { status: 200 }, &options()).await,
        &["layer sha256:", "more bytes", "says 3000 bytes"],
    );
    says(
        &refused_layer(Reply::ok("x", vec![b'a'; 3001]), &options()).await,
        &["3001 bytes", "says 3000 bytes"],
    );
    says(
        &refused_layer(Reply::ok("x", vec![b'a'; 2999]), &options()).await,
        &["2999 bytes", "says 3000 bytes"],
    );
    says(
        &refused_layer(
            Reply::StallAfter {
                length: 1 << 40,
                body: vec![],
            },
            &options(),
        )
        .await,
        &["1099511627776 bytes"],
    );
}

#[tokio::test]
async fn lies_about_digests_are_found() {
    says(
        &refused_layer(Reply::ok("x", vec![b'b'; 3000]), &options()).await,
        &["layer sha256:", "hashes to sha256:"],
    );

    let image = Served::new(&[b"x"]);
    let served = image.clone();
    let server = Server::start(move |_| Reply::ok(OCI_MANIFEST, served.bytes())).await;
    let pinned = format!("@{}", Digest::sha256(b"another"));
    says(
        &refused_from(&server.address, &pinned, &options()).await,
        &["manifest sha256:", "hashes to"],
    );

    let header = move |r: &Request| {
        image
            .reply(r)
            .with("docker-content-digest", Digest::sha256(b"another").to_string())
    };
    says(
        &refused(header, &options()).await,
        &["manifest latest", "hashes to"],
    );
}

#[tokio::test]
async fn a_huge_manifest_is_not_read() {
    let message = refused(|_| Reply::ok(OCI_MANIFEST, vec![b' '; 10 << 20]), &options()).await;
    says(&message, &["manifest latest", "larger than 1048576 bytes"]);
    let message = refused(|_| Reply::Endless { status: 200 }, &options()).await;
    says(&message, &["manifest latest", "larger than 1048576 bytes"]);
}

#[tokio::test]
async fn documents_that_are_no_image_are_named() {
    let with = |change: fn(&mut serde_json::Value)| {
        let mut image = Served::new(&[b"x"]);
        change(&mut image.manifest);
        move |r: &Request| image.reply(r)
    };
    says(
        &refused(with(|m| m["manifests"] = json!([])), &options()).await,
        &["CVE-2021-41190"],
    );
    says(
        &refused(with(|m| m["schemaVersion"] = json!(1)), &options()).await,
        &["schema 1"],
    );
    says(
        &refused(
            with(|m| m["layers"] = json!(vec![descriptor(LAYER, b"x"); 129])),
            &options(),
        )
        .await,
        &["layers", "more than 128"],
    );
    says(
        &refused(with(|m| m["layers"][0]["size"] = json!(1_u64 << 40)), &options()).await,
        &["layers[0]", "larger than 536870912"],
    );
    says(
        &refused(with(|m| m["layers"] = json!([])), &options()).await,
        &[
            "registry 127.0.0.1",
            "config sha256:",
            "diff_ids has 1 entries, manifest sha256:",
        ],
    );
    let helm = "application/vnd.cncf.helm.config.v1+json";
    let mut chart = Served::new(&[b"x"]);
    chart.manifest["config"]["mediaType"] = json!(helm);
    says(
        &refused(move |r| chart.reply(r), &options()).await,
        &["artifact", helm],
    );
    says(
        &refused(|_| Reply::ok("text/html", "<html>"), &options()).await,
        &["/test/image:latest: registry 127.0.0.1:", "manifest sha256:"],
    );
}

#[tokio::test]
async fn an_index_without_our_platform_or_without_end_is_refused() {
    let other = |arch: &str| {
        let mut entry = descriptor(OCI_MANIFEST, b"x");
        entry["platform"] = json!({"os": "linux", "architecture": arch});
        entry
    };
    let foreign = index(&[other("s390x"), other("riscv64")]);
    let message = refused(move |_| Reply::ok(OCI_INDEX, foreign.to_string()), &options()).await;
    says(
        &message,
        &["no image for linux/", "linux/riscv64, linux/s390x", "--platform"],
    );

    // An index in an index in an index in …
    let mut levels = vec![index(&[]).to_string()];
    for _ in 0..4 {
        let inner = descriptor(OCI_INDEX, levels.last().unwrap().as_bytes());
        levels.push(index(&[inner]).to_string());
    }
    let nested = move |r: &Request| {
        let name = r.path.rsplit('/').next().unwrap_or_default();
        let level = levels
            .iter()
            .find(|text| Digest::sha256(text.as_bytes()).to_string() == name);
        Reply::ok(OCI_INDEX, level.unwrap_or(&levels[4]).clone())
    };
    says(
        &refused(nested, &options()).await,
        &["indexes lie in one another"],
    );
}

#[tokio::test]
async fn an_image_for_another_machine_is_refused_before_its_layers_are_fetched() {
    let mut image = Served::new(&[b"x"]);
    let config = json!({"architecture": "s390x", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [Digest::sha256(b"x").to_string()]}});
    let config = config.to_string().into_bytes();
    image.manifest["config"] = descriptor(crate::fixture::CONFIG, &config);
    image.blobs.insert(Digest::sha256(&config).to_string(), config);
    let server = Server::start(move |r| image.reply(r)).await;
    says(
        &refused_from(&server.address, "", &options()).await,
        &["no image for linux/", "linux/s390x"],
    );
    assert_eq!(
        server.requests().len(),
        2,
        "manifest and config only: {:?}",
        server.requests()
    );
}

#[tokio::test]
async fn urls_of_foreign_layers_are_never_followed() {
    let bait = Server::start(|_| Reply::ok("x", "x")).await;
    let mut image = Served::new(&[b"x"]);
    image.blobs.remove(&Digest::sha256(b"x").to_string());
    let layer = &mut image.manifest["layers"][0];
    layer["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    layer["urls"] = json!([format!("http://{}/x", bait.address)]);
    says(
        &refused(move |r| image.reply(r), &options()).await,
        &["layer sha256:", "foreign", "not followed"],
    );
    assert!(bait.requests().is_empty());
}

#[tokio::test]
async fn redirects_are_followed_a_few_times_and_without_credentials() {
    let message = refused(
        |r| Reply::status(307, "").with("location", format!("{}x", r.path)),
        &options(),
    )
    .await;
    says(&message, &["manifest latest", "redirected too often"]);

    // The registry asks for a password; the place it sends us to must not see it.
    let image = Served::new(&[b"x"]);
    let elsewhere = Server::start({
        let image = image.clone();
        move |r| image.reply(r)
    })
    .await;
    let address = elsewhere.address.clone();
    let server = Server::start(move |r| match r.headers.get("authorization") {
        None => Reply::status(401, "").with("www-authenticate", "Basic realm=\"x\""),
        Some(_) => Reply::status(307, "").with("location", format!("http://{address}{}", r.path)),
    })
    .await;
    let world = World::new();
    let credential = Credential::Basic {
        username: "u".into(),
        password: "p".into(),
    };
    let options = within(|connect| connect.auth = AuthSource::Given(credential));
    world
        .store
        .pull(&ImageSource::Registry(reference(&server.address)), &options, &())
        .await
        .unwrap();
    assert_eq!(elsewhere.requests().len(), 3);
    assert!(elsewhere.requests().iter().all(|r| r.method == "GET"));
    assert!(
        elsewhere
            .requests()
            .iter()
            .all(|r| !r.headers.contains_key("authorization"))
    );
}

#[tokio::test]
async fn answers_that_are_errors_say_what_is_wrong() {
    let not_found = refused(|_| Reply::status(404, ""), &options()).await;
    says(&not_found, &["manifest latest not found", "check the name"]);
    let denied = r#"{"errors":[{"code":"DENIED","message":"requested access\nto the resource is denied"}]}"#;
    says(
        &refused(move |_| Reply::status(403, denied), &options()).await,
        &["unauthorized", "access to the resource is denied", "log in"],
    );
    says(
        &refused(|_| Reply::status(401, ""), &options()).await,
        &["unauthorized for manifest latest"],
    );
    says(
        &refused(|_| Reply::Raw(b"\x00\x01garbage\r\n\r\n".to_vec()), &options()).await,
        &["manifest latest"],
    );
    says(
        &refused(|_| Reply::Endless { status: 400 }, &options()).await,
        &["it answered 400"],
    );
    let page = refused(|_| Reply::status(418, "<html>\u{1b}[2J"), &options()).await;
    says(&page, &["it answered 418"]);
    // Nobody listens there any more.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    says(&refused_from(&gone, "", &options()).await, &["refused"]);
}

#[tokio::test]
async fn a_token_server_is_not_trusted_either() {
    let served = |token: Reply| {
        move |r: &Request| {
            if r.path.starts_with("/token") {
                return token.clone();
            }
            let realm = format!(
                "Bearer realm=\"http://{}/token\",service=\"s\"",
                r.headers["host"]
            );
            Reply::status(401, "").with("www-authenticate", realm)
        }
    };
    says(
        &refused(served(Reply::Endless { status: 200 }), &options()).await,
        &["token is larger than 65536 bytes"],
    );
    says(
        &refused(served(Reply::ok("x", "{\"token\":\"a\\nb\"}")), &options()).await,
        &["token", "no header"],
    );
    says(
        &refused(served(Reply::ok("x", "[]")), &options()).await,
        &["its token"],
    );
    says(
        &refused(served(Reply::status(401, "{}")), &options()).await,
        &["unauthorized for its token server"],
    );
    // A token that the registry then refuses is not asked for again and again.
    says(
        &refused(served(Reply::ok("x", "{\"token\":\"t\"}")), &options()).await,
        &["unauthorized for manifest latest"],
    );
    says(
        &refused(
            |_| Reply::status(401, "").with("www-authenticate", "Bearer realm=\"file:///etc/passwd\""),
            &options(),
        )
        .await,
        &["its token server"],
    );
}

#[tokio::test]
async fn one_bad_layer_stops_the_others_and_leaves_nothing() {
    let layers: Vec<Vec<u8>> = (0..8_u8).map(|n| vec![n; 200_000]).collect();
    let image = Served::new(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let bad = Digest::sha256(&layers[2]).to_string();
    let message = refused(
        move |r| match image.reply(r) {
            _ if r.path.ends_with(&bad) => Reply::ok("x", vec![9; 200_000]),
            // The others would go on for long.
            _ if is_layer(r, &image) => Reply::StallAfter {
                length: 200_000,
                body: vec![0; 10],
            },
            honest => honest,
        },
        &options(),
    )
    .await;
    says(&message, &["hashes to"]);
}

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let image = Served::new(&[&[b'a'; 3000]]);
    let attempts = AtomicUsize::new(0);
    let server = Server::start(
        move |r| match (is_layer(r, &image), attempts.fetch_add(1, Relaxed)) {
            (_, 0) => Reply::status(503, ""),
            (true, n) if n < 5 => Reply::CutAfter {
                length: 3000,
                body: vec![b'a'; 1000],
            },
            _ => image.reply(r),
        },
    )
    .await;
    let world = World::new();
    let pulled = world
        .store
        .pull(
            &ImageSource::Registry(reference(&server.address)),
            &options(),
            &(),
        )
        .await
        .unwrap();
    assert_eq!(pulled.layers().len(), 1);
}
