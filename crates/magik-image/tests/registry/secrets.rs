//! Registries and token servers that send us on to others: what is secret does not go along.

use std::collections::BTreeSet;

use magik_image::{
    Error, ImageSource,
    auth::{AuthKey, AuthSource, Credential},
    pull::PullOptions,
    push::PushOptions,
    registries::{Registries, RegistriesSource},
    registry::Problem,
};

use crate::{
    fixture::{Served, World, connect, options, reference, within},
    server::{Reply, Request, Server},
};

fn with_credential(credential: Credential) -> PullOptions {
    within(|connect| connect.auth = AuthSource::Given(credential))
}

fn password() -> Credential {
    Credential::Basic {
        username: "u".into(),
        password: "hunter2".into(),
    }
}

/// A registry whose token server answers with a redirect of this status to `target`.
async fn redirecting(status: u16, target: String) -> Server {
    Server::start(move |r| {
        if r.path.starts_with("/token") {
            return Reply::status(status, "").with("location", target.clone());
        }
        let realm = format!("Bearer realm=\"http://{}/token\"", r.headers["host"]);
        Reply::status(401, "").with("www-authenticate", realm)
    })
    .await
}

#[tokio::test]
async fn token_requests_are_not_sent_on_to_another_server() {
    let credentials = [
        Credential::IdentityToken("refresh-me".into()),
        password(),
        Credential::Anonymous,
    ];
    for status in [301, 302, 303, 307, 308] {
        for credential in &credentials {
            let thief = Server::start(|_| Reply::ok("application/json", r#"{"token": "t"}"#)).await;
            // Another port is another server; so is another name of the same machine.
            for host in [
                thief.address.clone(),
                thief.address.replace("127.0.0.1", "localhost"),
            ] {
                let server = redirecting(status, format!("http://{host}/token")).await;
                let source = ImageSource::Registry(reference(&server.address));
                let world = World::new();
                let error = world
                    .store
                    .pull(&source, &with_credential(credential.clone()), &())
                    .await
                    .unwrap_err()
                    .to_string();
                assert!(
                    error.contains("its token server") && error.contains("redirected to another server"),
                    "{status}: {error}"
                );
                assert!(
                    !error.contains("refresh-me") && !error.contains("hunter2"),
                    "{error}"
                );
            }
            let stolen = thief.requests();
            assert!(
                stolen.is_empty(),
                "{status}: the token request came along: {stolen:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_token_server_may_move_a_request_within_itself() {
    let image = Served::new(&[b"x"]);
    let server = Server::start(move |r| match &*r.path {
        "/token" => Reply::status(307, "").with("location", "/token/v2"),
        "/token/v2" => Reply::ok("application/json", r#"{"token": "t"}"#),
        _ if r.headers.get("authorization").map(String::as_str) == Some("Bearer t") => image.reply(r),
        _ => {
            let realm = format!("Bearer realm=\"http://{}/token\"", r.headers["host"]);
            Reply::status(401, "").with("www-authenticate", realm)
        }
    })
    .await;
    let source = ImageSource::Registry(reference(&server.address));
    let credential = Credential::IdentityToken("refresh-me".into());
    let world = World::new();
    world
        .store
        .pull(&source, &with_credential(credential), &())
        .await
        .unwrap();
    let requests = server.requests();
    let moved = requests.iter().find(|r| r.path == "/token/v2").unwrap();
    assert_eq!(moved.method, "POST");
    assert!(String::from_utf8_lossy(&moved.body).contains("refresh_token=refresh-me"));
}

#[tokio::test]
async fn a_bearer_token_is_not_shown_to_where_blobs_are() {
    let image = Served::new(&[b"x"]);
    let elsewhere = Server::start({
        let image = image.clone();
        move |r| image.reply(r)
    })
    .await;
    for host in [
        elsewhere.address.clone(),
        elsewhere.address.replace("127.0.0.1", "localhost"),
    ] {
        let image = image.clone();
        let server = Server::start(move |r| match &*r.path {
            path if path.starts_with("/token") => Reply::ok("application/json", r#"{"token": "secret"}"#),
            _ if !r.headers.contains_key("authorization") => {
                let realm = format!("Bearer realm=\"http://{}/token\"", r.headers["host"]);
                Reply::status(401, "").with("www-authenticate", realm)
            }
            path if path.contains("/blobs/") => {
                Reply::status(307, "").with("location", format!("http://{host}{path}"))
            }
            _ => image.reply(r),
        })
        .await;
        let source = ImageSource::Registry(reference(&server.address));
        let world = World::new();
        world
            .store
            .pull(&source, &with_credential(password()), &())
            .await
            .unwrap();
    }
    let requests = elsewhere.requests();
    assert_eq!(requests.len(), 4, "two blobs, twice");
    let shown: BTreeSet<&String> = requests.iter().flat_map(|r| r.headers.keys()).collect();
    for header in ["authorization", "cookie", "proxy-authorization", "referer"] {
        assert!(
            !shown.iter().any(|name| *name == header),
            "{header} of {requests:?}"
        );
    }
}

#[tokio::test]
async fn what_is_pushed_is_not_sent_on_to_another_server() {
    let image = Served::new(&[b"private"]);
    let origin = Server::start({
        let image = image.clone();
        move |r| image.reply(r)
    })
    .await;
    let world = World::new();
    let source = ImageSource::Registry(reference(&origin.address));
    let pulled = world.store.pull(&source, &options(), &()).await.unwrap();

    // A registry that takes nothing itself, and names another for: the session, the blob, the
    // manifest.
    let steps: [fn(&Request) -> bool; 3] = [
        |r| r.method == "POST",
        |r| r.method == "PUT" && r.path.contains("/blobs/"),
        |r| r.method == "PUT" && r.path.contains("/manifests/"),
    ];
    for sends_on in steps {
        let thief = Server::start(|_| Reply::status(201, "").with("location", "/x")).await;
        let address = thief.address.clone();
        let server = Server::start(move |r| {
            if sends_on(r) {
                return Reply::status(307, "").with("location", format!("http://{address}{}", r.path));
            }
            match &*r.method {
                "POST" => Reply::status(202, "").with("location", format!("{}1", r.path)),
                "PUT" => Reply::status(201, ""),
                _ => Reply::status(404, ""),
            }
        })
        .await;
        let mut options = PushOptions::default();
        options.connect = connect(&AuthSource::Given(password()));
        let target = reference(&server.address);
        let error = world
            .store
            .push(&pulled, &target, &options, &())
            .await
            .unwrap_err()
            .to_string();
        // A blob is streamed once; nothing is left of it to be sent again.
        let refused = ["redirected to another server", "it answered 307"];
        assert!(refused.iter().any(|why| error.contains(why)), "{error}");
        assert!(thief.requests().is_empty(), "{:?}", thief.requests());
    }
}

#[tokio::test]
async fn what_is_given_for_a_registry_is_not_shown_to_its_mirrors() {
    let closed = || Server::start(|_| Reply::status(401, "").with("www-authenticate", "Basic realm=\"x\""));
    let (mirror, origin) = (closed().await, closed().await);
    let conf = format!(
        "[[registry]]\nlocation = \"{}\"\n[[registry.mirror]]\nlocation = \"{}\"\n",
        origin.address, mirror.address
    );
    let mut options = with_credential(password());
    options.connect.registries = RegistriesSource::Given(Registries::parse(&conf).unwrap());
    let source = ImageSource::Registry(reference(&origin.address));
    let error = World::new()
        .store
        .pull(&source, &options, &())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unauthorized") && !error.contains("hunter2"),
        "{error}"
    );
    let shown = |server: &Server| {
        server
            .requests()
            .iter()
            .any(|r| r.headers.contains_key("authorization"))
    };
    assert!(!mirror.requests().is_empty() && !shown(&mirror));
    assert!(shown(&origin), "the registry itself is meant");
}

/// A registry whose token server lets in `u` with the password `hunter2`, and wants no scope.
async fn with_tokens() -> Server {
    Server::start_with_ping(|r| {
        let authorization = r.headers.get("authorization").map(String::as_str);
        if r.path.starts_with("/token") {
            // base64 of u:hunter2
            return match authorization {
                Some("Basic dTpodW50ZXIy") => Reply::ok("application/json", r#"{"token": "t"}"#),
                _ => Reply::status(401, r#"{"errors":[{"message":"wrong\u001b[31m password"}]}"#),
            };
        }
        if authorization == Some("Bearer t") {
            return Reply::status(200, "{}");
        }
        let realm = format!(
            "Bearer realm=\"http://{}/token\",service=\"s\"",
            r.headers["host"]
        );
        Reply::status(401, "").with("www-authenticate", realm)
    })
    .await
}

#[tokio::test]
async fn a_login_asks_for_a_token_that_allows_nothing() {
    let server = with_tokens().await;
    let key: AuthKey = server.address.parse().unwrap();
    let connect = connect(&AuthSource::default());
    connect.log_in(&key, password()).await.unwrap();
    let asked: Vec<String> = server.requests().iter().map(|r| r.path.clone()).collect();
    assert_eq!(asked, ["/token?client_id=magikrun&service=s&account=u"]);

    let wrong = Credential::Basic {
        username: "u".into(),
        password: "hunter3".into(),
    };
    let error = connect.log_in(&key, wrong).await.unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(&error, Error::Registry(e) if matches!(e.problem, Problem::LoginRefused(_))),
        "{said}"
    );
    assert!(
        said.contains("wrong [31m password") && !said.contains("hunter") && said.contains(&server.address),
        "{said}"
    );
}
