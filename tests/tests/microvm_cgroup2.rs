//! oci-native's own tests in a guest, whose kernel has cgroup v2 and nothing else: so that both versions are tested on
//! every change, whatever the host has.
//!
//! The guest boots from the test programs, the libraries they need and a busybox. Its init runs one program after the
//! other and leaves what they said in a share.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "each test of the guest is told, as a test runner does"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use magikrun_tests::binary;
use oci_krun::{Acceleration, Qemu, Share, VmDriver, VmFiles, VmSpec};
use serde_json::Value;

/// Everything, on a busy machine.
const LIMIT: Duration = Duration::from_secs(420);
/// Nobody on the host.
const USER: u32 = 64_124;
/// Programs that look into the kernel's details are not all there is in a busybox.
const APPLETS: [&str; 10] = [
    "sh", "sleep", "kill", "mount", "mkdir", "cat", "reboot", "timeout", "true", "ip",
];

/// What cannot run in the guest and says `SKIPPED` there: the test, and why. Anything else must pass.
const CANNOT_RUN: &[(&str, &str)] = &[];

/// Runs every program; what it said and how it ended is read by the test when the machine has ended.
const INIT: &str = "#!/bin/sh
export PATH=/bin:/usr/bin HOME=/ MAGIKRUN_TEST_BUSYBOX=/bin/busybox
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t virtiofs out /out
ip link set lo up
for program in /suite/*; do
  name=${program##*/}
  case $name in oci-native-worker) continue;; esac
  $program --test-threads=1 --show-output >/out/$name.log 2>&1 </dev/null
  echo $? >/out/$name.status
done
reboot -f
";

/// The test programs of oci-native: by name, and where cargo has put them.
fn programs() -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The selection of `cargo xtask test`: everything is built already.
    let built = Command::new(cargo)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["test", "--no-run", "--quiet", "--locked", "--workspace"])
        .args(["--features", "magikrun-cli/test-hooks", "--lib"])
        .args(["--test", "lifecycle", "--test", "exec", "--test", "traps"])
        .args(["--test", "single_threaded", "--message-format", "json"])
        .output()
        .expect("cargo");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let id = message["package_id"].as_str().unwrap_or_default();
        if message["profile"]["test"] == true
            && id.contains("/oci-native#")
            && let (Some(name), Some(program)) =
                (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.insert(name.to_owned(), program.into());
        }
    }
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        ["exec", "lifecycle", "oci_native", "single_threaded", "traps"],
        "test programs of oci-native"
    );
    found.insert(
        "oci-native-worker".to_owned(),
        binary().with_file_name("oci-native-worker"),
    );
    found
}

/// The shared libraries a program needs, and its interpreter.
fn libraries(program: &Path) -> BTreeSet<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().expect("ldd");
    assert!(listed.status.success(), "ldd {}", program.display());
    String::from_utf8_lossy(&listed.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect()
}

/// What the guest boots from.
fn lay_out(root: &Path) {
    for directory in [
        "bin", "usr/bin", "suite", "dev", "proc", "sys", "tmp", "run", "out", "etc", "root",
    ] {
        fs::create_dir_all(root.join(directory)).expect("a directory");
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).expect("busybox-static");
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("passwd");
    let init = root.join("init");
    fs::write(&init, INIT).expect("init");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("init");
    let mut needed = BTreeSet::new();
    for (name, program) in programs() {
        needed.append(&mut libraries(&program));
        fs::copy(&program, root.join("suite").join(name)).expect("a test program");
    }
    // Tests compare with it.
    let runc = Path::new("/usr/sbin/runc");
    if runc.is_file() {
        needed.append(&mut libraries(runc));
        fs::copy(runc, root.join("usr/bin/runc")).expect("runc");
    }
    for library in needed {
        let target = root.join(library.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(target.parent().expect("a directory")).expect("a directory");
        fs::copy(&library, &target).expect("a library");
    }
}

/// What became of the tests of the guest.
#[derive(Debug, Default)]
struct Outcome {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeMap<String, String>,
}

impl Outcome {
    /// Reads what a program said, in libtest's form.
    fn read(&mut self, program: &str, log: &str) {
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix("SKIPPED ") {
                let (test, reason) = rest.split_once(": ").unwrap_or((rest, ""));
                self.skipped.insert(test.to_owned(), reason.to_owned());
            } else if let Some((test, how)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.rsplit_once(" ... "))
            {
                let test = format!("{program} {test}");
                match how {
                    "ok" => self.passed.insert(test),
                    "ignored" => false,
                    _ => self.failed.insert(test),
                };
            }
        }
    }
}

async fn run(spec: &VmSpec, qemu: &Qemu) -> Result<(), String> {
    let mut vm = qemu.spawn(spec).await.map_err(|e| e.to_string())?;
    match tokio::time::timeout(LIMIT, vm.ended()).await {
        Ok(ended) if ended.to_string().starts_with("QEMU ended (exit status: 0)") => Ok(()),
        Ok(ended) => Err(ended.to_string()),
        Err(_) => {
            let console = vm.console().last_lines();
            vm.kill().await;
            Err(format!("the guest was not done after {LIMIT:?}: {console}"))
        }
    }
}

#[tokio::test]
async fn oci_native_keeps_its_promises_on_cgroup_v2() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED oci_native_keeps_its_promises_on_cgroup_v2: needs root");
        return;
    }
    // target/debug/magikrun: target/vm.
    let files = VmFiles::new(binary().ancestors().nth(2).expect("target").join("vm"));
    let qemu = Qemu::find(&files, Acceleration::Tcg).expect("`cargo xtask vm`");
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let (root, out, sockets) = (at("root"), at("out"), at("sockets"));
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    std::os::unix::fs::chown(&sockets, Some(USER), Some(USER)).expect("an owner");
    lay_out(&root);
    let spec = VmSpec {
        memory_mib: 1024,
        vcpus: 1,
        root,
        shares: vec![Share {
            tag: "out".to_owned(),
            directory: out.clone(),
        }],
        sockets,
        user: Some(USER),
    };
    let begun = Instant::now();
    let ended = run(&spec, &qemu).await;
    let mut outcome = Outcome::default();
    let mut trouble = vec![];
    for name in ["exec", "lifecycle", "oci_native", "single_threaded", "traps"] {
        let read = |kind: &str| fs::read_to_string(out.join(format!("{name}.{kind}")));
        let log = read("log").unwrap_or_default();
        outcome.read(name, &log);
        let status = read("status").unwrap_or_else(|_| "did not end".to_owned());
        if status.trim() != "0" {
            println!("--- {name}: {}\n{log}", status.trim());
            trouble.push(format!("{name}: {}", status.trim()));
        }
    }
    for (test, reason) in &outcome.skipped {
        println!("not run in the guest: {test}: {reason}");
    }
    println!(
        "{} tests passed in the guest, {} failed, {} cannot run there; {:.0} s",
        outcome.passed.len() - outcome.skipped.len(),
        outcome.failed.len(),
        outcome.skipped.len(),
        begun.elapsed().as_secs_f64(),
    );
    assert_eq!(ended, Ok(()));
    assert!(
        trouble.is_empty() && outcome.failed.is_empty(),
        "{trouble:?} {:?}",
        outcome.failed
    );
    if !Path::new("/usr/sbin/runc").is_file() {
        outcome.skipped.retain(|_, why| why != "needs runc");
    }
    let expected: BTreeMap<_, _> = CANNOT_RUN
        .iter()
        .map(|(test, why)| ((*test).to_owned(), (*why).to_owned()))
        .collect();
    assert_eq!(outcome.skipped, expected, "what cannot run in the guest");
}
