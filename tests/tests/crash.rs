//! kill -9 at any instant: once the next command has run, everything is as it was.
//!
//! The caller pauses at a step of `run_pod` (feature `test-hooks`); then it, the pod init, or both are killed.

use std::{
    fs,
    io::Read,
    path::Path,
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use magikrun_test_world::has_ended;
use magikrun_tests::{BUSYBOX, Census, Magikrun, Scene, busybox_layout, container, isolated, pod};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Long enough for a loaded machine; nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// magikrun with a busybox image, one pod run and deleted, so that whatever is made once is there.
fn prepared(scene: &Scene) -> Magikrun {
    let magikrun = Magikrun::new(scene);
    magikrun.ok(&[
        "image",
        "pull",
        &busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX),
    ]);
    let warm_up = magikrun.pod_run(&pod("warm-up", &[container("c", BUSYBOX, "sleep 100")]));
    assert_eq!(warm_up.code, 0, "{}", warm_up.stderr);
    magikrun.ok(&["pod", "delete", "--force", "warm-up"]);
    magikrun
}

fn victim_pod() -> Value {
    let mut manifest = pod(
        "victim",
        &[
            container("a", BUSYBOX, "sleep 100"),
            container("b", BUSYBOX, "sleep 100"),
        ],
    );
    manifest["spec"]["initContainers"] = json!([container("init", BUSYBOX, "echo x > /shared/x")]);
    manifest["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    manifest["spec"]["initContainers"][0]["volumeMounts"] =
        json!([{"name": "shared", "mountPath": "/shared"}]);
    manifest
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(5));
    }
}

/// Starts `pod run` and waits until it has paused at `step`.
fn paused_run(magikrun: &Magikrun, step: &str, pause: &Path) -> Child {
    let pause_file = pause.display().to_string();
    let env = [
        ("MAGIKRUN_TEST_PAUSE", step),
        ("MAGIKRUN_TEST_PAUSE_FILE", &pause_file),
    ];
    let mut child = magikrun.spawn_pod_run(&victim_pod(), &env);
    wait_for(&format!("the pause at step {step}"), || {
        if let Some(status) = child.try_wait().expect("wait") {
            let mut said = String::new();
            let _ = child.stderr.take().expect("a pipe").read_to_string(&mut said);
            panic!("pod run ended at or before step {step}: {status}: {said}");
        }
        pause.exists()
    });
    child
}

/// The pids of pod inits: in a test's own world they are all ours.
fn pod_inits() -> Vec<Pid> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").expect("/proc").flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if arguments.split(|b| *b == 0).nth(1) == Some(b"pod-init") {
            found.extend(
                entry
                    .file_name()
                    .to_str()
                    .and_then(|n| n.parse().ok())
                    .and_then(Pid::from_raw),
            );
        }
    }
    found
}

/// Kills them, and waits until they are dead: a pod lives as long as its init does.
fn kill_inits() {
    let pids = pod_inits();
    for pid in &pids {
        let _ = kill_process(*pid, Signal::KILL);
    }
    let is_over = |pid: &Pid| has_ended(pid.as_raw_nonzero().get().unsigned_abs().into());
    wait_for("the end of the pod inits", || pids.iter().all(is_over));
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Caller,
    Init,
    CallerThenInit,
    InitThenCaller,
}

/// Pauses at `step`, kills, runs the next command and compares.
fn kill_at(scene: &Scene, step: &str) {
    let magikrun = prepared(scene);
    let before = Census::take(&magikrun.roots());
    let has_init = matches!(step, "launch" | "start" | "commit");
    for victim in [
        Victim::Caller,
        Victim::Init,
        Victim::CallerThenInit,
        Victim::InitThenCaller,
    ] {
        if !has_init && victim != Victim::Caller {
            continue;
        }
        let pause = scene.dir().join("pause");
        let mut child = paused_run(&magikrun, step, &pause);
        assert_eq!(
            pod_inits().len(),
            usize::from(has_init),
            "pod inits at step {step}"
        );
        if matches!(victim, Victim::Init | Victim::InitThenCaller) {
            kill_inits();
        }
        if victim == Victim::Init {
            fs::remove_file(&pause).expect("pause file");
            wait_for("the end of pod run", || child.try_wait().expect("wait").is_some());
            assert!(
                !child.wait().expect("wait").success(),
                "step {step}: pod run succeeded without its init"
            );
        } else {
            child.kill().expect("kill");
            child.wait().expect("wait");
            let _ = fs::remove_file(&pause);
        }
        if victim == Victim::CallerThenInit {
            kill_inits();
        }
        next_command(&magikrun, step, victim);
        drop(child);
        before.assert_same(&format!("after step {step}, killed: {victim:?}"));
    }
}

/// The next command sweeps. Only a pod that was committed is still there, and then it is a whole one: it runs, or it says
/// that its init died.
fn next_command(magikrun: &Magikrun, step: &str, victim: Victim) {
    let pods = magikrun.json(&["pod", "ls"]);
    let pods = pods.as_array().expect("an array");
    if step != "commit" {
        assert!(pods.is_empty(), "step {step}, killed {victim:?}: {pods:?}");
        return;
    }
    assert!(pods.len() <= 1, "{pods:?}");
    let Some(pod) = pods.first() else { return };
    let phase = pod["phase"].as_str().expect("a phase");
    match victim {
        Victim::Caller => assert_eq!(phase, "Running", "a committed pod outlives its caller: {pod}"),
        _ => assert_eq!(
            (phase, pod["reason"].as_str()),
            ("Failed", Some("InitDied")),
            "{pod}"
        ),
    }
    magikrun.ok(&["pod", "delete", "--force", "victim"]);
}

isolated!(
    fn crash_while_validating_leaves_nothing(scene) {
        kill_at(scene, "validate");
    }
);
isolated!(
    fn crash_after_images_leaves_nothing(scene) {
        kill_at(scene, "images");
    }
);
isolated!(
    fn crash_after_reservation_leaves_nothing(scene) {
        kill_at(scene, "reserve");
    }
);
isolated!(
    fn crash_after_launch_leaves_nothing(scene) {
        kill_at(scene, "launch");
    }
);
isolated!(
    fn crash_when_started_leaves_nothing(scene) {
        kill_at(scene, "start");
    }
);
isolated!(
    fn crash_at_commit_leaves_a_whole_pod_or_nothing(scene) {
        kill_at(scene, "commit");
    }
);

isolated!(
    fn crash_of_the_caller_at_any_instant_leaves_a_whole_pod_or_nothing(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        for milliseconds in (0..60).map(|n| n * 3) {
            let mut child = magikrun.spawn_pod_run(&victim_pod(), &[]);
            sleep(Duration::from_millis(milliseconds));
            let _ = child.kill();
            child.wait().expect("wait");
            drop(child);
            let pods = magikrun.json(&["pod", "ls"]);
            for pod in pods.as_array().expect("an array") {
                assert_eq!(pod["phase"], "Running", "after {milliseconds} ms: {pod}");
                magikrun.ok(&["pod", "delete", "--force", "victim"]);
            }
            before.assert_same(&format!("after the caller was killed after {milliseconds} ms"));
        }
    }
);

isolated!(
    fn crash_of_the_init_of_a_running_pod_takes_every_container_down(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        assert_eq!(magikrun.pod_run(&victim_pod()).code, 0);
        kill_inits();
        wait_for("the end of every process", || {
            let pods = magikrun.json(&["pod", "ls"]);
            pods[0]["phase"] == "Failed"
        });
        let status = magikrun.json(&["pod", "status", "victim"]);
        assert_eq!(status["reason"], "InitDied", "{status}");
        assert!(pod_inits().is_empty());
        magikrun.ok(&["pod", "delete", "victim"]);
        before.assert_same("after delete");
    }
);

isolated!(
    fn crash_of_stop_and_delete_is_finished_by_the_next_command(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        for (n, milliseconds) in (0..20).map(|n| n * 2).enumerate() {
            assert_eq!(magikrun.pod_run(&victim_pod()).code, 0);
            let args: &[&str] = if n % 2 == 0 { &["pod", "delete", "--force", "victim"] } else { &["pod", "stop", "-t", "0", "victim"] };
            let mut child = magikrun.command(args).stderr(std::process::Stdio::null()).spawn().expect("magikrun");
            sleep(Duration::from_millis(milliseconds));
            let _ = child.kill();
            child.wait().expect("wait");
            magikrun.ok(&["pod", "delete", "--force", "victim"]);
            before.assert_same(&format!("after {args:?} was killed after {milliseconds} ms"));
        }
    }
);

isolated!(
    fn after_a_reboot_no_name_is_in_use_and_nothing_is_left(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        let over = pod("over", &[container("c", BUSYBOX, "true")]);
        for manifest in [victim_pod(), over.clone()] {
            assert_eq!(magikrun.pod_run(&manifest).code, 0);
        }
        wait_for("the end of a pod", || magikrun.json(&["pod", "status", "over"])["phase"] == "Succeeded");
        // No process is there any more, and what lay in memory is gone; the data root is on a disk.
        kill_inits();
        fs::remove_dir_all(&magikrun.state).expect("the state root");
        assert_eq!(magikrun.pods(), [""; 0]);
        for manifest in [victim_pod(), over] {
            let ran = magikrun.pod_run(&manifest);
            assert_eq!(ran.code, 0, "{}", ran.stderr);
        }
        magikrun.ok(&["pod", "delete", "--force", "victim", "over"]);
        before.assert_same("after a reboot");
    }
);
