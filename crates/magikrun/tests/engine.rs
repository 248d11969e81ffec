//! Every command that is no OCI runtime's is the engine's.
#![allow(missing_docs)]

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::{Command, Output},
};

/// The binary without its engine, in a directory of its own.
fn alone() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let binary = dir.path().join("magikrun");
    fs::copy(env!("CARGO_BIN_EXE_magikrun"), &binary).unwrap();
    (dir, binary)
}

fn run(binary: &std::path::Path, args: &[&str]) -> Output {
    Command::new(binary).args(args).output().unwrap()
}

#[test]
fn the_engine_gets_the_whole_command_line_and_its_exit_code_is_ours() {
    let (dir, binary) = alone();
    let engine = dir.path().join("magikrun-engine");
    fs::write(&engine, "#!/bin/sh\necho \"$@\"\nexit 7\n").unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    let link = dir.path().join("elsewhere");
    fs::create_dir(&link).unwrap();
    let link = link.join("magikrun");
    symlink(&binary, &link).unwrap();
    for (binary, args) in [
        (&binary, &["pod", "run", "-f", "a b"][..]),
        (&link, &["--debug", "image", "ls"]),
        (&binary, &["--help"]),
        (&binary, &["nonsense"]),
    ] {
        let out = run(binary, args);
        assert_eq!(out.status.code(), Some(7), "{out:?}");
        assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), args.join(" "));
    }
}

#[test]
fn a_missing_engine_is_one_line_and_does_not_matter_to_an_oci_runtime() {
    let (dir, binary) = alone();
    let out = run(&binary, &["pod", "ls"]);
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(125), &b""[..]));
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("magikrun-engine") && text.contains("install both"),
        "{text}"
    );
    let root = dir.path().join("root");
    for args in [
        &["--version"][..],
        &["features"],
        &["--root", root.to_str().unwrap(), "list"],
    ] {
        assert!(run(&binary, args).status.success(), "{args:?}");
    }
}
