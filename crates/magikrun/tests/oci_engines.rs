//! What container engines read out of a runtime's words: docs/drop-in.md has the table, and here each of them reads ours.
//!
//! The functions named after an engine say what that engine makes of a text, in its own conditions.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Stdio};

use oci_support::{Host, Ran};
use serde_json::{Value, json};

/// What containerd's shim makes of a failed `kill` (`checkKillError`): anything but the first two fails StopContainer.
#[derive(Debug, PartialEq, Eq)]
enum Kill {
    AlreadyFinished,
    NoSuchContainer,
    Unknown,
}

fn containerd_kill(text: &str) -> Kill {
    let finished = ["os: process already finished", "container not running"];
    if finished.iter().any(|t| text.contains(t)) || text.to_lowercase().contains("no such process") {
        Kill::AlreadyFinished
    } else if text.contains("does not exist") {
        Kill::NoSuchContainer
    } else {
        Kill::Unknown
    }
}

/// Whether containerd's shim takes a failed `delete` for one that was done before (`Init.delete`).
fn containerd_deleted_before(text: &str) -> bool {
    text.contains("does not exist")
}

/// Whether CRI-O takes a failed command for one on a container that is gone (`runtimeCmd`).
fn crio_not_found(text: &str) -> bool {
    ["no such process", "container not running", "invalid process"]
        .iter()
        .any(|t| text.contains(t))
}

/// Whether podman keeps a line of a failed `kill` to itself (`StopContainer`); else it shows it, as an error of its own.
fn podman_ignores(line: &str) -> bool {
    [
        "container not running",
        "open pidfd: No such process",
        "kill container: No such process",
    ]
    .iter()
    .any(|t| line.contains(t))
}

/// Whether podman takes a failed `state` for a container that is gone (`UpdateContainerStatus`).
fn podman_gone(text: &str) -> bool {
    text.contains("does not exist") || text.contains("No such file")
}

/// podman's exit code of a program that was not started (`getOCIRuntimeError`, `TranslateExecErrorToExitCode`).
fn podman_exit_code(text: &str) -> Option<i32> {
    let text = text.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if has(&["permission denied", "operation not permitted"]) {
        Some(126)
    } else if has(&[
        "executable file not found in",
        "no such file or directory",
        "open executable",
    ]) {
        Some(127)
    } else {
        None
    }
}

/// dockerd's exit code of a container that was not started (`translateContainerdStartErr`), of 20.10 and later.
fn dockerd_exit_code(text: &str, program: &str) -> Option<i32> {
    let text = text.to_lowercase();
    let has = |word: &str| text.contains(word);
    if has("permission denied") {
        Some(126)
    } else if has("not a directory")
        || has(program) && (has("executable file not found") || has("no such file or directory"))
    {
        Some(127)
    } else {
        None
    }
}

/// A container whose program has ended.
fn ended(host: &Host, name: &str) {
    let bundle = host.bundle(name, "true", |_| {});
    host.detached(name, &bundle);
    host.until(name, "stopped");
}

/// A command as containerd's shim and podman start it: they read the log, not standard error.
fn logged(host: &Host, args: &[&str]) -> (Ran, String) {
    let log = host.path("engine.log");
    let _ = fs::remove_file(&log);
    let globals = ["--log-format", "json", "--log", log.to_str().unwrap()];
    let ran = host.run(&[&globals[..], args].concat());
    let object: Value = serde_json::from_slice(&fs::read(&log).unwrap()).expect("one object");
    assert_eq!(object["level"], "error");
    (ran, object["msg"].as_str().unwrap().to_owned())
}

#[test]
fn a_kill_that_comes_too_late_is_no_failure_to_any_engine() {
    let Some(host) = Host::root("a_kill_that_comes_too_late_is_no_failure_to_any_engine") else {
        return;
    };
    ended(&host, "c");
    for signal in ["9", "KILL", "SIGTERM", "15"] {
        let (ran, message) = logged(&host, &["kill", "c", signal]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert_eq!(containerd_kill(&message), Kill::AlreadyFinished, "{message}");
        assert!(crio_not_found(&ran.stderr), "{ran:?}");
        assert!(podman_ignores(ran.stderr.trim_end()), "{ran:?}");
    }
    // As runc: nothing is left to be killed, which is what was asked for.
    host.run(&["kill", "--all", "c", "9"]).ok();
    host.run(&["delete", "c"]).ok();
    let (_, message) = logged(&host, &["kill", "c", "9"]);
    assert_eq!(containerd_kill(&message), Kill::NoSuchContainer, "{message}");
}

/// The moment matters: the container may be seen running and have ended when the signal is sent.
#[test]
fn a_kill_in_the_moment_of_the_end_is_no_failure_to_any_engine() {
    let Some(host) = Host::root("a_kill_in_the_moment_of_the_end_is_no_failure_to_any_engine") else {
        return;
    };
    for round in 0..10 {
        let name = format!("c{round}");
        let bundle = host.bundle(&name, "true", |_| {});
        host.detached(&name, &bundle);
        // Until it is too late, which it is soon: the program has nothing to do.
        let late = (0..1000)
            .map(|_| host.run(&["kill", &name, "CONT"]))
            .find(|ran| ran.code != 0)
            .expect("it ends");
        assert_eq!(
            containerd_kill(&late.fails(1)),
            Kill::AlreadyFinished,
            "round {round}"
        );
        host.run(&["delete", &name]).ok();
    }
}

#[test]
fn what_needs_a_process_says_that_there_is_none() {
    let Some(host) = Host::root("what_needs_a_process_says_that_there_is_none") else {
        return;
    };
    ended(&host, "c");
    for args in [
        &["pause", "c"][..],
        &["resume", "c"],
        &["update", "--memory", "1g", "c"],
    ] {
        let line = host.run(args).fails(1);
        assert!(crio_not_found(&line), "{args:?}: {line}");
    }
    let line = host.run(&["exec", "c", "true"]).fails(255);
    assert!(crio_not_found(&line), "{line}");
    // A container is started once: it is not its end that keeps it from being started again.
    let line = host.run(&["start", "c"]).fails(1);
    assert!(line.contains("cannot start") && !crio_not_found(&line), "{line}");
}

#[test]
fn a_container_that_is_gone_is_gone_to_every_engine() {
    let host = Host::any();
    let (_, deleted) = logged(&host, &["delete", "c"]);
    assert!(containerd_deleted_before(&deleted), "{deleted}");
    let (ran, _) = logged(&host, &["state", "c"]);
    assert!(podman_gone(&ran.stderr), "{ran:?}");
    let (_, killed) = logged(&host, &["kill", "c", "9"]);
    assert_eq!(containerd_kill(&killed), Kill::NoSuchContainer, "{killed}");
    // An engine cleans up by force what may or may not be there.
    host.run(&["delete", "--force", "c"]).ok();
}

/// A program that cannot be executed, as the kernel tells it: the exit code of ours, of podman and of dockerd.
struct Odd {
    program: &'static str,
    code: i32,
    podman: Option<i32>,
    dockerd: Option<i32>,
}

const fn odd(program: &'static str, code: i32, podman: Option<i32>, dockerd: Option<i32>) -> Odd {
    Odd {
        program,
        code,
        podman,
        dockerd,
    }
}

/// Found out before the container waits for `start`.
const MISSING: &[Odd] = &[
    odd("/no/such", 127, Some(127), Some(127)),
    odd("nosuch", 127, Some(127), Some(127)),
    odd("/etc/passwd", 126, Some(126), Some(126)),
    odd("/etc/passwd/x", 127, None, Some(127)),
    odd("/etc", 126, Some(126), Some(126)),
];
/// Found out by execve alone.
const BROKEN: &[Odd] = &[
    odd("/bin/script", 127, Some(127), Some(127)),
    odd("/bin/garbage", 126, None, None),
    odd("/bin/empty", 126, None, None),
];

impl Odd {
    #[track_caller]
    fn check(&self, ran: Ran) {
        let said = format!("{}: {ran:?}", self.program);
        let line = ran.fails(self.code);
        assert!(
            line.contains(self.program),
            "the program is named, as dockerd wants it: {said}"
        );
        assert_eq!(podman_exit_code(&line), self.podman, "podman: {said}");
        assert_eq!(
            dockerd_exit_code(&line, self.program),
            self.dockerd,
            "dockerd: {said}"
        );
    }
}

fn add_broken_programs(rootfs: &Path) {
    for (name, content) in [
        ("script", "#!/no/such\n"),
        ("garbage", "\0\u{1}garbage"),
        ("empty", ""),
    ] {
        let file = rootfs.join("bin").join(name);
        fs::write(&file, content).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn a_program_that_cannot_be_executed_has_the_exit_code_of_its_kind() {
    let Some(host) = Host::root("a_program_that_cannot_be_executed_has_the_exit_code_of_its_kind") else {
        return;
    };
    for (index, odd) in MISSING.iter().chain(BROKEN).enumerate() {
        let name = format!("c{index}");
        let bundle = host.bundle(&name, "", |c| c["process"]["args"] = json!([odd.program]));
        add_broken_programs(&bundle.join("rootfs"));
        let bundle = bundle.to_str().unwrap();
        odd.check(host.run(&["run", "--bundle", bundle, &name]));
        if index < MISSING.len() {
            odd.check(host.run(&["create", "--bundle", bundle, &name]));
        } else {
            // Its streams stay open while it waits for `start`.
            let mut create = host.command(&["create", "--bundle", bundle, &name]);
            let created = create.stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(created.unwrap().success(), "{}", odd.program);
            odd.check(host.run(&["start", &name]));
            host.run(&["delete", "--force", &name]).ok();
        }
        assert_eq!(
            host.run(&["list", "-q"]).ok(),
            "",
            "{}: nothing is left",
            odd.program
        );
    }
}

#[test]
fn an_exec_that_cannot_be_executed_has_the_exit_code_of_its_kind() {
    let Some(host) = Host::root("an_exec_that_cannot_be_executed_has_the_exit_code_of_its_kind") else {
        return;
    };
    host.sleeper("c", |_| {});
    add_broken_programs(&host.path("bundle-c").join("rootfs"));
    for odd in MISSING.iter().chain(BROKEN) {
        odd.check(host.run(&["exec", "c", odd.program]));
    }
    // What keeps it from being tried at all is another matter.
    host.run(&["exec", "--cwd", "/no/such", "c", "true"]).fails(255);
}

/// containerd gives a path of this form for every pod whose parent ends in `.slice`, whoever makes the cgroups.
#[test]
fn a_cgroup_path_of_systemds_form_is_a_name_without_systemd() {
    let Some(host) = Host::root("a_cgroup_path_of_systemds_form_is_a_name_without_systemd") else {
        return;
    };
    let path = format!("magikrun-test-{}.slice:cri-containerd:c", std::process::id());
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
    for user_namespace in [false, true] {
        host.sleeper("c", |c| {
            c["linux"]["cgroupsPath"] = json!(path);
            c["linux"]["resources"]["pids"] = json!({"limit": 50});
            if user_namespace {
                let namespaces = c["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.push(json!({"type": "user"}));
                c["linux"]["uidMappings"] = map.clone();
                c["linux"]["gidMappings"] = map.clone();
                // The container's root has to get at its files.
                for dir in [host.path(""), host.path("bundle-c")] {
                    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
        });
        let pid = host.state("c")["pid"].as_i64().unwrap();
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        let ours = cgroups
            .lines()
            .find(|l| l.contains("pids") || l.starts_with("0::"));
        assert!(
            ours.is_some_and(|l| l.ends_with(&format!("/{path}"))),
            "{cgroups}"
        );
        assert_eq!(host.run(&["exec", "c", "echo", "inside"]).ok(), "inside\n");
        host.run(&["update", "--pids-limit", "40", "c"]).ok();
        host.run(&["pause", "c"]).ok();
        host.run(&["resume", "c"]).ok();
        host.run(&["delete", "--force", "c"]).ok();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            assert!(
                !hierarchy.path().join(&path).exists(),
                "{}",
                hierarchy.path().display()
            );
        }
        fs::remove_dir_all(host.path("bundle-c")).unwrap();
    }
}

/// conmon passes on what the runtime has said and its exit code; CRI-O takes the latter for that of the program.
#[test]
fn a_failed_exec_says_one_line_and_leaves_no_pid_file() {
    let Some(host) = Host::root("a_failed_exec_says_one_line_and_leaves_no_pid_file") else {
        return;
    };
    host.sleeper("c", |_| {});
    let (process, pid) = (host.path("process.json"), host.path("pid"));
    let json = json!({"user": {"uid": 0, "gid": 0}, "args": ["/no/such"], "env": ["PATH=/bin"], "cwd": "/"});
    fs::write(&process, json.to_string()).unwrap();
    let (process, pid_file) = (process.to_str().unwrap(), pid.to_str().unwrap());
    let args = [
        "exec",
        "--process",
        process,
        "--pid-file",
        pid_file,
        "--detach",
        "c",
    ];
    let line = host.run(&args).fails(127);
    assert!(line.contains("/no/such"), "{line}");
    assert!(!pid.exists());
}
