//! The OCI commands that start nothing, and how all of them fail.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::{fs, process::Command};

use oci_support::{BINARY, Host};
use serde_json::Value;

#[test]
fn the_version_has_exactly_three_lines() {
    for option in ["--version", "-v"] {
        let out = Command::new(BINARY)
            .args(["--root", "/nosuch", option])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].starts_with("magikrun version ") && lines[1].starts_with("commit: "),
            "{text}"
        );
        assert!(lines[2].starts_with("spec: 1."), "{text}");
    }
}

#[test]
fn features_is_a_document_of_the_runtime_spec() {
    let features: Value = serde_json::from_str(&Host::any().run(&["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
    assert_eq!(features["linux"]["cgroup"]["v2"], true);
}

#[test]
fn spec_writes_a_configuration_once() {
    let host = Host::any();
    let bundle = host.path("b");
    fs::create_dir(&bundle).unwrap();
    let args = ["spec", "--bundle", bundle.to_str().unwrap()];
    host.run(&args).ok();
    let config: Value = serde_json::from_slice(&fs::read(bundle.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["args"][0], "sh");
    assert!(host.run(&args).fails(1).contains("exists"));
}

#[test]
fn an_unknown_container_does_not_exist() {
    let host = Host::any();
    for args in [
        &["state", "c"][..],
        &["start", "c"],
        &["kill", "c"],
        &["kill", "--all", "c", "9"],
        &["delete", "c"],
        &["pause", "c"],
        &["resume", "c"],
        &["ps", "c"],
        &["ps", "--format", "json", "c"],
        &["update", "--memory", "1g", "c"],
        &["events", "--stats", "c"],
        &["checkpoint", "c"],
    ] {
        let line = host.run(args).fails(1);
        assert!(line.contains("container c does not exist"), "{args:?}: {line}");
    }
    assert!(
        host.run(&["exec", "c", "true"])
            .fails(255)
            .contains("does not exist")
    );
    assert!(host.run(&["list", "-q"]).ok().is_empty());
    assert_eq!(host.run(&["list", "--format", "json"]).ok(), "[]\n");
    assert!(host.run(&["list"]).ok().starts_with("ID          PID"));
}

#[test]
fn delete_by_force_of_an_unknown_container_is_no_error() {
    let host = Host::any();
    host.run(&["delete", "--force", "c"]).ok();
    host.run(&["delete", "c", "-f"]).ok();
}

#[test]
fn an_id_is_checked_before_anything_is_touched() {
    let host = Host::any();
    for id in ["../c", "a/b", ".", "", "c\n", &"x".repeat(2000)] {
        for command in ["state", "delete", "start", "create", "exec"] {
            let ran = host.run(&[command, id]);
            assert!(
                ran.code != 0 && ran.stderr.lines().count() == 1,
                "{command} {id:?}: {ran:?}"
            );
        }
    }
    assert!(!host.path("root").exists());
}

#[test]
fn podman_can_read_the_whole_log_as_one_object() {
    let host = Host::any();
    let log = host.path("log");
    let run = |args: &[&str]| {
        let globals = ["--log-format=json", "--log", log.to_str().unwrap()];
        host.run(&[&globals[..], args].concat())
    };
    run(&["list"]).ok();
    assert!(!log.exists(), "success says nothing");
    for args in [
        &["state", "c"][..],
        &["create", "--bundle", "/nosuch", "c"],
        &["start"],
        &["kill", "c", "NOSUCH"],
    ] {
        let ran = run(args);
        assert_ne!(ran.code, 0);
        let object: Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
        assert_eq!(object["level"], "error");
        let message = object["msg"].as_str().unwrap();
        assert!(
            ran.stderr.contains(message),
            "{message:?} is not on standard error: {ran:?}"
        );
        fs::remove_file(&log).unwrap();
    }
}

#[test]
fn the_text_log_is_logrus() {
    let host = Host::any();
    let log = host.path("log");
    host.run(&["--log", log.to_str().unwrap(), "state", "c"]).fails(1);
    let text = fs::read_to_string(log).unwrap();
    assert!(
        text.starts_with("time=\"2") && text.contains("level=error msg=\"container c does not exist\""),
        "{text}"
    );
}

#[test]
fn backends_that_cannot_run_it_say_so() {
    let Some(host) = Host::root("backends_that_cannot_run_it_say_so") else {
        return;
    };
    let bundle = |name: &str, key: &str, value: &str| {
        let (key, value) = (key.to_owned(), value.to_owned());
        host.bundle(name, "true", |c| {
            c["annotations"] = serde_json::json!({key: value});
        })
    };
    let plain = host.bundle("plain", "true", |_| {});
    assert!(
        host.run(&["--runtime", "krun", "run", "-b", plain.to_str().unwrap(), "c"])
            .fails(1)
            .contains("krun")
    );
    assert!(
        host.run(&["--runtime", "runc", "list"])
            .fails(1)
            .contains("--runtime")
    );
    let krun = bundle("k", "run.oci.handler", "krun");
    assert!(
        host.run(&["create", "-b", krun.to_str().unwrap(), "c"])
            .fails(1)
            .contains("no microVM backend")
    );
    // The backend's binary is another package's: it may lie beside this one, or not.
    let wasm = bundle("w", "module.wasm.image/variant", "compat");
    let refused = host.run(&["create", "-b", wasm.to_str().unwrap(), "c"]).fails(1);
    assert!(
        refused.contains("it is machine code") || refused.contains("magikrun-wasm is not installed"),
        "{refused}"
    );
    // The option goes before the annotation.
    host.run(&["--runtime", "native", "run", "-b", wasm.to_str().unwrap(), "c"])
        .ok();
}

#[test]
fn what_makes_no_sense_is_one_line_that_says_where_to_read_on() {
    let host = Host::any();
    for args in [
        &["create"][..],
        &["create", "--nosuch", "c"],
        &["kill", "a", "b", "c"],
        &["--log-format", "yaml", "list"],
    ] {
        let ran = host.run(args);
        assert!(
            ran.code != 0 && ran.stderr.lines().count() == 1,
            "{args:?}: {ran:?}"
        );
    }
    assert!(host.run(&["kill", "c", "NOSUCH"]).fails(1).contains("NOSUCH"));
    assert!(host.run(&["restore", "c"]).fails(1).contains("not supported"));
    assert!(host.run(&["create", "--help"]).ok().contains("--pid-file"));
}
