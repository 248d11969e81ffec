//! kill -9 of whatever a microVM pod is made of, at any step: what was being done says what happened, and nothing is left.

use std::{
    io::Read,
    path::Path,
    process::{Child, Stdio},
};

use magikrun_tests::{
    BUSYBOX, Census, MachinePart, Magikrun, Scene, busybox_layout, container, has_machines, isolated, pod,
    wait_for,
};
use serde_json::{Value, json};

/// magikrun with a busybox image that is unpacked already; `None`, and said, where no machine can be had.
fn prepared(scene: &Scene) -> Option<Magikrun> {
    if !has_machines(scene.dir()) {
        return None;
    }
    let magikrun = Magikrun::new(scene);
    let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
    magikrun.ok(&["image", "pull", &source]);
    // Natively: what is made once (unpacked layers, the roots' directories) is there.
    let warm_up = magikrun.pod_run(&pod("warm-up", &[container("c", BUSYBOX, "sleep 100")]));
    assert_eq!(warm_up.code, 0, "{}", warm_up.stderr);
    magikrun.ok(&["pod", "delete", "--force", "warm-up"]);
    Some(magikrun)
}

fn manifest(name: &str, script: &str) -> Value {
    let mut manifest = pod(name, &[container("c", BUSYBOX, script)]);
    manifest["spec"]["runtimeClassName"] = json!("microvm");
    manifest
}

#[track_caller]
fn runs(magikrun: &Magikrun, name: &str, script: &str) {
    let run = magikrun.pod_run(&manifest(name, script));
    assert_eq!(run.code, 0, "{}", run.stderr);
}

/// A command that goes on until the pod ends.
fn long(magikrun: &Magikrun, args: &[&str]) -> Child {
    let mut command = magikrun.command(args);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("magikrun")
}

/// How it ended, and what it wrote: standard output, standard error.
fn end_of(what: &str, mut child: Child) -> (i32, String, String) {
    let mut status = None;
    wait_for(&format!("the end of {what}"), || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    let (mut out, mut err) = (String::new(), String::new());
    let _ = child.stdout.take().expect("a pipe").read_to_string(&mut out);
    let _ = child.stderr.take().expect("a pipe").read_to_string(&mut err);
    (status.and_then(|s| s.code()).unwrap_or(-1), out, err)
}

fn phase(magikrun: &Magikrun, name: &str) -> (String, String, String) {
    let status = magikrun.json(&["pod", "status", name]);
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    (text("phase"), text("reason"), text("message"))
}

isolated!(
    fn whatever_of_a_running_machine_is_killed_the_pod_has_failed_and_says_why(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let before = Census::take(&magikrun.roots());
        for part in MachinePart::ALL {
            runs(&magikrun, "victim", "echo ready; sleep 1000");
            let exec = long(&magikrun, &["pod", "exec", "victim", "--", "sh", "-c", "echo ready; sleep 1000"]);
            let logs = long(&magikrun, &["pod", "logs", "-f", "victim"]);
            // Both are under way.
            wait_for("the log", || magikrun.ok(&["pod", "logs", "victim"]) == "ready\n");
            assert!(part.kill() > 0, "{part:?}");
            let (code, _, said) = end_of("exec", exec);
            assert!(code != 0 && said.lines().count() == 1, "{part:?}: exec: {code} {said}");
            let (_, log, _) = end_of("logs -f", logs);
            assert_eq!(log, "ready\n", "{part:?}");
            MachinePart::all_end("after one was killed");
            let (phase, reason, message) = phase(&magikrun, "victim");
            let expected = if part == MachinePart::Supervisor { "InitDied" } else { "GuestDied" };
            assert_eq!((phase.as_str(), reason.as_str()), ("Failed", expected), "{part:?}: {message}");
            if part == MachinePart::Qemu {
                assert!(message.contains("QEMU") && message.contains("signal: 9"), "{message}");
            }
            assert_eq!(magikrun.ok(&["pod", "logs", "victim"]), "ready\n", "logs outlive the machine");
            magikrun.ok(&["pod", "delete", "victim"]);
            before.assert_same(&format!("after {part:?} was killed"));
        }
    }
);

/// Kills the monitor `times` times, each as soon as it is there, while `run` goes on.
fn kill_monitors(run: &mut Child, times: usize) {
    let mut killed = vec![];
    while killed.len() < times {
        wait_for("a monitor", || {
            assert!(run.try_wait().expect("wait").is_none(), "pod run has ended");
            MachinePart::Qemu.pids().iter().any(|pid| !killed.contains(pid))
        });
        killed.extend(
            MachinePart::Qemu
                .pids()
                .into_iter()
                .filter(|pid| !killed.contains(pid))
                .collect::<Vec<_>>(),
        );
        MachinePart::Qemu.kill();
    }
}

isolated!(
    fn a_machine_that_dies_before_its_hello_is_started_once_more(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let before = Census::take(&magikrun.roots());
        let mut run = magikrun.spawn_pod_run(&manifest("victim", "sleep 1000"), &[]);
        kill_monitors(&mut run, 2);
        let mut said = String::new();
        run.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
        assert!(!run.wait().expect("wait").success());
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains("QEMU ended (signal: 9"), "{said}");
        drop(run);
        assert_eq!(magikrun.pods(), Vec::<String>::new());
        before.assert_same("after a machine died twice");

        let mut run = magikrun.spawn_pod_run(&manifest("victim", "sleep 1000"), &[]);
        kill_monitors(&mut run, 1);
        let mut said = String::new();
        run.stderr.take().expect("a pipe").read_to_string(&mut said).expect("stderr");
        assert!(run.wait().expect("wait").success(), "{said}");
        drop(run);
        assert_eq!(phase(&magikrun, "victim").0, "Running");
        magikrun.ok(&["pod", "delete", "--force", "victim"]);
        before.assert_same("after a machine died once");
    }
);

/// Starts `pod run` and waits until it has paused at `step`.
fn paused_run(magikrun: &Magikrun, step: &str, pause: &Path) -> Child {
    let pause_file = pause.display().to_string();
    let env = [
        ("MAGIKRUN_TEST_PAUSE", step),
        ("MAGIKRUN_TEST_PAUSE_FILE", pause_file.as_str()),
    ];
    let child = magikrun.spawn_pod_run(&manifest("victim", "sleep 1000"), &env);
    wait_for(&format!("the pause at step {step}"), || pause.exists());
    child
}

isolated!(
    fn the_caller_or_the_supervisor_is_killed_at_a_step_of_run_pod(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let before = Census::take(&magikrun.roots());
        let pause = scene.dir().join("pause");
        for step in ["launch", "start", "commit"] {
            // Of a running machine every part was killed above.
            let parts: &[Option<MachinePart>] = match step {
                "commit" => &[None],
                _ => &[None, Some(MachinePart::Supervisor)],
            };
            for part in parts {
                let mut child = paused_run(&magikrun, step, &pause);
                assert_eq!(MachinePart::Supervisor.pids().len(), 1, "{step}");
                match part {
                    None => child.kill().expect("kill"),
                    Some(part) => assert!(part.kill() > 0, "{step}: {part:?}"),
                }
                std::fs::remove_file(&pause).expect("pause file");
                assert!(!child.wait().expect("wait").success(), "{step}: {part:?}");
                drop(child);
                if step == "commit" {
                    assert_eq!(phase(&magikrun, "victim").0, "Running", "a committed pod outlives its caller");
                    magikrun.ok(&["pod", "delete", "--force", "victim"]);
                }
                assert_eq!(magikrun.pods(), Vec::<String>::new(), "{step}: {part:?}");
                MachinePart::all_end(step);
                before.assert_same(&format!("after step {step}, killed: {part:?}, None is the caller"));
            }
        }
    }
);

isolated!(
    fn a_caller_killed_while_the_machine_boots_leaves_nothing(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let before = Census::take(&magikrun.roots());
        for milliseconds in [0, 150, 400, 900] {
            let mut run = magikrun.spawn_pod_run(&manifest("victim", "sleep 1000"), &[]);
            wait_for("the supervisor", || !MachinePart::Supervisor.pids().is_empty());
            std::thread::sleep(std::time::Duration::from_millis(milliseconds));
            run.kill().expect("kill");
            run.wait().expect("wait");
            drop(run);
            for pod in magikrun.pods() {
                magikrun.ok(&["pod", "delete", "--force", &pod]);
            }
            MachinePart::all_end("after the caller");
            before.assert_same(&format!("after the caller was killed after {milliseconds} ms"));
        }
    }
);

isolated!(
    fn kills_during_stop_and_delete_leave_what_the_next_command_removes(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let before = Census::take(&magikrun.roots());
        let stubborn = "trap '' TERM; echo ready; while :; do sleep 1; done";
        // The command goes; the pod is stopped all the same.
        runs(&magikrun, "victim", stubborn);
        let mut stop = long(&magikrun, &["pod", "stop", "-t", "2", "victim"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        stop.kill().expect("kill");
        stop.wait().expect("wait");
        drop(stop);
        wait_for("the end of the pod", || phase(&magikrun, "victim").0 != "Running");
        let status = magikrun.json(&["pod", "status", "victim"]);
        assert_eq!(status["containers"][0]["state"]["exit"]["signal"], 9, "{status}");
        magikrun.ok(&["pod", "delete", "victim"]);
        before.assert_same("after stop was killed");

        // The machine goes: stop says that it is over.
        runs(&magikrun, "victim", stubborn);
        let stop = long(&magikrun, &["pod", "stop", "-t", "60", "victim"]);
        std::thread::sleep(std::time::Duration::from_millis(500));
        assert!(MachinePart::Qemu.kill() > 0);
        let (_, _, said) = end_of("stop", stop);
        let (phase, reason, message) = phase(&magikrun, "victim");
        assert_eq!((phase.as_str(), reason.as_str()), ("Failed", "GuestDied"), "{message}; stop: {said}");
        MachinePart::all_end("after QEMU was killed during stop");
        let mut delete = long(&magikrun, &["pod", "delete", "--force", "victim"]);
        delete.kill().expect("kill");
        delete.wait().expect("wait");
        drop(delete);
        magikrun.ok(&["pod", "delete", "--force", "victim"]);
        before.assert_same("after delete was killed");
    }
);
