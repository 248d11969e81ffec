//! The attacker has a container with the defaults, or with what the *Restricted* pod security
//! standard asks for.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

use magikrun_test_images::{ImageConfig, LayerBuilder, Layout};
use magikrun_tests::{Census, Magikrun, Scene, container, isolated, pod};
use serde_json::{Value, json};

/// Long enough for a loaded machine; nothing is asserted about how long anything takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Busybox, and an attack that a shell cannot carry out; it is linked statically.
const IMAGE: &str = "localhost/probe:1";
/// The same, run by user 1000.
const AS_1000: &str = "localhost/probe:1000";
/// The same, run by a user who has a name only.
const AS_NAMED: &str = "localhost/probe:named";

/// magikrun with the images.
fn prepared(scene: &Scene) -> Magikrun {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/security/probe.c");
    let program = scene.dir().join("probe");
    let status = Command::new("cc")
        .args(["-static", "-pthread", "-O1", "-o"])
        .arg(&program)
        .arg(source)
        .status()
        .expect("cc(1)");
    assert!(status.success(), "cc {source}");
    let mut layer = LayerBuilder::new();
    let program = fs::read(&program).expect("the attack");
    layer.busybox().expect("busybox");
    layer.file("/probe", 0o755, &program).expect("the attack");
    let layer = layer.finish().expect("layer");
    let mut layout = Layout::create(scene.dir().join("layout")).expect("layout");
    let magikrun = Magikrun::new(scene);
    for (image, user) in [(IMAGE, ""), (AS_1000, "1000"), (AS_NAMED, "nobody")] {
        let config = ImageConfig {
            user: user.into(),
            ..ImageConfig::default()
        };
        layout.add(image, &[&layer], &config).expect("image");
        magikrun.ok(&["image", "pull", &layout.reference(image)]);
    }
    magikrun
}

/// The log of a pod's only container, once it has come to its last line.
#[track_caller]
fn log_of(magikrun: &Magikrun, manifest: &Value) -> String {
    let name = manifest["metadata"]["name"].as_str().expect("a name");
    let out = magikrun.pod_run(manifest);
    assert_eq!(out.code, 0, "{}", out.stderr);
    let begun = Instant::now();
    let log = loop {
        let log = magikrun.ok(&["pod", "logs", name]);
        if log.ends_with("done\n") {
            break log;
        }
        if begun.elapsed() > PATIENCE {
            let status = magikrun.ok(&["pod", "status", name, "--format", "json"]);
            panic!("it does not end: {log}\n{status}");
        }
        sleep(Duration::from_millis(20));
    };
    magikrun.ok(&["pod", "delete", "--force", name]);
    log
}

/// What each call answered.
fn answers(log: &str) -> BTreeMap<&str, &str> {
    log.lines().filter_map(|line| line.split_once(' ')).collect()
}

fn probe(security: &Value) -> Value {
    let mut manifest = pod("probe", &[container("c", IMAGE, "exec /probe")]);
    manifest["spec"]["containers"][0]["securityContext"] = security.clone();
    manifest
}

isolated!(
    fn a_default_pod_makes_no_namespaces_mounts_keys_or_sockets_to_the_machine(scene) {
        let magikrun = prepared(scene);
        let log = log_of(&magikrun, &probe(&json!({})));
        let answers = answers(&log);
        for works in [
            "thread",
            "unix",
            "inet",
            "inet6",
            "netlink",
            "socketpair",
            "system",
        ] {
            assert_eq!(answers.get(works), Some(&"ok"), "{works}: {log}");
        }
        for (attack, answer) in [
            ("unshare-user", "EPERM"),
            ("unshare-mount", "EPERM"),
            ("unshare-cgroup", "EPERM"),
            ("clone-user", "EPERM"),
            ("clone-user-high", "EPERM"),
            ("clone3", "ENOSYS"),
            // With a bad descriptor or pointer each, which the kernel would have named.
            ("setns", "EPERM"),
            ("open_tree", "EPERM"),
            ("fsopen", "EPERM"),
            ("mount_setattr", "EPERM"),
            ("mount", "EPERM"),
            ("umount", "EPERM"),
            ("pivot_root", "EPERM"),
            ("keyctl", "EPERM"),
            ("add_key", "EPERM"),
            ("request_key", "EPERM"),
            ("bpf", "EPERM"),
            ("perf_event_open", "EPERM"),
            ("io_uring_setup", "ENOSYS"),
            ("userfaultfd", "EPERM"),
            ("pidfd_getfd", "EPERM"),
            ("open_by_handle_at", "EPERM"),
            ("kexec_load", "EPERM"),
            ("init_module", "EPERM"),
            ("personality", "ENOSYS"),
            ("vsock", "EAFNOSUPPORT"),
            ("vsock-high", "ENOSYS"),
            ("alg", "EAFNOSUPPORT"),
            ("alg-high", "ENOSYS"),
        ] {
            assert_eq!(answers.get(attack), Some(&answer), "{attack}: {log}");
        }
        // A kernel without 32-bit programs ends the attacker; one with them refuses.
        for attack in ["socketcall-vsock", "socketcall-alg", "socketcall-unix"] {
            assert!(
                answers.get(attack).is_none_or(|answer| *answer == "EPERM"),
                "{attack}: {log}"
            );
        }
        // Whoever is given the capability, or no filter, has the calls.
        let log = log_of(&magikrun, &probe(&json!({"capabilities": {"add": ["SYS_ADMIN"]}})));
        for attack in ["unshare-mount", "clone-user", "open_tree", "keyctl"] {
            assert_eq!(self::answers(&log).get(attack), Some(&"ok"), "{attack}: {log}");
        }
        assert_eq!(self::answers(&log)["vsock"], "EAFNOSUPPORT", "{log}");
        let log = log_of(&magikrun, &probe(&json!({"seccompProfile": {"type": "Unconfined"}})));
        assert_eq!(self::answers(&log).get("unshare-user"), Some(&"ok"), "{log}");
    }
);

isolated!(
    fn a_default_pod_does_not_get_at_its_own_limits(scene) {
        // With a user namespace and a cgroup namespace of its own, a pod mounted the hierarchies
        // and lifted its limits.
        let magikrun = prepared(scene);
        let script = "unshare -U -r true && echo UNSHARED
                      unshare -U -r -m -C sh -c 'mount -t cgroup -o memory none /mnt || mount -t cgroup2 none /mnt' && echo MOUNTED
                      mount -t cgroup -o memory none /mnt && echo MOUNTED
                      mount -t cgroup2 none /mnt && echo MOUNTED
                      for f in /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max; do
                        [ -e $f ] && echo 9999999999 >$f && echo LIFTED
                      done
                      ls /mnt; echo done";
        let log = log_of(&magikrun, &pod("limits", &[container("c", IMAGE, script)]));
        for reached in ["UNSHARED", "MOUNTED", "LIFTED"] {
            assert!(!log.contains(reached), "{log}");
        }
    }
);

/// As the *Restricted* standard has it (Kubernetes' "Pod Security Standards"), and nothing of ours.
fn restricted(name: &str, image: &str, script: &str) -> Value {
    let mut manifest = pod(name, &[container("c", image, script)]);
    manifest["spec"]["securityContext"] = json!({
        "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}, "supplementalGroups": [4000],
    });
    manifest["spec"]["containers"][0]["securityContext"] = json!({
        "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
    });
    manifest
}

isolated!(
    fn a_pod_of_the_restricted_standard_runs_and_is_what_it_says(scene) {
        let magikrun = prepared(scene);
        let script = "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp):' /proc/self/status
                      echo done";
        let expected = |id: u32| {
            format!(
                "Uid:\t{id}\t{id}\t{id}\t{id}\nGid:\t0\t0\t0\t0\nGroups:\t0 4000 \n\
                 CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                 CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\ndone\n"
            )
        };
        let log = log_of(&magikrun, &restricted("of-the-image", AS_1000, script));
        assert_eq!(log, expected(1000));
        let mut manifest = restricted("of-the-manifest", IMAGE, script);
        manifest["spec"]["securityContext"]["runAsUser"] = json!(1234);
        assert_eq!(log_of(&magikrun, &manifest), expected(1234));
    }
);

isolated!(
    fn a_pod_that_must_not_be_root_is_refused_before_anything_runs(scene) {
        let magikrun = prepared(scene);
        // Layers are unpacked by the first pod, and stay.
        log_of(&magikrun, &restricted("warm-up", AS_1000, "echo done"));
        let before = Census::take(&magikrun.roots());
        for (image, said) in [
            (IMAGE, "container has runAsNonRoot and image will run as root"),
            (
                AS_NAMED,
                "container has runAsNonRoot and image has non-numeric user (nobody), cannot verify user is non-root",
            ),
        ] {
            let file = magikrun.manifest(restricted("refused", image, "echo ran").to_string());
            let error = magikrun.error(&["pod", "run", "-f", &file]);
            assert!(error.contains(said), "{error}");
        }
        before.assert_same("after pods were refused");
    }
);

isolated!(
    fn a_profile_of_the_host_is_the_filter(scene) {
        let magikrun = prepared(scene);
        let profiles = scene.dir().join("profiles");
        fs::create_dir(&profiles).expect("profiles");
        fs::write(scene.dir().join("outside.json"), r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#).expect("profile");
        std::os::unix::fs::symlink("../outside.json", profiles.join("out.json")).expect("link");
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
        });
        fs::write(profiles.join("no-mkdir.json"), profile.to_string()).expect("profile");
        let manifest = |profile: &str| {
            let script = "mkdir /tmp/d 2>&1; grep Seccomp: /proc/self/status; echo done";
            let mut manifest = pod("profile", &[container("c", IMAGE, script)]);
            manifest["spec"]["securityContext"] =
                json!({"seccompProfile": {"type": "Localhost", "localhostProfile": profile}});
            magikrun.manifest(manifest.to_string())
        };
        let run = |profile: &str| {
            let mut command = magikrun.command(&["pod", "run", "-f", &manifest(profile)]);
            let out = command.env("MAGIKRUN_SECCOMP_PROFILES", &profiles).output().expect("magikrun");
            (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
        };
        let (ran, error) = run("no-mkdir.json");
        assert!(ran, "{error}");
        let begun = Instant::now();
        loop {
            let log = magikrun.ok(&["pod", "logs", "profile"]);
            if log.ends_with("done\n") {
                assert!(log.contains("not supported") && log.contains("Seccomp:\t2"), "{log}");
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{log}");
            sleep(Duration::from_millis(20));
        }
        magikrun.ok(&["pod", "delete", "--force", "profile"]);
        for name in ["out.json", "missing.json"] {
            let (ran, error) = run(name);
            assert!(!ran && error.contains(name), "{error}");
        }
    }
);
