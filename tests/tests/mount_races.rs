//! The mount races of 2025, run for real: while containers are created, a program in another container that has their root
//! file system as a volume exchanges files with links, as fast as the kernel can (`renameat2(RENAME_EXCHANGE)`).
//!
//! A creation may fail, since its root file system is a moving target. What must not happen, however often it is tried, is
//! that something gets mounted or written where a link leads. `MAGIKRUN_DROPIN_RUNTIME` names another runtime to attack: a
//! test that an unprotected one passes is none. `MAGIKRUN_RACE_ROUNDS` is the number of containers.
#![cfg(target_os = "linux")]
#![allow(
    dead_code,
    clippy::print_stderr,
    reason = "the harness is the conformance suite's; the test reports"
)]

#[path = "conformance/harness.rs"]
mod harness;

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use harness::{Bundle, Runtime};
use magikrun_tests::{
    dropin::{Client, runtime_under_test},
    run_isolated,
};
use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use serde_json::json;

/// In the attacking container: what to exchange, as `a:b,c:d`.
const SWAP: &str = "MAGIKRUN_RACE_SWAP";
const SWAPS: &str = "/swaps";

/// A race as the test `name`, which is also what runs in the attacking container.
fn race(name: &str, body: impl FnOnce(&Race)) {
    if let Ok(pairs) = env::var(SWAP) {
        swap_for_ever(&pairs);
    }
    run_isolated(name, |scene| {
        // On a tmpfs: an overlay would be slower to exchange.
        tempfile::env::override_temp_dir(scene.dir()).expect("the first to set it");
        body(&Race {
            test: name.to_owned(),
            runtime: Runtime::new("race", runtime_under_test()),
            rounds: env::var("MAGIKRUN_RACE_ROUNDS").map_or(25, |n| n.parse().expect("a number")),
        });
    });
}

fn swap_for_ever(pairs: &str) -> ! {
    let pairs: Vec<_> = pairs.split(',').filter_map(|p| p.split_once(':')).collect();
    let (mut swaps, mut error) = (0_u64, String::new());
    for round in 1_u64.. {
        for (one, other) in &pairs {
            match renameat_with(CWD, *one, CWD, *other, RenameFlags::EXCHANGE) {
                Ok(()) => swaps += 1,
                Err(e) => error = format!("{one} and {other}: {e}"),
            }
        }
        // Pauses, in this state and in that, let some creations get far.
        if round % 63 == 0 {
            thread::sleep(Duration::from_micros(500));
        }
        if round % 1000 == 0 {
            let _ = fs::write(SWAPS, format!("{swaps} {error}"));
        }
    }
    unreachable!("it is killed");
}

struct Race {
    test: String,
    runtime: Runtime,
    rounds: u32,
}

impl Race {
    /// A container that has `rootfs` as a volume and exchanges pairs of paths in it until it is dropped.
    fn attacker(&self, rootfs: &Path, pairs: &[(&str, &str)]) -> Bundle<'_> {
        let mut attacker = self.runtime.bundle("").expect("a bundle");
        let own = env::current_exe().expect("own executable");
        let mut mounts = vec![
            (own.as_path(), "/attack"),
            (rootfs, "/mnt"),
            (Path::new("/usr"), "/usr"),
        ];
        // Merged into /usr, or not.
        for dir in ["/lib", "/lib64"].map(Path::new) {
            if dir.is_symlink() {
                symlink(
                    format!("usr{}", dir.display()),
                    attacker.rootfs().join(dir.strip_prefix("/").expect("absolute")),
                )
                .expect("a link");
            } else if dir.exists() {
                mounts.push((dir, dir.to_str().expect("UTF-8")));
            }
        }
        for (source, destination) in mounts {
            attacker.config["mounts"]
                .as_array_mut()
                .expect("mounts")
                .push(json!(
                    {"destination": destination, "type": "bind", "source": source, "options": ["bind", "rw"]}
                ));
        }
        let below = |path: &str| format!("/mnt/{path}");
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(a, b)| format!("{}:{}", below(a), below(b)))
            .collect();
        let process = &mut attacker.config["process"];
        process["args"] = json!(["/attack", "--exact", self.test, "--nocapture"]);
        process["env"] = json!([format!("{SWAP}={}", pairs.join(","))]);
        attacker.create().expect("the attacker");
        attacker.ok("start", &[]).expect("the attacker");
        attacker
    }

    /// How often an attacker has exchanged something, and what went wrong last.
    fn swaps(attacker: &Bundle<'_>) -> (u64, String) {
        let text = fs::read_to_string(attacker.rootfs().join(SWAPS.trim_start_matches('/')));
        let text = text.unwrap_or_default();
        let (swaps, error) = text.split_once(' ').unwrap_or_default();
        (swaps.parse().unwrap_or(0), error.to_owned())
    }

    /// Runs `victim` again and again, and gives each outcome, a success or not and what it said, to `judge`.
    fn run(
        &self,
        attacker: &Bundle<'_>,
        mut victim: impl FnMut() -> (bool, String),
        judge: impl Fn(bool, &str),
    ) {
        harness::eventually("the attacker swaps", || Ok(Self::swaps(attacker).0 > 0)).expect("an attacker");
        let host = Host::now();
        let mut ran = 0;
        for _ in 0..self.rounds {
            let (success, said) = victim();
            ran += u32::from(success);
            judge(success, &said);
            assert_eq!(Host::now(), host, "the host was changed: {said}");
        }
        let (swaps, error) = Self::swaps(attacker);
        eprintln!(
            "{}: {ran} of {} containers ran, {swaps} swaps {error}",
            self.test, self.rounds
        );
        assert!(
            swaps > u64::from(self.rounds),
            "that was no race: {swaps} swaps {error}"
        );
    }
}

/// What of the host an escape would change.
#[derive(Debug, PartialEq, Eq)]
struct Host(Vec<String>);

impl Host {
    fn now() -> Self {
        let files = [
            "kernel/core_pattern",
            "kernel/hostname",
            "kernel/domainname",
            "kernel/modprobe",
        ];
        let read = |name| fs::read_to_string(Path::new("/proc/sys").join(name)).unwrap_or_default();
        Self(files.map(read).to_vec())
    }
}

/// The outcome of `run` in the foreground.
fn outcome(bundle: &Bundle<'_>) -> (bool, String) {
    let output = bundle.try_run().expect("an end in time");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// Fails if a container's mountinfo shows a part of procfs anywhere but at its own place in /proc.
fn assert_no_stray_procfs(mountinfo: &str) {
    for line in mountinfo.lines().filter(|l| l.contains(" - proc ")) {
        let mut fields = line.split(' ').skip(3);
        let (root, point) = (
            fields.next().unwrap_or_default(),
            fields.next().unwrap_or_default(),
        );
        let own = Path::new("/proc").join(root.trim_start_matches('/'));
        assert!(Path::new(point) == own, "procfs {root} is at {point}: {line}");
    }
}

/// Gives `victim` a volume as its /dev, with everything in it that a runtime would make.
fn dev_volume(victim: &mut Bundle<'_>) -> PathBuf {
    let volume = victim.dir().join("dev");
    for dir in ["pts", "shm"] {
        fs::create_dir_all(volume.join(dir)).expect("a directory");
    }
    for (name, major, minor) in [
        ("null", 1, 3),
        ("zero", 1, 5),
        ("full", 1, 7),
        ("random", 1, 8),
        ("urandom", 1, 9),
        ("tty", 5, 0),
    ] {
        let (path, mode) = (volume.join(name), Mode::from_raw_mode(0o666));
        mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor)).expect("mknod");
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(target, volume.join(name)).expect("a link");
    }
    victim.config["mounts"] = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "bind", "source": volume, "options": ["rbind", "rw"]},
    ]);
    volume
}

#[test]
fn masking_holds_while_dev_null_is_exchanged_cve_2025_31133() {
    const MASKED: u32 = 16;
    race(
        "masking_holds_while_dev_null_is_exchanged_cve_2025_31133",
        |race| {
            let script = "cat /proc/self/mountinfo; cat /etc/masked*; \
                          for f in /etc/masked*; do echo overwritten >$f; done 2>/etc/errors; true";
            let mut victim = race.runtime.bundle(script).expect("a bundle");
            let volume = dev_volume(&mut victim);
            victim.config["hostname"] = json!("canary");
            victim.config["linux"]["maskedPaths"] = (0..MASKED).map(|i| format!("/etc/masked{i}")).collect();
            let rootfs = victim.rootfs();
            for i in 0..MASKED {
                fs::write(rootfs.join(format!("etc/masked{i}")), "masked\n").expect("a file");
            }
            // Bound over a masked path it would show the name of the container, and let it be written.
            symlink("/proc/sys/kernel/hostname", volume.join("link")).expect("a link");
            let attacker = race.attacker(&volume, &[("null", "link")]);
            race.run(
                &attacker,
                || outcome(&victim),
                |success, said| {
                    assert_no_stray_procfs(said);
                    let shown = said.lines().any(|l| ["canary", "masked"].contains(&l));
                    assert!(!success || !shown, "a masked path shows: {said}");
                    for i in 0..MASKED {
                        let text = fs::read_to_string(rootfs.join(format!("etc/masked{i}"))).expect("a file");
                        assert_eq!(text, "masked\n");
                    }
                },
            );
        },
    );
}

#[test]
fn the_console_stays_a_terminal_while_its_paths_are_exchanged_cve_2025_52565() {
    race(
        "the_console_stays_a_terminal_while_its_paths_are_exchanged_cve_2025_52565",
        |race| {
            let script = "cat /proc/self/mountinfo; stat -c 'target: %F' /etc/target; stat -c 'console: %t' /dev/console";
            let mut victim = race.runtime.bundle(script).expect("a bundle");
            let volume = dev_volume(&mut victim);
            victim.config["process"]["terminal"] = json!(true);
            victim.config["mounts"]
                .as_array_mut()
                .expect("mounts")
                .push(json!(
                    {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                     "options": ["newinstance", "ptmxmode=0666", "mode=0620"]}
                ));
            victim.save().expect("config.json");
            let rootfs = victim.rootfs();
            // What the console is bound to, and what it is bound from.
            fs::write(rootfs.join("etc/target"), "target\n").expect("a file");
            fs::write(volume.join("console"), "").expect("a file");
            symlink("/etc/target", volume.join("console.link")).expect("a link");
            fs::create_dir_all(rootfs.join("fake")).expect("a directory");
            for number in 0..4 {
                let fake = rootfs.join(format!("fake/{number}"));
                symlink("/proc/sys/kernel/hostname", fake).expect("a link");
            }
            symlink("/fake", volume.join("pts.link")).expect("a link");
            let attacker = race.attacker(&volume, &[("console", "console.link"), ("pts", "pts.link")]);
            let root = victim.dir().join("root").display().to_string();
            let client = Client::new(
                runtime_under_test().to_str().expect("UTF-8"),
                &["--root".to_owned(), root],
                &[],
                victim.dir().to_owned(),
            );
            let line = format!("run --bundle {} {}", victim.dir().display(), victim.id);
            let run = || {
                let done = client.terminal(&line, "").expect("an end in time");
                (done.exit == 0, done.stdout)
            };
            race.run(&attacker, run, |_, said| {
                assert_no_stray_procfs(said);
                for mount in said.lines().filter(|l| l.contains(" - devpts ")) {
                    let point = mount.split(' ').nth(4).unwrap_or_default();
                    let own = ["/dev/console", "/dev/pts", "/fake"]
                        .iter()
                        .any(|p| point.starts_with(p));
                    assert!(own, "a terminal is at {point}: {said}");
                }
                // An empty file is what was there, 88 (136) the major number of a pseudo-terminal.
                for device in said.lines().filter_map(|l| l.strip_prefix("console: ")) {
                    assert!(
                        ["88", "0"].contains(&device),
                        "the console is a device {device}: {said}"
                    );
                }
                let target = said.lines().find_map(|l| l.strip_prefix("target: "));
                assert!(target.is_none_or(|t| t == "regular file"), "{said}");
                let target = fs::read_to_string(rootfs.join("etc/target"));
                assert_eq!(target.expect("a file"), "target\n");
            });
        },
    );
}

#[test]
fn writes_to_proc_stay_in_proc_while_it_is_exchanged_cve_2025_52881() {
    race(
        "writes_to_proc_stay_in_proc_while_it_is_exchanged_cve_2025_52881",
        |race| {
            let script = "cat /proc/self/mountinfo; echo \"domain: $(cat /proc/sys/kernel/domainname)\"";
            let mut victim = race.runtime.bundle(script).expect("a bundle");
            victim.config["linux"]["sysctl"] = json!({"kernel.domainname": "redirected"});
            victim.config["process"]["oomScoreAdj"] = json!(100);
            victim.config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
            let rootfs = victim.rootfs();
            // A proc of files, every one of which the runtime may be about to write to.
            let canaries: Vec<PathBuf> = [
                "sys/kernel/domainname",
                "self/oom_score_adj",
                "self/attr/exec",
                "self/attr/apparmor/exec",
            ]
            .iter()
            .map(|name| rootfs.join("fake").join(name))
            .collect();
            for canary in &canaries {
                fs::create_dir_all(canary.parent().expect("a directory")).expect("a directory");
                fs::write(canary, "canary").expect("a file");
            }
            symlink("self", rootfs.join("fake/thread-self")).expect("a link");
            symlink("/fake", rootfs.join("proc.link")).expect("a link");
            let attacker = race.attacker(&rootfs, &[("proc", "proc.link")]);
            race.run(
                &attacker,
                || outcome(&victim),
                |success, said| {
                    for canary in &canaries {
                        let text = fs::read_to_string(canary).expect("a file");
                        assert_eq!(text, "canary", "{} was written: {said}", canary.display());
                    }
                    // And what was to be written was, unless that is the image's proc being read.
                    let domain = said.lines().find_map(|l| l.strip_prefix("domain: "));
                    let fine = domain.is_none_or(|d| ["redirected", "canary", ""].contains(&d));
                    assert!(!success || fine, "{said}");
                },
            );
        },
    );
}
