//! Fields of a v1 Pod: what they say is so inside of the container, or it is said that it is not.

use magikrun_tests::{
    BUSYBOX, Census, Magikrun, Registry, busybox_layout, isolated, wait_for, without_place,
};
use serde_json::{Value, json};

/// A pod of one container that runs a shell script, with more of `spec` and of the container.
fn pod(script: &str, spec: Value, container: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "c", "image": BUSYBOX, "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
            }],
        },
    });
    merge(&mut pod["spec"], spec);
    merge(&mut pod["spec"]["containers"][0], container);
    pod
}

fn merge(into: &mut Value, more: Value) {
    let (Value::Object(into), Value::Object(more)) = (into, more) else {
        panic!("objects are wanted");
    };
    into.extend(more);
}

isolated!(
    fn ignored_fields_are_told_once_and_in_the_status(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut manifest = pod("sleep 1000", json!({
            "nodeSelector": {"disk": "ssd"}, "tolerations": [], "affinity": {"any": ["thing"]},
        }), json!({}));
        manifest["metadata"]["uid"] = "x".into();
        let file = magikrun.manifest(manifest.to_string());
        let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        let mut said: Vec<&str> = out.stderr.lines().collect();
        said.sort_unstable();
        let note = |field: &str, why: &str| format!("magikrun: {file}: note: {field} changes nothing: {why}");
        let scheduler = "a scheduler reads it, and there is one host";
        assert_eq!(said, [
            note("metadata.uid", "it is what a cluster reports"),
            note("spec.affinity", scheduler),
            note("spec.nodeSelector", scheduler),
        ]);
        let status = magikrun.json(&["pod", "status", "p"]);
        let ignored = status["ignored"].as_array().expect("ignored fields");
        assert_eq!(ignored.len(), 3, "{ignored:?}");
        assert!(ignored.contains(&json!({"field": "spec.nodeSelector", "why": scheduler})), "{ignored:?}");
        magikrun.ok(&["pod", "delete", "--force", "p"]);
    }
);

isolated!(
    fn ignored_fields_are_mistakes_where_that_is_asked_for(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let file = magikrun.manifest(pod("true", json!({"nodeName": "a", "priority": 1}), json!({})).to_string());
        let line = |field: &str| format!(
            "magikrun: {file}: spec.{field}: changes nothing: a scheduler reads it, and there is one host: \
             remove it, or leave --strict out"
        );
        for command in ["run", "validate"] {
            let out = magikrun.run(&["pod", command, "--strict", "-f", &file]);
            let mut said: Vec<&str> = out.stderr.lines().collect();
            said.sort_unstable();
            assert_eq!((out.code, said), (1, vec![line("nodeName").as_str(), &line("priority")]), "{command}");
        }
        let report = magikrun.run(&["pod", "validate", "--strict", "-o", "json", "-f", &file]);
        let report: Value = serde_json::from_str(&report.stdout).expect("JSON");
        assert_eq!((&report[0]["pod"], report[0]["errors"].as_array().map(Vec::len)), (&Value::Null, Some(2)));
        assert_eq!(magikrun.pods(), [""; 0]);
    }
);

/// Runs a pod to its end, and returns what its container wrote.
#[track_caller]
fn output(magikrun: &Magikrun, pod: &Value) -> String {
    let file = magikrun.manifest(pod.to_string());
    let out = magikrun.run(&["pod", "run", "-q", "--attach", "--rm", "-f", &file]);
    assert_eq!(out.code, 0, "{}{}", out.stdout, out.stderr);
    out.stdout
}

/// Runs a pod that must be refused, and returns what is said without the file's name.
#[track_caller]
fn refused(magikrun: &Magikrun, pod: &Value) -> String {
    let file = magikrun.manifest(pod.to_string());
    let out = magikrun.run(&["pod", "run", "-q", "-f", &file]);
    assert_ne!(out.code, 0, "{}", out.stdout);
    assert_eq!(magikrun.pods(), [""; 0]);
    without_place(&out.stderr).replace(&format!("magikrun: {file}: "), "")
}

isolated!(
    fn names_and_dns_are_those_of_a_kubelet(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "busybox hostname; echo $HOSTNAME; busybox cat /etc/hostname; \
                      busybox grep p.sub /etc/hosts; busybox cat /etc/resolv.conf";
        let said = output(&magikrun, &pod(script, json!({
            "subdomain": "sub", "setHostnameAsFQDN": true, "dnsPolicy": "None",
            "dnsConfig": {
                "nameservers": ["192.0.2.53"], "searches": ["a.example", "b.example."],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
            },
        }), json!({})));
        let name = "p.sub.default.svc.cluster.local";
        assert_eq!(said, format!(
            "{name}\n{name}\n{name}\n127.0.1.1\t{name}\tp\n\
             search a.example b.example.\nnameserver 192.0.2.53\noptions ndots:2 edns0\n"
        ));
        // The whole name, whatever else is said of it.
        let script = "busybox hostname; busybox cat /etc/hostname; busybox tail -n 1 /etc/hosts";
        let said = output(&magikrun, &pod(script, json!({
            "hostname": "h", "subdomain": "sub", "hostnameOverride": "web.example.org",
        }), json!({})));
        assert_eq!(said, "web.example.org\nweb.example.org\n127.0.1.1\tweb.example.org\n");
        // Without the longer name, and with what the host has.
        let of_host = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let said = output(&magikrun, &pod("busybox hostname; busybox cat /etc/resolv.conf", json!({"subdomain": "sub"}), json!({})));
        let expected = format!("p\n{of_host}");
        if !of_host.contains("nameserver 127.") {
            assert_eq!(said, expected);
        }
        let said = output(&magikrun, &pod("busybox tail -n 1 /etc/resolv.conf", json!({
            "dnsPolicy": "Default", "dnsConfig": {"options": [{"name": "rotate"}]},
        }), json!({})));
        assert!(said.starts_with("options ") && said.ends_with("rotate\n"), "{said}");
    }
);

isolated!(
    fn a_pod_sets_sysctls_of_its_own_namespaces_and_no_others(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("a sysctl");
        let set = |list: &[(&str, &str)]| {
            let list: Vec<Value> = list.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
            json!({"securityContext": {"sysctls": list}})
        };
        let safe = set(&[("net.ipv4.ip_unprivileged_port_start", "81"), ("kernel/shm_rmid_forced", "1")]);
        let script = "busybox cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced";
        for users in [json!({"hostUsers": true}), json!({})] {
            let mut spec = safe.clone();
            merge(&mut spec, users);
            assert_eq!(output(&magikrun, &pod(script, spec, json!({}))), "81\n1\n");
        }
        let after = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("a sysctl");
        assert_eq!(after, before, "the host has its own");

        let path = "spec.securityContext.sysctls[0].name: ";
        let unsafe_one = set(&[("net.ipv4.tcp_max_syn_backlog", "77")]);
        let said = refused(&magikrun, &pod("true", unsafe_one.clone(), json!({})));
        assert!(said.starts_with(path) && said.contains("allowed-unsafe-sysctls"), "{said}");
        let said = refused(&magikrun, &pod("true", set(&[("vm.swappiness", "1")]), json!({})));
        assert!(said.starts_with(path) && said.contains("the whole host's"), "{said}");
        let mut on_host = safe;
        merge(&mut on_host, json!({"hostNetwork": true}));
        let said = refused(&magikrun, &pod("true", on_host, json!({})));
        assert!(said.starts_with(path) && said.contains("the host's with hostNetwork"), "{said}");

        let file = magikrun.manifest(pod("busybox cat /proc/sys/net/ipv4/tcp_max_syn_backlog", unsafe_one, json!({})).to_string());
        let mut command = magikrun.command(&["pod", "run", "-q", "--attach", "--rm", "-f", &file]);
        let out = command.env("MAGIKRUN_ALLOWED_UNSAFE_SYSCTLS", "net.ipv4.tcp_max*").output().expect("magikrun");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "77\n", "{}", String::from_utf8_lossy(&out.stderr));
    }
);

isolated!(
    fn volumes_of_the_pod_get_its_group_and_those_of_the_host_do_not(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let of_host = scene.dir().join("of-host");
        std::fs::create_dir(&of_host).expect("a directory");
        let script = "busybox stat -c '%g %a' /disk /memory /host; busybox touch /disk/f /memory/f; \
                      busybox stat -c '%u %g' /disk/f /memory/f; busybox id -G; \
                      busybox stat -L -c %g /told/name; busybox cat /told/name";
        let mount = |name: &str| json!({"name": name, "mountPath": format!("/{name}")});
        for users in [json!({"hostUsers": true}), json!({})] {
            let mut spec = json!({
                "securityContext": {"fsGroup": 2000, "fsGroupChangePolicy": "OnRootMismatch", "runAsUser": 1000, "runAsGroup": 1000},
                "volumes": [
                    {"name": "disk", "emptyDir": {}},
                    {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
                    {"name": "host", "hostPath": {"path": of_host}},
                    {"name": "told", "downwardAPI": {"defaultMode": 256, "items": [
                        {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}},
                    ]}},
                ],
            });
            merge(&mut spec, users);
            let container = json!({"volumeMounts": [mount("disk"), mount("memory"), mount("host"), mount("told")]});
            let said = output(&magikrun, &pod(script, spec, container));
            assert_eq!(said, "2000 2777\n2000 2777\n0 755\n1000 2000\n1000 2000\n1000 2000\n2000\np\n");
        }
    }
);

/// Command lines that have this word.
fn processes_with(word: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines
        .filter(|line| line.split(' ').any(|other| other == word))
        .collect()
}

isolated!(
    fn a_pod_of_the_hosts_processes_sees_them_and_not_into_its_init(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let ours = std::process::id();
        // Its init is root's, as the container's program is, and has the pod's state directory open.
        let script = "echo $(busybox cat /proc/$OURS/comm | busybox wc -l) > /dev/null; \
            busybox sleep 1000 & \
            for pid in $(busybox pidof magikrun-init magikrun-engine); do \
              busybox ls /proc/$pid/root/ > /dev/null 2>&1 && echo reached $pid; \
              busybox cat /proc/$pid/environ > /dev/null 2>&1 && echo read $pid; \
              busybox ls /proc/$pid/fd/5/ > /dev/null 2>&1 && echo opened $pid; \
            done; \
            busybox kill -0 $OURS && echo sees; busybox kill -0 $$$$ && echo itself; exec busybox sleep 1000";
        let mut manifest = pod(script, json!({"hostPID": true}), json!({
            "env": [{"name": "OURS", "value": ours.to_string()}],
        }));
        manifest["spec"]["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["NET_ADMIN"]}});
        let file = magikrun.manifest(manifest.to_string());
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        wait_for("what it sees", || magikrun.ok(&["pod", "logs", "p"]).ends_with("itself\n"));
        assert_eq!(magikrun.ok(&["pod", "logs", "p"]), "sees\nitself\n");
        let pids = magikrun.ok(&["pod", "exec", "p", "--", "busybox", "pidof", "magikrun-init"]);
        let init: u32 = pids.trim().parse().expect("one init");
        assert!(std::path::Path::new(&format!("/proc/{init}")).exists(), "the same pids as here");
        let inside = magikrun.run(&["pod", "exec", "p", "--", "busybox", "ls", &format!("/proc/{init}/root/")]);
        assert_ne!(inside.code, 0, "{}", inside.stdout);

        // It ends with all that it has begun, also by a signal to its init that nothing can catch.
        magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
        magikrun.ok(&["pod", "delete", "p"]);
        before.assert_same("once the pod is deleted");
        magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        let pids = magikrun.ok(&["pod", "exec", "p", "--", "busybox", "pidof", "magikrun-init"]);
        let init = rustix::process::Pid::from_raw(pids.trim().parse().expect("one init")).expect("a pid");
        rustix::process::kill_process(init, rustix::process::Signal::KILL).expect("kill");
        wait_for("its end", || magikrun.json(&["pod", "status", "p"])["reason"] == "InitDied");
        magikrun.ok(&["pod", "delete", "p"]);
        before.assert_same("once the pod is deleted");

        // What belongs to somebody else than root keeps its root and its memory, also from its own user in the pod.
        let mut victim = std::os::unix::process::CommandExt::uid(
            std::process::Command::new("sleep").arg("1000"), 1234,
        ).spawn().expect("sleep");
        let look = "busybox ls /proc/$OURS/root/ && busybox cat /proc/$OURS/environ; busybox ls /proc/self/root/ > /dev/null && echo itself";
        for user in [1234, 0] {
            let more = json!({"hostPID": true, "restartPolicy": "Never"});
            let manifest = pod(look, more, json!({
                "env": [{"name": "OURS", "value": victim.id().to_string()}], "securityContext": {"runAsUser": user},
            }));
            assert_eq!(output(&magikrun, &manifest), "itself\n", "{user}");
        }
        victim.kill().expect("a child");
        victim.wait().expect("a child");
        // What it has left in the background, and forks on, is gone before its status says that it is over.
        let script = "f() { busybox sleep 0.01; f & }; for i in 1 2 3 4 5 6 7 8; do f & done; busybox sleep 1077 & exit 0";
        let more = json!({"hostPID": true, "restartPolicy": "Never"});
        let file = magikrun.manifest(pod(script, more, json!({})).to_string());
        magikrun.ok(&["pod", "run", "-q", "--wait", "-f", &file]);
        let left = processes_with("1077");
        assert_eq!(left, [""; 0]);
        magikrun.ok(&["pod", "delete", "p"]);
        before.assert_same("once the pod is deleted");

        for (with, said) in [
            (json!({"shareProcessNamespace": true}), "cannot both be enabled"),
            (json!({"hostUsers": false}), "cannot be true when hostUsers is false"),
            (json!({"runtimeClassName": "wasm"}), "spec.hostPID: not supported"),
            (json!({"runtimeClassName": "microvm"}), "spec.hostPID: not supported"),
        ] {
            let mut spec = json!({"hostPID": true});
            merge(&mut spec, with);
            let answer = refused(&magikrun, &pod("true", spec, json!({})));
            assert!(answer.contains(said), "{answer}");
        }
    }
);

isolated!(
    fn a_pod_of_the_hosts_ipc_has_its_message_queues_and_shared_memory(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let namespace = std::fs::read_link("/proc/self/ns/ipc").expect("a namespace");
        let file = std::path::Path::new("/dev/shm").join(format!("magikrun-test-{}", std::process::id()));
        std::fs::write(&file, "from the host").expect("shared memory");
        let script = format!("busybox readlink /proc/self/ns/ipc; busybox cat {}", file.display());
        let said = output(&magikrun, &pod(&script, json!({"hostIPC": true}), json!({})));
        let own = output(&magikrun, &pod("busybox readlink /proc/self/ns/ipc", json!({}), json!({})));
        std::fs::remove_file(&file).expect("remove");
        assert_eq!(said, format!("{}\nfrom the host\n", namespace.display()));
        assert_ne!(own.trim(), namespace.display().to_string());
    }
);

isolated!(
    fn what_is_killed_first_and_what_is_weighed_follows_requests(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").expect("a score").trim().parse().expect("a number");
        let score = |resources: Value| -> (i32, Value) {
            let file = magikrun.manifest(pod("busybox cat /proc/self/oom_score_adj; exec busybox sleep 1000", json!({}), json!({"resources": resources})).to_string());
            magikrun.ok(&["pod", "run", "-q", "-f", &file]);
            wait_for("its score", || magikrun.ok(&["pod", "logs", "p"]).ends_with('\n'));
            let score = magikrun.ok(&["pod", "logs", "p"]).trim().parse().expect("a number");
            let status: Value = serde_json::from_str(&magikrun.ok(&["pod", "status", "p", "-o", "json"])).expect("JSON");
            magikrun.ok(&["pod", "delete", "--force", "p"]);
            (score, status["status"]["qosClass"].clone())
        };
        assert_eq!(score(json!({})), (1000, "BestEffort".into()));
        let guaranteed = json!({"limits": {"cpu": "100m", "memory": "32Mi"}});
        assert_eq!(score(guaranteed), (own.max(-997), "Guaranteed".into()));
        let (burstable, class) = score(json!({"requests": {"memory": "64Mi"}}));
        assert!(burstable > own.max(2) && burstable < 1000, "{burstable}");
        assert_eq!(class, "Burstable");
    }
);

isolated!(
    fn limits_of_a_pod_hold_for_its_containers_together(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let spec = json!({
            "resources": {"limits": {"memory": "32Mi", "cpu": "1"}},
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
        });
        // 64 MiB of shared memory, which no container of its own limits.
        let script = "exec busybox dd if=/dev/zero of=/memory/f bs=1M count=64";
        let container = json!({"volumeMounts": [{"name": "memory", "mountPath": "/memory"}]});
        for (limit, killed) in [("32Mi", true), ("128Mi", false)] {
            let mut spec = spec.clone();
            spec["resources"]["limits"]["memory"] = limit.into();
            let file = magikrun.manifest(pod(script, spec, container.clone()).to_string());
            magikrun.ok(&["pod", "run", "-q", "-f", &file]);
            magikrun.run(&["pod", "wait", "p"]);
            let status = magikrun.json(&["pod", "status", "p"]);
            let exit = &status["containers"][0]["state"]["exit"];
            assert_eq!(exit["code"] == 137, killed, "{limit}: {status}");
            magikrun.ok(&["pod", "delete", "p"]);
        }
    }
);

isolated!(
    fn ephemeral_storage_is_taken_and_told(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let resources = json!({"limits": {"ephemeral-storage": "1Gi"}, "requests": {"ephemeral-storage": "1Gi"}});
        let file = magikrun.manifest(pod("true", json!({}), json!({"resources": resources})).to_string());
        let out = magikrun.run(&["pod", "validate", "-o", "json", "-f", &file]);
        let report: Value = serde_json::from_str(&out.stdout).expect("JSON");
        let fields: Vec<&Value> = report[0]["ignored"].as_array().expect("a list").iter().map(|i| &i["field"]).collect();
        let path = "spec.containers[0].resources";
        assert_eq!(fields, [&format!("{path}.limits.ephemeral-storage"), &format!("{path}.requests.ephemeral-storage")]);
        assert_eq!(out.code, 0);
    }
);

isolated!(
    fn a_status_is_a_v1_pod(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let mut manifest = pod("exec busybox sleep 1000", json!({
            "nodeSelector": {"a": "b"},
            "initContainers": [{"name": "i", "image": BUSYBOX, "imagePullPolicy": "Never", "command": ["busybox", "true"]}],
        }), json!({"env": [{"name": "A", "value": "x$(B)"}]}));
        manifest["metadata"]["labels"] = json!({"app": "web"});
        manifest["metadata"]["annotations"] = json!({"example.com/a": "b"});
        let file = magikrun.manifest(manifest.to_string());
        let id = magikrun.ok(&["pod", "run", "-q", "-f", &file]);
        let print = |form: &str| magikrun.ok(&["pod", "status", "p", "-o", form]);
        let pod: Value = serde_json::from_str(&print("json")).expect("JSON");
        assert_eq!((&pod["kind"], &pod["apiVersion"]), (&json!("Pod"), &json!("v1")));
        assert_eq!(pod["metadata"]["uid"], id.trim());
        assert_eq!(pod["metadata"]["labels"], json!({"app": "web"}));
        assert_eq!(pod["metadata"]["annotations"], json!({"example.com/a": "b"}));
        assert_eq!(pod["spec"]["containers"], manifest["spec"]["containers"], "as it was given");
        assert_eq!(pod["spec"]["nodeSelector"], Value::Null);
        let status = &pod["status"];
        assert_eq!(status["phase"], "Running");
        let met: Vec<&Value> = status["conditions"].as_array().expect("conditions").iter().map(|c| &c["status"]).collect();
        assert_eq!(met, ["True"; 5]);
        let container = &status["containerStatuses"][0];
        assert_eq!((&container["ready"], &container["restartCount"]), (&json!(true), &json!(0)));
        assert!(container["imageID"].as_str().is_some_and(|id| id.starts_with("sha256:")), "{container}");
        assert_eq!(status["initContainerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
        // What was printed can be run again: what it reports changes nothing.
        magikrun.ok(&["pod", "delete", "--force", "p"]);
        let again = magikrun.manifest(print_of(&pod));
        let out = magikrun.run(&["pod", "run", "-q", "-f", &again]);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert!(out.stderr.contains("note: status changes nothing"), "{}", out.stderr);
        magikrun.ok(&["pod", "stop", "-t", "0", "p"]);
        let yaml = print("yaml");
        assert!(yaml.contains("phase: Succeeded") || yaml.contains("phase: Failed"), "{yaml}");
        magikrun.ok(&["pod", "delete", "p"]);
    }
);

fn print_of(pod: &Value) -> String {
    serde_json::to_string_pretty(pod).expect("JSON")
}

isolated!(
    fn images_are_pulled_with_the_credentials_of_secrets(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let registry = Registry::with_password(&scene.dir().join("registry"), 5000);
        let source = busybox_layout(&scene.dir().join("private")).reference(BUSYBOX);
        let name = "127.0.0.1:5000/private:1";
        magikrun.ok(&["image", "push", "--creds", "magik:secret", &source, name]);
        let mut private = pod("echo pulled", json!({"imagePullSecrets": [{"name": "pull"}]}), json!({
            "image": name, "imagePullPolicy": "Always",
        }));
        let config = |password: &str| json!({"auths": {"127.0.0.1:5000": {"username": "magik", "password": password}}});
        let secret = |config: Value| json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pull"},
            "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config.to_string()},
        });
        let run = |documents: &[&Value]| {
            let text: Vec<String> = documents.iter().map(|document| format!("---\n{document}\n")).collect();
            let file = magikrun.manifest(text.concat());
            let args = ["pod", "run", "-q", "--attach", "--rm", "--tls-verify=false", "-f", &file];
            magikrun.run(&args)
        };
        let out = run(&[&secret(config("secret")), &private]);
        assert_eq!((out.code, out.stdout.as_str()), (0, "pulled\n"), "{}", out.stderr);
        let out = run(&[&secret(config("wrong")), &private]);
        assert!(out.code == 125 && out.stderr.contains("unauthorized"), "{}", out.stderr);
        // Without the Secret that is said, and nothing is known of the registry.
        let out = run(&[&private]);
        assert!(out.stderr.contains("spec.imagePullSecrets[0] changes nothing"), "{}", out.stderr);
        assert!(out.code == 125 && out.stderr.contains("unauthorized"), "{}", out.stderr);
        private["spec"]["imagePullSecrets"][0]["name"] = "other".into();
        let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "other"}, "stringData": {"a": "b"}});
        let out = run(&[&other, &private]);
        assert!(out.code == 125 && out.stderr.contains("is not of the type"), "{}", out.stderr);
        drop(registry);
    }
);
