//! Guests that really boot, emulated, with the real kernel and init. `cargo xtask vm` makes what they need.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::print_stderr,
    reason = "a skipped test says so where the runner shows it"
)]

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use magik_infra::guest::{GuestConfig, GuestScratch};
use magik_vm::{Acceleration, Booted, Error, Qemu, VmFiles, VmProcess, VmSpec, VmUser, boot, lay_out, probe};

/// A boot takes seconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(60);

fn files() -> VmFiles {
    match std::env::var_os(magik_vm::FILES_VARIABLE) {
        Some(directory) => VmFiles::new(directory.into()),
        // This program is target/debug/deps/boot-….
        None => {
            let own = std::env::current_exe().unwrap();
            VmFiles::new(own.ancestors().nth(3).unwrap().join("vm"))
        }
    }
}

fn qemu(test: &str) -> Option<Qemu> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    if let Err(missing) = files().vminit() {
        eprintln!("SKIPPED {test}: {missing}");
        return None;
    }
    Some(Qemu::find(&files(), Acceleration::Tcg).expect("what QEMU needs"))
}

/// What a guest of this nonce boots from.
fn place(vminit: &Path, nonce: [u8; 32]) -> (tempfile::TempDir, VmSpec) {
    let dir = tempfile::tempdir().unwrap();
    let (root, sockets) = (dir.path().join("root"), dir.path().join("sockets"));
    std::fs::create_dir(&root).unwrap();
    std::fs::create_dir(&sockets).unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
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
    lay_out(&root, vminit, &config).unwrap();
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
async fn a_guest_says_hello_and_ends_when_its_launcher_is_gone() {
    let Some(qemu) = qemu("a_guest_says_hello_and_ends_when_its_launcher_is_gone") else {
        return;
    };
    let (_dir, spec) = place(&files().vminit().unwrap(), [5; 32]);
    let Booted {
        mut vm,
        listener,
        launch,
    } = boot(&qemu, &spec, &[5; 32], LIMIT).await.unwrap();
    drop((launch, listener));
    let ended = tokio::time::timeout(LIMIT, vm.ended()).await.unwrap();
    assert!(ended.is_power_off(), "{ended}");
}

#[tokio::test]
async fn a_guest_without_the_nonce_is_no_guest() {
    let Some(qemu) = qemu("a_guest_without_the_nonce_is_no_guest") else {
        return;
    };
    let (_dir, spec) = place(&files().vminit().unwrap(), [5; 32]);
    let error = boot(&qemu, &spec, &[6; 32], LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("nonce"), "{error}");
}

#[tokio::test]
async fn an_init_that_fails_is_quoted_from_the_console() {
    let Some(qemu) = qemu("an_init_that_fails_is_quoted_from_the_console") else {
        return;
    };
    let (_dir, spec) = place(&files().vminit().unwrap(), [5; 32]);
    std::fs::write(spec.root.join("pod/guest.json"), "{}").unwrap();
    let error = boot(&qemu, &spec, &[5; 32], LIMIT).await.unwrap_err();
    let Error::Ended(ended) = error else {
        panic!("{error}");
    };
    assert_eq!(ended.process, VmProcess::Qemu);
    assert!(ended.last_words.contains("guest.json: missing field"), "{ended}");
}

#[tokio::test]
async fn a_probe_boots_a_guest_once_and_believes_no_program_that_says_nothing() {
    let Some(qemu) = qemu("a_probe_boots_a_guest_once_and_believes_no_program_that_says_nothing") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    probe(&qemu, &files(), dir.path(), LIMIT).await.unwrap();
    // No guest says hello in no time: nothing was booted.
    probe(&qemu, &files(), dir.path(), Duration::ZERO).await.unwrap();

    // An init that does not dial.
    let silent = tempfile::tempdir().unwrap();
    let own = files().into_directory();
    for name in [VmFiles::KERNEL, VmProcess::VsockDevice.as_str()] {
        if own.join(name).exists() {
            std::os::unix::fs::symlink(own.join(name), silent.path().join(name)).unwrap();
        }
    }
    std::fs::copy("/bin/busybox", silent.path().join(VmFiles::INIT)).unwrap();
    let silent = VmFiles::new(silent.path().to_owned());
    let qemu = Qemu::find(&silent, Acceleration::Tcg).unwrap();
    for limit in [Duration::from_secs(3), LIMIT] {
        // The second time it is remembered.
        let error = probe(&qemu, &silent, dir.path(), limit).await.unwrap_err();
        assert!(error.to_string().contains("say hello"), "{error}");
    }
}
