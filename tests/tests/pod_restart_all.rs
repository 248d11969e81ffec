//! `RestartAllContainers` of `restartPolicyRules`: the pod stays, and all its containers begin anew.

use magikrun_tests::{BUSYBOX, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

/// The fields of an object.
fn object(value: Value) -> serde_json::Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

fn container(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["busybox", "sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    });
    container.as_object_mut().unwrap().extend(object(more));
    container
}

/// A container whose exit code 42 has all begin anew.
fn trigger(name: &str, script: &str) -> Value {
    let rules = json!({"restartPolicy": "Never", "restartPolicyRules": [
        {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]});
    container(name, script, rules)
}

fn run(magikrun: &Magikrun, init: &[Value], containers: &[Value]) {
    let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 30, "initContainers": init, "containers": containers,
        "volumes": [{"name": "shared", "emptyDir": {}}]}});
    let file = magikrun.manifest(manifest.to_string());
    magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
}

fn of(magikrun: &Magikrun, name: &str) -> Value {
    let status = magikrun.json(&["pod", "status", "p"]);
    let all = ["initContainers", "containers"].map(|list| status[list].as_array().unwrap().clone());
    all.into_iter()
        .flatten()
        .find(|container| container["name"] == name)
        .unwrap()
}

fn logs(magikrun: &Magikrun, name: &str) -> String {
    magikrun.ok(&["pod", "logs", "-c", name, "p"])
}

/// Runs of the container so far are in `/shared/NAME`; this one goes on from the third on.
const TWICE: &str = "echo x >> /shared/a; [ $(busybox wc -l < /shared/a) -gt 2 ] && exec busybox sleep 1000; \
                     busybox sleep 0.2; exit 42";

isolated!(
    fn all_containers_begin_anew_from_the_first_init_container_on(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let always = json!({"restartPolicy": "Always"});
        // Whoever ignores SIGTERM, or has a hook, is not asked.
        let hook = json!({"lifecycle": {"preStop": {"exec": {"command": ["busybox", "touch", "/shared/hook"]}}}});
        let init = [
            container("prepare", "echo prepare >> /shared/order", json!({})),
            container("side", "echo side >> /shared/order; trap '' TERM; while :; do busybox sleep 0.05; done", always),
        ];
        let other = "echo other >> /shared/order; echo run; [ -e /mark ] && echo old; busybox touch /mark; trap '' TERM; while :; do busybox sleep 0.05; done";
        run(&magikrun, &init, &[trigger("a", TWICE), container("other", other, hook)]);
        let id = magikrun.json(&["pod", "status", "p"])["id"].clone();
        wait_for("the third run of all", || of(&magikrun, "a")["restartCount"] == 2 && of(&magikrun, "other")["state"]["phase"] == "running");
        for name in ["prepare", "side", "a", "other"] {
            assert_eq!(of(&magikrun, name)["restartCount"], 2, "{name}");
        }
        let status = magikrun.json(&["pod", "status", "p"]);
        assert_eq!((&status["phase"], &status["id"]), (&json!("Running"), &id));
        let other = of(&magikrun, "other");
        assert_eq!(other["past"][0]["exit"]["signal"], 9, "{other}");
        wait_for("its log", || logs(&magikrun, "other") == "run\nrun\nrun\n");
        let see = |file: &str| magikrun.run(&["pod", "exec", "-c", "a", "p", "--", "busybox", "cat", file]);
        // The volume stays; init containers were before the others each time.
        let order = see("/shared/order").stdout;
        let lines: Vec<&str> = order.lines().collect();
        assert_eq!(lines.len(), 9, "{order}");
        for run in lines.chunks(3) {
            assert_eq!(run, ["prepare", "side", "other"], "{order}");
        }
        assert_ne!(see("/shared/hook").code, 0, "no hook was run");
        let events = magikrun.ok(&["pod", "events", "p"]);
        assert!(events.contains("exit code 42; all containers are run again in 1s"), "{events}");
        // An exit code that the rule does not name is its policy's.
        magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
        magikrun.ok(&["pod", "delete", "p"]);
    }
);

isolated!(
    fn an_init_container_may_have_all_begin_anew_while_the_pod_starts(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let check = "[ $(busybox wc -l < /shared/n) -ge 3 ] || exit 42";
        let init = [container("count", "echo x >> /shared/n", json!({})), trigger("check", check)];
        run(&magikrun, &init, &[container("c", "exec busybox sleep 1000", json!({}))]);
        let counts = ["count", "check", "c"].map(|name| of(&magikrun, name)["restartCount"].clone());
        assert_eq!(counts, [json!(2), json!(2), json!(0)]);
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);

isolated!(
    fn a_pod_that_begins_anew_is_stopped_at_any_time_and_one_that_cannot_has_failed(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        // While its init container runs again.
        let slow = "[ -e /shared/once ] && exec busybox sleep 1000; busybox touch /shared/once";
        let init = [container("slow", slow, json!({}))];
        run(&magikrun, &init, &[trigger("a", "busybox sleep 0.3; exit 42"), container("b", "exec busybox sleep 1000", json!({}))]);
        wait_for("the second run", || of(&magikrun, "slow")["restartCount"] == 1);
        let said = magikrun.error(&["pod", "restart", "-c", "b", "p"]);
        assert!(said.contains("is being run again with all others"), "{said}");
        magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
        let (a, b) = (of(&magikrun, "a"), of(&magikrun, "b"));
        assert_eq!((&a["state"]["exit"]["code"], &b["state"]["exit"]["signal"]), (&json!(42), &json!(9)), "{a} {b}");
        magikrun.ok(&["pod", "delete", "p"]);
        // While it waits for the delay.
        run(&magikrun, &[], &[trigger("a", "exit 42"), container("b", "exec busybox sleep 1000", json!({}))]);
        wait_for("the delay", || of(&magikrun, "a")["backOffUntil"].is_string());
        magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
        assert_eq!(magikrun.json(&["pod", "status", "p"])["phase"], "Failed");
        magikrun.ok(&["pod", "delete", "p"]);
        // Its init container fails the second time, and is not to be run again.
        let once = "[ -e /shared/once ] && exit 5; busybox touch /shared/once";
        run(&magikrun, &[container("once", once, json!({}))], &[trigger("a", "busybox sleep 0.2; exit 42")]);
        wait_for("its end", || magikrun.json(&["pod", "status", "p"])["phase"] == "Failed");
        let status = magikrun.json(&["pod", "status", "p"]);
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains("container once: init-container: exit code 5"), "{status}");
        magikrun.ok(&["pod", "delete", "p"]);
    }
);

isolated!(
    fn an_app_that_fails_meanwhile_does_not_end_the_pod(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        // The second time it fails while another one's hook holds up the start.
        let fails = "[ -e /shared/once ] && exit 7; busybox touch /shared/once; exec busybox sleep 1000";
        let slow = json!({"lifecycle": {"postStart": {"exec": {"command": ["busybox", "sleep", "0.5"]}}}});
        let reason = "[ -e /shared/twice ] && exec busybox sleep 1000; busybox touch /shared/twice; busybox sleep 0.8; exit 42";
        run(&magikrun, &[], &[
            container("fails", fails, json!({})),
            container("slow", "exec busybox sleep 1000", slow),
            trigger("reason", reason),
        ]);
        magikrun.ok(&["pod", "debug", "p", "--image", BUSYBOX, "--", "busybox", "sh", "-c", "busybox sleep 1.2; exit 9"]);
        wait_for("the second run", || of(&magikrun, "reason")["restartCount"] == 1 && of(&magikrun, "reason")["state"]["phase"] == "running");
        let failed = of(&magikrun, "fails");
        assert_eq!(failed["state"]["exit"]["code"], 7, "{failed}");
        let phase = || magikrun.json(&["pod", "status", "p"])["phase"].clone();
        let ended = || magikrun.json(&["pod", "status", "p"])["ephemeralContainers"][0]["state"]["exit"]["code"] == 9;
        wait_for("the debugger's end", ended);
        assert_eq!(phase(), "Running");
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);
