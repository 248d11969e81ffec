//! Images from the command line: in, out, shown, unpacked.
#![allow(clippy::print_stderr)]

mod common;

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use common::{BUSYBOX, Host, is_root};
use serde_json::Value;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn what_is_refused_for_its_size_is_taken_with_a_larger_limit() {
    let host = Host::new();
    let source = host.busybox_layout().reference(BUSYBOX);
    let run = |command: &[&str], option: &str, limit: &str| {
        host.run(&[&["image"], command, &[option, limit]].concat())
    };
    let refused = |command: &[&str], option: &str, limit: &str| {
        let line = run(command, option, limit).fails(1);
        assert!(line.ends_with(&format!("{option} raises it")), "{line}");
    };
    let pull = ["pull", &source];
    let files = host.path("files").display().to_string();
    refused(&["unpack", &source, &files], "--max-layer-size", "500k");
    assert!(!host.path("files").exists());
    refused(&pull, "--max-layer-size", "500k");
    assert_eq!(host.run(&["image", "ls", "-q"]).ok(), "");
    let line = run(&pull, "--max-layer-size", "large").fails(2);
    assert!(line.contains("large") && line.contains("64Mi"), "{line}");
    run(&pull, "--max-layer-size", "1Gi").ok();

    let dir = host.path("rootfs").display().to_string();
    let unpack = ["unpack", "busybox", &dir];
    refused(&unpack, "--max-image-size", "100Ki");
    refused(&unpack, "--max-layer-files", "3");
    run(&unpack, "--max-layer-files", "5000").ok();
}

#[test]
fn a_layout_is_pulled_listed_inspected_and_removed() {
    let host = Host::new();
    let layout = host.busybox_layout();
    assert_eq!(host.run(&["image", "ls", "-q"]).ok(), "");
    let printed = host.run(&["image", "pull", &layout.reference(BUSYBOX)]);
    assert_eq!(printed.stderr, "", "no progress in a pipe");
    let id = printed.ok().trim().to_owned();
    assert!(id.starts_with("sha256:"), "{id}");

    let images = json(&host.run(&["image", "ls", "--format", "json"]).ok());
    assert_eq!(images.as_array().map(Vec::len), Some(1), "{images}");
    assert_eq!(
        (images[0]["id"].as_str(), images[0]["name"].as_str()),
        (Some(id.as_str()), Some(BUSYBOX))
    );
    let table = host.run(&["image", "ls"]).ok();
    assert!(table.starts_with("NAME") && table.lines().count() == 2, "{table}");

    let image = json(
        &host
            .run(&["image", "inspect", "busybox", "--format", "json"])
            .ok(),
    );
    assert_eq!(image["id"], id.as_str());
    assert_eq!(image["config"]["config"]["Cmd"][0], "sh", "{image}");
    let text = host.run(&["image", "inspect", &id["sha256:".len()..][..12]]).ok();
    assert!(text.contains(&id) && text.contains("linux/"), "{text}");

    host.run(&["image", "tag", "busybox", "localhost/copy:1"]).ok();
    assert_eq!(
        host.run(&["image", "ls", "-q"]).ok().lines().collect::<Vec<_>>(),
        [id.as_str(), id.as_str()]
    );
    host.run(&["image", "rm", "localhost/copy:1"]).ok();

    host.run(&["image", "verify"]).ok();
    let removed = json(&host.run(&["image", "rm", "--format", "json", "busybox"]).ok());
    assert!(removed["blobs"].as_u64().is_some_and(|n| n > 2), "{removed}");
    assert_eq!(host.run(&["image", "ls", "-q"]).ok(), "");
    let line = host.run(&["image", "inspect", &id]).fails(1);
    assert!(line.contains(&id) && line.contains("pull"), "{line}");
    assert!(
        host.run(&["image", "prune"]).ok().contains("nothing"),
        "nothing is left to remove"
    );
}

#[test]
fn archives_are_saved_and_loaded_from_files_directories_and_stdin() {
    let host = Host::new();
    let layout = host.busybox_layout();
    host.run(&["image", "load", "-i", layout.dir().to_str().unwrap()])
        .ok();
    for kind in ["oci-archive", "docker-archive", "oci-dir"] {
        let file = host.path(kind).to_str().unwrap().to_owned();
        host.run(&["image", "save", "--type", kind, "-o", &file, "busybox"])
            .ok();
        let exists = host
            .run(&["image", "save", "--type", kind, "-o", &file, "busybox"])
            .fails(1);
        assert!(
            exists.contains("exists"),
            "{kind}: nothing is overwritten: {exists}"
        );
        let other = Host::new();
        let loaded = other.run(&["image", "load", "-i", &file]).ok();
        assert!(loaded == format!("{BUSYBOX}\n"), "{kind}: {loaded}");
        assert_eq!(
            json(&other.run(&["image", "ls", "--format", "json"]).ok())
                .as_array()
                .map(Vec::len),
            Some(1),
            "{kind}"
        );
        let again = other.path("again").to_str().unwrap().to_owned();
        other
            .run(&["image", "save", "--type", kind, "-o", &again, "busybox"])
            .ok();
        let same = Command::new("diff").args(["-r", &file, &again]).status().unwrap();
        assert!(
            same.success(),
            "{kind}: what was loaded is saved bit by bit as it was"
        );
        if kind != "oci-dir" {
            let from_stdin = Host::new();
            let loaded = from_stdin
                .run_with_stdin(&["image", "load"], &fs::read(&file).unwrap())
                .ok();
            assert!(loaded == format!("{BUSYBOX}\n"), "{kind}: {loaded}");
        }
    }
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let host = Host::new();
    let file = host.write("no.tar", "this is no archive at all");
    for args in [
        &["image", "load", "-i", &file][..],
        &["image", "pull", &format!("oci-archive:{file}")],
        &["image", "load", "-i", "/nonexistent.tar"],
    ] {
        let line = host.run(args).fails(1);
        assert!(line.contains(".tar"), "{args:?}: {line}");
    }
    let line = host.run_with_stdin(&["image", "load"], b"nonsense").fails(1);
    assert!(line.contains("stdin"), "{line}");
    let line = host.run(&["image", "pull", "127.0.0.1:1/nothing/here"]).fails(1);
    assert!(line.contains("127.0.0.1:1"), "{line}");
}

#[test]
fn a_signature_policy_keeps_images_out() {
    let host = Host::new();
    let layout = host.busybox_layout();
    let accept = host.write(
        "accept.json",
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    );
    let reject = host.write("reject.json", r#"{"default": [{"type": "reject"}]}"#);
    let signed = host.write(
        "signed.json",
        r#"{"default": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]}"#,
    );
    let source = layout.reference(BUSYBOX);
    let dir = layout.dir().to_str().unwrap().to_owned();
    let rootfs = host.path("rootfs").to_str().unwrap().to_owned();
    for (policy, part) in [(&reject, "rejected"), (&signed, "signedBy")] {
        for command in [
            &["image", "pull", "--signature-policy", policy, &source][..],
            &["image", "load", "--signature-policy", policy, "-i", &dir],
            &["image", "load", "--signature-policy", policy, &source],
            &["image", "unpack", "--signature-policy", policy, &source, &rootfs],
            &["image", "bundle", "--signature-policy", policy, &dir, &rootfs],
            &["image", "inspect", "--signature-policy", policy, &source],
        ] {
            let line = host.run(command).fails(1);
            assert!(line.contains(part) && line.contains(policy.as_str()), "{line}");
        }
    }
    assert_eq!(host.run(&["image", "ls", "-q"]).ok(), "");
    let pulled = host.run(&[
        "image",
        "pull",
        "--signature-policy",
        &accept,
        "--format",
        "json",
        &source,
    ]);
    assert_eq!(json(&pulled.ok())[0]["name"], BUSYBOX);
}

#[test]
fn a_damaged_blob_is_found_and_named() {
    let host = Host::new();
    let layout = host.busybox_layout();
    let digest = host
        .run(&["image", "pull", &layout.reference(BUSYBOX)])
        .ok()
        .trim()
        .to_owned();
    let hex = digest.strip_prefix("sha256:").unwrap();
    let blob = host.path(format!("data/blobs/sha256/{}/{hex}", &hex[..2]));
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o600)).unwrap();
    let mut bytes = fs::read(&blob).unwrap();
    bytes[10] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let ran = host.run(&["image", "verify"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stdout.contains(hex) && ran.stderr.contains("--repair"),
        "{ran:?}"
    );
    assert_eq!(host.run(&["image", "verify", "--repair"]).code, Some(1));
    host.run(&["image", "pull", &layout.reference(BUSYBOX)]).ok();
    assert_eq!(host.run(&["image", "verify"]).ok(), "no damage\n");
}

#[test]
fn an_image_becomes_a_rootfs_and_a_bundle() {
    let host = Host::new();
    let layout = host.busybox_layout();
    host.run(&["image", "pull", &layout.reference(BUSYBOX)]).ok();

    let rootfs = host.path("rootfs");
    host.run(&["image", "unpack", "busybox", rootfs.to_str().unwrap()])
        .ok();
    let out = Command::new(rootfs.join("bin/busybox"))
        .arg("true")
        .status()
        .unwrap();
    assert!(out.success());
    assert_eq!(
        fs::metadata(rootfs.join("tmp")).unwrap().permissions().mode() & 0o7777,
        0o1777
    );
    let line = host
        .run(&["image", "unpack", "busybox", rootfs.to_str().unwrap()])
        .fails(1);
    assert!(line.contains("rootfs") && line.contains("empty"), "{line}");

    let bundle = host.path("bundle");
    host.run(&[
        "image",
        "bundle",
        "busybox",
        bundle.to_str().unwrap(),
        "--",
        "echo",
        "hello",
    ])
    .ok();
    assert!(bundle.join("rootfs/bin/busybox").exists());
    let config = json(&fs::read_to_string(bundle.join("config.json")).unwrap());
    assert_eq!(config["process"]["args"], serde_json::json!(["echo", "hello"]));
    assert_eq!(config["process"]["cwd"], "/root");
    let missing = "127.0.0.1:1/no/such:image";
    let line = host.run(&["image", "unpack", missing, "x"]).fails(1);
    assert!(line.contains(missing) && line.contains("pull"), "{line}");
}

/// A bundle is for any OCI runtime: runc, where it is installed.
#[test]
fn runc_runs_our_bundle() {
    if !is_root("runc_runs_our_bundle") {
        return;
    }
    if Command::new("runc").arg("--version").output().is_err() {
        eprintln!("SKIPPED runc_runs_our_bundle: needs runc");
        return;
    }
    let host = Host::new();
    let layout = host.busybox_layout();
    let digest = host
        .run(&["image", "pull", &layout.reference(BUSYBOX)])
        .ok()
        .trim()
        .to_owned();
    let bundle = host.path("bundle");
    host.run(&[
        "image",
        "bundle",
        &digest,
        bundle.to_str().unwrap(),
        "--",
        "sh",
        "-c",
        "id -u; exit 4",
    ])
    .ok();
    let id = format!("magikrun-cli-{}", std::process::id());
    let out = Command::new("runc")
        .arg("--root")
        .arg(host.path("runc"))
        .args(["run", "-b"])
        .arg(&bundle)
        .arg(&id)
        .output()
        .unwrap();
    assert_eq!(
        (out.status.code(), out.stdout.as_slice()),
        (Some(4), &b"0\n"[..]),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}
