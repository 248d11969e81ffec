//! The image commands take images from everywhere and write them everywhere; login and logout.

use std::{
    fs,
    io::{Read, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use magikrun_tests::{BUSYBOX, Magikrun, Registry, Scene, busybox_layout, container, isolated, pod};
use serde_json::{Value, json};

/// A layout with `app:1` of one layer, and `app:2` that has a second one.
fn app_layout(dir: &Path) -> Layout {
    let mut base = LayerBuilder::new();
    base.dir("/etc", 0o755).unwrap();
    base.file("/etc/kept", 0o644, b"kept").unwrap();
    base.file("/etc/gone", 0o644, b"gone").unwrap();
    base.file("/etc/grown", 0o644, b"small").unwrap();
    base.dir("/old", 0o755).unwrap();
    base.file("/old/file", 0o644, b"old").unwrap();
    base.file("/opaque/old", 0o644, b"old").unwrap();
    base.file("/was-dir/file", 0o644, b"old").unwrap();
    let base = base.finish().unwrap();
    let mut top = LayerBuilder::new();
    top.dir("/etc", 0o755).unwrap();
    top.file("/etc/.wh.gone", 0o644, b"").unwrap();
    top.file("/etc/grown", 0o644, b"much larger").unwrap();
    top.file("/etc/a\x1b[31mb", 0o644, b"new").unwrap();
    top.file("/.wh.old", 0o644, b"").unwrap();
    top.dir("/srv", 0o755).unwrap();
    top.file("/srv/new", 0o644, b"new").unwrap();
    top.file("/opaque/.wh..wh..opq", 0o644, b"").unwrap();
    top.file("/opaque/new", 0o644, b"new").unwrap();
    top.symlink("/was-dir", "etc").unwrap();
    let top = top.finish().unwrap();
    let mut layout = Layout::create(dir).unwrap();
    let config = ImageConfig::command(&["/app"]);
    layout.add("localhost/app:1", &[&base], &config).unwrap();
    layout.add("localhost/app:2", &[&base, &top], &config).unwrap();
    layout
}

fn digest(magikrun: &Magikrun, image: &str) -> String {
    magikrun.json(&["image", "inspect", image])["digest"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// A command with a file of credentials of its own, and perhaps a password on its standard input.
fn with_auth(magikrun: &Magikrun, file: &Path, args: &[&str], stdin: &str) -> (i32, String, String) {
    let mut command = magikrun.command(args);
    command.env("REGISTRY_AUTH_FILE", file).stdin(Stdio::piped());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It need not read it.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let out = child.wait_with_output().unwrap();
    let [stdout, stderr] = [out.stdout, out.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (out.status.code().unwrap(), stdout, stderr)
}

isolated!(
    fn every_command_takes_an_image_from_everywhere(scene) {
        let registry = Registry::start(&scene.dir().join("registry"), 5000);
        let layout = busybox_layout(&scene.dir().join("layout"));
        let name = registry.push(&layout, BUSYBOX, "busybox");
        let path = |name: &str| text(&scene.dir().join(name));
        let first = Magikrun::new(scene);
        for (kind, file) in [("oci-archive", "oci.tar"), ("docker-archive", "docker.tar")] {
            first.ok(&["image", "save", &layout.reference(BUSYBOX), &format!("{kind}:{}", path(file))]);
        }
        let sources = [
            format!("docker://{name}"),
            layout.reference(BUSYBOX),
            format!("oci-archive:{}", path("oci.tar")),
            format!("docker-archive:{}", path("docker.tar")),
            path("oci.tar"),
            text(layout.dir()),
        ];
        for (n, source) in sources.iter().enumerate() {
            let root = |what: &str| scene.dir().join(format!("{what}{n}"));
            let fresh = |what: &str| Magikrun::with_roots(scene, root(what), root("state"));
            let rootfs = text(&root("files"));
            fresh("unpack").ok(&["image", "unpack", source, &rootfs]);
            assert!(Path::new(&rootfs).join("bin/busybox").exists(), "{source}");
            let bundle = text(&root("made"));
            fresh("bundle").ok(&["image", "bundle", source, &bundle, "--", "true"]);
            assert!(Path::new(&bundle).join("config.json").exists(), "{source}");
            let saved = text(&root("saved.tar"));
            fresh("save").ok(&["image", "save", source, "-o", &saved]);
            assert!(Path::new(&saved).exists(), "{source}");
            let shown = fresh("inspect").json(&["image", "inspect", source]);
            assert_eq!(shown["layers"], 1, "{source}");
            let target = format!("127.0.0.1:5000/copy/{n}:1");
            let pushed = fresh("push").json(&["image", "push", source, &target]);
            assert_eq!(pushed["digest"], shown["digest"], "{source}");
            fresh("pull").ok(&["image", "pull", source]);
            let loaded = fresh("load").ok(&["image", "load", source]);
            assert!(!loaded.is_empty(), "{source}");
        }
        // A name alone is the store's: nobody asks a registry for what was mistyped.
        let empty = Magikrun::with_roots(scene, scene.dir().join("empty"), scene.dir().join("state"));
        for command in ["inspect", "history", "diff"] {
            let said = empty.error(&["image", command, &name]);
            assert!(said.contains("is not in the store"), "{said}");
        }
    }
);

isolated!(
    fn what_is_not_to_be_had_is_one_line(scene) {
        let magikrun = Magikrun::new(scene);
        let missing = text(&scene.dir().join("missing.tar"));
        let dir = text(&scene.dir().join("rootfs"));
        for (args, parts) in [
            (vec!["inspect", "127.0.0.1:9/no/image"], vec!["127.0.0.1:9/no/image", "not in the store"]),
            (vec!["inspect", "5b3dfa32b1c7"], vec!["5b3dfa32b1c7", "not in the store"]),
            (vec!["inspect", "oci:"], vec!["oci:PATH"]),
            (vec!["unpack", &missing, &dir], vec!["missing.tar"]),
            (vec!["load", "nginx.tar"], vec!["nginx.tar", "image pull nginx.tar"]),
            (vec!["load", "-i", "a.tar", "b.tar"], vec!["--input"]),
            (vec!["save", "nginx", "docker://localhost/x"], vec!["image push IMAGE localhost/x"]),
            (vec!["save", "nginx", "oci:x", "-o", "y"], vec!["--output"]),
            (vec!["pull", "--http", "--tls-verify=false", "x"], vec!["--tls-verify"]),
            (vec!["pull", "--creds", "u:p", "--authfile", "x", "y"], vec!["--authfile"]),
            (vec!["pull", "--creds", "u", "127.0.0.1:9/x"], vec!["terminal", "--creds USER:PASSWORD"]),
            (vec!["pull", "--authfile", "/no/such.json", "127.0.0.1:9/x"], vec!["/no/such.json"]),
            (vec!["diff", "5b3dfa32b1c7"], vec!["5b3dfa32b1c7"]),
        ] {
            let args = [&["image"], args.as_slice()].concat();
            let said = magikrun.error(&args);
            for part in parts {
                assert!(said.contains(part), "{args:?}: {part} is not in {said}");
            }
        }
        assert!(!Path::new(&dir).exists());
        assert_eq!(magikrun.json(&["image", "ls"]), json!([]));
    }
);

isolated!(
    fn layouts_and_archives_are_written_as_skopeo_reads_them(scene) {
        let magikrun = Magikrun::new(scene);
        let source = busybox_layout(&scene.dir().join("source")).reference(BUSYBOX);
        magikrun.ok(&["image", "pull", &source]);
        let dir = text(&scene.dir().join("dir"));
        for (command, tag) in [("push", ":v1"), ("save", ":v2")] {
            magikrun.ok(&["image", command, BUSYBOX, &format!("oci:{dir}{tag}")]);
        }
        let file = |name: &str| text(&scene.dir().join(name));
        let oci = format!("oci-archive:{}:v1", file("oci.tar"));
        let docker = format!("docker-archive:{}:localhost/other:2", file("docker.tar"));
        magikrun.ok(&["image", "push", BUSYBOX, &oci]);
        magikrun.ok(&["image", "push", BUSYBOX, &docker]);
        let id = magikrun.json(&["image", "inspect", BUSYBOX])["id"].clone();
        for place in [format!("oci:{dir}:v1"), format!("oci:{dir}:v2"), oci.clone(), docker.clone()] {
            let out = Command::new("skopeo").args(["inspect", "--raw", "--config", &place]).output().unwrap();
            assert!(out.status.success(), "{place}: {}", String::from_utf8_lossy(&out.stderr));
            let other = Magikrun::with_roots(scene, scene.dir().join("r").join(place.replace('/', "_")), scene.dir().join("s"));
            assert_eq!(other.json(&["image", "inspect", &place])["id"], id, "{place}");
        }
        let loaded = Magikrun::with_roots(scene, scene.dir().join("named"), scene.dir().join("s")).ok(&["image", "load", &file("docker.tar")]);
        assert_eq!(loaded, "localhost/other:2\n");

        for place in [&oci, &docker] {
            assert!(magikrun.error(&["image", "push", BUSYBOX, place]).contains("exists"), "{place}");
        }
        fs::create_dir(scene.dir().join("mine")).unwrap();
        fs::write(scene.dir().join("mine/file"), "mine").unwrap();
        let said = magikrun.error(&["image", "save", BUSYBOX, &format!("oci:{}", file("mine"))]);
        assert!(said.contains("neither an OCI layout nor an empty directory"), "{said}");
        let said = magikrun.error(&["image", "push", BUSYBOX, &format!("docker-archive:{}:BAD", file("bad.tar"))]);
        assert!(said.contains("BAD"), "{said}");
    }
);

isolated!(
    fn history_and_diff_tell_what_layers_did(scene) {
        let magikrun = Magikrun::new(scene);
        let layout = app_layout(&scene.dir().join("layout"));
        let two = layout.reference("localhost/app:2");
        let expected = "C /etc\nA /etc/a [31mb\nD /etc/gone\nC /etc/grown\nD /old\n\
                        C /opaque\nA /opaque/new\nD /opaque/old\nA /srv\nA /srv/new\nC /was-dir\n";
        assert_eq!(magikrun.ok(&["image", "diff", &two]), expected);
        magikrun.ok(&["image", "pull", &layout.reference("localhost/app:1")]);
        let [one, two] = ["localhost/app:1", "localhost/app:2"];
        assert_eq!(magikrun.ok(&["image", "diff", two, one]), expected);
        assert_eq!(magikrun.ok(&["image", "diff", two, two]), "");
        let back = magikrun.json(&["image", "diff", one, two]);
        assert_eq!(back["deleted"], json!(["/etc/a\u{1b}[31mb", "/opaque/new", "/srv"]));
        assert_eq!(back["added"], json!(["/etc/gone", "/old", "/old/file", "/opaque/old", "/was-dir/file"]));
        assert_eq!(back["changed"], json!(["/etc", "/etc/grown", "/opaque", "/was-dir"]));
        let all = magikrun.ok(&["image", "diff", one]);
        assert!(all.lines().count() == 10 && all.lines().all(|line| line.starts_with("A /")), "{all}");
        // It holds nothing afterwards.
        assert_eq!(fs::read_dir(magikrun.root.join("leases")).unwrap().flatten().filter(|e| e.file_name() != ".lock").count(), 0);
        let pruned = magikrun.json(&["image", "prune", "--all"]);
        assert_eq!(pruned["layers"], 2, "{pruned}");

        let steps = magikrun.json(&["image", "history", &layout.reference(two)]);
        assert_eq!(steps.as_array().map(Vec::len), Some(2), "{steps}");
        assert!(steps[0]["layer"].as_str().unwrap().starts_with("sha256:") && steps[0]["size"].as_u64() > Some(0));
        let table = magikrun.ok(&["image", "history", two]);
        assert!(table.starts_with("CREATED") && table.lines().count() == 3, "{table}");
    }
);

/// The layout's image `tag` with this history.
fn with_history(layout: &Layout, tag: &str, history: &Value) {
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let write = |value: &Value| -> Value {
        let bytes = value.to_string().into_bytes();
        let file = layout.dir().join("new");
        fs::write(&file, &bytes).unwrap();
        let sum = Command::new("sha256sum").arg(&file).output().unwrap().stdout;
        let hex = String::from_utf8(sum)
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .to_owned();
        let digest = format!("sha256:{hex}");
        fs::rename(&file, layout.blob_path(&digest)).unwrap();
        json!({"digest": digest, "size": bytes.len()})
    };
    let mut index = read(&layout.dir().join("index.json"));
    for entry in index["manifests"].as_array_mut().unwrap() {
        if entry["annotations"]["org.opencontainers.image.ref.name"] != tag {
            continue;
        }
        let mut manifest = read(&layout.blob_path(entry["digest"].as_str().unwrap()));
        let mut config = read(&layout.blob_path(manifest["config"]["digest"].as_str().unwrap()));
        config["history"] = history.clone();
        let written = write(&config);
        manifest["config"]["digest"] = written["digest"].clone();
        manifest["config"]["size"] = written["size"].clone();
        let written = write(&manifest);
        entry["digest"] = written["digest"].clone();
        entry["size"] = written["size"].clone();
    }
    fs::write(layout.dir().join("index.json"), index.to_string()).unwrap();
}

isolated!(
    fn a_history_cannot_write_to_the_terminal(scene) {
        let layout = app_layout(&scene.dir().join("layout"));
        let by = format!("RUN evil\u{1b}]0;title\u{7}\nforged {}", "x".repeat(100));
        let history = json!([
            {"created": "2026-01-01T00:00:00Z", "created_by": "ADD base"},
            {"created_by": "ENV A=b", "empty_layer": true},
            {"created_by": by, "comment": "by\u{1b}[2Jhand", "created": "not a time"},
        ]);
        with_history(&layout, "localhost/app:2", &history);
        let magikrun = Magikrun::new(scene);
        let table = magikrun.ok(&["image", "history", &layout.reference("localhost/app:2")]);
        assert!(!table.chars().any(|c| c.is_control() && c != '\n'), "{table:?}");
        assert_eq!(table.lines().count(), 4, "{table}");
        assert!(table.contains("evil") && table.contains('…') && !table.contains(&"x".repeat(100)), "{table}");
        let whole = magikrun.ok(&["image", "history", "--no-trunc", "localhost/app:2"]);
        assert!(whole.contains(&"x".repeat(100)), "{whole}");
        let steps = magikrun.json(&["image", "history", "localhost/app:2"]);
        assert_eq!((&steps[1]["layer"], &steps[1]["size"]), (&Value::Null, &json!(0)));
        assert_eq!((&steps[0]["createdBy"], &steps[2]["createdBy"]), (&json!(by), &json!("ADD base")));
    }
);

const HOST: &str = "127.0.0.1:5000";

/// A registry with a password that has an image, pushed with `--creds`.
fn closed_registry(scene: &Scene, magikrun: &Magikrun) -> (Registry, String) {
    let registry = Registry::with_password(&scene.dir().join("registry"), 5000);
    let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
    let name = format!("{HOST}/test/closed:1");
    magikrun.ok(&["image", "push", "--creds", "magik:secret", &source, &name]);
    (registry, name)
}

isolated!(
    fn a_login_is_tried_kept_used_and_forgotten(scene) {
        let magikrun = Magikrun::new(scene);
        let (_registry, name) = closed_registry(scene, &magikrun);
        let file = scene.dir().join("containers/auth.json");
        let run = |args: &[&str], stdin: &str| with_auth(&magikrun, &file, args, stdin);
        let login = ["login", "-u", Registry::USER, "--password-stdin", HOST];

        let (code, out, said) = run(&login, "wrong\n");
        assert_eq!((code, out.as_str()), (1, ""), "{said}");
        assert!(said.contains("refuses this user name and password") && !said.contains("wrong") && said.lines().count() == 1, "{said}");
        assert!(!file.exists(), "what is refused is not kept");
        let (code, _, said) = run(&["image", "pull", &name], "");
        assert!(code == 1 && said.contains("magikrun login"), "{said}");

        let password = format!("{}\n", Registry::PASSWORD);
        assert_eq!(run(&login, &password), (0, "Login Succeeded!\n".into(), String::new()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(run(&["login", "--get-login", HOST], "").1, "magik\n");
        let (code, _, said) = run(&["image", "pull", "--quiet", &name], "");
        assert_eq!((code, said.as_str()), (0, ""));
        // skopeo reads what was written.
        let skopeo = Command::new("skopeo").args(["inspect", "--tls-verify=false", "--authfile"]).arg(&file).arg(format!("docker://{name}")).output().unwrap();
        assert!(skopeo.status.success(), "{}", String::from_utf8_lossy(&skopeo.stderr));

        assert_eq!(run(&["logout", HOST], "").0, 0);
        let (code, _, said) = run(&["logout", HOST], "");
        assert!(code == 1 && said.contains("not logged in to 127.0.0.1:5000"), "{said}");
        let (code, _, said) = run(&["login", "--get-login", HOST], "");
        assert!(code == 1 && said.contains("not logged in"), "{said}");

        let other = text(&scene.dir().join("other.json"));
        let (code, _, said) = run(&["login", "-u", "magik", "-p", "secret", "--authfile", &other, HOST], "");
        assert!(code == 0 && said.contains("warning") && said.contains("--password-stdin") && !said.contains("secret"), "{said}");
        magikrun.ok(&["image", "pull", "--authfile", &other, &name]);
        assert_eq!(run(&["logout", "--all", "--authfile", &other], "").0, 0);
        assert_eq!(serde_json::from_slice::<Value>(&fs::read(&other).unwrap()).unwrap(), json!({"auths": {}}));
    }
);

isolated!(
    fn credentials_are_for_one_command_and_mistakes_are_one_line(scene) {
        let magikrun = Magikrun::new(scene);
        let (_registry, name) = closed_registry(scene, &magikrun);
        let none = scene.dir().join("none.json");
        let run = |args: &[&str]| with_auth(&magikrun, &none, args, "");
        let rootfs = text(&scene.dir().join("rootfs"));
        assert_eq!(run(&["image", "unpack", "--creds", "magik:secret", &format!("docker://{name}"), &rootfs]).0, 0);
        assert!(!none.exists(), "--creds keeps nothing");
        for (args, code, part) in [
            (vec!["image", "pull", "--creds", "magik:wrong", &name], 1, "unauthorized"),
            (vec!["login", HOST], 1, "terminal"),
            (vec!["login", "nginx"], 2, "HOST:PORT"),
            (vec!["login", "-p", "x", HOST], 2, "--username"),
            (vec!["login", "-u", "a:b", "-p", "x", HOST], 1, "':'"),
            (vec!["login", "-u", "a", "-p", "x", "127.0.0.1:9"], 1, "127.0.0.1:9"),
            (vec!["logout", "quay.io"], 1, "not logged in to quay.io"),
        ] {
            let (found, out, said) = run(&args);
            assert_eq!((found, out.as_str()), (code, ""), "{args:?}: {said}");
            // -p is warned of.
            let lines = 1 + usize::from(args.contains(&"-p") && code == 1);
            assert!(said.lines().count() == lines && said.contains(part) && !said.contains("wrong"), "{args:?}: {said}");
        }
        let (code, _, said) = run(&["image", "pull", "--creds", "magik:secret", "--tls-verify=false", &name]);
        assert!(code == 0 && said.contains("warning: --tls-verify=false"), "{said}");
        let (code, _, said) = run(&["image", "pull", "--creds", "magik:secret", "--tls-verify", &name]);
        assert!(code == 1 && said.contains(HOST) && said.lines().count() == 1, "loopback is no exception then: {said}");
    }
);

/// Reads until a text has come.
fn read_until(from: &mut impl Read, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        assert_eq!(
            from.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&read)
        );
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

isolated!(
    fn a_password_is_asked_for_and_not_shown(scene) {
        let magikrun = Magikrun::new(scene);
        let (_registry, _) = closed_registry(scene, &magikrun);
        let file = scene.dir().join("auth.json");
        // Its terminal is script's.
        let command = magikrun.command(&[]);
        let line = format!("{} login {HOST}", command.get_program().display());
        let mut script = Command::new("timeout");
        script.args(["60", "script", "--quiet", "--return", "--command", &line, "/dev/null"]);
        script.env("REGISTRY_AUTH_FILE", &file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().unwrap();
        let (mut stdin, mut stdout) = (script.stdin.take().unwrap(), script.stdout.take().unwrap());
        let mut shown = read_until(&mut stdout, "Username for 127.0.0.1:5000: ");
        stdin.write_all(b"magik\n").unwrap();
        shown.push_str(&read_until(&mut stdout, "Password: "));
        stdin.write_all(b"secret\n").unwrap();
        shown.push_str(&read_until(&mut stdout, "Login Succeeded!"));
        assert!(script.wait().unwrap().success());
        assert!(shown.contains("magik") && !shown.contains("secret"), "{shown}");
        assert!(file.exists());
    }
);

isolated!(
    fn a_pod_is_pulled_with_the_credentials_of_its_command(scene) {
        let magikrun = Magikrun::new(scene);
        let (_registry, name) = closed_registry(scene, &magikrun);
        magikrun.ok(&["image", "prune", "--all"]);
        let manifest = magikrun.manifest(pod("web", &[container("c", &name, "sleep 100")]).to_string());
        let run = ["pod", "run", "--pull", "missing", "-f", &manifest];
        let said = magikrun.error(&run);
        assert!(said.contains("unauthorized"), "{said}");
        magikrun.ok(&[&run[..], &["--creds", "magik:secret"]].concat());
        magikrun.ok(&["pod", "delete", "--force", "web"]);
        let two = [container("c", &name, "sleep 1"), container("d", "thief.example/x", "sleep 1")];
        let manifest = magikrun.manifest(pod("two", &two).to_string());
        let said = magikrun.error(&["pod", "run", "-f", &manifest, "--creds", "magik:secret"]);
        assert!(said.contains("thief.example") && said.contains("--creds"), "{said}");
    }
);

isolated!(
    fn a_credential_helper_keeps_the_password(scene) {
        let magikrun = Magikrun::new(scene);
        let (_registry, name) = closed_registry(scene, &magikrun);
        let dir = scene.dir().join("helpers");
        fs::create_dir(&dir).unwrap();
        let kept = dir.join("kept");
        let script = format!(
            "#!/bin/sh\nkept={}\ncase $1 in\nstore) cat > $kept ;;\nerase) rm -f $kept ;;\n\
             get) if [ -f $kept ]; then cat $kept; else echo 'credentials not found in native keychain'; exit 1; fi ;;\nesac\n",
            kept.display()
        );
        let helper = dir.join("docker-credential-test");
        fs::write(&helper, script).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
        let file = scene.dir().join("auth.json");
        for settings in [json!({"credHelpers": {HOST: "test"}}), json!({"credsStore": "test"})] {
            fs::write(&file, settings.to_string()).unwrap();
            let run = |args: &[&str]| {
                let mut command = magikrun.command(args);
                let path = format!("{}:{}", dir.display(), std::env::var("PATH").unwrap());
                command.env("PATH", path).env("REGISTRY_AUTH_FILE", &file);
                let out = command.output().unwrap();
                (out.status.code(), String::from_utf8(out.stderr).unwrap())
            };
            let (code, said) = run(&["login", "-u", "magik", "-p", "secret", HOST]);
            assert_eq!(code, Some(0), "{said}");
            assert!(fs::read_to_string(&kept).unwrap().contains("secret"));
            assert!(!fs::read_to_string(&file).unwrap().contains("auth\""), "no password in the file");
            assert_eq!(run(&["image", "pull", &name]).0, Some(0));
            assert_eq!(run(&["logout", HOST]).0, Some(0));
            assert!(!kept.exists());
            assert_eq!(run(&["image", "pull", &name]).0, Some(1));
        }
    }
);

isolated!(
    fn a_module_is_an_image_wherever_one_is_taken(scene) {
        let magikrun = Magikrun::new(scene);
        let file = scene.dir().join("empty.wasm");
        fs::write(&file, b"\0asm\x01\0\0\0").unwrap();
        let path = text(&file);
        let shown = magikrun.json(&["image", "inspect", &path]);
        assert!(shown["platform"].as_str().unwrap().starts_with("wasi"), "{shown}");
        let rootfs = text(&scene.dir().join("rootfs"));
        magikrun.ok(&["image", "unpack", &path, &rootfs]);
        assert!(Path::new(&rootfs).join("main.wasm").exists());
        magikrun.ok(&["image", "load", &path, "-t", "localhost/empty:1"]);
        assert_eq!(digest(&magikrun, "localhost/empty:1"), shown["digest"].as_str().unwrap());
    }
);
