//! What containers say about their ends: `terminationMessagePath` and `terminationMessagePolicy`.

use magikrun_test_images::shell_wasm;
use magikrun_tests::{BUSYBOX, Census, Magikrun, isolated, wait_for};
use serde_json::{Value, json};

/// A pod that runs once and holds these containers, each with a script and more fields.
fn pod(containers: &[(&str, &str, Value)], more: Value) -> Value {
    let container = |(name, script, more): &(&str, &str, Value)| {
        let mut container = json!({
            "name": name, "image": BUSYBOX, "imagePullPolicy": "Never",
            "command": ["busybox", "sh", "-c", script],
        });
        container
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        container
    };
    let containers: Vec<Value> = containers.iter().map(container).collect();
    let mut spec =
        json!({"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers});
    let Value::Object(more) = more else {
        panic!("{more}")
    };
    spec.as_object_mut().unwrap().extend(more);
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})
}

/// Runs it to its end, and says how its containers are in the status of Kubernetes' form.
fn ends(magikrun: &Magikrun, manifest: &Value) -> Vec<Value> {
    let ran = magikrun.pod_run(manifest);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let run = magikrun.run(&["pod", "wait", "p"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    statuses(magikrun)
}

fn statuses(magikrun: &Magikrun) -> Vec<Value> {
    let pod: Value = serde_json::from_str(&magikrun.ok(&["pod", "status", "-o", "json", "p"])).unwrap();
    pod["status"]["containerStatuses"].as_array().unwrap().clone()
}

fn delete(magikrun: &Magikrun) {
    magikrun.ok(&["pod", "delete", "--force", "p"]);
}

isolated!(
    fn what_a_container_writes_to_its_file_is_in_the_status(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let write = "echo to the log; printf 'cannot open\\nthe database' > $0; exit 3";
        let usual = write.replace("$0", "/dev/termination-log");
        let other = write.replace("$0", "/run/deep/why");
        let user = json!({"securityContext": {"runAsUser": 1000, "readOnlyRootFilesystem": true}, "terminationMessagePath": "run/deep/why"});
        let containers = ends(&magikrun, &pod(&[
            ("usual", &usual, json!({})),
            ("other", &other, user),
            ("none", "exit 4", json!({})),
            ("well", "echo 'was fine' > /dev/termination-log", json!({"terminationMessagePolicy": "File"})),
        ], json!({})));
        let said: Vec<&Value> = containers.iter().map(|c| &c["state"]["terminated"]["message"]).collect();
        let expected = [json!("cannot open\nthe database"), json!("cannot open\nthe database"), Value::Null, json!("was fine\n")];
        assert_eq!(said, expected.iter().collect::<Vec<_>>());
        let own = magikrun.json(&["pod", "status", "p"]);
        assert_eq!(own["containers"][0]["state"]["message"], "cannot open\nthe database");
        let shown = magikrun.ok(&["pod", "status", "p"]);
        assert!(shown.contains("usual said when it ended: cannot open the database\n"), "{shown}");
        delete(&magikrun);
        // Nothing of it gets to a terminal as what the terminal takes for orders.
        let escape = "busybox printf '\\033[31mred\\r\\nforged: line' > /dev/termination-log";
        ends(&magikrun, &pod(&[("c", escape, json!({}))], json!({})));
        let shown = magikrun.ok(&["pod", "status", "p"]);
        assert!(shown.contains("c said when it ended:  [31mred forged: line\n"), "{shown:?}");
        delete(&magikrun);
        before.assert_same("after the pod");
    }
);

isolated!(
    fn the_end_of_the_log_is_the_message_where_that_is_asked_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let asked = json!({"terminationMessagePolicy": "FallbackToLogsOnError"});
        let containers = ends(&magikrun, &pod(&[
            ("fails", "busybox seq 1 100; busybox sleep 0.3; echo broken >&2; exit 1", asked.clone()),
            ("long", "busybox head -c 5000 /dev/zero | busybox tr '\\0' x; exit 1", asked.clone()),
            ("writes", "echo log; echo file > /dev/termination-log; exit 1", asked.clone()),
            ("well", "echo log", asked),
            ("not-asked", "echo log; exit 1", json!({})),
        ], json!({})));
        let said = |n: usize| containers[n]["state"]["terminated"]["message"].as_str();
        // Both streams are read apart: what is last is what was written last only after a while.
        let lines = said(0).unwrap();
        assert_eq!((lines.lines().count(), lines.contains("broken"), lines.contains("100")), (80, true, true), "{lines}");
        assert_eq!(said(1), Some("x".repeat(2048).as_str()));
        assert_eq!([said(2), said(3), said(4)], [Some("file\n"), None, None]);
        delete(&magikrun);
    }
);

isolated!(
    fn each_run_of_a_container_begins_with_an_empty_file(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "n=$(busybox wc -l < /shared/n); echo x >> /shared/n; busybox cat /dev/termination-log; \
                      case $n in 0) echo first > /dev/termination-log; exit 1;; 1) exit 1;; 2) echo third > /dev/termination-log; exit 1;; *) exec busybox sleep 1000;; esac";
        let mounts = json!({"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]});
        let volumes = json!({"restartPolicy": "Always", "volumes": [{"name": "shared", "emptyDir": {}}],
            "initContainers": [{"name": "zero", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["busybox", "touch", "/shared/n"], "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}]});
        let file = magikrun.manifest(pod(&[("c", script, mounts)], volumes).to_string());
        magikrun.ok(&["pod", "run", "--max-restart-delay", "1", "-f", &file]);
        wait_for("the fourth run", || statuses(&magikrun)[0]["restartCount"] == 3);
        let own = magikrun.json(&["pod", "status", "p"]);
        let past = own["containers"][0]["past"].as_array().unwrap();
        let said: Vec<&Value> = past.iter().map(|run| &run["message"]).collect();
        assert_eq!(said, [&json!("first\n"), &Value::Null, &json!("third\n")]);
        assert_eq!(statuses(&magikrun)[0]["lastState"]["terminated"]["message"], "third\n");
        assert_eq!(magikrun.ok(&["pod", "logs", "p"]), "", "the file was empty each time");
        delete(&magikrun);
    }
);

isolated!(
    fn a_container_cannot_say_more_than_there_is_room_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        // More than its file may hold, and more than is read of it.
        let fill = "busybox head -c 9000000 /dev/zero 2>/dev/null | busybox tr '\\0' y > /dev/termination-log; \
                    busybox wc -c < /dev/termination-log";
        let one = ends(&magikrun, &pod(&[("one", fill, json!({}))], json!({})));
        let said = |container: &Value| container["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(said(&one[0]), "y".repeat(4096));
        let size: u64 = magikrun.ok(&["pod", "logs", "p"]).trim().parse().unwrap();
        assert_eq!(size, 1 << 20, "the file is no way to the host's memory");
        delete(&magikrun);
        // All of a pod together have 12 KiB, and what is cut is no broken character.
        let long = "i=0; while [ $i -lt 300 ]; do printf 'äöüß€€€€'; i=$((i+1)); done > /dev/termination-log";
        let names: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
        let many: Vec<(&str, &str, Value)> = names.iter().map(|name| (name.as_str(), long, json!({}))).collect();
        let all = ends(&magikrun, &pod(&many, json!({})));
        for container in &all {
            let said = said(container);
            assert!(said.len() <= 1536 && said.len() > 1530 && !said.contains('\u{fffd}'), "{said}");
        }
        delete(&magikrun);
        // The file is mounted: what takes its place is refused, and neither can it be read.
        let hostile = "busybox rm /dev/termination-log; busybox ln -sf /etc/passwd /dev/termination-log; busybox mv /dev/termination-log /dev/x; exit 0";
        let one = ends(&magikrun, &pod(&[("one", hostile, json!({}))], json!({})));
        assert_eq!(said(&one[0]), "");
        delete(&magikrun);
    }
);

isolated!(
    fn a_pod_with_users_of_its_own_and_one_with_shared_processes_say_it_too(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        for more in [
            json!({"hostUsers": true}), json!({"shareProcessNamespace": true}), json!({"hostPID": true}),
            json!({"securityContext": {"runAsUser": 12345, "runAsGroup": 5}}),
        ] {
            let script = "echo said > /dev/termination-log; exit 0";
            let one = ends(&magikrun, &pod(&[("one", script, json!({}))], more.clone()));
            assert_eq!(one[0]["state"]["terminated"]["message"], "said\n", "{more}");
            delete(&magikrun);
        }
    }
);

isolated!(
    fn a_webassembly_container_says_it_by_a_file_of_its_root(scene) {
        let magikrun = Magikrun::new(scene);
        let file = scene.dir().join("sh.wasm");
        std::fs::copy(shell_wasm().expect("shell"), &file).expect("module");
        let image = "localhost/sh:1";
        magikrun.ok(&["image", "load", "-q", "-i", file.to_str().unwrap(), "-t", image]);
        for (path, fields) in [
            ("/dev/termination-log", json!({})),
            ("/new/deep/why", json!({"terminationMessagePath": "/new/deep/why"})),
            ("/none", json!({"terminationMessagePolicy": "FallbackToLogsOnError"})),
        ] {
            let mut container = json!({"name": "c", "image": image, "imagePullPolicy": "Never",
                "args": ["-c", format!("echo said > {path}; echo logged; exit 3")]});
            container.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let manifest = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
                "restartPolicy": "Never", "runtimeClassName": "wasm", "containers": [container]}});
            let said = ends(&magikrun, &manifest)[0]["state"]["terminated"]["message"].clone();
            let expected = if path == "/none" { "logged\n" } else { "said\n" };
            assert_eq!(said, expected, "{path}");
            delete(&magikrun);
        }
    }
);
