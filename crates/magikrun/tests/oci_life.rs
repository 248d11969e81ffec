//! A container's life from the OCI command line.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::{
        fd::AsRawFd as _,
        unix::{
            net::{UnixDatagram, UnixListener},
            process::CommandExt as _,
        },
    },
    process::Command,
};

use oci_support::{Host, SLEEPER, eventually, on_terminal};
use serde_json::{Value, json};

fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_container_is_created_runs_stops_and_is_gone() {
    let Some(host) = Host::root("a_container_is_created_runs_stops_and_is_gone") else {
        return;
    };
    let bundle = host.bundle("c", SLEEPER, |c| c["annotations"] = json!({"a": "b"}));
    let pid_file = host.path("pid");
    let log = fs::File::create(host.path("out")).unwrap();
    let mut create = host.command(&[
        "create",
        "c",
        "--bundle",
        text(&bundle),
        "--pid-file",
        text(&pid_file),
    ]);
    assert!(
        create
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .status()
            .unwrap()
            .success()
    );

    let state = host.state("c");
    assert_eq!(
        (state["status"].as_str(), state["ociVersion"].as_str()),
        (Some("created"), Some("1.0.2"))
    );
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).unwrap());
    assert_eq!(
        (state["bundle"].as_str(), state["annotations"]["a"].as_str()),
        (Some(text(&bundle)), Some("b"))
    );
    assert!(
        host.run(&["create", "--bundle", text(&bundle), "c"])
            .fails(1)
            .contains("already exists")
    );

    host.run(&["start", "c"]).ok();
    assert_eq!(host.state("c")["status"], "running");
    assert!(host.run(&["start", "c"]).fails(1).contains("running"));
    assert!(host.run(&["delete", "c"]).fails(1).contains("running"));

    eventually("it handles SIGTERM", || {
        fs::read_to_string(host.path("out")).unwrap().contains("up")
    });
    host.run(&["kill", "c"]).ok();
    host.until("c", "stopped");
    assert_eq!(host.state("c")["pid"], 0);
    assert_ne!(host.run(&["kill", "c", "9"]).code, 0);
    host.run(&["delete", "c"]).ok();
    assert!(host.run(&["state", "c"]).fails(1).contains("does not exist"));
}

#[test]
fn run_ends_as_the_program_does() {
    let Some(host) = Host::root("run_ends_as_the_program_does") else {
        return;
    };
    for (i, (script, code)) in [("exit 7", 7), ("true", 0), ("sh -c 'kill -9 $$'; exit $?", 137)]
        .into_iter()
        .enumerate()
    {
        let bundle = host.bundle(&format!("c{i}"), script, |_| {});
        assert_eq!(
            host.run(&["run", "-b", text(&bundle), "c"]).code,
            code,
            "{script}"
        );
    }
    let bundle = host.bundle("in", "cat; echo error >&2", |_| {});
    let ran = host.run_with_input(&["run", "-b", text(&bundle), "c"], b"typed");
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("typed", "error\n"));
    assert!(
        host.run(&["list", "-q"]).ok().is_empty(),
        "run deletes its container"
    );

    host.run(&["run", "--keep", "-b", text(&bundle), "kept"]).ok();
    assert_eq!(host.state("kept")["status"], "stopped");
    let missing = host.bundle("missing", "", |c| c["process"]["args"] = json!(["nosuch"]));
    assert!(
        host.run(&["run", "-b", text(&missing), "m"])
            .fails(127)
            .contains("nosuch")
    );
    let denied = host.bundle("denied", "", |c| c["process"]["args"] = json!(["/etc/passwd"]));
    assert!(
        host.run(&["run", "-b", text(&denied), "m"])
            .fails(126)
            .contains("ermission denied")
    );
}

#[test]
fn signals_are_named_numbered_or_term() {
    let Some(host) = Host::root("signals_are_named_numbered_or_term") else {
        return;
    };
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done";
    let bundle = host.bundle("c", script, |_| {});
    host.detached("c", &bundle);
    eventually("ready", || host.log("c").contains("ready"));
    host.run(&["kill", "c", "1"]).ok();
    eventually("hup", || host.log("c").contains("hup"));
    host.run(&["kill", "c", "USR1"]).ok();
    eventually("usr1", || host.log("c").contains("usr1"));
    host.run(&["kill", "--all", "c", "SIGTERM"]).ok();
    host.until("c", "stopped");
}

#[test]
fn a_signal_to_run_reaches_the_program() {
    let Some(host) = Host::root("a_signal_to_run_reaches_the_program") else {
        return;
    };
    let bundle = host.bundle(
        "c",
        "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.1; done",
        |_| {},
    );
    // Without timeout(1) in between.
    let mut command = Command::new(oci_support::BINARY);
    command
        .arg("--root")
        .arg(host.path("root"))
        .args(["run", "-b", text(&bundle), "c"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_paused_container_is_paused_until_resumed_whatever_is_sent_to_it() {
    let Some(host) = Host::root("a_paused_container_is_paused_until_resumed_whatever_is_sent_to_it") else {
        return;
    };
    host.sleeper("c", |_| {});
    host.run(&["pause", "c"]).ok();
    assert_eq!(host.state("c")["status"], "paused");
    assert!(host.run(&["exec", "c", "true"]).fails(255).contains("paused"));
    host.run(&["kill", "c", "TERM"]).ok();
    assert_eq!(host.state("c")["status"], "paused");
    host.run(&["resume", "c"]).ok();
    host.until("c", "stopped");

    host.sleeper("killed", |_| {});
    host.run(&["pause", "killed"]).ok();
    host.run(&["delete", "--force", "killed"]).ok();
    assert!(host.run(&["state", "killed"]).fails(1).contains("does not exist"));
}

#[test]
fn list_and_ps_show_what_there_is() {
    let Some(host) = Host::root("list_and_ps_show_what_there_is") else {
        return;
    };
    host.sleeper("one", |_| {});
    let pid = host.state("one")["pid"].as_i64().unwrap();
    assert_eq!(host.run(&["list", "-q"]).ok(), "one\n");
    let table = host.run(&["list"]).ok();
    assert!(
        table
            .lines()
            .nth(1)
            .unwrap()
            .starts_with(&format!("one         {pid}")),
        "{table}"
    );
    let list: Value = serde_json::from_str(&host.run(&["list", "--format", "json"]).ok()).unwrap();
    assert_eq!(
        (list[0]["id"].as_str(), list[0]["owner"].as_str()),
        (Some("one"), Some("root"))
    );
    assert!(list[0]["created"].as_str().unwrap().starts_with("20"), "{list}");
    assert!(list[0]["rootfs"].as_str().unwrap().ends_with("/rootfs"));

    let pids: Vec<i64> = serde_json::from_str(&host.run(&["ps", "one", "--format", "json"]).ok()).unwrap();
    assert!(pids.contains(&pid), "{pids:?}");
    let ps = host.run(&["ps", "one"]).ok();
    assert!(ps.lines().count() >= 2 && ps.contains("trap 'exit 3'"), "{ps}");
    assert!(host.run(&["ps", "one", "-o", "pid,comm"]).ok().contains("sh"));
}

#[test]
fn limits_change_from_options_a_file_and_standard_input() {
    let Some(host) = Host::root("limits_change_from_options_a_file_and_standard_input") else {
        return;
    };
    host.sleeper("c", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let memory = || host.cgroup_file("c", "memory", "memory.limit_in_bytes", "memory.max");
    let pids = || host.cgroup_file("c", "pids", "pids.max", "pids.max");
    assert_eq!(memory(), (64 << 20).to_string());
    host.run(&["update", "c", "--memory", "48m", "--pids-limit", "20"])
        .ok();
    assert_eq!((memory(), pids()), ((48 << 20).to_string(), "20".to_owned()));
    let file = host.path("resources.json");
    fs::write(
        &file,
        r#"{"memory": {"limit": 33554432, "reservation": 0}, "cpu": {"shares": 0, "cpus": ""}}"#,
    )
    .unwrap();
    host.run(&["update", "--resources", text(&file), "c"]).ok();
    assert_eq!(
        (memory(), pids()),
        ((32 << 20).to_string(), "20".to_owned()),
        "zero changes nothing"
    );
    host.run_with_input(
        &["update", "--resources", "-", "c"],
        br#"{"pids": {"limit": 30}}"#,
    )
    .ok();
    assert_eq!(pids(), "30");
    assert!(
        host.run_with_input(&["update", "-r", "-", "c"], b"nonsense")
            .fails(1)
            .contains("standard input")
    );
}

#[test]
fn events_have_runcs_envelope() {
    let Some(host) = Host::root("events_have_runcs_envelope") else {
        return;
    };
    host.sleeper("c", |c| {
        c["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let event: Value = serde_json::from_str(&host.run(&["events", "--stats", "c"]).ok()).unwrap();
    assert_eq!(
        (event["type"].as_str(), event["id"].as_str()),
        (Some("stats"), Some("c"))
    );
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert!(event["data"]["cpu"]["usage"]["total"].as_u64().unwrap() > 0);
    assert!(event["data"]["pids"]["current"].as_u64().unwrap() >= 1);

    // The stream ends with the container.
    let mut child = host.spawn(&["events", "--interval", "50ms", "c"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["type"], "stats");
    host.run(&["kill", "c"]).ok();
    assert!(lines.all(|line| line.is_ok()));
    assert!(child.wait().unwrap().success());
}

#[test]
fn running_out_of_memory_is_an_event() {
    let Some(host) = Host::root("running_out_of_memory_is_an_event") else {
        return;
    };
    // The victim is a child; the container lives on.
    let script = "while ! test -e /go; do sleep 0.05; done; tail /dev/zero; while :; do sleep 0.1; done";
    let limit = json!({"limit": 24 << 20, "swap": 24 << 20});
    let bundle = host.bundle("c", script, |c| c["linux"]["resources"]["memory"] = limit);
    host.detached("c", &bundle);
    let mut child = host.spawn(&["events", "--interval", "200ms", "c"]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The first line says that it listens.
    lines.next().unwrap().unwrap();
    host.run(&["exec", "c", "touch", "/go"]).ok();
    let oom = lines
        .map(Result::unwrap)
        .find(|line| line.contains("\"oom\""))
        .expect("an oom event");
    assert_eq!(serde_json::from_str::<Value>(&oom).unwrap()["id"], "c");
    host.run(&["delete", "-f", "c"]).ok();
    child.wait().unwrap();
}

#[test]
fn run_with_a_terminal_connects_ours_to_it() {
    let Some(host) = Host::root("run_with_a_terminal_connects_ours_to_it") else {
        return;
    };
    let bundle = host.bundle("c", "", |c| {
        c["process"]["terminal"] = json!(true);
        c["process"]["args"] = json!(["sh"]);
    });
    let command = host.command(&["run", "-b", text(&bundle), "c"]);
    let ran = on_terminal(command, "tty; stty size; echo $((6*7)); exit 5\n");
    assert_eq!(ran.code, 5, "{ran:?}");
    for part in ["/dev/pts/0", "40 100", "42"] {
        assert!(ran.stdout.contains(part), "{part}: {ran:?}");
    }
    let detached = host.run(&["run", "--detach", "-b", text(&bundle), "d"]);
    assert!(detached.fails(1).contains("--console-socket"));
}

#[test]
fn the_console_socket_gets_the_terminal() {
    let Some(host) = Host::root("the_console_socket_gets_the_terminal") else {
        return;
    };
    let bundle = host.bundle("c", "echo on a terminal; tty; sleep 0.3", |c| {
        c["process"]["terminal"] = json!(true);
    });
    let socket = host.path("console");
    let listener = UnixListener::bind(&socket).unwrap();
    host.run(&[
        "create",
        "-b",
        text(&bundle),
        "--console-socket",
        text(&socket),
        "c",
    ])
    .ok();
    let (stream, _) = listener.accept().unwrap();
    let master = receive(&stream);
    host.run(&["start", "c"]).ok();
    let mut lines = BufReader::new(fs::File::from(master)).lines();
    assert_eq!(lines.next().unwrap().unwrap().trim(), "on a terminal");
    assert_eq!(lines.next().unwrap().unwrap().trim(), "/dev/pts/0");
}

fn receive(stream: &std::os::unix::net::UnixStream) -> std::os::fd::OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut data = [0; 512];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        stream,
        &mut [std::io::IoSliceMut::new(&mut data)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .unwrap();
    let fds = control.drain().find_map(|m| match m {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.expect("a descriptor")
}

#[test]
fn descriptors_are_passed_on_when_asked_for_and_only_then() {
    let Some(host) = Host::root("descriptors_are_passed_on_when_asked_for_and_only_then") else {
        return;
    };
    let file = host.path("file");
    fs::write(&file, "descriptor three\n").unwrap();
    let run = |name: &str, script: &str, options: &str| {
        let bundle = host.bundle(name, script, |_| {});
        let root = host.path("root");
        let line = format!(
            "exec 3<{0} 9<{0}; {options} exec {1} --root {2} run {3} -b {4} {name}",
            text(&file),
            oci_support::BINARY,
            text(&root),
            if options.contains("PRESERVE") {
                "--preserve-fds 1"
            } else {
                ""
            },
            text(&bundle),
        );
        let out = Command::new("bash").args(["-c", &line]).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap()
    };
    assert_eq!(run("p", "cat <&3", "PRESERVE=1"), "descriptor three\n");
    assert_eq!(
        run("l", "cat <&3; echo $LISTEN_FDS $LISTEN_PID", "LISTEN_FDS=1"),
        "descriptor three\n1 1\n"
    );
    // 3 is the one that ls itself opens.
    assert_eq!(run("n", "ls /proc/self/fd", ""), "0\n1\n2\n3\n");
}

#[test]
fn readiness_is_passed_on_to_the_caller() {
    let Some(host) = Host::root("readiness_is_passed_on_to_the_caller") else {
        return;
    };
    let bundle = host.bundle(
        "c",
        "while ! test -S $NOTIFY_SOCKET; do sleep 0.05; done; echo $NOTIFY_SOCKET; sleep 30",
        |_| {},
    );
    let socket = host.path("notify");
    let ours = UnixDatagram::bind(&socket).unwrap();
    ours.set_read_timeout(Some(std::time::Duration::from_secs(20)))
        .unwrap();
    let log = fs::File::create(host.path("out")).unwrap();
    let mut create = host.command(&["create", "-b", text(&bundle), "c"]);
    create
        .env("NOTIFY_SOCKET", &socket)
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    assert!(create.status().unwrap().success());
    let mut start = host
        .command(&["start", "c"])
        .env("NOTIFY_SOCKET", &socket)
        .spawn()
        .unwrap();
    eventually("the container's socket", || {
        fs::read_to_string(host.path("out"))
            .unwrap()
            .contains("/run/notify/notify.sock")
    });
    assert!(start.try_wait().unwrap().is_none(), "start waits for readiness");
    // busybox has no client of datagram sockets: we speak for the container, through its own mount.
    let pid = host.state("c")["pid"].as_i64().unwrap();
    let theirs = format!("/proc/{pid}/root/run/notify/notify.sock");
    UnixDatagram::unbound()
        .unwrap()
        .send_to(b"STATUS=up\nREADY=1\nMAINPID=1", theirs)
        .unwrap();
    let mut message = [0; 100];
    let length = ours.recv(&mut message).unwrap();
    assert_eq!(
        std::str::from_utf8(&message[..length]).unwrap(),
        format!("READY=1\nMAINPID={pid}\n")
    );
    assert!(start.wait().unwrap().success());
    host.run(&["delete", "--force", "c"]).ok();
    assert!(!host.path("root/.notify/c").exists());
}

#[test]
fn hooks_of_every_kind_run_in_order_with_the_state() {
    let Some(host) = Host::root("hooks_of_every_kind_run_in_order_with_the_state") else {
        return;
    };
    let log = host.path("hooks");
    fs::write(&log, "").unwrap();
    let outside = |kind: &str| {
        let script = format!(
            "read s; echo \"{kind} $(echo \"$s\" | grep -o '\"status\":\"[a-z]*\"') $(echo \"$s\" | grep -o '\"id\":\"c\"')\" >>{}",
            text(&log)
        );
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    // createContainer runs in the container's namespaces with the host's files, startContainer with the container's.
    let inside =
        |kind: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {kind} >>/hooks")]}]);
    let bundle = host.bundle("c", "cat /hooks", |c| {
        c["mounts"].as_array_mut().unwrap().push(json!({"destination": "/hooks", "type": "bind", "source": text(&log), "options": ["bind"]}));
        c["hooks"] = json!({
            "prestart": outside("prestart"), "createRuntime": outside("createRuntime"), "createContainer": outside("createContainer"),
            "startContainer": inside("startContainer"), "poststart": outside("poststart"), "poststop": outside("poststop"),
        });
    });
    host.run(&["run", "-b", text(&bundle), "c"]).ok();
    let text = fs::read_to_string(&log).unwrap();
    let kinds: Vec<_> = text.lines().map(|l| l.split(' ').next().unwrap()).collect();
    assert_eq!(
        kinds,
        [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop"
        ],
        "{text}"
    );
    assert_eq!(
        text.lines().filter(|l| l.contains("\"id\":\"c\"")).count(),
        5,
        "{text}"
    );
    assert!(text.contains("poststop \"status\":\"stopped\""), "{text}");
}

#[test]
fn a_failing_hook_leaves_nothing() {
    let Some(host) = Host::root("a_failing_hook_leaves_nothing") else {
        return;
    };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let bundle = host.bundle(kind, "true", |c| {
            let mut hooks = json!({});
            hooks[kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]}]);
            c["hooks"] = hooks;
        });
        host.run(&["create", "-b", text(&bundle), "c"]).fails(1);
        assert!(host.run(&["list", "-q"]).ok().is_empty(), "{kind}");
    }
}

#[test]
fn a_command_killed_at_any_moment_leaves_what_delete_by_force_removes() {
    let Some(host) = Host::root("a_command_killed_at_any_moment_leaves_what_delete_by_force_removes") else {
        return;
    };
    let bundle = host.bundle("c", SLEEPER, |_| {});
    for micros in (0..40).map(|i| i * 700) {
        let mut command = Command::new(oci_support::BINARY);
        command
            .arg("--root")
            .arg(host.path("root"))
            .args(["create", "-b", text(&bundle), "c"]);
        command
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        let mut child = command.process_group(0).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(micros));
        child.kill().unwrap();
        child.wait().unwrap();
        host.run(&["delete", "--force", "c"]).ok();
        assert!(
            host.run(&["list", "-q"]).ok().is_empty(),
            "killed after {micros} µs"
        );
    }
    host.detached("c", &bundle);
}

#[test]
fn commands_on_one_container_serialise_and_many_run_side_by_side() {
    let Some(host) = Host::root("commands_on_one_container_serialise_and_many_run_side_by_side") else {
        return;
    };
    let bundles: Vec<_> = (0..10)
        .map(|i| host.bundle(&format!("c{i}"), &format!("exit {i}"), |_| {}))
        .collect();
    let children: Vec<_> = bundles
        .iter()
        .enumerate()
        .map(|(i, b)| host.spawn(&["run", "-b", text(b), &format!("c{i}")]))
        .collect();
    for (i, child) in children.into_iter().enumerate() {
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), i32::try_from(i).ok(), "{out:?}");
    }
    host.sleeper("one", |_| {});
    let commands = [
        &["pause", "one"][..],
        &["resume", "one"],
        &["delete", "-f", "one"],
        &["state", "one"],
        &["delete", "-f", "one"],
    ];
    let children: Vec<_> = commands
        .iter()
        .cycle()
        .take(20)
        .map(|args| host.spawn(args))
        .collect();
    for child in children {
        let out = child.wait_with_output().unwrap();
        // Who comes too late is told so, nothing else.
        assert!(matches!(out.status.code(), Some(0 | 1)), "{out:?}");
    }
    assert!(host.run(&["list", "-q"]).ok().is_empty());
}

#[test]
fn closed_standard_streams_are_dev_null() {
    let Some(host) = Host::root("closed_standard_streams_are_dev_null") else {
        return;
    };
    let bundle = host.bundle("c", "readlink /proc/self/fd/0 >/out", |_| {});
    let line = format!(
        "exec {} --root {} run -b {} c <&-",
        oci_support::BINARY,
        text(&host.path("root")),
        text(&bundle)
    );
    let out = Command::new("bash").args(["-c", &line]).output().unwrap();
    assert!(out.status.success(), "{out:?}");
    assert_eq!(
        fs::read_to_string(bundle.join("rootfs/out")).unwrap(),
        "/dev/null\n"
    );
    assert!(std::io::stdin().as_raw_fd() == 0);
}
