//! Pods by the command line alone, as podman's users type it, and the commands that look at them.

use std::{fs, io::Read as _, net::TcpStream, process::Stdio, time::Duration};

use magikrun_tests::{BUSYBOX, Census, Magikrun, container, isolated, pod, wait_for};
use serde_json::{Value, json};

isolated!(
    fn a_pod_without_a_manifest_is_run_from_options(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let site = scene.dir().join("site");
        fs::create_dir(&site).unwrap();
        fs::write(site.join("index.html"), "from the host\n").unwrap();
        let volume = format!("{}:/page:ro", site.display());
        let other = format!(
            "client={BUSYBOX} -e 'WHO=a b' -- busybox sh -c 'echo \"I am $WHO\"; exec busybox sleep 1000'"
        );
        let args = [
            "pod", "run", "--name", "web", "-p", "127.0.0.1:18641:8080", "-v", &volume, "-m", "64m", "-l", "app=web",
            "--container", &other, BUSYBOX, "--", "busybox", "httpd", "-f", "-p", "8080", "-h", "/page",
        ];
        let dry: Vec<&str> = [&args[..2], &["--dry-run", "-o", "json"], &args[2..]].concat();
        let manifest: Value = serde_json::from_str(&magikrun.ok(&dry)).unwrap();
        assert_eq!(magikrun.pods(), [""; 0], "a dry run runs nothing");

        let id = magikrun.ok(&args);
        let pod = &magikrun.json(&["pod", "status", "web"]);
        assert_eq!(pod["id"], id.trim());
        assert_eq!(pod["labels"]["app"], "web");
        let names: Vec<&Value> = pod["containers"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
        assert_eq!(names, ["web", "client"]);
        let logged = || magikrun.ok(&["pod", "logs", "-c", "client", "web"]) == "I am a b\n";
        wait_for("the client's line", logged);
        let page = || {
            let mut page = String::new();
            let mut stream = TcpStream::connect("127.0.0.1:18641")?;
            std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut page)?;
            std::io::Result::Ok(page)
        };
        wait_for("the page", || page().is_ok_and(|page| page.ends_with("from the host\n")));
        let write = ["pod", "exec", "web", "--", "busybox", "touch", "/page/x"];
        assert_ne!(magikrun.run(&write).code, 0, "the volume is read-only");
        magikrun.ok(&["pod", "delete", "--force", "web"]);

        // What the dry run printed is the same pod.
        let file = magikrun.manifest(manifest.to_string());
        magikrun.ok(&["pod", "run", "-f", &file]);
        let same = &magikrun.json(&["pod", "inspect", "web"])[0];
        assert_eq!(same["spec"]["containers"][1]["env"][0]["value"]["text"], "a b");
        magikrun.ok(&["pod", "delete", "--force", "-f", &file]);
        before.assert_same("after the pods");
    }
);

isolated!(
    fn ports_of_a_pod_that_is_over_are_not_forwarded(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "until [ -e /go ]; do busybox sleep 0.05; done";
        magikrun.ok(&[
            "pod", "run", "--name", "web", BUSYBOX, "busybox", "sh", "-c", script,
        ]);
        let mut forward = magikrun.command(&["pod", "port-forward", "web", ":80"]);
        let forward = forward.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        magikrun.ok(&["pod", "exec", "web", "--", "busybox", "touch", "/go"]);
        let ended = forward.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains("pod default/web: it is over"), "{said}");
        let said = magikrun.error(&["pod", "port-forward", "web", ":80"]);
        assert!(said.contains("it is over, so nothing listens in it"), "{said}");
        magikrun.ok(&["pod", "delete", "web"]);
    }
);

isolated!(
    fn options_that_make_no_pod_leave_nothing(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let manifest = magikrun.manifest("kind: Pod");
        let before = Census::take(&magikrun.roots());
        for (args, code, says) in [
            (&["pod", "run"][..], 2, "give a manifest with -f FILE, or an IMAGE"),
            (&["pod", "run", "-p", "80", BUSYBOX], 2, "give it as [IP:]HOST:PORT"),
            (&["pod", "run", "-v", "/no/such:/data", BUSYBOX], 1, "/no/such: No such file or directory"),
            (&["pod", "run", &manifest], 2, "is a file, and no image: write -f"),
            (&["pod", "run", "-f", "x.yaml", BUSYBOX], 2, "write them into the file"),
            (&["pod", "run", "-o", "yaml", BUSYBOX], 2, "--dry-run"),
            (&["pod", "run", "--memory", "1", BUSYBOX], 1, "spec.containers[0].resources.limits.memory"),
            (&["pod", "run", "--container", "a", BUSYBOX], 2, "give it as 'NAME=IMAGE"),
            (&["pod", "run", "UPPER/CASE"], 1, "spec.containers[0].image"),
            (&["pod", "run", "--pull", "never", "localhost/none"], 1, "localhost/none"),
            (&["pod", "run", "--entrypoint", "/none", BUSYBOX], 1, "cannot execute /none"),
        ] {
            let ran = magikrun.run(args);
            assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
            assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
            assert_eq!(ran.stderr.lines().count(), 1, "{args:?}: {}", ran.stderr);
            assert_eq!(ran.stdout, "", "{args:?}");
        }
        before.assert_same("after the mistakes");
    }
);

isolated!(
    fn a_pod_that_is_attached_to_passes_on_what_it_writes(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let script = "echo out; echo err >&2; exit 3";
        let ran = magikrun.run(&["pod", "run", "--attach", "--rm", BUSYBOX, "--", "busybox", "sh", "-c", script]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (3, "out\n", "err\n"));

        let other = format!("b={BUSYBOX} -- busybox echo of b");
        let ran = magikrun.run(&[
            "pod", "run", "-a", "--rm", "--name", "a", "--container", &other, BUSYBOX, "busybox", "echo", "of a",
        ]);
        let mut lines: Vec<&str> = ran.stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!((ran.code, lines), (0, vec!["[a] of a", "[b] of b"]), "{}", ran.stderr);
        before.assert_same("after --rm");
    }
);

isolated!(
    fn a_pod_is_replaced_once_the_new_one_can_be_had(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let run = |more: &[&str]| magikrun.run(&[&["pod", "run", "--name", "web"], more].concat());
        let ids = || magikrun.ok(&["pod", "ls", "-q"]);
        let first = run(&[BUSYBOX, "busybox", "sleep", "1000"]);
        assert_eq!(first.code, 0, "{}", first.stderr);
        let taken = run(&[BUSYBOX, "busybox", "sleep", "1000"]);
        assert_eq!(taken.code, 1);
        assert!(taken.stderr.contains("--replace"), "{}", taken.stderr);

        // One that cannot be had takes nothing away.
        let failed = run(&["--replace", "localhost/none:1"]);
        assert_eq!(failed.code, 1, "{}", failed.stderr);
        assert_eq!(ids(), first.stdout);

        let second = run(&["--replace", BUSYBOX, "busybox", "sleep", "1000"]);
        assert_eq!(second.code, 0, "{}", second.stderr);
        assert_eq!(ids(), second.stdout);
        assert_ne!(first.stdout, second.stdout);
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);

isolated!(
    fn a_pod_that_is_replaced_goes_as_a_whole(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let before = Census::take(&magikrun.roots());
        let sleeps = |name: &str| container(name, BUSYBOX, "sleep 1000");
        let port = json!([{"containerPort": 80, "hostPort": 18080}]);
        let mut first = pod("web", &[sleeps("app"), sleeps("other")]);
        first["spec"]["initContainers"] = json!([sleeps("side")]);
        first["spec"]["initContainers"][0]["restartPolicy"] = json!("Always");
        first["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {"medium": "Memory"}}]);
        first["spec"]["containers"][1]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
        first["spec"]["containers"][1]["ports"] = port.clone();
        // It has less, and wants the same port of the host.
        let mut second = pod("web", &[sleeps("app")]);
        second["spec"]["containers"][0]["ports"] = port;
        let [first, second] = [first, second].map(|pod| magikrun.manifest(pod.to_string()));
        let id = magikrun.ok(&["pod", "run", "-q", "-f", &first]);
        magikrun.ok(&["pod", "run", "-q", "--replace", "-f", &second]);
        let now = format!("{:?}", Census::take(&magikrun.roots()));
        assert!(!now.contains(id.trim()), "{id} is in {now}");
        let status = magikrun.json(&["pod", "status", "web"]);
        assert_eq!(status["containers"].as_array().map(Vec::len), Some(1), "{status}");
        assert_eq!(status["initContainers"], json!([]));
        magikrun.ok(&["pod", "delete", "--force", "web"]);
        before.assert_same("after both pods");
    }
);

isolated!(
    fn who_waits_hears_of_the_end_and_of_the_deletion(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "trap 'exit 7' TERM; while :; do busybox sleep 0.05; done";
        magikrun.ok(&["pod", "run", "--name", "web", BUSYBOX, "busybox", "sh", "-c", script]);
        let late = magikrun.run(&["pod", "wait", "--timeout", "0.2", "web"]);
        assert_eq!(late.code, 1);
        assert!(late.stderr.contains("not over after 0.2 s"), "{}", late.stderr);

        let waiter = |args: &[&str]| {
            let mut command = magikrun.command(&[&["pod", "wait"], args].concat());
            command.stdout(Stdio::piped()).spawn().unwrap()
        };
        let (of_end, of_deletion) = (waiter(&["web"]), waiter(&["--for", "delete", "web"]));
        magikrun.ok(&["pod", "stop", "web"]);
        let of_end = of_end.wait_with_output().unwrap();
        let code = String::from_utf8(of_end.stdout).unwrap();
        assert!(of_end.status.success() && ["7\n", "137\n"].contains(&code.as_str()), "{code}");
        let mut of_deletion = of_deletion;
        std::thread::sleep(Duration::from_millis(100));
        assert!(of_deletion.try_wait().unwrap().is_none(), "a pod that has ended is not deleted");
        magikrun.ok(&["pod", "delete", "web"]);
        assert!(of_deletion.wait().unwrap().success());
        magikrun.ok(&["pod", "wait", "--for", "delete", "web"]);
        assert!(magikrun.error(&["pod", "wait", "web"]).contains("see 'magikrun pod ls'"));
        let nonsense = magikrun.run(&["pod", "wait", "--for", "condition=Ready", "web"]);
        assert_eq!(nonsense.code, 2);
        assert!(nonsense.stderr.contains("nothing to wait for"), "{}", nonsense.stderr);
    }
);

isolated!(
    fn who_attaches_later_sees_what_is_written_from_then_on(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        let script = "echo early; until [ -e /go ]; do busybox sleep 0.05; done; echo late; exit 4";
        magikrun.ok(&["pod", "run", "--name", "web", BUSYBOX, "busybox", "sh", "-c", script]);
        wait_for("the first line", || magikrun.ok(&["pod", "logs", "web"]) == "early\n");
        let mut attach = magikrun.command(&["pod", "attach", "web"]);
        let mut attached = attach.stdout(Stdio::piped()).spawn().unwrap();
        // The second line is not written before somebody follows the log.
        std::thread::sleep(Duration::from_millis(500));
        assert!(attached.try_wait().unwrap().is_none());
        magikrun.ok(&["pod", "exec", "web", "--", "busybox", "touch", "/go"]);
        let attached = attached.wait_with_output().unwrap();
        assert_eq!(attached.status.code(), Some(4));
        assert_eq!(String::from_utf8(attached.stdout).unwrap(), "late\n");
        let over = magikrun.run(&["pod", "attach", "web"]);
        assert_eq!(over.code, 125);
        assert!(over.stderr.contains("it is over: see 'magikrun pod logs'"), "{}", over.stderr);
        magikrun.ok(&["pod", "delete", "web"]);
    }
);

isolated!(
    fn a_pod_that_is_inspected_shows_what_it_was_run_with(scene) {
        let magikrun = Magikrun::with_busybox(scene);
        magikrun.ok(&["pod", "run", "--name", "web", "-e", "A=b", BUSYBOX, "busybox", "sleep", "1000"]);
        let pods = magikrun.json(&["pod", "inspect", "web"]);
        let pod = &pods[0];
        assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "A");
        assert_eq!(pod["status"]["phase"], "Running");
        let yaml = magikrun.ok(&["pod", "inspect", "-o", "yaml", "web"]);
        assert!(yaml.contains("phase: Running"), "{yaml}");
        assert!(magikrun.error(&["pod", "inspect", "other"]).contains("see 'magikrun pod ls'"));
        magikrun.ok(&["pod", "delete", "--force", "web"]);
    }
);
