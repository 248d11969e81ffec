//! `stdin`, `stdinOnce` and `tty` of containers, and those who attach to them.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, ChildStdin, Command, Stdio},
};

use magikrun_test_images::tool_wasm;
use magikrun_tests::{BUSYBOX, Magikrun, Output, binary, isolated, wait_for};
use serde_json::{Value, json};

/// The fields of an object.
fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

/// Runs a pod of one container with a script and more fields.
fn run(magikrun: &Magikrun, script: &str, more: Value) {
    let mut container = json!({
        "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["busybox", "sh", "-c", script],
    });
    container.as_object_mut().unwrap().extend(object(more));
    run_container(magikrun, &container, json!({}));
}

fn run_container(magikrun: &Magikrun, container: &Value, more: Value) {
    let mut spec =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container]});
    spec.as_object_mut().unwrap().extend(object(more));
    let ran = magikrun
        .pod_run(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

fn delete(magikrun: &Magikrun) {
    magikrun.ok(&["pod", "delete", "--force", "p"]);
}

/// Somebody who types.
struct Session {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn begin(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("magikrun");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, input, output }
    }

    fn attach(magikrun: &Magikrun) -> Self {
        Self::begin(magikrun.command(&["pod", "attach", "p"]))
    }

    fn types(&mut self, text: &str) {
        self.input
            .as_mut()
            .expect("open")
            .write_all(text.as_bytes())
            .expect("a reader");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("UTF-8");
        line
    }

    /// Types no more, and waits for the end.
    fn end(mut self) -> Output {
        drop(self.input.take());
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.output.read_to_string(&mut stdout).expect("UTF-8");
        self.child
            .stderr
            .take()
            .expect("a pipe")
            .read_to_string(&mut stderr)
            .expect("UTF-8");
        let status = self.child.wait().expect("a child");
        Output {
            code: status.code().unwrap_or(-1),
            stdout,
            stderr,
        }
    }

    /// Goes, whatever it waits for.
    fn leave(mut self) {
        self.child.kill().expect("a child");
        self.child.wait().expect("a child");
    }
}

isolated!(
    fn those_who_attach_write_to_a_container_with_stdin_one_after_the_other(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, "exec busybox cat", json!({"stdin": true}));
        let mut first = Session::attach(&magikrun);
        first.types("one\n");
        assert_eq!(first.line(), "one\n");
        // Its input stays open when this one goes, and when they say that there is no more.
        drop(first.input.take());
        let mut second = Session::attach(&magikrun);
        second.types("two\n");
        assert_eq!((second.line(), first.line()), ("two\n".to_owned(), "two\n".to_owned()));
        second.leave();
        first.leave();
        let mut third = Session::attach(&magikrun);
        third.types("three\n");
        assert_eq!(third.line(), "three\n");
        // More than fits anywhere goes through, in both directions at once.
        let long = format!("{}\n", "x".repeat(1 << 20));
        let writer = {
            let (mut input, long) = (third.input.take().expect("open"), long.clone());
            std::thread::spawn(move || input.write_all(long.as_bytes()).map(|()| input))
        };
        assert_eq!(third.line().len(), long.len());
        drop(writer.join().expect("a thread").expect("a reader"));
        magikrun.ok(&["pod", "stop", "p"]);
        let ended = third.end();
        assert_eq!(ended.code, 137, "{ended:?}");
        let log = magikrun.ok(&["pod", "logs", "p"]);
        assert!(log.starts_with("one\ntwo\nthree\nxxx"), "what they saw is in the log, too");
        delete(&magikrun);
    }
);

isolated!(
    fn with_stdin_once_input_ends_with_the_first_who_attached_until_the_next_run(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "busybox cat; echo ended; busybox sleep 1000";
        run(&magikrun, script, json!({"stdin": true, "stdinOnce": true, "restartPolicy": "Never"}));
        // Nobody has attached yet: it waits.
        assert_eq!(magikrun.ok(&["pod", "logs", "p"]), "");
        let mut first = Session::attach(&magikrun);
        first.types("once\n");
        assert_eq!(first.line(), "once\n");
        first.leave();
        wait_for("the end of input", || magikrun.ok(&["pod", "logs", "p"]) == "once\nended\n");
        let refused = magikrun.error(&["pod", "attach", "p"]);
        assert!(refused.contains("has ended with the first who attached (stdinOnce)"), "{refused}");
        magikrun.ok(&["pod", "restart", "-t", "0", "-c", "c", "p"]);
        let mut next = Session::attach(&magikrun);
        next.types("again\n");
        assert_eq!(next.line(), "again\n");
        drop(next.input.take());
        assert_eq!(next.line(), "ended\n");
        next.leave();
        delete(&magikrun);
        // A program that ends with its input says how.
        run(&magikrun, "busybox cat; exit 7", json!({"stdin": true, "stdinOnce": true}));
        let mut only = Session::attach(&magikrun);
        only.types("all\n");
        let ended = only.end();
        assert_eq!((ended.code, ended.stdout.as_str()), (7, "all\n"), "{ended:?}");
        delete(&magikrun);
    }
);

isolated!(
    fn without_stdin_a_program_reads_nothing_and_is_only_watched(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, "busybox cat; echo end of input; busybox sleep 1000", json!({}));
        wait_for("its end", || magikrun.ok(&["pod", "logs", "p"]) == "end of input\n");
        let mut watcher = Session::attach(&magikrun);
        watcher.types("unheard\n");
        magikrun.ok(&["pod", "stop", "p"]);
        let ended = watcher.end();
        assert_eq!((ended.code, ended.stdout.as_str()), (137, ""), "{ended:?}");
        delete(&magikrun);
    }
);

isolated!(
    fn a_container_with_a_terminal_has_one_and_its_log_what_was_on_it(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let more = json!({"stdin": true, "tty": true, "command": ["busybox", "sh"]});
        run(&magikrun, "", more);
        let mut session = Session::attach(&magikrun);
        session.types("busybox tty; echo mark\n");
        let mut seen = String::new();
        while !seen.contains("\r\nmark") {
            seen.push_str(&session.line());
        }
        assert!(seen.contains("/dev/pts/0\r\n"), "{seen:?}");
        // Our terminal's size is the container's, and Ctrl-C is a key of its program's.
        let attach = format!("stty rows 33 cols 77; {} pod attach p", binary().display());
        let mut script = magikrun.command(&[]);
        script.env("MAGIKRUN", binary());
        let mut command = Command::new("script");
        command.args(["-qec", &attach, "/dev/null"]);
        for (name, value) in script.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut terminal = Session::begin(command);
        terminal.types("busybox stty size; busybox sleep 1000\n");
        let mut seen = String::new();
        while !seen.contains("33 77") {
            seen.push_str(&terminal.line());
        }
        terminal.types("\x03echo inter''rupted\n");
        while !seen.contains("interrupted") {
            seen.push_str(&terminal.line());
        }
        // Ctrl-P Ctrl-Q leaves, and it goes on.
        terminal.types("\x10\x11");
        let ended = terminal.end();
        assert!(ended.code == 0 && ended.stdout.contains("container c goes on"), "{ended:?}");
        session.types("exit 5\n");
        let ended = session.end();
        assert_eq!(ended.code, 5, "{ended:?}");
        let log = magikrun.ok(&["pod", "logs", "p"]);
        assert!(log.contains("/dev/pts/0\r\n") && log.contains("33 77\r\n"), "{log:?}");
        delete(&magikrun);
    }
);

isolated!(
    fn pod_run_interactive_is_attached_from_the_first_byte(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let run = ["pod", "run", "-q", "--rm", "-i", BUSYBOX, "busybox", "sh", "-c", "echo first; busybox cat; exit 3"];
        let mut session = Session::begin(magikrun.command(&run));
        assert_eq!(session.line(), "first\n");
        session.types("second\n");
        let ended = session.end();
        assert_eq!((ended.code, ended.stdout.as_str()), (3, "second\n"), "{ended:?}");
        assert_eq!(magikrun.pods(), [""; 0]);
        // One that ends at once has said all that it said.
        let run = ["pod", "run", "-q", "--rm", "-i", BUSYBOX, "busybox", "echo", "gone"];
        let ended = Session::begin(magikrun.command(&run)).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "gone\n"), "{ended:?}");
        let run = ["pod", "run", "-q", "--rm", "-i", "-t", BUSYBOX, "busybox", "tty"];
        let ended = Session::begin(magikrun.command(&run)).end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "/dev/pts/0\r\n"), "{ended:?}");
    }
);

isolated!(
    fn a_webassembly_program_reads_what_is_attached_and_has_no_terminal(scene) {
        let magikrun = Magikrun::new(scene);
        let file = scene.dir().join("tool.wasm");
        std::fs::copy(tool_wasm().expect("a module"), &file).expect("module");
        let image = "localhost/tool:1";
        magikrun.ok(&["image", "load", "-q", "-i", file.to_str().unwrap(), "-t", image]);
        let container = json!({"name": "c", "image": image, "imagePullPolicy": "Never", "args": ["cat"],
            "stdin": true, "stdinOnce": true});
        run_container(&magikrun, &container, json!({"runtimeClassName": "wasm"}));
        let mut session = Session::attach(&magikrun);
        session.types("through the sandbox\n");
        let ended = session.end();
        assert_eq!((ended.code, ended.stdout.as_str()), (0, "through the sandbox\n"), "{ended:?}");
        delete(&magikrun);
        let mut container = container;
        container["tty"] = json!(true);
        let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "runtimeClassName": "wasm", "containers": [container]}});
        let refused = magikrun.pod_run(&manifest);
        assert!(refused.code != 0 && refused.stderr.contains("spec.containers[0].tty: not supported"), "{refused:?}");
    }
);
