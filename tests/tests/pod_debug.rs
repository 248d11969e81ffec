//! `pod debug`: ephemeral containers.

use std::process::Stdio;

use magikrun_tests::{BUSYBOX, Census, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

/// The fields of an object.
fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

const FOREVER: &str = "trap 'exit 0' TERM; busybox touch /mark; busybox sleep 1000 & wait";

/// Runs a pod of two containers, with more fields.
fn run(magikrun: &Magikrun, more: Value) {
    let container = |name: &str, script: &str| {
        json!({
        "name": name, "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["busybox", "sh", "-c", script]})
    };
    let mut spec = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 30,
        "containers": [container("a", FOREVER), container("b", "trap 'exit 0' TERM; while :; do busybox sleep 0.05; done")]});
    spec.as_object_mut().unwrap().extend(object(more));
    let ran = magikrun
        .pod_run(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

/// What a debugger says, and its exit code.
fn debug(magikrun: &Magikrun, more: &[&str], script: &str) -> (i32, String, String) {
    let args = [
        &["pod", "debug", "p", "--image", BUSYBOX, "-i"],
        more,
        &["--", "busybox", "sh", "-c", script],
    ]
    .concat();
    let out = magikrun
        .command(&args)
        .stdin(Stdio::null())
        .output()
        .expect("magikrun");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        out.status.code().unwrap_or(-1),
        text(out.stdout),
        text(out.stderr),
    )
}

/// Asks a container to end, which ends who asks, too, if they are late.
fn ends(magikrun: &Magikrun, name: &str) {
    let asked = magikrun.run(&["pod", "exec", "-c", name, "p", "--", "busybox", "kill", "1"]);
    assert!(matches!(asked.code, 0 | 137), "{asked:?}");
}

isolated!(
    fn a_debugger_sees_its_target_and_is_gone_with_the_pod(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        for (more, shared) in [
            (json!({}), false),
            (json!({"hostUsers": true}), false),
            (json!({"shareProcessNamespace": true}), true),
        ] {
            let before = Census::take(&magikrun.roots());
            run(&magikrun, more.clone());
            let script = "busybox ps; busybox ls /proc/1/root 2>/dev/null; exit 3";
            let (code, stdout, stderr) = debug(&magikrun, &["--target", "a", "-c", "look"], script);
            assert_eq!((code, stderr.as_str()), (3, "magikrun: container look\n"), "{more} {stdout}");
            assert!(stdout.contains("busybox sleep 1000"), "{more} {stdout}");
            assert!(shared || stdout.contains("mark"), "the target's files: {more} {stdout}");
            // Without a target it sees nobody's processes but where all share theirs.
            let (code, stdout, _) = debug(&magikrun, &[], "busybox ps");
            assert_eq!((code, stdout.contains("sleep 1000")), (0, shared), "{more} {stdout}");
            // It is in the network of the pod's, and has limits and a root of its own.
            let (code, stdout, _) = debug(&magikrun, &["-e", "A=b"], "busybox hostname; echo $A; [ ! -e /mark ]");
            assert_eq!((code, stdout.as_str()), (0, "p\nb\n"), "{more}");
            let status = magikrun.json(&["pod", "status", "p"]);
            let added = status["ephemeralContainers"].as_array().unwrap();
            assert_eq!((added.len(), &added[0]["state"]["exit"]["code"]), (3, &json!(3)), "{added:?}");
            let shown = magikrun.ok(&["pod", "status", "p"]);
            assert!(shown.contains("look ") && shown.contains("ephemeral"), "{shown}");
            let pod: Value = serde_json::from_str(&magikrun.ok(&["pod", "status", "-o", "json", "p"])).unwrap();
            let look = &pod["status"]["ephemeralContainerStatuses"][0];
            assert_eq!((&look["name"], &look["state"]["terminated"]["exitCode"]), (&json!("look"), &json!(3)));
            assert!(magikrun.ok(&["pod", "logs", "-c", "look", "p"]).contains("sleep 1000"));
            magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
            magikrun.ok(&["pod", "delete", "p"]);
            before.assert_same("after a pod that was looked at");
        }
    }
);

isolated!(
    fn how_a_debugger_ends_does_not_matter_and_it_does_not_hold_up_the_pod(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, json!({"restartPolicy": "OnFailure"}));
        // A shell that ignores SIGTERM, as PID 1 does.
        let name = magikrun.ok(&["pod", "debug", "p", "--image", BUSYBOX, "--", "busybox", "sleep", "1000"]);
        assert!(name.starts_with("debugger-"), "{name}");
        let name = name.trim();
        assert_eq!(magikrun.ok(&["pod", "exec", "-c", name, "p", "--", "busybox", "echo", "in"]), "in\n");
        let said = magikrun.error(&["pod", "restart", "-c", name, "p"]);
        assert!(said.contains("is ephemeral, which runs once"), "{said}");
        debug(&magikrun, &["-c", "fails"], "exit 9");
        // It is not run again, whatever the pod's policy is.
        let state = |name: &str| {
            let status = magikrun.json(&["pod", "status", "p"]);
            let all = status["ephemeralContainers"].as_array().unwrap().clone();
            all.into_iter().find(|container| container["name"] == name).unwrap()
        };
        wait_for("its end", || state("fails")["state"]["phase"] == "exited");
        assert_eq!(state("fails")["restartCount"], 0);
        ends(&magikrun, "a");
        ends(&magikrun, "b");
        wait_for("the pod's end", || magikrun.json(&["pod", "status", "p"])["phase"] == "Succeeded");
        assert_eq!(state(name)["state"]["exit"]["signal"], 9, "{}", state(name));
        assert_eq!(magikrun.ok(&["pod", "wait", "p"]), "0\n", "the exit code is not a debugger's");
        magikrun.ok(&["pod", "delete", "p"]);
    }
);

isolated!(
    fn what_cannot_be_looked_at_is_said(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        run(&magikrun, json!({"securityContext": {"runAsNonRoot": true, "runAsUser": 1000}}));
        // The pod's security is the debugger's.
        let (code, stdout, stderr) = debug(&magikrun, &[], "busybox id -u");
        assert_eq!((code, stdout.as_str()), (0, "1000\n"), "{stderr}");
        for (args, why) in [
            (["--target", "c", "-c", "x"], "it has no container c to look at"),
            (["--target", "a", "-c", "a"], "it has a container a"),
            (["--target", "a", "-c", "A_b"], "may hold only lower-case letters"),
        ] {
            let (code, _, stderr) = debug(&magikrun, &args, "true");
            assert!(code == 125 && stderr.contains(why) && stderr.lines().count() == 1, "{code} {stderr}");
        }
        ends(&magikrun, "a");
        wait_for("its end", || magikrun.json(&["pod", "status", "p"])["containers"][0]["state"]["phase"] == "exited");
        let (code, _, stderr) = debug(&magikrun, &["--target", "a"], "true");
        assert!(code == 125 && stderr.contains("its container a does not run"), "{code} {stderr}");
        let args = ["pod", "debug", "p", "--image", BUSYBOX, "-i", "--", "/none"];
        assert_eq!(magikrun.run(&args).code, 127);
        // There is an end to it.
        let made = (0..20).filter(|_| debug(&magikrun, &[], "exit 0").0 == 0).count();
        assert_eq!(made, 15);
        let (_, _, stderr) = debug(&magikrun, &[], "true");
        assert!(stderr.contains("it has 16 ephemeral containers, which is the most"), "{stderr}");
        magikrun.ok(&["pod", "delete", "--force", "p"]);
        let said = magikrun.error(&["pod", "debug", "p", "--image", BUSYBOX]);
        assert!(said.contains("pod p does not exist"), "{said}");
    }
);
