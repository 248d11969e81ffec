//! Pods from the command line, with real containers.
#![allow(clippy::print_stderr)]

mod common;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Stdio},
};

use common::{BUSYBOX, Host, is_root};
use serde_json::Value;

/// A host with busybox in its store.
fn host_with_busybox() -> Host {
    let host = Host::new();
    host.run(&["image", "pull", "-q", &host.busybox_layout().reference(BUSYBOX)])
        .ok();
    host
}

/// Deletes a pod even where its test fails.
struct Pod<'a> {
    host: &'a Host,
    id: String,
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        self.host.run(&["pod", "delete", "--force", &self.id]);
    }
}

fn pod_file(host: &Host, name: &str, containers: &str) -> String {
    host.write(
        &format!("{name}.yaml"),
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec:\n  restartPolicy: Never\n  terminationGracePeriodSeconds: 1\n  containers:\n{containers}"
        ),
    )
}

fn container(name: &str, script: &str) -> String {
    let script = serde_json::to_string(script).unwrap();
    format!(
        "  - name: {name}\n    image: busybox\n    imagePullPolicy: IfNotPresent\n    command: [sh, -c, {script}]\n"
    )
}

/// Runs a pod of these containers, each a name and a shell script.
fn run<'a>(host: &'a Host, name: &str, containers: &[(&str, &str)]) -> Pod<'a> {
    let containers: String = containers
        .iter()
        .map(|(name, script)| container(name, script))
        .collect();
    let id = host
        .run(&["pod", "run", "-f", &pod_file(host, name, &containers)])
        .ok();
    let id = id.strip_suffix('\n').unwrap().to_owned();
    assert!(!id.contains('\n'), "the id and nothing else: {id}");
    Pod { host, id }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

const SLEEP: &str = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done";

#[test]
fn a_pod_lives_from_run_to_delete() {
    if !is_root("a_pod_lives_from_run_to_delete") {
        return;
    }
    let host = host_with_busybox();
    let pod = run(&host, "life", &[("one", SLEEP), ("two", SLEEP)]);

    let table = host.run(&["pod", "ls"]).ok();
    assert!(
        table
            .lines()
            .nth(1)
            .is_some_and(|l| l.starts_with("life") && l.contains("Running") && l.contains("2/2")),
        "{table}"
    );
    assert_eq!(host.run(&["pod", "ls", "-q"]).ok(), format!("{}\n", pod.id));
    assert_eq!(
        json(&host.run(&["pod", "ls", "--format", "json"]).ok())[0]["id"],
        pod.id.as_str()
    );
    let status = json(
        &host
            .run(&["pod", "status", "default/life", "--format", "json"])
            .ok(),
    );
    assert_eq!(
        (
            status["phase"].as_str(),
            status["containers"][1]["state"]["phase"].as_str()
        ),
        (Some("Running"), Some("running"))
    );
    let text = host.run(&["pod", "status", &pod.id[..6]]).ok();
    assert!(
        text.contains("Name:       life") && text.contains("one"),
        "{text}"
    );

    let stats = json(&host.run(&["pod", "stats", "life", "--format", "json"]).ok());
    assert!(
        stats[0]["containers"]["one"]["memory"]["usage"]
            .as_u64()
            .is_some_and(|n| n > 0),
        "{stats}"
    );

    let name_in_use = host
        .run(&["pod", "run", "-f", host.path("life.yaml").to_str().unwrap()])
        .fails(1);
    assert!(name_in_use.contains("life"), "{name_in_use}");

    let refused = host.run(&["pod", "delete", "life"]).fails(1);
    assert!(refused.contains("still running"), "{refused}");
    let events = host.run(&["pod", "events", "life"]).ok();
    assert!(events.contains("container.started"), "{events}");
    for container in ["one", "two"] {
        wait_for_log(&host, &["-c", container, "life"], "up");
    }
    host.run(&["pod", "stop", "life"]).ok();
    let status = json(&host.run(&["pod", "status", "life", "--format", "json"]).ok());
    assert_eq!(status["phase"], "Succeeded", "{status}");
    host.run(&["pod", "delete", "life"]).ok();
    assert_eq!(host.run(&["pod", "ls", "-q"]).ok(), "");
    let gone = host.run(&["pod", "delete", "life"]).fails(1);
    assert!(gone.contains("life") && gone.contains("pod ls"), "{gone}");
    host.run(&["pod", "delete", "--force", "life"]).ok();
}

#[test]
fn pods_are_deleted_by_their_manifest_and_all_at_once() {
    if !is_root("pods_are_deleted_by_their_manifest_and_all_at_once") {
        return;
    }
    let host = host_with_busybox();
    let pods = ["one", "two", "three"].map(|name| run(&host, name, &[("main", SLEEP)]));
    let file = pod_file(&host, "two", &container("main", SLEEP));
    let refused = host.run(&["pod", "delete", "-f", &file]).fails(1);
    assert!(
        refused.contains("default/two") && refused.contains("is still running"),
        "{refused}"
    );
    let deleted = host.run(&["pod", "delete", "--force", "-f", &file]).ok();
    assert_eq!(deleted, "default/two\n");
    let gone = host.run(&["pod", "delete", "-f", &file]).fails(1);
    assert!(gone.contains("default/two"), "{gone}");
    // As podman has it: -f is no manifest there.
    let habit = host.run(&["pod", "delete", "-f", "one"]).fails(1);
    assert!(
        habit.contains("is no file") && habit.contains("pod delete --force one"),
        "{habit}"
    );
    host.run(&["pod", "delete"]).fails(2);
    let all = host.run(&["pod", "delete", "--all", "--force"]).ok();
    assert_eq!(all.lines().count(), 2, "{all}");
    assert_eq!(host.run(&["pod", "ls", "-q"]).ok(), "");
    drop(pods);
}

#[test]
fn a_namespace_and_labels_choose_pods() {
    if !is_root("a_namespace_and_labels_choose_pods") {
        return;
    }
    let host = host_with_busybox();
    let _default = run(&host, "web", &[("main", SLEEP)]);
    let file = pod_file(&host, "web", &container("main", SLEEP));
    let labelled = std::fs::read_to_string(&file).unwrap();
    let labelled = labelled.replacen("name: web", "name: web, labels: {app: web, tier: front}", 1);
    let file = host.write("labelled.yaml", &labelled);
    host.run(&["pod", "run", "-n", "shop", "-f", &file]).ok();

    let names = |args: &[&str]| {
        let pods = json(&host.run(&[&["pod", "ls", "-o", "json"], args].concat()).ok());
        let pods = pods.as_array().unwrap().iter();
        let name = |pod: &Value| format!("{}/{}", pod["namespace"], pod["name"]).replace('"', "");
        pods.map(name).collect::<Vec<_>>()
    };
    assert_eq!(names(&["-A"]), ["default/web", "shop/web"]);
    assert_eq!(names(&["-n", "shop"]), ["shop/web"]);
    assert_eq!(names(&["-l", "app=web,tier!=back"]), ["shop/web"]);
    assert_eq!(names(&["-l", "!app"]), ["default/web"]);
    host.run(&["pod", "ls", "-l", "app in (a)"]).fails(2);

    host.run(&["pod", "-n", "shop", "exec", "web", "--", "touch", "/here"])
        .ok();
    let elsewhere = host.run(&["pod", "exec", "web", "--", "test", "-e", "/here"]);
    assert_eq!(elsewhere.code, Some(1));
    let status = json(
        &host
            .run(&["pod", "status", "-n", "shop", "web", "--format", "json"])
            .ok(),
    );
    assert_eq!(status["labels"]["tier"], "front");
    let deleted = host
        .run(&["pod", "delete", "-n", "shop", "--force", "-f", &file])
        .ok();
    assert_eq!(deleted, "shop/web\n");
    host.run(&["pod", "delete", "-n", "shop", "--all", "--force"])
        .ok();
    assert_eq!(names(&[]), ["default/web"]);
}

#[test]
fn what_happened_in_a_pod_is_told_when_it_is_over() {
    if !is_root("what_happened_in_a_pod_is_told_when_it_is_over") {
        return;
    }
    let host = host_with_busybox();
    let _pod = run(&host, "past", &[("main", "exit 3")]);
    let followed = host
        .run(&["pod", "events", "-f", "past", "--format", "json"])
        .ok();
    while json(&host.run(&["pod", "status", "past", "--format", "json"]).ok())["phase"] == "Running" {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let past = host.run(&["pod", "events", "past", "--format", "json"]).ok();
    assert_eq!(past, followed);
    let last = json(past.lines().last().unwrap());
    assert_eq!(last["kind"], "pod.stopped");
    let again = host.run(&["pod", "events", "-f", "past"]).ok();
    assert!(
        again.contains("container.exited    main              exit code 3"),
        "{again}"
    );
}

#[test]
fn a_default_container_is_the_one_that_the_pod_names() {
    if !is_root("a_default_container_is_the_one_that_the_pod_names") {
        return;
    }
    let host = host_with_busybox();
    let containers = container("a", SLEEP) + &container("b", SLEEP);
    let file = pod_file(&host, "named", &containers);
    let text = std::fs::read_to_string(&file).unwrap();
    let name = r#"name: named, annotations: {"kubectl.kubernetes.io/default-container": b}"#;
    let text = text.replacen("name: named", name, 1);
    assert!(text.contains("default-container"), "{text}");
    std::fs::write(&file, text).unwrap();
    host.run(&["pod", "run", "-f", &file]).ok();
    host.run(&["pod", "exec", "named", "--", "touch", "/here"]).ok();
    let there = host.run(&["pod", "exec", "-c", "b", "named", "--", "ls", "/here"]);
    assert_eq!((there.stdout.as_str(), there.stderr.as_str()), ("/here\n", ""));
    host.run(&["pod", "delete", "--force", "named"]).ok();
}

#[test]
fn waiting_passes_the_exit_code_on_and_rm_deletes() {
    if !is_root("waiting_passes_the_exit_code_on_and_rm_deletes") {
        return;
    }
    let host = host_with_busybox();
    // Kubernetes reads `$$` as `$`.
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("sh -c 'kill -9 $$$$'; exit $?", 137),
    ] {
        let file = pod_file(
            &host,
            "job",
            &(container("good", "true") + &container("job", script)),
        );
        let ran = host.run(&["pod", "run", "--wait", "--rm", "-f", &file]);
        assert_eq!(ran.code, Some(code), "{script}: {ran:?}");
        assert_eq!(host.run(&["pod", "ls", "-q"]).ok(), "");
    }
}

#[test]
fn what_cannot_start_is_one_line_naming_the_container() {
    if !is_root("what_cannot_start_is_one_line_naming_the_container") {
        return;
    }
    let host = host_with_busybox();
    let containers =
        container("good", SLEEP) + &container("broken", "").replace("[sh, -c, \"\"]", "[/no/such/program]");
    let line = host
        .run(&["pod", "run", "--wait", "-f", &pod_file(&host, "bad", &containers)])
        .fails(125);
    assert!(
        line.contains("broken") && line.contains("/no/such/program"),
        "{line}"
    );
    assert_eq!(host.run(&["pod", "ls", "-q"]).ok(), "");
}

#[test]
fn interrupting_a_waiting_run_stops_the_pod_gracefully() {
    if !is_root("interrupting_a_waiting_run_stops_the_pod_gracefully") {
        return;
    }
    let host = host_with_busybox();
    let script = "trap 'echo stopped; exit 5' TERM; echo up; while :; do sleep 0.1; done";
    let file = pod_file(&host, "wait", &container("main", script));
    let mut child = host
        .command()
        .args(["pod", "run", "--wait", "-f", &file])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut id = String::new();
    BufReader::new(child.stdout.as_mut().unwrap())
        .read_line(&mut id)
        .unwrap();
    let pod = Pod {
        host: &host,
        id: id.trim().to_owned(),
    };
    wait_for_log(&host, &[&pod.id], "up");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(5));
    assert_eq!(host.run(&["pod", "logs", "wait"]).ok(), "up\nstopped\n");
}

/// Waits until a log (`magikrun pod logs` with these arguments) contains `text`.
fn wait_for_log(host: &Host, arguments: &[&str], text: &str) {
    for _ in 0..200 {
        if host
            .run(&[&["pod", "logs"], arguments].concat())
            .ok()
            .contains(text)
        {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{arguments:?} never wrote {text}");
}

#[test]
fn logs_are_what_the_program_wrote() {
    if !is_root("logs_are_what_the_program_wrote") {
        return;
    }
    let host = host_with_busybox();
    let pod = run(
        &host,
        "talk",
        &[
            ("a", "echo out; echo err >&2"),
            ("b", "sleep 0.3; echo first; printf no-newline"),
        ],
    );
    let logs = |args: &[&str]| host.run(&[&["pod", "logs"], args, &["talk"]].concat());
    // Following ends with the container, and so with everything it wrote.
    assert_eq!(logs(&["-f", "-c", "b"]).ok(), "first\nno-newline\n");
    let both = logs(&["-f", "-c", "a"]);
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));

    assert_eq!(logs(&["-c", "b", "--tail", "1"]).ok(), "no-newline\n");
    assert_eq!(logs(&["-c", "b", "--since", "1h"]).ok(), "first\nno-newline\n");
    assert_eq!(logs(&["-c", "b", "--since", "2100-01-01T00:00:00Z"]).ok(), "");
    let stamped = logs(&["-c", "b", "--tail", "1", "--timestamps"]).ok();
    let (time, text) = stamped.split_once(' ').unwrap();
    assert!(time.ends_with('Z') && text == "no-newline\n", "{stamped}");

    let first = logs(&["-f"]);
    assert_eq!(first.stdout, "out\n");
    assert_eq!(first.stderr, "magikrun: container a of a, b (-c chooses)\nerr\n");
    let all = logs(&["--all-containers"]);
    let expected = ("[a] out\n[b] first\n[b] no-newline\n", "[a] err\n");
    assert_eq!((all.stdout.as_str(), all.stderr.as_str()), expected);
    drop(pod);
}

#[test]
fn exec_gives_streams_environment_and_exit_code() {
    if !is_root("exec_gives_streams_environment_and_exit_code") {
        return;
    }
    let host = host_with_busybox();
    let _pod = run(&host, "box", &[("main", SLEEP)]);
    let exec = |args: &[&str]| host.run(&[&["pod", "exec"], args].concat());
    let ran = exec(&[
        "-e",
        "GREETING=hi",
        "-w",
        "/tmp",
        "box",
        "--",
        "sh",
        "-c",
        "echo $GREETING $PWD; echo bad >&2; exit 9",
    ]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(9), "hi /tmp\n", "bad\n")
    );
    assert_eq!(exec(&["-u", "1000:100", "box", "id", "-u"]).ok(), "1000\n");
    assert_eq!(exec(&["box", "--", "sh", "-c", "kill -9 $$"]).code, Some(137));

    let line = exec(&["box", "--", "/no/such/program"]).fails(127);
    assert!(line.contains("/no/such/program"), "{line}");
    exec(&["box", "--", "/etc/passwd"]).fails(126);
    exec(&["-c", "nobody", "box", "--", "true"]).fails(125);
    exec(&["nobody", "--", "true"]).fails(125);

    let input = vec![b'x'; 300_000];
    let ran = host.run_with_stdin(&["pod", "exec", "-i", "box", "--", "wc", "-c"], &input);
    assert_eq!(ran.ok().trim(), "300000");
    // Without -i it is not ours to read.
    assert_eq!(
        host.run_with_stdin(&["pod", "exec", "box", "--", "wc", "-c"], b"unread")
            .ok()
            .trim(),
        "0"
    );
    // A program that does not read its input ends the command all the same.
    let ran = host.run_with_stdin(&["pod", "exec", "-i", "box", "--", "true"], &input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let line = exec(&["-it", "box", "--", "true"]).fails(125);
    assert!(line.contains("terminal"), "{line}");
}

/// `script` from util-linux gives the command a terminal of its own.
#[test]
fn exec_with_a_terminal_is_interactive_and_restores_the_mode() {
    if !is_root("exec_with_a_terminal_is_interactive_and_restores_the_mode") {
        return;
    }
    let host = host_with_busybox();
    let _pod = run(&host, "box", &[("main", SLEEP)]);
    let command = format!(
        "stty rows 33 cols 99; {} pod exec -it box -- sh -c 'stty size; test -t 0 && read x && echo got $x; exit 3'; echo code $?; stty -a",
        env!("CARGO_BIN_EXE_magikrun-engine")
    );
    let mut child: Child = std::process::Command::new("script")
        .args(["-q", "-c", &command, "/dev/null"])
        .env("MAGIKRUN_ROOT", host.path("data"))
        .env("MAGIKRUN_STATE_DIR", host.path("state"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("33 99") {
        assert_ne!(stdout.read_line(&mut text).unwrap(), 0, "{text}");
    }
    stdin.write_all(b"hello\r").unwrap();
    stdout.read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    assert!(text.contains("got hello") && text.contains("code 3"), "{text}");
    assert!(text.contains("isig icanon"), "the mode is restored: {text}");
}

#[test]
fn a_port_of_the_pod_answers_here() {
    if !is_root("a_port_of_the_pod_answers_here") {
        return;
    }
    let host = host_with_busybox();
    let script = "mkdir /w; echo hello > /w/index.html; exec httpd -f -p 8080 -h /w";
    let _pod = run(&host, "web", &[("main", script)]);
    let mut child = host
        .command()
        .args(["pod", "port-forward", "web", ":8080"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let address = line
        .split_whitespace()
        .find(|w| w.starts_with("127.0.0.1:"))
        .unwrap()
        .to_owned();
    for _ in 0..2 {
        let mut answer = String::new();
        // httpd may not listen yet: then the connection is closed at once.
        for _ in 0..100 {
            let mut stream = TcpStream::connect(&address).unwrap();
            stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").unwrap();
            if stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert!(
            answer.contains("200 OK") && answer.ends_with("hello\n"),
            "{answer}"
        );
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn the_example_pod_runs_as_the_readme_shows_it() {
    if !is_root("the_example_pod_runs_as_the_readme_shows_it") {
        return;
    }
    let host = host_with_busybox();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/web.yaml");
    let pod = Pod {
        host: &host,
        id: host.run(&["pod", "run", "-f", file]).ok().trim().to_owned(),
    };
    for _ in 0..200 {
        if host.run(&["pod", "logs", "-c", "client", "web"]).stdout == "hello from web\n" {
            drop(pod);
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("the client never got the page");
}
