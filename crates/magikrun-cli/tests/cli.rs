//! The binary as a user meets it: help, mistakes, exit codes, output.
#![allow(clippy::print_stderr)]

mod common;

use std::process::{Command, Stdio};

use common::Host;

#[test]
fn help_goes_to_stdout_and_names_every_group() {
    let text = Host::new().run(&["--help"]).ok();
    for word in [
        "pod",
        "image",
        "system",
        "completions",
        "--data-dir",
        "--state-dir",
        "MAGIKRUN_DATA_DIR",
        "OCI runtime commands",
        "checkpoint create delete",
        "Example",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn help_can_be_asked_for_by_a_command_as_well() {
    for args in [
        &["help", "pod", "run"][..],
        &["pod", "help", "run"],
        &["pod", "run", "--help"],
    ] {
        let text = Host::new().run(args).ok();
        assert!(text.contains("magikrun pod run"), "{args:?}: {text}");
        assert!(text.contains("--entrypoint"), "{args:?}: {text}");
    }
    assert!(Host::new().run(&["help"]).ok().contains("OCI runtime commands"));
}

#[test]
fn nothing_at_all_is_help_on_stderr_and_a_usage_error() {
    for (args, usage) in [
        (&[][..], "Usage: magikrun [OPTIONS] <COMMAND>"),
        (&["pod"], "Usage: magikrun pod"),
        (&["--debug", "image"], "Usage: magikrun image"),
    ] {
        let ran = Host::new().run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
        assert!(ran.stderr.contains(usage), "{}", ran.stderr);
    }
}

#[test]
fn a_mistake_on_the_command_line_is_one_line_and_exit_code_2() {
    let host = Host::new();
    for (args, part) in [
        (&["nonsense"][..], "nonsense"),
        (&["pod", "run"], "-f FILE, or an IMAGE"),
        (
            &["pod", "run", "-f", "x", "--runtime", "docker"],
            "native, microvm or wasm",
        ),
        (&["pod", "run", "-f", "x", "-d", "--rm"], "--rm"),
        (&["pod", "logs", "--since", "yesterday", "x"], "yesterday"),
        (&["pod", "exec", "x", "-e", "NOVALUE", "--", "sh"], "NAME=VALUE"),
        (&["pod", "exec", "x"], "COMMAND"),
        (&["pod", "port-forward", "x", "70000"], "65535"),
        (&["image", "pull", "docker.io/UPPER/case"], "lower case"),
        (&["image", "pull", "--platfrom", "linux/arm64", "x"], "--platform"),
        (&["image", "ls", "--format", "xml"], "table, wide, json"),
        (&["completions", "tcsh"], "tcsh"),
    ] {
        let line = host.run(args).fails(2);
        assert!(line.contains(part), "{args:?}: {line}");
        assert!(line.contains("--help"), "{args:?}: {line}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Host::new()
        .command()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), output.stderr.as_slice()),
        (Some(0), &b""[..])
    );
}

#[test]
fn completions_parse() {
    let host = Host::new();
    for (shell, checker) in [
        ("bash", Some("bash")),
        ("zsh", Some("zsh")),
        ("fish", Some("fish")),
    ] {
        let script = host.run(&["completions", shell]).ok();
        assert!(
            script.contains("port-forward")
                && script.contains("state-dir")
                && script.contains("console-socket"),
            "{shell}"
        );
        let file = host.write(&format!("completion.{shell}"), &script);
        let Some(checked) = checker.and_then(|c| Command::new(c).arg("-n").arg(&file).output().ok()) else {
            assert_ne!(shell, "bash", "bash is everywhere");
            continue;
        };
        assert!(
            checked.status.success(),
            "{shell}: {}",
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}

#[test]
fn a_pod_file_that_is_wrong_is_one_line_naming_file_and_field() {
    let host = Host::new();
    let pod = |spec: &str| format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: a}}\nspec: {spec}\n");
    for (text, part) in [
        ("", "bad.yaml"),
        ("hello", "bad.yaml"),
        ("kind: Service\napiVersion: v1\nmetadata: {name: a}\n", "Service"),
        (&pod("{containers: []}"), "containers"),
        (
            &pod("{containers: [{name: a, image: x}, {name: a, image: x}]}"),
            "containers[1].name",
        ),
        (
            &pod("{containers: [{name: a, image: x}], dnsPolicy: None}"),
            "dnsPolicy",
        ),
        (
            &pod("{containers: [{name: a, image: x, livenessProbe: {}}]}"),
            "livenessProbe",
        ),
        (
            &pod("{containers: [{name: a, image: x}], restartPolicy: Sometimes}"),
            "restartPolicy",
        ),
    ] {
        let file = host.write("bad.yaml", text);
        let line = host.run(&["pod", "run", "-f", &file]).fails(1);
        assert!(line.contains("bad.yaml") && line.contains(part), "{text}: {line}");
        let waiting = host.run(&["pod", "run", "--wait", "-f", &file]).fails(125);
        assert_eq!(line, waiting);
        let from_stdin = host
            .run_with_stdin(&["pod", "run", "-f", "-"], text.as_bytes())
            .fails(1);
        assert!(from_stdin.contains("stdin"), "{from_stdin}");
    }
    let line = host.run(&["pod", "run", "-f", "/nonexistent/pod.yaml"]).fails(1);
    assert!(line.contains("/nonexistent/pod.yaml"), "{line}");
    assert!(
        !host.path("data").exists() && !host.path("state").exists(),
        "a wrong pod leaves nothing behind"
    );
}

#[test]
fn a_manifest_of_twenty_megabytes_is_refused_without_reading_it_all() {
    let host = Host::new();
    let file = host.write("big.yaml", &"# comment\n".repeat(2 << 20));
    let line = host.run(&["pod", "run", "-f", &file]).fails(1);
    assert!(line.contains("big.yaml") && line.contains("16 MiB"), "{line}");
    let line = host.run(&["pod", "run", "-f", "/dev/zero"]).fails(1);
    assert!(line.contains("/dev/zero"), "{line}");
}

#[cfg(not(all(feature = "native", feature = "krun", feature = "wasm")))]
#[test]
fn backends_that_this_build_does_not_have_are_named() {
    let host = Host::new();
    let file = host.write(
        "pod.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: x}]}\n",
    );
    for (class, built) in [
        ("native", cfg!(feature = "native")),
        ("microvm", cfg!(feature = "krun")),
        ("wasm", cfg!(feature = "wasm")),
    ] {
        if !built {
            let line = host
                .run(&["pod", "run", "--runtime", class, "-f", &file])
                .fails(1);
            assert!(line.contains(class) && line.contains("this build"), "{line}");
        }
    }
}

#[test]
fn system_info_gives_a_reason_for_everything() {
    let host = Host::new();
    let info: serde_json::Value =
        serde_json::from_str(&host.run(&["system", "info", "--format", "json"]).ok()).unwrap();
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(info["dataRoot"], host.path("data").to_str().unwrap());
    for name in [
        "native",
        "cgroups",
        "microvm",
        "wasm",
        "overlayfs",
        "seccomp",
        "landlock",
        "userNamespaces",
    ] {
        let capability = &info["platform"][name];
        assert!(capability["available"].is_boolean(), "{name}: {info}");
        assert!(
            capability["detail"].as_str().is_some_and(|d| !d.is_empty()),
            "{name}: {info}"
        );
    }
    let table = host.run(&["system", "info"]).ok();
    assert!(
        table.contains("overlayfs") && table.contains(host.path("state").to_str().unwrap()),
        "{table}"
    );
}
