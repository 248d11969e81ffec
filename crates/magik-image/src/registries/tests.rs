use super::*;

fn image(name: &str) -> Reference {
    name.parse().unwrap()
}

/// Where an image is looked for, in order.
fn places(conf: &str, name: &str) -> Vec<String> {
    let endpoints = Registries::parse(conf).unwrap().endpoints(&image(name)).unwrap();
    let shown = |e: Endpoint| format!("{}{}", e.reference, if e.insecure { " insecure" } else { "" });
    endpoints.into_iter().map(shown).collect()
}

const MIRRORS: &str = r#"
[[registry]]
prefix = "docker.io"
location = "hub.lan:5000/dockerhub"
insecure = true
[[registry.mirror]]
location = "fast.lan"
[[registry.mirror]]
location = "pinned.lan/x"
insecure = true
pull-from-mirror = "digest-only"

[[registry]]
prefix = "docker.io/library/nginx"
location = "docker.io/library/nginx"
[[registry.mirror]]
location = "tags.lan/nginx"
pull-from-mirror = "tag-only"
"#;

#[test]
fn mirrors_come_first_and_the_longest_prefix_counts() {
    assert_eq!(
        places(MIRRORS, "busybox:1"),
        [
            "fast.lan/library/busybox:1",
            "hub.lan:5000/dockerhub/library/busybox:1 insecure"
        ]
    );
    let digest = format!("busybox@{}", magik_cas::Digest::sha256(b"x"));
    assert_eq!(places(MIRRORS, &digest).len(), 3);
    assert_eq!(
        places(MIRRORS, "nginx"),
        ["tags.lan/nginx:latest", "docker.io/library/nginx:latest"]
    );
    // A prefix ends where a part of the name ends.
    assert_eq!(places(MIRRORS, "nginx-unprivileged:1").len(), 2);
    assert_eq!(places(MIRRORS, "quay.io/a/b"), ["quay.io/a/b:latest"]);
    let pushed = Registries::parse(MIRRORS)
        .unwrap()
        .destination(&image("busybox:1"))
        .unwrap();
    assert_eq!(pushed.reference.registry(), "hub.lan:5000");
}

#[test]
fn a_wildcard_is_every_host_below_its_domain() {
    let conf = "[[registry]]\nprefix = \"*.corp.example\"\ninsecure = true\n\
                [[registry]]\nprefix = \"*.eu.corp.example\"\nlocation = \"eu.example/all\"\n";
    for (name, place) in [
        ("a.corp.example/x:1", "a.corp.example/x:1 insecure"),
        ("a.corp.example:5000/x:1", "a.corp.example:5000/x:1 insecure"),
        ("corp.example/x:1", "corp.example/x:1"),
        ("a.corp.example.org/x:1", "a.corp.example.org/x:1"),
        ("b.eu.corp.example/x:1", "eu.example/all/x:1"),
    ] {
        assert_eq!(places(conf, name), [place]);
    }
}

#[test]
fn a_blocked_registry_has_no_images() {
    let conf = "[[registry]]\nlocation = \"bad.example\"\nblocked = true\n[[registry]]\nprefix = \"bad.example/good\"\n";
    let registries = Registries::parse(conf).unwrap();
    let error = registries.endpoints(&image("bad.example/x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "bad.example/x:latest: registries.conf blocks bad.example"
    );
    assert!(registries.endpoints(&image("bad.example/good/x")).is_ok());
}

#[test]
fn what_is_not_understood_is_refused_or_said() {
    for (conf, part) in [
        ("[registries.search]\nregistries = ['docker.io']", "version 1"),
        ("[[registry]]\ninsecure = true", "neither a prefix nor a location"),
        ("[[registry]]\nlocation = 'https://x'", "without https://"),
        ("[[registry]]\nprefix = '*.a/b'", "wildcard"),
        ("[[registry]]\nlocation = 'x'\ninsecure = 'yes'", "insecure"),
        (
            "[[registry]]\nlocation = 'x'\n[[registry.mirror]]\nlocation = 'y'\npull-from-mirror = 'never'",
            "pull-from-mirror",
        ),
        ("[[registry]", "TOML"),
    ] {
        let error = Registries::parse(conf).unwrap_err();
        assert!(error.contains(part) && !error.contains('\n'), "{conf}: {error}");
    }
    let (_, remarks) = parse::entries(
        "unqualified-search-registries = ['quay.io']\nshort-name-mode = 'enforcing'\nfuture = 1\n[[registry]]\nlocation = 'x'\nodd = 2",
    )
    .unwrap();
    assert_eq!(remarks.len(), 3, "{remarks:?}");
    assert!(remarks.iter().any(|r| r.contains("registry.odd")) && remarks[0].contains("quay.io/NAME"));
    assert!(
        parse::entries("unqualified-search-registries = ['docker.io']")
            .unwrap()
            .1
            .is_empty()
    );
    let odd = Registries::parse("[[registry]]\nprefix = 'a.example'\nlocation = 'B/UPPER'").unwrap();
    assert!(
        odd.endpoints(&image("a.example/x"))
            .unwrap_err()
            .to_string()
            .contains("no image name")
    );
}

#[test]
fn files_are_read_in_podmans_order() {
    let dir = tempfile::tempdir().unwrap();
    let (etc, home) = (dir.path().join("etc"), dir.path().join("home"));
    let write = |path: PathBuf, location: &str| {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(
            path,
            format!("[[registry]]\nprefix = \"x.example\"\nlocation = \"{location}\"\n"),
        )
        .unwrap();
    };
    let read = |set: &[(&str, PathBuf)]| {
        let env = |name: &str| {
            let found = set.iter().find(|(key, _)| *key == name);
            found.map(|(_, path)| path.into())
        };
        let registries = system(&env, &etc).unwrap();
        registries.endpoints(&image("x.example/i")).unwrap()[0]
            .reference
            .registry()
            .to_owned()
    };
    let at_home = [("HOME", home.clone())];
    assert_eq!(read(&[]), "x.example");
    write(etc.join("registries.conf"), "main.example");
    assert_eq!(read(&at_home), "main.example");
    write(etc.join("registries.conf.d/2.conf"), "two.example");
    write(etc.join("registries.conf.d/1.conf"), "one.example");
    write(etc.join("registries.conf.d/9.txt"), "no.example");
    assert_eq!(read(&at_home), "two.example");
    let given = dir.path().join("given.conf");
    write(given.clone(), "given.example");
    assert_eq!(
        read(&[("CONTAINERS_REGISTRIES_CONF", given.clone())]),
        "two.example"
    );
    write(home.join(".config/containers/registries.conf"), "own.example");
    assert_eq!(read(&at_home), "own.example", "a user's own file stands alone");
    let named = RegistriesSource::File(dir.path().join("none.conf"))
        .load()
        .unwrap_err();
    assert!(named.to_string().contains("none.conf: does not exist"), "{named}");
}

#[test]
fn what_is_configured_can_be_shown_with_the_file_that_says_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("registries.conf");
    let text = "[[registry]]\nprefix = 'a.example/x'\nlocation = 'b.example'\ninsecure = true\n\
        [[registry.mirror]]\nlocation = 'mirror.example'\n";
    std::fs::write(&file, text).unwrap();
    let registries = RegistriesSource::File(file.clone()).load().unwrap();
    let rule = Rule {
        prefix: "a.example/x".into(),
        location: "b.example".into(),
        insecure: true,
        blocked: false,
        mirrors: vec!["mirror.example".into()],
        file: Some(file),
    };
    assert_eq!(registries.rules().collect::<Vec<_>>(), [rule]);
}
