//! What happens to the containers of a pod besides being started once: restarts, sidecars, probes,
//! hooks. Each is seen from outside, as a user sees it.

use std::fs;

use magikrun_tests::{BUSYBOX, Census, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

/// A container that runs a script, with more fields.
fn container(name: &str, script: &str, more: Value) -> Value {
    let mut container = json!({
        "name": name, "image": BUSYBOX, "imagePullPolicy": "Never",
        "command": ["busybox", "sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}],
    });
    let Value::Object(more) = more else {
        panic!("{more}")
    };
    container.as_object_mut().unwrap().extend(more);
    container
}

/// A pod with a volume `/shared` in each container.
fn pod(init: &[Value], containers: &[Value], more: Value) -> String {
    let mut spec = json!({
        "terminationGracePeriodSeconds": 5, "initContainers": init, "containers": containers,
        "volumes": [{"name": "shared", "emptyDir": {}}],
    });
    let Value::Object(more) = more else {
        panic!("{more}")
    };
    spec.as_object_mut().unwrap().extend(more);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}).to_string()
}

/// Runs it, with short delays between restarts.
fn run(magikrun: &Magikrun, manifest: String) {
    let file = magikrun.manifest(manifest);
    magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
}

/// Why it does not run; nothing of it is left.
fn fails(magikrun: &Magikrun, manifest: String) -> String {
    let before = Census::take(&magikrun.roots());
    let file = magikrun.manifest(manifest);
    let said = magikrun.error(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
    assert_eq!(magikrun.pods(), [""; 0]);
    before.assert_same("after a pod that did not start");
    said
}

fn of(magikrun: &Magikrun, name: &str) -> Value {
    let status = magikrun.json(&["pod", "status", "p"]);
    let all = ["initContainers", "containers"].map(|list| status[list].as_array().unwrap().clone());
    let mut all = all.into_iter().flatten();
    all.find(|container| container["name"] == name).unwrap()
}

fn logs(magikrun: &Magikrun, name: &str) -> String {
    magikrun.ok(&["pod", "logs", "-c", name, "p"])
}

fn phase(magikrun: &Magikrun) -> String {
    magikrun.json(&["pod", "status", "p"])["phase"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn exec(magikrun: &Magikrun, name: &str, words: &[&str]) {
    magikrun.ok(&[&["pod", "exec", "-c", name, "p", "--", "busybox"], words].concat());
}

fn delete(magikrun: &Magikrun) {
    magikrun.ok(&["pod", "delete", "--force", "p"]);
}

const FOREVER: &str = "exec busybox sleep 1000";
/// Ends when it is asked to, after it has said so.
const SAYS_THAT_IT_ENDS: &str = "trap 'echo ended; busybox cut -d. -f1,2 /proc/uptime > /shared/$0; exit 0' TERM; busybox touch /shared/up.$0; while :; do busybox sleep 0.05; done";

/// As [`SAYS_THAT_IT_ENDS`], by its name.
fn says_that_it_ends(name: &str) -> String {
    SAYS_THAT_IT_ENDS.replace("$0", name)
}

isolated!(
    fn a_container_that_ends_is_run_again_with_the_kubelets_delays(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        // restartPolicy is Always where it is absent.
        let script = "echo run; echo x >> /mark; busybox wc -l < /mark; exit 3";
        run(&magikrun, pod(&[], &[container("c", script, json!({}))], json!({})));
        wait_for("two restarts", || of(&magikrun, "c")["restartCount"].as_u64().unwrap() >= 2);
        let seen = || magikrun.ok(&["pod", "status", "p"]).contains("CrashLoopBackOff");
        wait_for("the delay", seen);
        let container = of(&magikrun, "c");
        assert_eq!(container["past"][0]["exit"]["code"], 3, "{container}");
        assert_eq!(phase(&magikrun), "Running");
        // Each run had a writable layer of its own, and one log has them all.
        assert!(logs(&magikrun, "c").starts_with("run\n1\nrun\n1\n"));
        let said = magikrun.ok(&["pod", "events", "p"]);
        assert!(said.contains("container.back-off  c") && said.contains("it is run again in 1s"), "{said}");
        // What somebody stops stays so, also while it waits; the pod is over then.
        magikrun.ok(&["pod", "stop", "p"]);
        assert_eq!(phase(&magikrun), "Failed");
        let container = of(&magikrun, "c");
        assert_eq!(container["state"]["exit"]["code"], 3, "{container}");
        delete(&magikrun);
        before.assert_same("after the pod");
    }
);

isolated!(
    fn policies_and_rules_say_what_is_run_again(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let counts = |code: u8| format!("echo x >> /shared/n; [ $(busybox wc -l < /shared/n) -ge 3 ] && exit 0; exit {code}");
        for (policy, code, own, restarts, phase_then) in [
            ("OnFailure", 1, json!({}), 2, "Succeeded"),
            ("OnFailure", 0, json!({}), 0, "Succeeded"),
            ("Never", 1, json!({}), 0, "Failed"),
            ("Never", 1, json!({"restartPolicy": "OnFailure"}), 2, "Succeeded"),
            (
                "Never", 42,
                json!({"restartPolicy": "Never", "restartPolicyRules": [
                    {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}),
                2, "Succeeded",
            ),
            (
                "Never", 42,
                json!({"restartPolicy": "Never", "restartPolicyRules": [
                    {"action": "Restart", "exitCodes": {"operator": "NotIn", "values": [0, 42]}}]}),
                0, "Failed",
            ),
        ] {
            let containers = [container("c", &counts(code), own.clone())];
            run(&magikrun, pod(&[], &containers, json!({"restartPolicy": policy})));
            wait_for("its end", || phase(&magikrun) != "Running");
            let container = of(&magikrun, "c");
            assert_eq!(container["restartCount"], restarts, "{policy} {code} {own}: {container}");
            assert_eq!(phase(&magikrun), phase_then, "{policy} {code} {own}");
            delete(&magikrun);
        }
    }
);

isolated!(
    fn an_init_container_that_fails_is_run_again_unless_the_policy_is_never(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "echo x >> /shared/n; [ $(busybox wc -l < /shared/n) -ge 2 ] || exit 7";
        let init = container("prepare", script, json!({}));
        let app = container("c", FOREVER, json!({}));
        run(&magikrun, pod(std::slice::from_ref(&init), std::slice::from_ref(&app), json!({})));
        assert_eq!(of(&magikrun, "prepare")["restartCount"], 1);
        delete(&magikrun);
        let said = fails(&magikrun, pod(&[init], &[app], json!({"restartPolicy": "Never"})));
        assert!(said.contains("container prepare: init-container: exit code 7"), "{said}");
    }
);

isolated!(
    fn sidecars_start_before_the_others_and_end_after_them(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let always = json!({"restartPolicy": "Always"});
        let probed = json!({"restartPolicy": "Always", "startupProbe": {
            "exec": {"command": ["busybox", "test", "-e", "/shared/up.one"]}, "periodSeconds": 1}});
        let init = [
            container("one", &format!("busybox sleep 0.3; {}", says_that_it_ends("one")), probed),
            container("two", &format!("[ -e /shared/up.one ] || exit 9; {}", says_that_it_ends("two")), always.clone()),
            container("check", "[ -e /shared/up.one ]", json!({})),
        ];
        let apps = [container("c", &says_that_it_ends("c"), json!({}))];
        run(&magikrun, pod(&init, &apps, json!({})));
        assert_eq!(of(&magikrun, "two")["restartCount"], 0);
        wait_for("all to listen", || magikrun.run(&["pod", "exec", "-c", "c", "p", "--", "busybox", "test", "-e", "/shared/up.c"]).code == 0);
        // A sidecar that ends is run again, whatever its exit code.
        exec(&magikrun, "two", &["kill", "1"]);
        wait_for("the second run", || of(&magikrun, "two")["restartCount"] == 1);
        let volume = magikrun.json(&["pod", "status", "p"])["id"].as_str().unwrap().to_owned();
        let volume = magikrun.roots()[0].join("pods").join(volume).join("volumes/shared");
        magikrun.ok(&["pod", "stop", "p"]);
        let ended = ["c", "two", "one"].map(|name| {
            let text = fs::read_to_string(volume.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
            text.split(' ').next().unwrap().parse::<f64>().unwrap()
        });
        assert!(ended.is_sorted(), "apps, then the last sidecar first: {ended:?}");
        assert_eq!(phase(&magikrun), "Succeeded");
        delete(&magikrun);

        // A pod whose apps have ended does not wait for its sidecars, whose ends do not matter.
        let init = [container("side", "trap 'exit 3' TERM; while :; do busybox sleep 0.05; done", always)];
        let apps = [container("c", "exit 0", json!({}))];
        run(&magikrun, pod(&init, &apps, json!({"restartPolicy": "Never"})));
        wait_for("its end", || phase(&magikrun) == "Succeeded");
        let side = of(&magikrun, "side");
        assert_eq!((&side["state"]["exit"]["code"], &side["restartCount"]), (&json!(3), &json!(0)), "{side}");
        delete(&magikrun);
    }
);

isolated!(
    fn a_pod_has_started_when_its_startup_probes_have_succeeded(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let serve = "busybox mkdir /w; echo hi > /w/index.html; busybox sleep 0.5; exec busybox httpd -f -p 8080 -h /w";
        let ports = json!([{"name": "http", "containerPort": 8080}]);
        for handler in [
            json!({"httpGet": {"port": "http", "path": "/index.html", "httpHeaders": [{"name": "X-A", "value": "b"}]}}),
            json!({"tcpSocket": {"port": 8080}}),
            json!({"exec": {"command": ["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]}}),
        ] {
            let more = json!({"ports": ports, "startupProbe": handler});
            run(&magikrun, pod(&[], &[container("c", serve, more)], json!({})));
            let container = of(&magikrun, "c");
            assert_eq!((&container["started"], &container["ready"]), (&json!(true), &json!(true)), "{handler}");
            delete(&magikrun);
        }
        for (handler, why) in [
            (json!({"httpGet": {"port": 8080, "path": "/none"}}), "HTTP status 404"),
            (json!({"tcpSocket": {"port": 8081}}), "cannot connect to 127.0.0.1:8081"),
            (json!({"exec": {"command": ["busybox", "sh", "-c", "echo not yet >&2; exit 5"]}}), "exit code 5: not yet"),
            (json!({"exec": {"command": ["busybox", "sleep", "30"]}}), "no answer within 1s"),
            (json!({"exec": {"command": ["/none"]}}), "cannot execute /none"),
        ] {
            let mut probe = handler;
            let numbers = json!({"periodSeconds": 1, "failureThreshold": 2});
            probe.as_object_mut().unwrap().extend(numbers.as_object().unwrap().clone());
            let more = json!({"startupProbe": probe});
            let said = fails(&magikrun, pod(&[], &[container("c", serve, more)], json!({})));
            assert!(said.contains("container c: startup-probe: ") && said.contains(why), "{said}");
        }
        // One that ends meanwhile, and is not run again, ends the start at once.
        let more = json!({"startupProbe": {"tcpSocket": {"port": 1}, "failureThreshold": 1000}});
        let containers = [container("c", "busybox sleep 0.2; echo broken; exit 4", more)];
        let said = fails(&magikrun, pod(&[], &containers, json!({"restartPolicy": "Never"})));
        assert!(said.contains("container c: start: exit code 4: broken"), "{said}");
    }
);

isolated!(
    fn liveness_ends_a_container_and_readiness_says_whether_it_is_ready(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let test = |file: &str| json!({"exec": {"command": ["busybox", "test", "-e", file]}, "periodSeconds": 1, "failureThreshold": 1});
        let more = json!({"livenessProbe": test("/alive"), "readinessProbe": test("/ready")});
        let script = "busybox touch /alive; exec busybox sleep 1000";
        run(&magikrun, pod(&[], &[container("c", script, more)], json!({"terminationGracePeriodSeconds": 0})));
        let is_ready = |ready: bool| of(&magikrun, "c")["ready"] == ready;
        assert!(is_ready(false));
        assert!(magikrun.ok(&["pod", "status", "p"]).contains("Running, not ready"));
        assert!(magikrun.ok(&["pod", "ls"]).contains("0/1"));
        exec(&magikrun, "c", &["touch", "/ready"]);
        wait_for("it to be ready", || is_ready(true));
        exec(&magikrun, "c", &["rm", "/ready"]);
        wait_for("it not to be ready", || is_ready(false));
        assert_eq!(of(&magikrun, "c")["restartCount"], 0, "readiness ends nothing");
        exec(&magikrun, "c", &["rm", "/alive"]);
        wait_for("the restart", || of(&magikrun, "c")["restartCount"] == 1);
        let said = magikrun.ok(&["pod", "events", "p"]);
        assert!(said.contains("liveness probe: exit code 1"), "{said}");
        delete(&magikrun);

        // With Never it stays ended.
        let containers = [container("c", FOREVER, json!({"livenessProbe": test("/alive")}))];
        run(&magikrun, pod(&[], &containers, json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0})));
        wait_for("its end", || phase(&magikrun) == "Failed");
        delete(&magikrun);
    }
);

isolated!(
    fn hooks_are_done_after_the_start_and_before_the_end(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let shell = |script: &str| json!({"exec": {"command": ["busybox", "sh", "-c", script]}});
        let more = json!({"lifecycle": {
            "postStart": shell("busybox sleep 0.2; busybox touch /shared/hooked"),
            "preStop": shell("echo before the end > /proc/1/fd/1"),
            "stopSignal": "SIGUSR1",
        }});
        let first = "trap 'echo ended by USR1; exit 0' USR1; while :; do busybox sleep 0.05; done";
        let containers = [
            container("first", first, more),
            container("second", "[ -e /shared/hooked ] || exit 9; exec busybox sleep 1000", json!({})),
        ];
        run(&magikrun, pod(&[], &containers, json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 4})));
        assert_eq!(of(&magikrun, "second")["state"]["phase"], "running", "postStart was done before");
        magikrun.ok(&["pod", "stop", "p"]);
        assert_eq!(logs(&magikrun, "first"), "before the end\nended by USR1\n");
        delete(&magikrun);

        let more = json!({"lifecycle": {"postStart": shell("echo no >&2; exit 6")}});
        let containers = [container("c", FOREVER, more)];
        let never = json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0});
        let said = fails(&magikrun, pod(&[], &containers, never));
        assert!(said.contains("container c: post-start: exit code 6: no"), "{said}");

        // A preStop that hangs takes no more than the grace period.
        let more = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 10000}}}});
        run(&magikrun, pod(&[], &[container("c", FOREVER, more)], json!({"terminationGracePeriodSeconds": 1})));
        magikrun.ok(&["pod", "stop", "p"]);
        delete(&magikrun);
    }
);

isolated!(
    fn what_a_probe_leaves_in_the_background_takes_no_memory_of_the_init(scene) {
        // CVE-2026-53495: each output of a probe was read until nobody could write to it any more.
        let magikrun = Magikrun::with_busybox(scene);
        let script = "(while busybox head -c 65536 /dev/zero; do :; done) & echo x >> /shared/n; exit 0";
        let more = json!({
            "livenessProbe": {"exec": {"command": ["busybox", "sh", "-c", script]}, "periodSeconds": 1},
            "resources": {"limits": {"cpu": "0.2"}},
        });
        run(&magikrun, pod(&[], &[container("c", FOREVER, more)], json!({})));
        let count = || {
            let args = ["pod", "exec", "-c", "c", "p", "--", "busybox", "sh", "-c", "busybox wc -l < /shared/n"];
            magikrun.run(&args).stdout.trim().parse::<u32>().unwrap_or(0)
        };
        wait_for("three probes", || count() >= 3);
        assert_eq!(of(&magikrun, "c")["restartCount"], 0);
        // Who writes to nobody is ended by SIGPIPE: they do not gather.
        let few = || {
            let processes = magikrun.ok(&["pod", "exec", "-c", "c", "p", "--", "busybox", "ps"]);
            processes.lines().filter(|line| line.contains("head")).count() <= 2
        };
        wait_for("the writers to end", few);
        let id = magikrun.json(&["pod", "status", "p"])["id"].as_str().unwrap().to_owned();
        let init = fs::read_to_string(magikrun.roots()[1].join("pods").join(id).join("init")).unwrap();
        let pid = init.split_whitespace().next().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = anonymous.split_whitespace().next().unwrap().parse().unwrap();
        assert!(kib < 16 << 10, "the init has {kib} KiB of its own");
        delete(&magikrun);
    }
);

isolated!(
    fn stopping_and_restarting_one_container_goes_before_its_policy(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let containers = [
            container("a", &says_that_it_ends("a"), json!({})),
            container("b", "exit 1", json!({})),
        ];
        run(&magikrun, pod(&[], &containers, json!({"terminationGracePeriodSeconds": 1})));
        wait_for("the delay", || of(&magikrun, "b")["backOffUntil"].is_string());
        magikrun.ok(&["pod", "restart", "-c", "b", "p"]);
        magikrun.ok(&["pod", "restart", "-c", "a", "p"]);
        assert_eq!(of(&magikrun, "a")["restartCount"], 1);
        delete(&magikrun);
    }
);
