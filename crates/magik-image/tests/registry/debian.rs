//! Debian's docker-registry, for real.

use std::{
    fs,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

use magik_image::{
    Image, ImageSource,
    auth::{AuthSource, Credential},
    pull::{Event, Progress, PullOptions, PullPolicy},
    push::PushOptions,
};
use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};

use crate::fixture::{World, connect, options, reference};

/// `magik:secret` as `htpasswd -B` writes it.
const HTPASSWD: &str = "magik:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

pub(crate) struct Registry {
    child: Child,
    pub(crate) address: String,
    _dir: tempfile::TempDir,
}

/// What a registry shows over TLS: files.
pub(crate) struct Tls {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Registry {
    /// `None`, loudly, if it is not installed.
    async fn start(test: &str, with_password: bool) -> Option<Self> {
        Self::start_with(test, with_password, None).await
    }

    /// The same, over TLS if there is a certificate.
    pub(crate) async fn start_with(test: &str, with_password: bool, tls: Option<&Tls>) -> Option<Self> {
        if !std::path::Path::new("/usr/bin/docker-registry").exists() {
            eprintln!("SKIPPED {test}: needs /usr/bin/docker-registry (apt-get install docker-registry)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        // Free a moment ago; tests run in parallel, so another may be faster: then this one tries again.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .to_string();
            let password = dir.path().join("htpasswd");
            fs::write(&password, HTPASSWD).unwrap();
            let auth = if with_password {
                format!(
                    "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                    password.display()
                )
            } else {
                String::new()
            };
            let tls = tls.map_or_else(String::new, |tls| {
                let (certificate, key) = (tls.certificate.display(), tls.key.display());
                format!(", tls: {{certificate: \"{certificate}\", key: \"{key}\"}}")
            });
            let config = dir.path().join("config.yml");
            let text = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"{tls}}}\n{auth}",
                dir.path().join("data").display()
            );
            fs::write(&config, text).unwrap();
            let mut serve = Command::new("/usr/bin/docker-registry");
            serve
                .arg("serve")
                .arg(&config)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            let mut child = serve.spawn().unwrap();
            for _ in 0..500 {
                if TcpStream::connect(&address).is_ok() {
                    return Some(Self {
                        child,
                        address,
                        _dir: dir,
                    });
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    fn source(&self) -> ImageSource {
        ImageSource::Registry(reference(&self.address))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image of three layers, one of them large enough to arrive in many pieces.
pub(crate) async fn image(world: &World) -> Image {
    let dir = tempfile::tempdir().unwrap();
    let mut layout = Layout::create(dir.path()).unwrap();
    let noise: Vec<u8> = (0..3_000_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    let layers = [b"first".to_vec(), noise, b"third".to_vec()].map(|content| {
        let mut layer = LayerBuilder::new();
        layer.file("/file", 0o644, &content).unwrap();
        layer.finish().unwrap()
    });
    layout
        .add(
            "v1",
            &layers.iter().collect::<Vec<_>>(),
            &ImageConfig::command(&["/file"]),
        )
        .unwrap();
    let source: ImageSource = layout.reference("v1").parse().unwrap();
    world.store.pull(&source, &options(), &()).await.unwrap()
}

fn push_options(auth: &AuthSource) -> PushOptions {
    let mut options = PushOptions::default();
    options.connect = connect(auth);
    options
}

/// Time enough for a busy machine.
fn patient(auth: &AuthSource) -> PullOptions {
    PullOptions {
        connect: connect(auth),
        unpack: true,
        ..options()
    }
}

#[derive(Default)]
struct Heard(Mutex<Vec<Event>>);

impl Progress for Heard {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Heard {
    fn count(&self, is: fn(&Event) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| is(event)).count()
    }
}

#[tokio::test]
async fn an_image_comes_back_as_it_was_pushed_and_is_not_sent_twice() {
    let Some(registry) = Registry::start(
        "an_image_comes_back_as_it_was_pushed_and_is_not_sent_twice",
        false,
    )
    .await
    else {
        return;
    };
    let anonymous = AuthSource::Given(Credential::Anonymous);
    let (here, there) = (World::new(), World::new());
    let image = image(&here).await;
    let target = reference(&registry.address);

    let heard = Heard::default();
    let digest = here
        .store
        .push(&image, &target, &push_options(&anonymous), &heard)
        .await
        .unwrap();
    assert_eq!(digest, image.manifest_digest);
    assert_eq!(
        heard.count(|e| matches!(e, Event::Done { .. })),
        4,
        "configuration and three layers"
    );
    let heard = Heard::default();
    here.store
        .push(&image, &target, &push_options(&anonymous), &heard)
        .await
        .unwrap();
    assert_eq!(heard.count(|e| matches!(e, Event::Cached { .. })), 4);

    let heard = Heard::default();
    let pulled = there
        .store
        .pull(&registry.source(), &patient(&anonymous), &heard)
        .await
        .unwrap();
    assert_eq!(
        (pulled.manifest_digest, pulled.config_digest),
        (image.manifest_digest, image.config_digest)
    );
    assert_eq!(pulled.layers(), image.layers());
    assert_eq!(heard.count(|e| matches!(e, Event::Done { .. })), 4);
    let last = heard
        .0
        .lock()
        .unwrap()
        .iter()
        .filter_map(|e| match e {
            Event::Bytes { done, .. } => Some(*done),
            _ => None,
        })
        .max();
    assert_eq!(last, image.layers().iter().map(|layer| layer.size).max());
    assert!(there.store.verify().unwrap().is_empty());

    let heard = Heard::default();
    there
        .store
        .pull(&registry.source(), &patient(&anonymous), &heard)
        .await
        .unwrap();
    assert_eq!(heard.count(|e| matches!(e, Event::Cached { .. })), 4);

    // By digest, and by a name and a digest.
    for name in [
        format!("{}/test/image@{digest}", registry.address),
        format!("{target}@{digest}"),
    ] {
        let pulled = there
            .store
            .pull(&name.parse().unwrap(), &patient(&anonymous), &())
            .await
            .unwrap();
        assert_eq!(pulled.reference.unwrap().to_string(), name);
    }
}

#[tokio::test]
async fn the_policy_decides_whether_the_registry_is_asked() {
    let Some(registry) = Registry::start("the_policy_decides_whether_the_registry_is_asked", false).await
    else {
        return;
    };
    let anonymous = AuthSource::Given(Credential::Anonymous);
    let world = World::new();
    let with = |policy| PullOptions {
        policy,
        ..patient(&anonymous)
    };
    let error = world
        .store
        .pull(&registry.source(), &with(PullPolicy::Never), &())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is not in the store"), "{error}");

    let image = image(&world).await;
    world
        .store
        .push(
            &image,
            &reference(&registry.address),
            &push_options(&anonymous),
            &(),
        )
        .await
        .unwrap();
    world
        .store
        .pull(&registry.source(), &with(PullPolicy::IfNotPresent), &())
        .await
        .unwrap();
    let source = registry.source();
    drop(registry);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        assert!(
            world.store.pull(&source, &with(policy), &()).await.is_ok(),
            "{policy:?}"
        );
    }
    assert!(
        world
            .store
            .pull(&source, &with(PullPolicy::Always), &())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn credentials_from_an_auth_file_open_a_registry_with_a_password() {
    let Some(registry) = Registry::start(
        "credentials_from_an_auth_file_open_a_registry_with_a_password",
        true,
    )
    .await
    else {
        return;
    };
    let world = World::new();
    let image = image(&world).await;
    let target = reference(&registry.address);
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: &str| {
        fs::write(
            file.path(),
            format!(
                r#"{{"auths": {{"{}/test": {{"auth": "{text}"}}}}}}"#,
                registry.address
            ),
        )
        .unwrap();
    };
    let auth = AuthSource::File(file.path().to_owned());

    write("bWFnaWs6d3Jvbmc="); // magik:wrong
    for error in [
        world
            .store
            .push(&image, &target, &push_options(&auth), &())
            .await
            .unwrap_err(),
        world
            .store
            .pull(&registry.source(), &patient(&auth), &())
            .await
            .unwrap_err(),
        world
            .store
            .pull(
                &registry.source(),
                &patient(&AuthSource::Given(Credential::Anonymous)),
                &(),
            )
            .await
            .unwrap_err(),
    ] {
        let message = error.to_string();
        assert!(
            message.contains("unauthorized") && message.contains("log in") && !message.contains("wrong"),
            "{message}"
        );
    }
    write("bWFnaWs6c2VjcmV0"); // magik:secret
    world
        .store
        .push(&image, &target, &push_options(&auth), &())
        .await
        .unwrap();
    let pulled = World::new()
        .store
        .pull(&registry.source(), &patient(&auth), &())
        .await
        .unwrap();
    assert_eq!(pulled.manifest_digest, image.manifest_digest);

    let missing: ImageSource = format!("{}/test/nothing:v9", registry.address).parse().unwrap();
    let message = world
        .store
        .pull(&missing, &patient(&auth), &())
        .await
        .unwrap_err()
        .to_string();
    assert!(message.contains("manifest v9 not found"), "{message}");
}

#[tokio::test]
async fn several_pulls_of_one_image_at_once_give_the_same_image() {
    let Some(registry) =
        Registry::start("several_pulls_of_one_image_at_once_give_the_same_image", false).await
    else {
        return;
    };
    let anonymous = AuthSource::Given(Credential::Anonymous);
    let (here, there) = (World::new(), World::new());
    let image = image(&here).await;
    here.store
        .push(
            &image,
            &reference(&registry.address),
            &push_options(&anonymous),
            &(),
        )
        .await
        .unwrap();
    let (source, options) = (registry.source(), patient(&anonymous));
    let pulls = (0..4).map(|_| there.store.pull(&source, &options, &()));
    for pulled in futures_util::future::join_all(pulls).await {
        assert_eq!(pulled.unwrap().manifest_digest, image.manifest_digest);
    }
    assert!(there.store.verify().unwrap().is_empty());
}

#[test]
fn pulling_and_pushing_can_be_spawned_on_any_runtime() {
    fn sendable<T: Send>(_: T) {}
    let world = World::new();
    let source: ImageSource = "localhost/x".parse().unwrap();
    sendable(world.store.pull(&source, &PullOptions::default(), &()));
    let _push = |image: Image| {
        let target = reference("localhost");
        sendable(world.store.push(&image, &target, &PushOptions::default(), &()));
    };
}
