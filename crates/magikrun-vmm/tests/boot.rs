//! Machines under libkrun, for real. `cargo xtask vm` makes what they need.
#![cfg(target_os = "linux")]
#![allow(
    clippy::print_stderr,
    reason = "a skipped test says so where the runner shows it"
)]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_infra::guest::{GuestConfig, GuestScratch};
use oci_krun::{Booted, Krun, VmFiles, VmSpec, boot, lay_out};

/// Nobody on the host.
const USER: u32 = 64_123;
/// Names the directory with a kernel that libkrun boots here (`cargo xtask test --krun`).
const KERNEL_VARIABLE: &str = "MAGIKRUN_KRUN_KERNEL";

/// What `cargo xtask vm` has made.
fn made() -> PathBuf {
    match std::env::var_os(oci_krun::FILES_VARIABLE) {
        Some(directory) => directory.into(),
        // This program is target/debug/deps/boot-….
        None => std::env::current_exe().unwrap().ancestors().nth(3).unwrap().join("vm"),
    }
}

/// libkrun with this kernel, and the program that was just built.
fn krun(test: &str, kernel: &Path) -> Option<(tempfile::TempDir, Krun)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let link = |from: PathBuf, name: &str| std::os::unix::fs::symlink(from, dir.path().join(name)).unwrap();
    link(made().join("vminit"), "vminit");
    link(kernel.join("libkrunfw.so.5"), "libkrunfw.so.5");
    link(env!("CARGO_BIN_EXE_magikrun-vmm").into(), "magikrun-vmm");
    match Krun::find(&VmFiles::new(dir.path().to_owned())) {
        Ok(krun) => Some((dir, krun)),
        Err(missing) => {
            eprintln!("SKIPPED {test}: {missing}");
            None
        }
    }
}

/// What a guest of this nonce boots from.
fn place(nonce: [u8; 32]) -> (tempfile::TempDir, VmSpec) {
    let dir = tempfile::tempdir().unwrap();
    let (root, sockets) = (dir.path().join("root"), dir.path().join("sockets"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(&sockets, Some(USER), Some(USER)).unwrap();
    let config = GuestConfig {
        nonce,
        hostname: "guest".into(),
        scratch: GuestScratch {
            target: "/run/pod".into(),
            size: 64 << 20,
        },
        binds: vec![],
        shares: vec![],
        directories: vec![],
    };
    // No init: libkrun's guests get theirs from the monitor.
    let nothing = dir.path().join("nothing");
    fs::write(&nothing, "").unwrap();
    lay_out(&root, &nothing, &config).unwrap();
    let spec = VmSpec {
        memory_mib: 256,
        vcpus: 1,
        root,
        shares: vec![],
        sockets,
        user: Some(USER),
    };
    (dir, spec)
}

#[tokio::test]
async fn a_guest_says_hello_under_libkrun() {
    let test = "a_guest_says_hello_under_libkrun";
    let Some(kernel) = std::env::var_os(KERNEL_VARIABLE) else {
        eprintln!("SKIPPED {test}: `cargo xtask test --krun` runs it");
        return;
    };
    let Some((_files, krun)) = krun(test, Path::new(&kernel)) else {
        return;
    };
    let (_dir, spec) = place([5; 32]);
    let Booted { mut vm, door, launch } = boot(&krun, &spec, &[5; 32], Duration::from_secs(180)).await.unwrap();
    drop((launch, door));
    let ended = tokio::time::timeout(Duration::from_secs(60), vm.ended()).await.unwrap().to_string();
    assert!(ended.starts_with("magikrun-vmm ended (exit status: 0)"), "{ended}");
}
