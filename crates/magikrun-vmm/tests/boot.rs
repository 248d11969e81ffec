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
use magik_vm::{
    Booted, Error, KERNEL_LIBRARY, Krun, VMM_PROGRAM, VmDriver, VmFiles, VmProcess, VmSpec, VmUser, boot,
    lay_out,
};

/// Names the directory with a kernel that libkrun boots here (`cargo xtask test --krun`).
const KERNEL_VARIABLE: &str = "MAGIKRUN_KRUN_KERNEL";

/// What `cargo xtask vm` has made.
fn made() -> PathBuf {
    match std::env::var_os(magik_vm::FILES_VARIABLE) {
        Some(directory) => directory.into(),
        // This program is target/debug/deps/boot-….
        None => std::env::current_exe()
            .unwrap()
            .ancestors()
            .nth(3)
            .unwrap()
            .join("vm"),
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
    link(made().join(VmFiles::INIT), VmFiles::INIT);
    link(kernel.join(KERNEL_LIBRARY), KERNEL_LIBRARY);
    link(env!("CARGO_BIN_EXE_magikrun-vmm").into(), VMM_PROGRAM);
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
    let user = VmUser::lease(Path::new(VmUser::DIRECTORY)).unwrap();
    let number = Some(user.number());
    std::os::unix::fs::chown(&sockets, number, number).unwrap();
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
        shared_processes: false,
        sysctls: vec![],
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
        user: Some(user.into()),
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
    let Booted {
        mut vm,
        listener,
        launch,
    } = boot(&krun, &spec, &[5; 32], Duration::from_secs(180))
        .await
        .unwrap();
    drop((launch, listener));
    let ended = tokio::time::timeout(Duration::from_secs(60), vm.ended())
        .await
        .unwrap();
    assert!(ended.is_power_off(), "{ended}");
}

/// The processes that this one has started, by what `/proc` says of them.
fn children() -> Vec<String> {
    let own = format!("PPid:\t{}\n", std::process::id());
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| fs::read_to_string(entry.path().join("status")).ok())
        .filter(|status| status.contains(&own))
        .collect()
}

/// This host's own libkrunfw. Where KVM runs it, it boots.
#[tokio::test]
async fn a_kvm_that_does_not_run_the_kernel_is_an_error_in_bounded_time() {
    let test = "a_kvm_that_does_not_run_the_kernel_is_an_error_in_bounded_time";
    let Some((_files, krun)) = krun(test, &made()) else {
        return;
    };
    let (_dir, spec) = place([5; 32]);
    match boot(&krun, &spec, &[5; 32], Duration::from_secs(60)).await {
        Ok(booted) => booted.vm.kill().await,
        Err(Error::Ended(ended)) => {
            assert_eq!(ended.process, VmProcess::Vmm);
            assert!(ended.last_words.contains("KVM"), "{ended}");
        }
        Err(Error::NoHello { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_machine_is_confined_before_it_runs() {
    let test = "a_machine_is_confined_before_it_runs";
    let Some((_files, krun)) = krun(test, &made()) else {
        return;
    };
    let (_dir, spec) = place([5; 32]);
    let _listener = std::os::unix::net::UnixListener::bind(spec.sockets.join("vsock_1024")).unwrap();
    let mut vm = krun.spawn(&spec).await.unwrap();
    let filtered = async {
        loop {
            if let Some(status) = children()
                .into_iter()
                .find(|status| status.contains("Seccomp:\t2"))
            {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = tokio::select! {
        status = filtered => status,
        ended = vm.ended() => panic!("{ended}"),
    };
    let user = spec.user.as_ref().unwrap().number();
    let id = format!("Uid:\t{user}\t{user}\t{user}\t{user}\n");
    for line in [
        id.as_str(),
        "NoNewPrivs:\t1",
        "CapEff:\t0000000000000004",
        "CapBnd:\t0000000000000004",
    ] {
        assert!(status.contains(line), "{line} in {status}");
    }
    vm.kill().await;
}

#[tokio::test]
async fn a_kernel_that_is_none_is_named() {
    let test = "a_kernel_that_is_none_is_named";
    let nonsense = tempfile::tempdir().unwrap();
    fs::write(nonsense.path().join(KERNEL_LIBRARY), "no library").unwrap();
    let Some((_files, krun)) = krun(test, nonsense.path()) else {
        return;
    };
    let (_dir, spec) = place([5; 32]);
    let error = boot(&krun, &spec, &[5; 32], Duration::from_secs(60))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("load the kernel") && error.contains("install libkrunfw 5"),
        "{error}"
    );
}
