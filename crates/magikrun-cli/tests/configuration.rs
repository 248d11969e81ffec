//! Configuration files, and the commands that show a host: `system config`, `check` and `df`.
#![allow(clippy::print_stderr)]

mod common;

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use common::{BUSYBOX, Host, is_root};
use serde_json::Value;

/// A configuration file that only its owner may write.
fn configure(host: &Host, name: &str, text: &str) -> String {
    let path = host.write(name, text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    path
}

/// What `system config` says of a key: value and origin.
fn shown(answer: &Value, key: &str) -> (Value, String) {
    let keys = answer["keys"].as_array().unwrap();
    let row = keys
        .iter()
        .find(|row| row["key"] == key)
        .unwrap_or_else(|| panic!("{key}"));
    let name = row["name"].as_str().unwrap_or_default();
    let origin = format!("{} {name}", row["from"].as_str().unwrap());
    (row["value"].clone(), origin.trim().to_owned())
}

#[test]
fn every_value_is_shown_with_where_it_comes_from() {
    let host = Host::new();
    let text = format!(
        "data-dir = '{}'\npull-timeout = 7\nmax-layer-size = '1Gi'\nruntime = 'wasm'\n[logs]\nmax-size = '1Mi'\n",
        host.path("configured").display()
    );
    let path = configure(&host, "config.toml", &text);
    let config = |args: &[&str], variables: &[(&str, &str)]| -> Value {
        let mut command = host.command();
        command
            .env_remove("MAGIKRUN_ROOT")
            .env("MAGIKRUN_CONFIG", &path)
            .envs(variables.iter().copied())
            .args(["system", "config", "-o", "json"])
            .args(args);
        let ran: common::Ran = command.output().unwrap().into();
        serde_json::from_str(&ran.ok()).unwrap()
    };
    let file = format!("file {path}");
    let answer = config(&[], &[]);
    assert_eq!(answer["files"], serde_json::json!([path]));
    for (key, value, origin) in [
        (
            "data-dir",
            host.path("configured").to_str().unwrap().into(),
            file.as_str(),
        ),
        (
            "state-dir",
            host.path("state").to_str().unwrap().into(),
            "variable MAGIKRUN_STATE_DIR",
        ),
        ("pull-timeout", 7.into(), &file),
        ("max-layer-size", (1_u64 << 30).into(), &file),
        ("max-image-size", (4_u64 << 30).into(), "default"),
        ("log-level", "warn".into(), "default"),
        ("runtime", "wasm".into(), &file),
        ("user-namespaces", "auto".into(), "default"),
        ("logs.max-size", (1_u64 << 20).into(), &file),
    ] {
        assert_eq!(shown(&answer, key), (value, origin.to_owned()), "{key}");
    }
    let data = host.path("flag");
    let answer = config(
        &["--data-dir", data.to_str().unwrap(), "--pull-timeout", "9"],
        &[
            ("MAGIKRUN_PULL_TIMEOUT", "8"),
            ("MAGIKRUN_MAX_LAYER_SIZE", "3"),
            ("MAGIKRUN_RUNTIME", "native"),
        ],
    );
    assert_eq!(shown(&answer, "data-dir").1, "flag --data-dir");
    assert_eq!(
        shown(&answer, "pull-timeout"),
        (9.into(), "flag --pull-timeout".into())
    );
    assert_eq!(
        shown(&answer, "max-layer-size"),
        (3.into(), "variable MAGIKRUN_MAX_LAYER_SIZE".into())
    );
    assert_eq!(
        shown(&answer, "runtime"),
        ("native".into(), "variable MAGIKRUN_RUNTIME".into())
    );
    let older = config(&["--root", data.to_str().unwrap()], &[]);
    assert_eq!(
        shown(&older, "data-dir"),
        (data.to_str().unwrap().into(), "flag --data-dir".into())
    );
    let old = config(&[], &[("MAGIKRUN_ROOT", data.to_str().unwrap())]);
    assert_eq!(shown(&old, "data-dir").1, "variable MAGIKRUN_ROOT");
}

#[test]
fn a_configuration_that_is_wrong_is_one_line_that_names_file_and_line() {
    let host = Host::new();
    let run = |path: &str, args: &[&str]| -> common::Ran {
        let mut command = host.command();
        command.env("MAGIKRUN_CONFIG", path).args(args);
        command.output().unwrap().into()
    };
    let wrong = configure(&host, "wrong.toml", "# a comment\nmax-layersize = 1\n");
    let line = run(&wrong, &["image", "ls"]).fails(1);
    assert!(
        line.contains("wrong.toml:2: max-layersize: unknown key: did you mean max-layer-size?"),
        "{line}"
    );
    // Where 1 may be a program's exit code, ours is another.
    run(&wrong, &["pod", "exec", "web", "--", "true"]).fails(125);
    run(&wrong, &["pod", "run", "--wait", "-f", "x"]).fails(125);
    // Who completes a command line wants no configuration.
    run(&wrong, &["completions", "bash"]).ok();

    let open = configure(&host, "open.toml", "pull-timeout = 1\n");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    let line = run(&open, &["image", "ls"]).fails(1);
    assert!(
        line.contains("open.toml: others may write to it") && line.contains("chmod go-w"),
        "{line}"
    );
    let line = run("/nonexistent.toml", &["image", "ls"]).fails(1);
    assert!(line.contains("MAGIKRUN_CONFIG=/nonexistent.toml"), "{line}");
    let escape = configure(&host, "escape.toml", "\"a\\u001b[31m\" = 1\n");
    let line = run(&escape, &["image", "ls"]).fails(1);
    assert!(!line.contains('\u{1b}'), "{line:?}");
}

#[test]
fn the_users_file_is_read_where_xdg_says_and_limits_images() {
    let host = Host::new();
    fs::create_dir_all(host.path("xdg/magikrun")).unwrap();
    configure(&host, "xdg/magikrun/config.toml", "max-layer-size = 1000\n");
    let layout = host.busybox_layout();
    let source = layout.reference(BUSYBOX);
    let mut command = host.command();
    command
        .env("XDG_CONFIG_HOME", host.path("xdg"))
        .args(["image", "pull", "--quiet", &source]);
    let line = common::Ran::from(command.output().unwrap()).fails(1);
    assert!(line.contains("--max-layer-size"), "{line}");
}

#[test]
fn check_says_what_is_missing_and_exits_by_whether_anything_runs() {
    let host = Host::new();
    let answer = host.run(&["system", "check", "-o", "json"]);
    let code = answer.code;
    let answer: Value = serde_json::from_str(&answer.stdout).unwrap();
    let runs = answer["runs"].as_array().unwrap();
    assert_eq!(code, Some(i32::from(runs.is_empty())));
    let checks = answer["checks"].as_array().unwrap();
    assert!(checks.len() >= 15, "{answer}");
    for check in checks {
        let state = check["state"].as_str().unwrap();
        assert!(["ok", "warn", "missing"].contains(&state), "{check}");
        assert_eq!(check["remedy"].is_string(), state != "ok", "{check}");
    }
    assert!(!host.path("data").exists(), "to look makes no data root");

    let text = host.run(&["system", "check"]);
    assert!(text.stdout.contains("cgroups: "), "{}", text.stdout);
    // Where no file can be made nothing runs.
    let mut command = host.command();
    command
        .env("MAGIKRUN_DATA_DIR", "/proc/magikrun")
        .args(["system", "check"]);
    let ran = common::Ran::from(command.output().unwrap());
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(
        ran.stdout.contains("missing  data root: /proc/magikrun"),
        "{}",
        ran.stdout
    );
    assert!(ran.stderr.contains("nothing runs here"), "{}", ran.stderr);
}

#[test]
fn df_counts_what_is_there_and_what_prune_would_free() {
    let host = Host::new();
    let df = || -> Value { serde_json::from_str(&host.run(&["system", "df", "-o", "json"]).ok()).unwrap() };
    assert_eq!(df()["images"]["count"], 0);
    let layout = host.busybox_layout();
    let source = layout.reference(BUSYBOX);
    host.run(&["image", "pull", "--quiet", &source]).ok();
    // A pod's files, of which no pod is known.
    let pod = host.path("data/pods/0123456789abcdef01234567/logs");
    fs::create_dir_all(&pod).unwrap();
    fs::write(pod.join("c.log"), vec![b'x'; 1 << 20]).unwrap();
    let answer = df();
    for (kind, count, active) in [
        ("images", 1, 0),
        ("layers", 0, 0),
        ("pods", 1, 1),
        ("temporary", 0, 0),
    ] {
        assert_eq!(answer[kind]["count"], count, "{kind}: {answer}");
        assert_eq!(answer[kind]["active"], active, "{kind}: {answer}");
    }
    assert_eq!(answer["images"]["size"], answer["images"]["reclaimable"]);
    assert!(answer["pods"]["size"].as_u64().unwrap() >= 1 << 20);
    assert_eq!(answer["pods"]["reclaimable"], 0);
    let text = host.run(&["system", "df", "-v"]).ok();
    for part in [
        "RECLAIMABLE",
        "Unpacked layers",
        "(100%)",
        BUSYBOX,
        "0123456789abcdef01234567",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    host.run(&["system", "prune", "--all"]).ok();
    let left = df();
    for kind in ["images", "layers", "temporary"] {
        assert_eq!(left[kind]["reclaimable"], 0, "{kind}: {left}");
    }
}

#[test]
fn the_reference_of_commands_is_what_help_says() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/commands.md");
    let host = Host::new();
    let made = host.path("commands.md");
    let mut command = host.command();
    // It is the same on every terminal and in every environment.
    command
        .env("COLUMNS", "40")
        .env("MAGIKRUN_MAX_LAYER_SIZE", "12345")
        .args(["manual", "--markdown", made.to_str().unwrap()]);
    common::Ran::from(command.output().unwrap()).ok();
    let made = fs::read_to_string(made).unwrap();
    assert!(!made.contains("12345"));
    let kept = fs::read_to_string(&page).unwrap_or_default();
    assert!(
        made == kept,
        "{}: is not what the program says: magikrun manual --markdown docs/reference/commands.md",
        page.display()
    );
}

#[test]
fn every_command_has_a_manual_page_also_those_of_an_oci_runtime() {
    let host = Host::new();
    let dir = host.path("man1");
    host.run(&["manual", "--dir", dir.to_str().unwrap()]).ok();
    let page = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let root = page("magikrun.1");
    for part in [
        "max\\-layer\\-size",
        "magikrun\\-pod(1)",
        "magikrun\\-create(1)",
        "MAGIKRUN_DATA_DIR",
    ] {
        assert!(root.contains(part), "{part}: {root}");
    }
    assert!(page("magikrun-pod-run.1").contains("user\\-namespaces"));
    let create = page("magikrun-create.1");
    assert!(
        create.contains("\\-\\-bundle") && !create.contains("data\\-dir"),
        "{create}"
    );
    page("magikrun-system-check.1");
    assert!(!dir.join("magikrun-manual.1").exists());
    assert!(host.run(&["manual"]).fails(2).contains("--dir"));
}

#[test]
fn an_oci_command_behind_an_option_that_it_does_not_take_is_told_so() {
    let line = Host::new().run(&["--log-level", "debug", "create", "c"]).fails(2);
    assert!(line.contains("'create' is an OCI runtime's command"), "{line}");
    assert!(line.contains("magikrun create --help"), "{line}");
}

/// What a registry that is not on loopback hears first.
#[test]
fn a_registry_is_spoken_to_in_http_where_the_configuration_says_so() {
    // No packet is sent: this asks which address would send it.
    let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    });
    let Some(own) = own.ok().filter(|own| !own.is_loopback() && !own.is_unspecified()) else {
        eprintln!("SKIPPED a_registry_is_spoken_to_in_http_where_the_configuration_says_so: no network");
        return;
    };
    let host = Host::new();
    for (configured, first) in [(true, b'G'), (false, 0x16)] {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let registry = listener.local_addr().unwrap().to_string();
        let heard = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            byte[0]
        });
        let mut command = host.command();
        for proxy in [
            "http_proxy",
            "https_proxy",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "all_proxy",
        ] {
            command.env_remove(proxy);
        }
        let text = if configured {
            format!("http-registries = ['{registry}']\n")
        } else {
            "http-registries = ['other.example']\n".to_owned()
        };
        let path = configure(&host, "config.toml", &text);
        command
            .env("MAGIKRUN_CONFIG", path)
            .args(["image", "pull", "--quiet"]);
        command.args(["--pull-timeout", "5", &format!("{registry}/a/b:1")]);
        assert!(!command.output().unwrap().status.success());
        assert_eq!(heard.join().unwrap(), first, "configured: {configured}");
    }
}

#[test]
fn logs_are_rotated_at_the_configured_size() {
    if !is_root("logs_are_rotated_at_the_configured_size") {
        return;
    }
    let host = Host::new();
    let source = host.busybox_layout().reference(BUSYBOX);
    host.run(&["image", "pull", "--quiet", &source]).ok();
    let file = host.write(
        "talker.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: talker}\nspec:\n  restartPolicy: Never\n  containers:\n  \
         - name: c\n    image: busybox\n    imagePullPolicy: Never\n    \
         command: [sh, -c, 'i=0; while [ $i -lt 30000 ]; do echo line $i of a talker that talks; i=$((i+1)); done']\n",
    );
    let mut command = host.command();
    command
        .env("MAGIKRUN_LOGS_MAX_SIZE", "1Mi")
        .args(["pod", "run", "--wait", "-f", &file]);
    let id = common::Ran::from(command.output().unwrap()).ok();
    let logs = host.path("data/pods").join(id.trim()).join("logs");
    let [now, before] = ["c.log", "c.log.1"].map(|name| fs::metadata(logs.join(name)).unwrap().len());
    assert!(
        (1..=1 << 20).contains(&now) && (1 << 18..=1 << 20).contains(&before),
        "{now} {before}"
    );
    let tail = host.run(&["pod", "logs", "talker"]).ok();
    assert!(tail.ends_with("line 29999 of a talker that talks\n") && !tail.contains("line 0 "));
    host.run(&["pod", "delete", "talker"]).ok();
    assert!(!logs.exists());
}
