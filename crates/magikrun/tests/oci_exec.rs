//! `exec` from the OCI command line.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::fs;

use oci_support::{Host, capabilities, eventually, on_terminal};
use serde_json::json;

/// Everything of a process that a sandbox consists of.
const SANDBOX: &str = "grep -E '^(Uid|Gid|Cap(Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp:)' /proc/self/status; pwd; ulimit -n; cat /proc/self/cgroup; \
                       for n in mnt pid net ipc uts cgroup user; do readlink /proc/self/ns/$n; done";

#[test]
fn each_option_of_exec_does_what_it_says() {
    let Some(host) = Host::root("each_option_of_exec_does_what_it_says") else {
        return;
    };
    host.sleeper("c", |c| c["process"]["env"] = json!(["PATH=/bin", "A=container"]));
    let exec = |args: &[&str]| host.run(&[&["exec"], args].concat());
    assert_eq!(exec(&["c", "sh", "-c", "echo $A; exit 4"]).code, 4);
    assert_eq!(
        exec(&["-e", "A=exec", "--env", "B=x=y", "c", "sh", "-c", "echo $A $B"]).ok(),
        "exec x=y\n"
    );
    assert_eq!(exec(&["--cwd", "/tmp", "c", "pwd"]).ok(), "/tmp\n");
    assert_eq!(
        exec(&["-u", "7:8", "-g", "9", "c", "sh", "-c", "id -u; id -g; id -G"]).ok(),
        "7\n8\n8 9\n"
    );
    assert_eq!(
        exec(&["--user", "web", "c", "sh", "-c", "id -u; id -g; id -G"]).ok(),
        "33\n34\n34 44\n"
    );
    assert_eq!(exec(&["--user", "web:extra", "c", "id", "-g"]).ok(), "44\n");
    assert!(
        exec(&["--user", "nosuch", "c", "id"])
            .fails(255)
            .contains("nosuch")
    );
    let caps = "grep CapEff /proc/self/status";
    assert_eq!(
        exec(&["--cap", "CAP_NET_RAW", "c", "sh", "-c", caps]).ok(),
        "CapEff:\t00000000000020e1\n"
    );
    assert_eq!(exec(&["c", "sh", "-c", "kill -9 $$"]).code, 137);
    assert!(exec(&["c", "nosuch"]).fails(127).contains("nosuch"));
    assert!(
        exec(&["c", "/etc/passwd"])
            .fails(126)
            .contains("ermission denied")
    );
    assert_eq!(host.run_with_input(&["exec", "c", "cat"], b"typed").ok(), "typed");
}

#[test]
fn exec_takes_a_process_from_a_file_and_writes_its_pid() {
    let Some(host) = Host::root("exec_takes_a_process_from_a_file_and_writes_its_pid") else {
        return;
    };
    host.sleeper("c", |_| {});
    let process = host.path("process.json");
    let pid_file = host.path("pid");
    let script = "while :; do sleep 0.1; done";
    fs::write(&process, json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", script], "env": ["PATH=/bin"], "cwd": "/tmp"}).to_string()).unwrap();
    let args = [
        "exec",
        "--process",
        process.to_str().unwrap(),
        "--detach",
        "--pid-file",
        pid_file.to_str().unwrap(),
        "c",
    ];
    let log = fs::File::create(host.path("out")).unwrap();
    assert!(
        host.command(&args)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap()
            .success()
    );
    let pid = fs::read_to_string(&pid_file).unwrap();
    eventually("the process", || {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c == "sh\n")
    });
    assert_eq!(
        fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
        std::path::Path::new("/tmp")
    );
    let pids: Vec<i32> = serde_json::from_str(&host.run(&["ps", "-f", "json", "c"]).ok()).unwrap();
    assert!(
        pids.contains(&pid.parse().unwrap()),
        "{pid} is not in the container's cgroup: {pids:?}"
    );
}

#[test]
fn exec_keeps_the_whole_sandbox() {
    let Some(host) = Host::root("exec_keeps_the_whole_sandbox") else {
        return;
    };
    let script = format!("({SANDBOX}) >/first; {}", oci_support::SLEEPER);
    let bundle = host.bundle("c", &script, |c| {
        c["process"]["user"] = json!({"uid": 33, "gid": 34});
        c["process"]["cwd"] = json!("/tmp");
        c["process"]["capabilities"] = capabilities(&["CAP_KILL"]);
        c["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 300}]);
        c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]});
        c["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "cgroup"}));
    });
    fs::write(bundle.join("rootfs/first"), "").unwrap();
    std::os::unix::fs::chown(bundle.join("rootfs/first"), Some(33), None).unwrap();
    host.detached("c", &bundle);
    eventually("the first process", || {
        fs::read_to_string(bundle.join("rootfs/first"))
            .unwrap()
            .contains("user:[")
    });
    let first = fs::read_to_string(bundle.join("rootfs/first")).unwrap();
    let ours = host.run(&["exec", "c", "sh", "-c", SANDBOX]).ok();
    assert_eq!(ours, first);
    assert!(
        ours.contains("Seccomp:\t2") && ours.contains("NoNewPrivs:\t1") && ours.contains("Uid:\t33"),
        "{ours}"
    );
    let denied = host.run(&["exec", "c", "mkdir", "/tmp/x"]);
    assert!(
        denied.code != 0 && denied.stderr.contains("No space left"),
        "{denied:?}"
    );
}

/// As runc and crun do: programs that are one process are given such filters.
#[test]
fn exec_enters_where_the_filter_forbids_to_make_processes() {
    let Some(host) = Host::root("exec_enters_where_the_filter_forbids_to_make_processes") else {
        return;
    };
    let forbids = json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["clone", "clone3", "fork", "vfork", "setsid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]});
    let alone = |no_new_privileges: bool, capabilities: serde_json::Value| {
        let forbids = forbids.clone();
        move |c: &mut serde_json::Value| {
            c["process"]["args"] = json!(["sleep", "1000"]);
            c["process"]["noNewPrivileges"] = json!(no_new_privileges);
            c["process"]["capabilities"] = capabilities;
            c["linux"]["seccomp"] = forbids;
        }
    };
    let exec = ["grep", "-E", "^(Seccomp|NoNewPrivs|CapEff):", "/proc/self/status"];
    let kept = host.bundle("kept", "", alone(true, capabilities(&["CAP_KILL"])));
    host.detached("kept", &kept);
    let seen = host.run(&[&["exec", "kept"], &exec[..]].concat()).ok();
    assert_eq!(seen, "CapEff:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n");
    let fork = host.run(&["exec", "kept", "sh", "-c", "(true); true"]);
    assert!(fork.code != 0, "{fork:?}");
    // Else the filter would be loaded by a process that others there could take the host's
    // capabilities from.
    let gained = host.bundle("gained", "", alone(false, capabilities(&["CAP_KILL"])));
    host.detached("gained", &gained);
    let refused = host.run(&["exec", "gained", "true"]).fails(255);
    assert!(refused.contains("forbids clone or setsid"), "{refused}");
}

#[test]
fn exec_enters_the_user_namespace() {
    let Some(host) = Host::root("exec_enters_the_user_namespace") else {
        return;
    };
    let (map, files) = (
        json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]),
        "cat /proc/self/uid_map",
    );
    let script = format!("({SANDBOX}) >/first; {}", oci_support::SLEEPER);
    let bundle = host.bundle("c", &script, |c| {
        c["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        c["linux"]["uidMappings"] = map.clone();
        c["linux"]["gidMappings"] = map;
    });
    // The container's root has to get at its files.
    for dir in [bundle.parent().unwrap(), &bundle] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::write(bundle.join("rootfs/first"), "").unwrap();
    std::os::unix::fs::chown(bundle.join("rootfs/first"), Some(100_000), None).unwrap();
    host.detached("c", &bundle);
    eventually("the first process", || {
        fs::read_to_string(bundle.join("rootfs/first"))
            .unwrap()
            .contains("user:[")
    });
    let first = fs::read_to_string(bundle.join("rootfs/first")).unwrap();
    assert_eq!(host.run(&["exec", "c", "sh", "-c", SANDBOX]).ok(), first);
    let map = host.run(&["exec", "c", "sh", "-c", files]).ok();
    assert_eq!(
        map.split_whitespace().collect::<Vec<_>>(),
        ["0", "100000", "1000"]
    );
    assert_eq!(
        host.run(&[
            "exec",
            "-u",
            "7:8",
            "-g",
            "9",
            "c",
            "sh",
            "-c",
            "id -u; id -g; id -G"
        ])
        .ok(),
        "7\n8\n8 9\n"
    );
    let pid = host.run(&["exec", "c", "sh", "-c", "cat /proc/self/status"]).ok();
    assert!(pid.contains("Uid:\t0\t0\t0\t0"), "{pid}");
}

#[test]
fn exec_with_a_terminal_connects_ours_to_it() {
    let Some(host) = Host::root("exec_with_a_terminal_connects_ours_to_it") else {
        return;
    };
    host.sleeper("c", |_| {});
    let ran = on_terminal(
        host.command(&["exec", "-t", "-u", "web", "c", "sh"]),
        "tty; stty size; stat -c %u $(tty); exit 5\n",
    );
    assert_eq!(ran.code, 5, "{ran:?}");
    for part in ["/dev/pts/", "40 100", "\n33\n"] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    assert!(
        host.run(&["exec", "-t", "-d", "c", "sh"])
            .fails(255)
            .contains("--console-socket")
    );
}
