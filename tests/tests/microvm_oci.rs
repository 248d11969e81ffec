//! A container in a machine of its own, by the OCI command line: what engines and users do with it, and what is left.

use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio},
};

use magikrun_tests::{
    BUSYBOX, Census, MachinePart, Magikrun, Output, Scene, busybox_layout, has_machines, isolated, wait_for,
};
use serde_json::{Value, json};

/// magikrun and a bundle of busybox; `None`, and said, where no machine can be had.
fn prepared(scene: &Scene) -> Option<(Magikrun, PathBuf)> {
    if !has_machines(scene.dir()) {
        return None;
    }
    let magikrun = Magikrun::new(scene);
    let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
    magikrun.ok(&["image", "pull", &source]);
    let bundle = scene.dir().join("bundle");
    magikrun.ok(&["image", "bundle", BUSYBOX, bundle.to_str().expect("UTF-8")]);
    // What is made once is there.
    let natively = bundle.to_str().expect("UTF-8");
    magikrun.run(&["run", "-b", natively, "warm-up"]);
    fs::create_dir_all(magikrun.state.join("oci/.krun")).expect("a directory");
    Some((magikrun, bundle))
}

/// Changes the bundle's configuration.
fn configure(bundle: &Path, change: impl FnOnce(&mut Value)) {
    let path = bundle.join("config.json");
    let mut config = serde_json::from_slice(&fs::read(&path).expect("config.json")).expect("JSON");
    change(&mut config);
    fs::write(path, config.to_string()).expect("config.json");
}

fn script(bundle: &Path, script: &str) {
    configure(bundle, |c| c["process"]["args"] = json!(["sh", "-c", script]));
}

/// A container's streams, as whoever ran `create` has them.
struct Streams {
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// `create`, which returns at once, with streams that the container keeps.
fn create(magikrun: &Magikrun, args: &[&str]) -> Streams {
    let mut command = magikrun.command(args);
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child: Child = child.expect("magikrun");
    // Before it is waited for, which would close its input.
    let streams = Streams {
        stdin: child.stdin.take().expect("a pipe"),
        stdout: child.stdout.take().expect("a pipe"),
        stderr: child.stderr.take().expect("a pipe"),
    };
    let status = child.wait().expect("magikrun");
    if !status.success() {
        let mut said = String::new();
        let mut streams = streams;
        let _ = streams.stderr.read_to_string(&mut said);
        panic!("{args:?}: {status}: {said}");
    }
    streams
}

/// Reads up to a text.
fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&read).contains(text) {
        assert_eq!(
            stream.read(&mut byte).expect("a pipe"),
            1,
            "{:?}",
            String::from_utf8_lossy(&read)
        );
        read.push(byte[0]);
    }
    String::from_utf8_lossy(&read).into_owned()
}

fn with_input(magikrun: &Magikrun, args: &[&str], input: &[u8]) -> Output {
    let mut command = magikrun.command(args);
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.expect("magikrun");
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input)
        .expect("a pipe");
    let out = child.wait_with_output().expect("magikrun");
    Output {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// `exec` says in one line that the container is in a state in which it cannot be.
#[track_caller]
fn exec_refused(magikrun: &Magikrun, state: &str) {
    let exec = magikrun.run(&["exec", "c", "true"]);
    assert_eq!(exec.code, 255, "{exec:?}");
    assert!(
        exec.stderr.contains(state) && exec.stderr.lines().count() == 1,
        "{exec:?}"
    );
}

const LIFE: &str = "\
trap 'echo usr1' USR1; trap 'echo term >&2; exit 43' TERM
read line; echo \"read $line\"; echo to stderr >&2
echo made >/made; echo shared >/shared/made; echo x >/fixed/x || echo refused
cat /fixed/given; cat /one; cat /sys/fs/cgroup/memory.max; hostname; echo up
while :; do sleep 1; done";

isolated!(
    fn a_container_lives_as_the_runtime_spec_says(scene) {
        let Some((magikrun, bundle)) = prepared(scene) else {
            return;
        };
        let (shared, fixed) = (scene.dir().join("shared"), scene.dir().join("fixed"));
        for dir in [&shared, &fixed] {
            fs::create_dir(dir).expect("a directory");
        }
        fs::write(fixed.join("given"), "given\n").expect("a file");
        fs::write(scene.dir().join("one"), "one file\n").expect("a file");
        script(&bundle, LIFE);
        configure(&bundle, |c| {
            c["annotations"] = json!({"run.oci.handler": "krun"});
            c["hostname"] = json!("inside");
            c["root"]["readonly"] = json!(false);
            c["linux"]["resources"]["memory"] = json!({"limit": 100 << 20});
            let mounts = c["mounts"].as_array_mut().expect("mounts");
            mounts.extend([
                json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind"]}),
                json!({"destination": "/fixed", "type": "bind", "source": fixed, "options": ["rbind", "ro"]}),
                json!({"destination": "/one", "type": "bind", "source": scene.dir().join("one"), "options": ["bind", "ro"]}),
            ]);
        });
        let before = Census::take(&magikrun.roots());
        let pid_file = scene.dir().join("pid");
        let mut streams = create(
            &magikrun,
            &[
                "create",
                "-b",
                bundle.to_str().expect("UTF-8"),
                "--pid-file",
                pid_file.to_str().expect("UTF-8"),
                "c",
            ],
        );
        let state = || -> Value { serde_json::from_str(&magikrun.ok(&["state", "c"])).expect("JSON") };
        let created = state();
        assert_eq!(
            (
                &created["status"],
                &created["bundle"],
                &created["annotations"]["run.oci.handler"]
            ),
            (&json!("created"), &json!(bundle), &json!("krun"))
        );
        let pid = fs::read_to_string(&pid_file).expect("the pid");
        assert_eq!(created["pid"].to_string(), pid);
        exec_refused(&magikrun, "created");
        let again = magikrun.error(&["create", "-b", bundle.to_str().expect("UTF-8"), "c"]);
        assert!(again.contains("already exists"), "{again}");

        magikrun.ok(&["start", "c"]);
        assert_eq!(state()["status"], "running");
        streams.stdin.write_all(b"what was written\n").expect("a pipe");
        let said = read_until(&mut streams.stdout, "up\n");
        assert_eq!(
            said,
            "read what was written\nrefused\ngiven\none file\n104857600\ninside\nup\n"
        );
        read_until(&mut streams.stderr, "to stderr\n");
        // What is written to the root and to a mount is there on the host.
        assert_eq!(
            fs::read_to_string(bundle.join("rootfs/made")).expect("a file"),
            "made\n"
        );
        assert_eq!(
            fs::read_to_string(shared.join("made")).expect("a file"),
            "shared\n"
        );
        assert!(!fixed.join("x").exists());

        let exec = magikrun.run(&["exec", "c", "sh", "-c", "echo out; echo err >&2; exit 7"]);
        assert_eq!(
            (exec.code, exec.stdout.as_str(), exec.stderr.as_str()),
            (7, "out\n", "err\n")
        );
        let exec = with_input(
            &magikrun,
            &[
                "exec",
                "-u",
                "5:6",
                "-e",
                "A=b",
                "--cwd",
                "/tmp",
                "c",
                "sh",
                "-c",
                "id -u; id -g; echo $A; pwd; cat",
            ],
            b"input",
        );
        assert_eq!(
            (exec.code, exec.stdout.as_str()),
            (0, "5\n6\nb\n/tmp\ninput"),
            "{}",
            exec.stderr
        );
        assert_eq!(magikrun.run(&["exec", "c", "nosuch"]).code, 127);
        assert_eq!(magikrun.run(&["exec", "c", "sh", "-c", "kill -9 $$"]).code, 137);
        let terminal = magikrun.run(&["exec", "-t", "c", "tty"]);
        assert_eq!(
            (terminal.code, terminal.stdout.as_str()),
            (0, "/dev/pts/0\r\n"),
            "{}",
            terminal.stderr
        );
        // Another kernel, in which the program is the first of its container.
        assert_ne!(
            magikrun.ok(&["exec", "c", "uname", "-r"]),
            Command::new("uname")
                .arg("-r")
                .output()
                .map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
                .expect("uname")
        );
        assert!(
            magikrun
                .ok(&["exec", "c", "cat", "/proc/1/cmdline"])
                .starts_with("sh\0-c")
        );

        magikrun.ok(&["kill", "c", "USR1"]);
        read_until(&mut streams.stdout, "usr1\n");
        let listed: Value = serde_json::from_str(&magikrun.ok(&["list", "--format", "json"])).expect("JSON");
        assert_eq!(
            (&listed[0]["id"], &listed[0]["status"]),
            (&json!("c"), &json!("running"))
        );
        assert!(magikrun.ok(&["ps", "--format", "json", "c"]).contains(&pid));
        magikrun.ok(&["pause", "c"]);
        assert_eq!(state()["status"], "paused");
        exec_refused(&magikrun, "paused");
        magikrun.ok(&["resume", "c"]);
        assert!(
            magikrun
                .error(&["update", "--memory", "1g", "c"])
                .contains("not supported")
        );
        assert!(magikrun.error(&["delete", "c"]).contains("running"));

        // As conmon does it: to the process itself.
        let process = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("a pid");
        rustix::process::kill_process(process, rustix::process::Signal::TERM).expect("kill");
        read_until(&mut streams.stderr, "term\n");
        wait_for("the end", || state()["status"] == "stopped");
        assert!(magikrun.error(&["kill", "c", "TERM"]).contains("stopped"));
        magikrun.ok(&["delete", "c"]);
        MachinePart::all_end("once it is deleted");
        drop(streams);
        fs::remove_file(bundle.join("rootfs/made")).expect("a file");
        before.assert_same("once it is deleted");
    }
);

isolated!(
    fn a_container_is_run_with_its_exit_code_and_leaves_nothing(scene) {
        let Some((magikrun, bundle)) = prepared(scene) else {
            return;
        };
        let before = Census::take(&magikrun.roots());
        let path = bundle.to_str().expect("UTF-8");
        // A terminal, and a root that is read-only and lacks a mount point.
        configure(&bundle, |c| {
            c["process"]["terminal"] = json!(true);
            c["root"]["readonly"] = json!(true);
            c["process"]["args"] = json!(["sh", "-c", "tty; touch /x; touch /extra/x && echo extra; exit 5"]);
            let mounts = c["mounts"].as_array_mut().expect("mounts");
            mounts.push(
                json!({"destination": "/extra", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]}),
            );
        });
        let ran = magikrun.run(&["--runtime", "krun", "run", "-b", path, "c"]);
        assert!(
            ran.stdout.starts_with("/dev/pts/0\r\n")
                && ran.stdout.contains("Read-only")
                && ran.stdout.contains("extra\r\n"),
            "{ran:?}"
        );
        assert_eq!(ran.code, 5, "{ran:?}");
        MachinePart::all_end("of a container that was run");
        before.assert_same("of a container that was run");
    }
);

isolated!(
    fn what_ends_a_machine_ends_its_container_with_a_word(scene) {
        let Some((magikrun, bundle)) = prepared(scene) else {
            return;
        };
        let path = bundle.to_str().expect("UTF-8");
        script(&bundle, "echo up; sleep 1000");
        let before = Census::take(&magikrun.roots());
        // The monitor's death is told.
        let mut streams = create(&magikrun, &["--runtime", "krun", "create", "-b", path, "c"]);
        magikrun.ok(&["start", "c"]);
        read_until(&mut streams.stdout, "up\n");
        assert_eq!(MachinePart::Qemu.kill(), 1);
        read_until(
            &mut streams.stderr,
            "the machine is lost: QEMU ended (signal: 9 (SIGKILL))",
        );
        wait_for("the end", || magikrun.ok(&["state", "c"]).contains("stopped"));
        magikrun.ok(&["delete", "c"]);
        drop(streams);
        MachinePart::all_end("after its monitor was killed");
        before.assert_same("after its monitor was killed");
    }
);

isolated!(
    fn sigkill_and_forced_deletion_leave_nothing(scene) {
        let Some((magikrun, bundle)) = prepared(scene) else {
            return;
        };
        let path = bundle.to_str().expect("UTF-8");
        configure(&bundle, |c| c["process"]["args"] = json!(["nosuch"]));
        let before = Census::take(&magikrun.roots());
        let ran = magikrun.run(&["--runtime", "krun", "run", "-b", path, "none"]);
        assert_eq!(ran.code, 127, "{ran:?}");
        assert!(
            ran.stderr.contains("nosuch") && ran.stderr.lines().count() == 1,
            "{ran:?}"
        );
        MachinePart::all_end("of a program that is not there");
        before.assert_same("of a program that is not there");

        script(&bundle, "trap '' TERM; echo up; while :; do sleep 1; done");
        let mut streams = create(&magikrun, &["--runtime", "krun", "create", "-b", path, "c"]);
        magikrun.ok(&["start", "c"]);
        read_until(&mut streams.stdout, "up\n");
        magikrun.ok(&["kill", "c", "KILL"]);
        wait_for("the end", || magikrun.ok(&["state", "c"]).contains("stopped"));
        magikrun.ok(&["delete", "--force", "c"]);
        magikrun.ok(&["delete", "--force", "c"]);
        drop(streams);
        MachinePart::all_end("once it is deleted by force");
        before.assert_same("once it is deleted by force");
    }
);

isolated!(
    fn what_no_machine_can_have_is_one_line_and_leaves_nothing(scene) {
        let Some((magikrun, bundle)) = prepared(scene) else {
            return;
        };
        let path = bundle.to_str().expect("UTF-8");
        let original = fs::read(bundle.join("config.json")).expect("config.json");
        let before = Census::take(&magikrun.roots());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 7] = [
            (
                |c| c["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}]),
                "without network",
            ),
            (
                |c| c["linux"]["resources"]["memory"] = json!({"limit": 64_u64 << 30}),
                "memory.limit",
            ),
            (
                |c| c["hooks"] = json!({"startContainer": [{"path": "/bin/true"}]}),
                "hooks.startContainer",
            ),
            (
                |c| {
                    c["mounts"][0] = json!({"destination": "/x", "type": "bind", "source": "/dev/null", "options": ["bind"]});
                },
                "is a device",
            ),
            (
                |c| c["mounts"][0] = json!({"destination": "/x", "type": "ext4", "source": "/dev/vda"}),
                "ext4",
            ),
            (|c| c["root"]["path"] = json!("none"), "root.path"),
            (|c| c["process"]["args"] = json!([]), "process.args"),
        ];
        for (change, said) in cases {
            fs::write(bundle.join("config.json"), &original).expect("config.json");
            configure(&bundle, change);
            let line = magikrun.error(&["--runtime", "krun", "create", "-b", path, "c"]);
            assert!(line.contains(said), "{said}: {line}");
            before.assert_same(said);
        }
        fs::write(bundle.join("config.json"), "{").expect("config.json");
        magikrun.error(&["--runtime", "krun", "create", "-b", path, "c"]);
        fs::write(bundle.join("config.json"), &original).expect("config.json");
        let mut command = magikrun.command(&["--runtime", "krun", "create", "-b", path, "c"]);
        let out = command
            .env("MAGIKRUN_VM_FILES", "/no/such/directory")
            .output()
            .expect("magikrun");
        let line = String::from_utf8_lossy(&out.stderr);
        assert!(
            !out.status.success() && line.contains("/no/such/directory") && line.lines().count() == 1,
            "{line}"
        );
        before.assert_same("without a machine's files");
    }
);
