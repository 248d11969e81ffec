//! Exec stays inside the whole sandbox, as runc's does.

mod common;

use std::{path::Path, process::Command};

use common::{Fixture, can_run};
use magik_oci::{Error, ExecIo, ExecOptions, Exit, OciRuntime, Stdio};
use serde_json::{Value, json};

// Go raises a soft limit of open files to the hard one, so runc now and then does.
fn rlimits() -> Value {
    json!([
        {"type": "RLIMIT_NOFILE", "soft": 444, "hard": 444},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ])
}

/// A user, groups, limits, capabilities and a filter that differ from every default.
fn sandboxed(config: &mut Value, no_new_privileges: bool) {
    let process = &mut config["process"];
    process["user"] = json!({"uid": 1000, "gid": 1001, "additionalGids": [7, 8], "umask": 0o077});
    process["rlimits"] = rlimits();
    process["cwd"] = json!("/work");
    process["oomScoreAdj"] = json!(321);
    process["noNewPrivileges"] = json!(no_new_privileges);
    let capabilities = json!(["CAP_CHOWN", "CAP_KILL"]);
    process["capabilities"] =
        json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
    config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [if cfg!(target_arch = "x86_64") { "SCMP_ARCH_X86_64" } else { "SCMP_ARCH_AARCH64" }],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    });
}

const PROBE: &str = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status; \
    grep -E 'open files|core file' /proc/self/limits; pwd; cat /proc/self/oom_score_adj; mkdir /tmp/x 2>&1; echo X=$X";

/// What a process says that runs PROBE.
fn process() -> Value {
    json!({
        "args": ["sh", "-c", PROBE],
        "cwd": "/work",
        "env": ["PATH=/usr/bin:/bin", "X=y"],
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [7, 8]},
    })
}

/// The same bundle under runc: run, exec, delete.
fn runc_exec(f: &Fixture, process: &Value) -> String {
    let root = f.dir.path().join("runc");
    let runc = |arguments: &[&str]| {
        let output = Command::new("runc")
            .arg("--root")
            .arg(&root)
            .args(arguments)
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let file = f.dir.path().join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    let id = format!("runc-{}", f.id);
    // Detached, it would keep our output open: its streams go to /dev/null.
    let status = Command::new("runc")
        .arg("--root")
        .arg(&root)
        .args(["run", "--detach", "--bundle"])
        .arg(f.bundle())
        .arg(&id)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "runc run");
    let (_, text) = runc(&["exec", "--process", file.to_str().unwrap(), &id]);
    let (deleted, why) = runc(&["delete", "--force", &id]);
    assert!(deleted, "{why}");
    text
}

async fn compare_with_runc(test: &str, no_new_privileges: bool) {
    if !can_run(test) {
        return;
    }
    if !["/usr/sbin/runc", "/usr/bin/runc"]
        .iter()
        .any(|p| Path::new(p).exists())
    {
        common::skip(test, "needs runc");
        return;
    }
    let f = Fixture::with("exec sleep 1000", |c| sandboxed(c, no_new_privileges));
    f.start().await;
    // runc 1.1 takes neither limits nor no_new_privs from the container: they are in what podman and containerd give it.
    let mut full = process();
    full["rlimits"] = rlimits();
    full["noNewPrivileges"] = json!(no_new_privileges);
    let (exit, ours) = f.exec_with("", |p| *p = full.clone()).await;
    let (_, inherited) = f.exec_with("", |p| *p = process()).await;
    f.runtime.delete(&f.id, true).await.unwrap();
    let theirs = runc_exec(&f, &full);
    assert_eq!((exit.code, &ours), (0, &theirs));
    assert_eq!(
        ours, inherited,
        "what the process does not say is the container's"
    );
    // And it is what was asked for, lest both be wrong.
    for line in [
        "Uid:\t1000\t1000\t1000\t1000",
        "Gid:\t1001\t1001\t1001\t1001",
        "Groups:\t7 8",
        "Seccomp:\t2",
        "/work",
        "321",
        "X=y",
    ] {
        assert!(ours.contains(line), "{line} is not in\n{ours}");
    }
    assert!(
        ours.contains(&format!("NoNewPrivs:\t{}", u8::from(no_new_privileges))),
        "{ours}"
    );
    assert!(ours.contains("444"), "{ours}");
    assert!(ours.contains("CapBnd:\t0000000000000021"), "{ours}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_keeps_the_whole_sandbox_as_runc_does() {
    compare_with_runc("exec_keeps_the_whole_sandbox_as_runc_does", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_loads_the_filter_without_no_new_privileges_too() {
    compare_with_runc("exec_loads_the_filter_without_no_new_privileges_too", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_joins_the_containers_cgroup_and_namespaces() {
    if !can_run("exec_joins_the_containers_cgroup_and_namespaces") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let init = f.runtime.state(&f.id).await.unwrap().pid.unwrap();
    let seen = |pid: &str| {
        let ns = ["pid", "mnt", "ipc", "uts", "net"]
            .map(|n| std::fs::read_link(format!("/proc/{pid}/ns/{n}")).unwrap());
        (
            std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap(),
            ns,
        )
    };
    let process =
        serde_json::from_value(json!({"args": ["sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}}))
            .unwrap();
    let io = ExecIo::Pipes(Stdio::default());
    let file = f.dir.path().join("pid");
    let mut options = ExecOptions::default();
    options.pid_file = Some(file.clone());
    let pid = f.runtime.exec(&f.id, &process, io, options).await.unwrap();
    assert_eq!(std::fs::read_to_string(file).unwrap(), pid.to_string());
    assert_eq!(seen(&pid.to_string()), seen(&init.to_string()));
    let mut both = f.runtime.processes(&f.id).await.unwrap();
    both.sort_unstable();
    assert_eq!(both, [init.min(pid), init.max(pid)]);
    assert_eq!(
        std::fs::read_dir(f.container_dir())
            .unwrap()
            .filter(|e| {
                e.as_ref()
                    .unwrap()
                    .file_name()
                    .to_string_lossy()
                    .starts_with("exec.")
                    && e.as_ref().unwrap().path().is_dir()
            })
            .count(),
        0
    );
    f.runtime.delete(&f.id, true).await.unwrap();
    assert_eq!(f.runtime.wait_exec(&f.id, pid).await.unwrap(), Exit::signalled(9));
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_names_a_program_that_cannot_be_executed() {
    if !can_run("exec_names_a_program_that_cannot_be_executed") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    for (program, reason) in [
        ("nosuch", "not found in $PATH"),
        ("/nosuch", "no such file"),
        ("/etc/passwd", "permission denied"),
    ] {
        let process =
            serde_json::from_value(json!({"args": [program], "cwd": "/", "user": {"uid": 0, "gid": 0}}))
                .unwrap();
        let io = ExecIo::Pipes(Stdio::default());
        let error = f
            .runtime
            .exec(&f.id, &process, io, ExecOptions::default())
            .await
            .unwrap_err();
        let Error::CannotExecute {
            program: named,
            reason: why,
            ..
        } = &error
        else {
            panic!("{program}: {error}")
        };
        assert!(named == program && why.contains(reason), "{error}");
    }
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_with_a_terminal_hands_its_master_over() {
    if !can_run("exec_with_a_terminal_hands_its_master_over") {
        return;
    }
    let f = Fixture::new("exec sleep 1000");
    f.start().await;
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let process = serde_json::from_value(json!({
        "args": ["sh", "-c", "tty; stty -echo; read line; echo got $line; exit 6"],
        "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": true,
    }))
    .unwrap();
    let io = ExecIo::Terminal {
        console: theirs.into(),
    };
    let pid = f
        .runtime
        .exec(&f.id, &process, io, ExecOptions::default())
        .await
        .unwrap();
    let master = common::receive_fd(&ours);
    rustix::io::write(&master, b"hi\n").unwrap();
    let text = tokio::task::spawn_blocking(move || common::read_terminal(&master))
        .await
        .unwrap();
    assert!(text.contains("/dev/pts/0") && text.contains("got hi"), "{text:?}");
    assert_eq!(f.runtime.wait_exec(&f.id, pid).await.unwrap(), Exit::exited(6));
    f.runtime.delete(&f.id, true).await.unwrap();
    f.assert_nothing_left();
}
