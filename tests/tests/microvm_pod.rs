//! A real pod in a virtual machine, from the command line: nginx and redis out of Debian packages, as the native pod of
//! `debian_pod.rs`, then a pod that does its worst.

use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use magik_infra::MAX_EXECS;
use magikrun_test_world::cgroup_file;
use magikrun_tests::{
    BUSYBOX, Census, MachinePart, Magikrun, PATIENCE, busybox_layout, container, has_machines, isolated, pod,
    redis_nginx_layout, wait_for,
};
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::json;

/// As a user would write it.
fn manifest(image: &dyn Fn(&str) -> String) -> String {
    format!(
        r#"
apiVersion: v1
kind: Pod
metadata:
  name: shop
  labels: {{app: shop}}
spec:
  runtimeClassName: microvm
  restartPolicy: Never
  terminationGracePeriodSeconds: 10
  volumes:
    - name: www
      emptyDir: {{}}
  initContainers:
    - name: write-page
      image: {client}
      command: [sh, -c, "echo \"hello from $WHO\" > /www/index.html"]
      env:
        - name: WHO
          value: the init container
      volumeMounts:
        - name: www
          mountPath: /www
  containers:
    - name: nginx
      image: {nginx}
      ports:
        - containerPort: 8080
      resources:
        limits: {{memory: 128Mi, cpu: "1"}}
      volumeMounts:
        - name: www
          mountPath: /srv/www
          readOnly: true
    - name: redis
      image: {redis}
      resources:
        limits: {{memory: 128Mi}}
    - name: client
      image: {client}
      # A shell that is PID 1 and has no trap ignores SIGTERM: it is the one that stop has to kill.
      command: [sh, -c, "while :; do echo tick; busybox sleep 1; done"]
"#,
        client = image("client"),
        nginx = image("nginx"),
        redis = image("redis"),
    )
}

/// `pod exec` in the client's container.
fn in_client<'a>(args: &[&'a str]) -> Vec<&'a str> {
    [&["pod", "exec", "-c", "client", "shop", "--"], args].concat()
}

/// Asks until the server is up: it answers some time after it was started.
fn eventually(magikrun: &Magikrun, args: &[&str], expected: &str) {
    let begun = Instant::now();
    loop {
        let out = magikrun.run(args);
        if out.code == 0 && out.stdout == expected {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{args:?}: {out:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// `pod exec -it` on a terminal whose size changes while a shell runs there.
fn shell_on_a_terminal_that_is_resized(magikrun: &Magikrun) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("openpt");
    grantpt(&master).expect("grantpt");
    unlockpt(&master).expect("unlockpt");
    let name = ptsname(&master, Vec::new()).expect("ptsname");
    let slave = fs::File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("UTF-8"))
        .expect("the terminal");
    tcsetwinsize(&slave, size(30, 100)).expect("a size");
    // The terminal is the command's own: a change of its size is told to it.
    let mut command = Command::new("setsid");
    let magikrun = magikrun.command(&["pod", "exec", "-it", "-c", "client", "shop", "--", "sh"]);
    command
        .args(["--ctty", "--wait"])
        .arg(magikrun.get_program())
        .args(magikrun.get_args())
        .envs(
            magikrun
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdin(slave.try_clone().expect("a descriptor"))
        .stdout(slave.try_clone().expect("a descriptor"))
        .stderr(slave);
    let mut child = command.spawn().expect("setsid");
    drop(command);
    let mut master = fs::File::from(master);
    let mut reader = master.try_clone().expect("a descriptor");
    let said = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let heard = said.clone();
    let reading = std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        // EIO, once nobody has the terminal open any more, is its end.
        while let Ok(n @ 1..) = reader.read(&mut buffer) {
            heard
                .lock()
                .expect("lock")
                .push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    });
    let says = |what: &str| said.lock().expect("lock").contains(what);
    wait_for("the prompt", || says("$") || says("#"));
    master.write_all(b"busybox stty size\n").expect("typed");
    wait_for("the first size", || says("30 100"));
    tcsetwinsize(&master, size(40, 120)).expect("a size");
    wait_for("the new size", || {
        master.write_all(b"busybox stty size\n").expect("typed");
        std::thread::sleep(Duration::from_millis(300));
        says("40 120")
    });
    master.write_all(b"exit 7\n").expect("typed");
    let status = child.wait().expect("wait");
    reading.join().expect("reader");
    assert_eq!(status.code(), Some(7), "{}", said.lock().expect("lock"));
}

isolated!(
    fn debian_nginx_and_redis_run_as_a_pod_in_a_machine(scene) {
        if !has_machines(scene.dir()) {
            return;
        }
        let magikrun = Magikrun::new(scene);
        let layout = redis_nginx_layout(&scene.dir().join("layout"));
        let text = manifest(&|image| layout.reference(image));
        let file = magikrun.manifest(&text);
        let native = magikrun.manifest(text.replace("microvm", "native"));
        // Layers are unpacked for the first pod that needs them, natively here, and stay: they are the store's.
        magikrun.ok(&["pod", "run", "-f", &native]);
        magikrun.ok(&["pod", "delete", "--force", "shop"]);
        let before = Census::take(&magikrun.roots());

        magikrun.ok(&["pod", "run", "-f", &file]);
        let status = magikrun.json(&["pod", "status", "shop"]);
        assert_eq!((status["phase"].as_str(), status["runtimeClass"].as_str()), (Some("Running"), Some("microvm")), "{status}");
        assert_eq!(status["initContainers"][0]["state"]["exit"]["code"], 0, "{status}");
        let following = magikrun.command(&["pod", "logs", "-f", "-c", "client", "shop"]).stdout(Stdio::piped()).spawn().expect("logs");
        eventually(&magikrun, &in_client(&["curl", "-sf", "http://localhost:8080/"]), "hello from the init container\n");
        eventually(&magikrun, &in_client(&["redis-cli", "-h", "127.0.0.1", "PING"]), "PONG\n");
        assert_eq!(magikrun.run(&in_client(&["redis-cli", "SET", "key", "value"])).stdout, "OK\n");
        assert_eq!(magikrun.run(&in_client(&["redis-cli", "GET", "key"])).stdout, "value\n");

        assert_eq!(magikrun.run(&in_client(&["sh", "-c", "exit 42"])).code, 42);
        assert_eq!(magikrun.run(&in_client(&["curl", "-sf", "http://localhost:8080/none"])).code, 22, "curl's own exit code");
        assert_eq!(magikrun.run(&in_client(&["no-such-program"])).code, 127);
        shell_on_a_terminal_that_is_resized(&magikrun);
        let access_log = magikrun.ok(&["pod", "logs", "-c", "nginx", "shop"]);
        assert!(access_log.contains("GET / HTTP/1.1\" 200"), "{access_log}");
        let redis_log = magikrun.ok(&["pod", "logs", "-c", "redis", "shop"]);
        assert!(redis_log.contains("Ready to accept connections"), "{redis_log}");
        let user = magikrun.ok(&["pod", "exec", "-c", "redis", "shop", "--", "busybox", "id", "-u"]);
        assert_eq!(user, "101\n", "the image's user");
        // The limit is the guest's, on cgroup v2.
        let processes = magikrun.json(&["pod", "top", "-c", "redis", "shop"]);
        assert_eq!((&processes[0]["pid"], &processes[0]["uid"]), (&1.into(), &101.into()), "{processes}");
        let stats = magikrun.json(&["pod", "stats", "shop"]);
        let text = stats.to_string();
        assert!(["nginx", "redis", "client"].iter().all(|c| text.contains(c)), "{text}");
        assert!(text.contains(&(128 << 20).to_string()), "the memory limits: {text}");

        magikrun.ok(&["pod", "stop", "-t", "8", "shop"]);
        let followed = following.wait_with_output().expect("logs -f ends with the pod");
        assert!(String::from_utf8_lossy(&followed.stdout).starts_with("tick\ntick\n"), "{followed:?}");
        let status = magikrun.json(&["pod", "status", "shop"]);
        let exit = |name: &str| {
            let containers = status["containers"].as_array().expect("containers");
            containers.iter().find(|c| c["name"] == name).expect(name)["state"]["exit"].clone()
        };
        // Redis and nginx end by themselves on SIGTERM, within the grace period; the client has to be killed.
        assert_eq!((exit("redis")["code"].as_i64(), exit("nginx")["code"].as_i64()), (Some(0), Some(0)), "{status}");
        assert_eq!((exit("client")["code"].as_i64(), exit("client")["signal"].as_i64()), (Some(137), Some(9)), "{status}");
        magikrun.ok(&["pod", "delete", "shop"]);
        assert_eq!(magikrun.pods(), Vec::<String>::new());
        before.assert_same("after delete");
    }
);

/// Everything below a directory, and what it holds.
fn contents(dir: &std::path::Path) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .flatten()
        .map(|e| {
            (
                e.file_name().display().to_string(),
                fs::read_to_string(e.path()).unwrap_or_default(),
            )
        })
        .collect();
    all.sort();
    all
}

isolated!(
    fn a_pod_that_does_its_worst_harms_nobody_but_itself(scene) {
        if !has_machines(scene.dir()) {
            return;
        }
        let magikrun = Magikrun::new(scene);
        let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
        magikrun.ok(&["image", "pull", &source]);
        magikrun.pod_run(&pod("warm-up", &[container("c", BUSYBOX, "sleep 100")]));
        magikrun.ok(&["pod", "delete", "--force", "warm-up"]);
        // The host's own, beside what is shared.
        let (shared, private) = (scene.dir().join("shared"), scene.dir().join("private"));
        for dir in [&shared, &private] {
            fs::create_dir(dir).expect("a directory");
        }
        fs::write(private.join("secret"), "the host's").expect("a file");
        let private_before = contents(&private);
        let before = Census::take(&magikrun.roots());

        let mut manifest = pod("worst", &[
            container("c", BUSYBOX, "echo ready; sleep 10000"),
            container("flood", BUSYBOX, "yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 30000000; echo; echo the end; sleep 10000"),
            container("eater", BUSYBOX, "dd if=/dev/zero of=/dev/null bs=100M count=1"),
        ]);
        manifest["spec"]["containers"][2]["resources"] = json!({"limits": {"memory": "32Mi"}});
        manifest["spec"]["runtimeClassName"] = json!("microvm");
        manifest["spec"]["volumes"] = json!([{"name": "shared", "hostPath": {"path": shared, "type": "Directory"}}]);
        manifest["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "shared", "mountPath": "/data"}]);
        let run = magikrun.pod_run(&manifest);
        assert_eq!(run.code, 0, "{}", run.stderr);

        // Two containers that say nothing of memory, one of 32 MiB, the guest, the monitor; on the host, whatever its cgroups.
        let qemu = MachinePart::Qemu.pids()[0].as_raw_nonzero().get().unsigned_abs();
        let limit = cgroup_file(qemu.into(), "memory", "memory.limit_in_bytes", "memory.max").expect("the limit");
        assert_eq!(limit.trim(), ((2 * 128 + 32 + 128 + 256_u64) << 20).to_string(), "the monitor's limit");
        // Its own limit is the guest's to keep; what came of it is told as on the host.
        wait_for("the end of the eater", || {
            let status = magikrun.json(&["pod", "status", "worst"]);
            let exit = &status["containers"][2]["state"]["exit"];
            assert!(exit.is_null() || exit["oomKilled"] == true, "{status}");
            !exit.is_null()
        });

        // Links out of the share lead nowhere but into the container.
        let secret = private.join("secret");
        let in_c = |script: &str| magikrun.run(&["pod", "exec", "-c", "c", "worst", "--", "sh", "-c", script]);
        let script = format!(
            "cd /data; echo mine > own; ln -s {} absolute; ln -s ../private/secret relative; ln -s / root; ln -s .. up; \
             for link in absolute relative root{} up/private/secret; do cat $link 2>/dev/null; echo x >$link; done; ls up",
            secret.display(), secret.display(),
        );
        let out = in_c(&script);
        assert!(!out.stdout.contains("the host's") && !out.stdout.contains("private"), "{out:?}");
        assert_eq!(contents(&private), private_before, "the host's files are as they were");
        assert_eq!(fs::read_to_string(shared.join("own")).expect("own"), "mine\n", "the share works");
        // A device made there is none: neither for the guest nor for the host.
        in_c("mknod /data/mem c 1 1; chmod 666 /data/mem");
        assert!(fs::symlink_metadata(shared.join("mem")).is_err(), "no device is made on the host");

        // More processes than may be: those beyond are refused in one line, and the others go on.
        let mut many: Vec<_> = (0..MAX_EXECS + 4).map(|_| {
            magikrun.command(&["pod", "exec", "-c", "c", "worst", "--", "sleep", "1000"])
                .stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("exec")
        }).collect();
        let mut refused = vec![];
        wait_for("the refusal of the last", || {
            let ended = many.extract_if(.., |child| child.try_wait().expect("wait").is_some());
            refused.extend(ended.map(|child| child.wait_with_output().expect("exec")));
            refused.len() == 4
        });
        for out in &refused {
            let said = String::from_utf8_lossy(&out.stderr);
            assert!(said.lines().count() == 1 && said.contains(&MAX_EXECS.to_string()), "{said}");
        }
        for child in &mut many {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
        drop(many);
        wait_for("the end of what was executed", || {
            let out = in_c("true");
            out.code == 0
        });
        // Output that nobody reads in time waits in the guest; it comes whole to who reads it.
        let out = in_c("yes | head -c 3000000");
        assert_eq!((out.code, out.stdout.len()), (0, 3_000_000));

        // The log that is kept is bounded, whatever was written, and ends with what was written last.
        wait_for("the end of the flood", || magikrun.ok(&["pod", "logs", "--tail", "1", "-c", "flood", "worst"]) == "the end\n");
        let logs: u64 = walk(&magikrun.root).into_iter().filter(|(path, _)| path.contains("flood")).map(|(_, size)| size).sum();
        assert!(logs > 10 << 20 && logs <= 20 << 20, "{logs} bytes of log are kept");
        assert_eq!(in_c("cat /data/own").stdout, "mine\n", "the pod goes on");

        magikrun.ok(&["pod", "delete", "--force", "worst"]);
        before.assert_same("after delete");
        assert_eq!(contents(&private), private_before, "the host's files are as they were");
    }
);

fn walk(dir: &std::path::Path) -> Vec<(String, u64)> {
    let mut found = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(walk(&entry.path())),
            Ok(meta) => found.push((entry.path().display().to_string(), meta.len())),
            Err(_) => {}
        }
    }
    found
}
