//! Networks that break, registries that are busy, mirrored, moved, blocked or elsewhere: what pulling makes of them.

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use magik_cas::Digest;
use magik_image::{
    ImageSource, PruneOptions,
    policy::{Policy, PolicySource},
    pull::PullOptions,
    registries::{Registries, RegistriesSource},
};

use crate::{
    fixture::{Served, World, options, reference, within},
    server::{Reply, Request, Server},
};

/// Bytes that are not all alike: a blob put together wrongly must be noticed.
fn noise(len: u32) -> Vec<u8> {
    (0..len / 4)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

const LARGE: u32 = 3 << 20;

/// Answers a range request as a good registry does.
fn ranged(request: &Request, blob: &[u8]) -> Reply {
    let from = request.headers.get("range").map(|range| {
        let from = range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-'));
        from.and_then(|n| n.parse::<usize>().ok()).unwrap()
    });
    match from {
        None => Reply::ok("x", blob),
        Some(from) => Reply::Answer {
            status: 206,
            headers: vec![(
                "content-range",
                format!("bytes {from}-{}/{}", blob.len() - 1, blob.len()),
            )],
            body: blob[from..].to_vec(),
        },
    }
}

fn layer_requests(server: &Server, layer: &[u8]) -> Vec<Option<String>> {
    let name = Digest::sha256(layer).to_string();
    let requests = server.requests();
    let of_layer = requests.iter().filter(|r| r.path.ends_with(&name));
    of_layer.map(|r| r.headers.get("range").cloned()).collect()
}

fn source(server: &Server) -> ImageSource {
    ImageSource::Registry(reference(&server.address))
}

#[tokio::test]
async fn a_connection_that_breaks_is_replaced_by_one_for_the_rest() {
    let layer = noise(LARGE);
    let image = Served::new(&[&layer]);
    let (name, blob) = (Digest::sha256(&layer).to_string(), layer.clone());
    let cuts = AtomicUsize::new(0);
    let server = Server::start(move |r| match cuts.load(Relaxed) {
        n if r.path.ends_with(&name) && n < 6 => {
            cuts.store(n + 1, Relaxed);
            let Reply::Answer {
                status,
                headers,
                body,
            } = ranged(r, &blob)
            else {
                unreachable!()
            };
            // More breaks than there are attempts: each has brought something.
            Reply::Cut {
                status,
                headers,
                length: body.len(),
                body: body[..300_000].to_vec(),
            }
        }
        _ if r.path.ends_with(&name) => ranged(r, &blob),
        _ => image.reply(r),
    })
    .await;
    let world = World::new();
    world.store.pull(&source(&server), &options(), &()).await.unwrap();
    let ranges = layer_requests(&server, &layer);
    assert_eq!(ranges.len(), 7, "{ranges:?}");
    assert!(ranges[1..].iter().all(Option::is_some), "{ranges:?}");
    assert!(world.store.verify().unwrap().is_empty());
}

/// Pulls from a registry that breaks off for good, then from one that answers as `second` does, and returns what that was
/// asked for of the layer.
async fn interrupted(
    damage: bool,
    second: impl Fn(&Request, &[u8]) -> Reply + Send + Sync + 'static,
) -> Vec<Option<String>> {
    let layer = noise(LARGE);
    let image = Served::new(&[&layer, b"small"]);
    let name = Digest::sha256(&layer).to_string();
    let (served, mut start) = (image.clone(), layer[..2_000_000].to_vec());
    if damage {
        start[1_000_000] ^= 1;
    }
    let wanted = name.clone();
    let broken = Server::start(move |r| {
        if r.path.ends_with(&wanted) {
            return Reply::StallAfter {
                length: u64::from(LARGE),
                body: start.clone(),
            };
        }
        served.reply(r)
    })
    .await;
    let world = World::new();
    let impatient = within(|connect| connect.timeout = Duration::from_secs(3));
    let error = world
        .store
        .pull(&source(&broken), &impatient, &())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("not done within"), "{error}");
    assert!(
        world.store.list().unwrap().is_empty(),
        "nothing of it is to be seen"
    );
    assert!(world.store.cas().list().unwrap().is_empty());

    let (blob, wanted) = (layer.clone(), name.clone());
    let whole = Server::start(move |r| {
        if r.path.ends_with(&wanted) {
            return second(r, &blob);
        }
        image.reply(r)
    })
    .await;
    let pulled = world.store.pull(&source(&whole), &options(), &()).await.unwrap();
    assert_eq!(pulled.layers().len(), 2);
    assert!(world.store.verify().unwrap().is_empty());
    let pruned = world.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.leftovers, pruned.blobs), (0, 0), "nothing is left over");
    layer_requests(&whole, &layer)
}

#[tokio::test]
async fn a_pull_goes_on_where_another_was_cut_short() {
    assert_eq!(interrupted(false, ranged).await, [Some("bytes=2000000-".into())]);
}

#[tokio::test]
async fn a_registry_without_ranges_sends_all_of_it_again() {
    let asked = interrupted(false, |_, blob| Reply::ok("x", blob)).await;
    assert_eq!(asked, [Some("bytes=2000000-".into())]);
}

#[tokio::test]
async fn another_range_than_was_asked_for_is_not_taken() {
    let asked = interrupted(false, |r, blob| match ranged(r, blob) {
        Reply::Answer {
            status: 206, body, ..
        } => Reply::Answer {
            status: 206,
            headers: vec![(
                "content-range",
                format!("bytes 5-{}/{}", blob.len() - 1, blob.len()),
            )],
            body,
        },
        whole => whole,
    })
    .await;
    assert_eq!(asked, [Some("bytes=2000000-".into()), None]);
    let asked = interrupted(false, |r, blob| match ranged(r, blob) {
        Reply::Answer { status: 206, .. } => Reply::status(416, ""),
        whole => whole,
    })
    .await;
    assert_eq!(asked, [Some("bytes=2000000-".into()), None]);
}

#[tokio::test]
async fn a_beginning_that_was_damaged_is_found_by_its_digest_and_fetched_again() {
    let asked = interrupted(true, ranged).await;
    assert_eq!(asked, [Some("bytes=2000000-".into()), None]);
}

#[tokio::test]
async fn what_an_interrupted_pull_has_left_goes_with_the_next_prune() {
    let layer = noise(LARGE);
    let image = Served::new(&[&layer]);
    let (name, start) = (Digest::sha256(&layer).to_string(), layer[..2_000_000].to_vec());
    let server = Server::start(move |r| {
        if r.path.ends_with(&name) {
            return Reply::StallAfter {
                length: u64::from(LARGE),
                body: start.clone(),
            };
        }
        image.reply(r)
    })
    .await;
    let world = World::new();
    let before = world.census();
    // Given up from outside, as by Ctrl-C.
    let (asked, options) = (source(&server), options());
    let pull = world.store.pull(&asked, &options, &());
    assert!(tokio::time::timeout(Duration::from_secs(2), pull).await.is_err());
    let report = world.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((report.leftovers, report.bytes), (1, 2_000_000));
    assert_eq!(world.census(), before);
}

#[tokio::test]
async fn a_busy_registry_is_waited_for_as_long_as_it_asks() {
    let image = Served::new(&[b"x"]);
    let turned_away = AtomicUsize::new(0);
    let server = Server::start(move |r| {
        if r.path.contains("/manifests/") && turned_away.fetch_add(1, Relaxed) == 0 {
            return Reply::status(429, "").with("retry-after", "1");
        }
        image.reply(r)
    })
    .await;
    let began = Instant::now();
    let world = World::new();
    world.store.pull(&source(&server), &options(), &()).await.unwrap();
    // Not a measurement: it must not have been asked sooner.
    assert!(began.elapsed() >= Duration::from_secs(1));

    let server = Server::start(|_| Reply::status(429, "").with("retry-after", "3600")).await;
    let error = world
        .store
        .pull(&source(&server), &options(), &())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("429") && error.contains("in 3600 s"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

fn with_registries(conf: &str) -> PullOptions {
    let registries = Registries::parse(conf).unwrap();
    within(|connect| connect.registries = RegistriesSource::Given(registries))
}

#[tokio::test]
async fn mirrors_are_asked_first_and_the_image_keeps_its_name() {
    let image = Served::new(&[b"x"]);
    let served = image.clone();
    let broken = Server::start(|_| Reply::status(404, "")).await;
    let mirror = Server::start(move |r| served.reply(r)).await;
    let origin = Server::start(|_| Reply::status(500, "")).await;
    let conf = format!(
        "[[registry]]\nprefix = \"registry.example\"\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"{}/first\"\n[[registry.mirror]]\nlocation = \"{}/mirrored\"\n",
        origin.address, broken.address, mirror.address
    );
    let world = World::new();
    let name: ImageSource = "registry.example/team/app:latest".parse().unwrap();
    let pulled = world
        .store
        .pull(&name, &with_registries(&conf), &())
        .await
        .unwrap();
    assert_eq!(
        pulled.reference.unwrap().to_string(),
        "registry.example/team/app:latest"
    );
    assert!(
        broken.requests()[0]
            .path
            .starts_with("/v2/first/team/app/manifests/")
    );
    assert!(
        mirror.requests()[0]
            .path
            .starts_with("/v2/mirrored/team/app/manifests/")
    );
    assert!(origin.requests().is_empty());

    // Without the mirrors it is where it has been moved to.
    let moved = format!(
        "[[registry]]\nprefix = \"registry.example/team\"\nlocation = \"{}/elsewhere\"\n",
        mirror.address
    );
    world
        .store
        .pull(&name, &with_registries(&moved), &())
        .await
        .unwrap();
    let last = mirror.requests();
    assert!(
        last.iter()
            .any(|r| r.path.starts_with("/v2/elsewhere/app/manifests/"))
    );

    let blocked = "[[registry]]\nprefix = \"registry.example\"\nblocked = true\n";
    let error = world
        .store
        .pull(&name, &with_registries(blocked), &())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("registries.conf blocks registry.example"),
        "{error}"
    );
}

#[tokio::test]
async fn a_registry_sends_nobody_to_where_it_is_not_itself() {
    let image = Served::new(&[b"x"]);
    for target in [
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/x",
        "http://0.0.0.0:1/x",
    ] {
        let served = image.clone();
        let server = Server::start(move |r| {
            if r.path.contains("/blobs/") {
                return Reply::status(307, "").with("location", target);
            }
            served.reply(r)
        })
        .await;
        let world = World::new();
        let error = world.store.pull(&source(&server), &options(), &()).await;
        // On loopback itself, 0.0.0.0 is as near as the registry: it is refused by nobody listening there.
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("where the registry itself is not") || target.contains("0.0.0.0"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn the_signature_policy_is_asked_before_the_registry() {
    let image = Served::new(&[b"x"]);
    let server = Server::start(move |r| image.reply(r)).await;
    let world = World::new();
    let with = |policy: &str| PullOptions {
        signature_policy: PolicySource::Given(Policy::parse(policy).unwrap()),
        ..options()
    };
    let signed = format!(
        r#"{{"default": [{{"type": "insecureAcceptAnything"}}], "transports": {{"docker": {{"{}/test":
            [{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}}]}}}}}}"#,
        server.address
    );
    for (policy, part) in [
        (r#"{"default": [{"type": "reject"}]}"#, "rejected"),
        (&*signed, "signedBy"),
    ] {
        let error = world
            .store
            .pull(&source(&server), &with(policy), &())
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(part) && error.contains("/test/image:latest"),
            "{error}"
        );
    }
    assert!(server.requests().is_empty());
    world.store.pull(&source(&server), &options(), &()).await.unwrap();
    // An image that is there already is refused as well.
    let reject = r#"{"default": [{"type": "reject"}]}"#;
    let present = PullOptions {
        policy: magik_image::pull::PullPolicy::IfNotPresent,
        ..with(reject)
    };
    assert!(world.store.pull(&source(&server), &present, &()).await.is_err());
}

#[tokio::test]
async fn pulling_again_writes_nothing() {
    let layer = noise(LARGE);
    let image = Served::new(&[&layer]);
    let server = Server::start(move |r| image.reply(r)).await;
    let world = World::new();
    world.store.pull(&source(&server), &options(), &()).await.unwrap();
    let written = || {
        let mut times = Vec::new();
        for dir in ["images", "tmp", "layers", "blobs/sha256"] {
            let dir = world.store.root().join(dir);
            times.push(dir.metadata().unwrap().modified().unwrap());
            for entry in std::fs::read_dir(dir).unwrap() {
                times.push(entry.unwrap().metadata().unwrap().modified().unwrap());
            }
        }
        times
    };
    let before = written();
    world.store.pull(&source(&server), &options(), &()).await.unwrap();
    assert_eq!(written(), before);
    assert_eq!(layer_requests(&server, &layer).len(), 1);
}
