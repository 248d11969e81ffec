//! What `runtime_spec` makes of image configurations and settings, and that a real runtime runs it.
#![allow(clippy::print_stderr)] // a test that is skipped says so

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use magik_image::bundle::{
    BundleError, ContainerSettings, DEFAULT_CAPABILITIES, MountKind, MountSetting, Namespaces, Resources,
    SeccompProfile, UserSpec, runtime_spec, write_bundle,
};
use oci_spec::{image::ImageConfiguration, runtime::Spec};
use serde_json::{Value, json};

fn image(config: &Value) -> ImageConfiguration {
    let document = json!({"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []}});
    serde_json::from_value(document).unwrap()
}

fn words(list: &[&str]) -> Option<Vec<String>> {
    Some(list.iter().map(|word| (*word).to_owned()).collect())
}

/// The spec as `config.json` has it.
fn json_of(config: &Value, settings: &ContainerSettings) -> Value {
    serde_json::to_value(runtime_spec(&image(config), settings).unwrap()).unwrap()
}

fn error_of(config: &Value, settings: &ContainerSettings) -> String {
    let message = runtime_spec(&image(config), settings)
        .expect_err("must be refused")
        .to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

fn shell() -> Value {
    json!({"Cmd": ["sh"]})
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd_as_in_kubernetes() {
    let config = json!({"Entrypoint": ["/e", "1"], "Cmd": ["c"]});
    for (command, args, expected) in [
        (None, None, vec!["/e", "1", "c"]),
        (words(&["/x"]), None, vec!["/x"]),
        (None, words(&["a"]), vec!["/e", "1", "a"]),
        (words(&["/x"]), words(&["a"]), vec!["/x", "a"]),
        (words(&[]), words(&[]), vec!["/e", "1", "c"]),
    ] {
        let settings = ContainerSettings {
            command,
            args,
            ..ContainerSettings::default()
        };
        assert_eq!(json_of(&config, &settings)["process"]["args"], json!(expected));
    }
    let nothing = runtime_spec(&image(&json!({})), &ContainerSettings::default());
    assert!(matches!(nothing, Err(BundleError::NoCommand)));
    let only_args = ContainerSettings {
        args: words(&["sh"]),
        ..ContainerSettings::default()
    };
    assert_eq!(
        json_of(&json!(null), &only_args)["process"]["args"],
        json!(["sh"])
    );
}

#[test]
fn environment_is_the_images_with_the_settings_over_it() {
    let config = json!({"Cmd": ["sh"], "Env": ["A=1", "PATH=/opt", "B=x=y", "A=2"]});
    let settings = ContainerSettings {
        env: vec![
            ("B".into(), "z".into()),
            ("C".into(), String::new()),
            ("C".into(), "3".into()),
        ],
        hostname: Some("web".into()),
        terminal: true,
        ..ContainerSettings::default()
    };
    let expected = json!([
        "PATH=/opt",
        "TERM=xterm",
        "HOSTNAME=web",
        "HOME=/",
        "A=2",
        "B=z",
        "C=3"
    ]);
    assert_eq!(json_of(&config, &settings)["process"]["env"], expected);
    let default = json_of(&shell(), &ContainerSettings::default());
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(default["process"]["env"], json!([path, "HOME=/"]));
}

#[test]
fn what_no_container_can_have_is_an_error_that_names_the_field() {
    let settings = ContainerSettings::default;
    let mount = |target: &str| ContainerSettings {
        mounts: vec![MountSetting::bind("/x", target, false)],
        ..settings()
    };
    for (config, settings, part) in [
        (json!({"Cmd": ["sh"], "Env": ["A"]}), settings(), "Env[0]"),
        (json!({"Cmd": ["sh"], "Env": ["=1"]}), settings(), "Env[0]"),
        (json!({"Cmd": ["sh", "a\0b"]}), settings(), "args[1]"),
        (json!({"Cmd": [""]}), settings(), "no program"),
        (
            json!({"Cmd": ["sh"], "WorkingDir": "/a/../../b"}),
            settings(),
            "WorkingDir",
        ),
        (
            shell(),
            ContainerSettings {
                cwd: Some("tmp".into()),
                ..settings()
            },
            "workingDir",
        ),
        (
            shell(),
            ContainerSettings {
                env: vec![("A=B".into(), String::new())],
                ..settings()
            },
            "env[0]",
        ),
        (
            shell(),
            ContainerSettings {
                hostname: Some("x".repeat(65)),
                ..settings()
            },
            "hostname",
        ),
        (
            shell(),
            ContainerSettings {
                add_capabilities: vec!["FLY".into()],
                ..settings()
            },
            "FLY",
        ),
        (
            json!({"Cmd": ["sh"], "User": "redis"}),
            settings(),
            "\"redis\" is not in the image's /etc/passwd",
        ),
        (shell(), mount("/"), "mounts[0].target"),
        (shell(), mount("relative"), "mounts[0].target"),
        (shell(), mount("/a/../b"), "mounts[0].target"),
        (shell(), mount("/proc/self"), "mounts[0].target"),
    ] {
        let message = error_of(&config, &settings);
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn working_directory_is_normalised() {
    for (config, expected) in [("", "/"), ("srv", "/srv"), ("/srv//./x/", "/srv/x")] {
        let spec = json_of(
            &json!({"Cmd": ["sh"], "WorkingDir": config}),
            &ContainerSettings::default(),
        );
        assert_eq!(spec["process"]["cwd"], expected);
    }
    let settings = ContainerSettings {
        cwd: Some("/tmp".into()),
        ..ContainerSettings::default()
    };
    assert_eq!(
        json_of(&json!({"Cmd": ["sh"], "WorkingDir": "/srv"}), &settings)["process"]["cwd"],
        "/tmp"
    );
}

#[test]
fn users_come_from_the_settings_part_by_part_and_then_from_the_image() {
    let rootfs = tempfile::tempdir().unwrap();
    fs::create_dir(rootfs.path().join("etc")).unwrap();
    fs::write(
        rootfs.path().join("etc/passwd"),
        "root:x:0:0::/root:\nredis:x:101:102::/data:\n",
    )
    .unwrap();
    fs::write(rootfs.path().join("etc/group"), "ssl:x:110:redis\n").unwrap();
    let config = json!({"Cmd": ["sh"], "User": "redis:ssl"});
    for (user, expected) in [
        (None, json!({"uid": 101, "gid": 110, "additionalGids": [110]})),
        (
            Some(UserSpec::numeric(Some(5), None)),
            json!({"uid": 5, "gid": 0, "additionalGids": [0]}),
        ),
        (
            Some(UserSpec::numeric(None, Some(7))),
            json!({"uid": 101, "gid": 7, "additionalGids": [7, 110]}),
        ),
        (
            Some("101".parse().unwrap()),
            json!({"uid": 101, "gid": 102, "additionalGids": [102, 110]}),
        ),
        (
            Some(UserSpec::default()),
            json!({"uid": 101, "gid": 110, "additionalGids": [110]}),
        ),
    ] {
        let settings = ContainerSettings {
            user,
            rootfs_layers: vec![rootfs.path().into()],
            ..ContainerSettings::default()
        };
        assert_eq!(json_of(&config, &settings)["process"]["user"], expected);
    }
}

#[test]
fn run_as_non_root_refuses_who_is_root_or_may_be() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(
        dir.path().join("etc/passwd"),
        "root:x:0:0::/root:\napp:x:1000:1000::/:\nadmin:x:0:0::/:\n",
    )
    .unwrap();
    let settings = |user: Option<u32>| ContainerSettings {
        run_as_non_root: true,
        user: user.map(|uid| UserSpec::numeric(Some(uid), None)),
        rootfs_layers: vec![dir.path().to_owned()],
        ..ContainerSettings::default()
    };
    let config = |user: &str| json!({"Cmd": ["sh"], "User": user});
    for (user, said) in [
        ("", "container has runAsNonRoot and image will run as root"),
        ("0", "container has runAsNonRoot and image will run as root"),
        ("000", "container has runAsNonRoot and image will run as root"),
        ("0:1000", "container has runAsNonRoot and image will run as root"),
        (
            "root",
            "image has non-numeric user (root), cannot verify user is non-root",
        ),
        (
            "app",
            "image has non-numeric user (app), cannot verify user is non-root",
        ),
        ("admin:1000", "image has non-numeric user (admin), cannot verify"),
        ("4294967296", "largest id"),
    ] {
        let message = error_of(&config(user), &settings(None));
        assert!(message.contains(said), "{user}: {message}");
        // Whoever says a user in the manifest does not depend on the image's.
        let spec = json_of(&config(user), &settings(Some(7)));
        assert_eq!(spec["process"]["user"]["uid"], 7);
    }
    let spec = json_of(&config("1000"), &settings(None));
    assert_eq!(spec["process"]["user"]["uid"], 1000);
    let message = error_of(&config("1000"), &settings(Some(0)));
    assert!(
        message.contains("container's runAsUser breaks non-root policy"),
        "{message}"
    );
    let message = error_of(&config("\u{1b}[2J\n"), &settings(None));
    assert!(!message.contains('\u{1b}'), "{message}");
}

#[test]
fn supplementary_groups_are_added_to_those_of_the_image_or_replace_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("etc")).unwrap();
    fs::write(dir.path().join("etc/passwd"), "app:x:1000:100::/:\n").unwrap();
    fs::write(dir.path().join("etc/group"), "a:x:200:app\nb:x:300:app\n").unwrap();
    for (strict, expected) in [(false, vec![100, 200, 300, 5]), (true, vec![100, 300, 5])] {
        let settings = ContainerSettings {
            user: Some(UserSpec::numeric(Some(1000), None)),
            rootfs_layers: vec![dir.path().to_owned()],
            supplemental_groups: vec![300, 5, 5],
            strict_supplemental_groups: strict,
            ..ContainerSettings::default()
        };
        let spec = json_of(&shell(), &settings);
        assert_eq!(spec["process"]["user"]["additionalGids"], json!(expected));
    }
}

#[test]
fn an_image_cannot_ask_for_more_than_a_program() {
    // What labels and annotations mean to other programs: commands to run, hooks, mounts,
    // privileges.
    let labels = json!({
        "INSTALL": "touch /owned", "RUN": "docker run --privileged IMAGE", "io.containers.capabilities": "ALL",
        "run.oci.hooks.stdout": "/owned", "run.oci.handler": "wasm", "org.opencontainers.image.stopSignal": "9",
        "io.podman.annotations.seccomp": "unconfined", "cdi.k8s.io/x": "vendor.com/device=all",
    });
    let config = json!({"Cmd": ["sh"], "Labels": labels, "Volumes": {"/etc": {}}, "ExposedPorts": {"22/tcp": {}},
                        "StopSignal": "SIGKILL", "OnBuild": ["RUN touch /owned"],
                        "Healthcheck": {"Test": ["CMD", "touch", "/owned"]}, "Shell": ["/owned"]});
    let settings = ContainerSettings::default();
    let plain = runtime_spec(&image(&shell()), &settings).unwrap();
    assert_eq!(runtime_spec(&image(&config), &settings).unwrap(), plain);
    let spec = json_of(&config, &settings);
    assert!(
        spec.get("hooks").is_none() && spec.get("annotations").is_none(),
        "{spec}"
    );
}

#[test]
fn default_security_is_that_of_podman_and_containerd() {
    let spec = json_of(&shell(), &ContainerSettings::default());
    let process = &spec["process"];
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process.get("rlimits"), None);
    let set = |name: &str| -> BTreeSet<String> {
        serde_json::from_value(process["capabilities"][name].clone()).unwrap()
    };
    let expected: BTreeSet<String> = DEFAULT_CAPABILITIES.iter().map(|c| format!("CAP_{c}")).collect();
    assert_eq!(
        (set("bounding"), set("effective"), set("permitted")),
        (expected.clone(), expected.clone(), expected)
    );
    assert_eq!(process["capabilities"].get("inheritable"), None, "CVE-2022-24769");
    assert_eq!(process["capabilities"].get("ambient"), None);

    let linux = &spec["linux"];
    assert_eq!(linux["seccomp"]["defaultAction"], "SCMP_ACT_ERRNO");
    for path in ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/timer_list"] {
        assert!(
            linux["maskedPaths"].as_array().unwrap().contains(&json!(path)),
            "{path}"
        );
    }
    assert!(
        linux["readonlyPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/sys"))
    );
    assert_eq!(
        linux["resources"]["devices"],
        json!([{"allow": false, "access": "rwm"}])
    );
    assert_eq!(linux["resources"]["pids"]["limit"], 2048);
    assert_eq!(linux.get("devices"), None);
    let mounts = spec["mounts"].as_array().unwrap();
    let targets: Vec<&str> = mounts
        .iter()
        .map(|m| m["destination"].as_str().unwrap())
        .collect();
    assert_eq!(
        targets,
        [
            "/proc",
            "/dev",
            "/dev/pts",
            "/dev/mqueue",
            "/dev/shm",
            "/sys",
            "/sys/fs/cgroup"
        ]
    );
    for system in ["/sys", "/sys/fs/cgroup"] {
        let mount = mounts.iter().find(|m| m["destination"] == system).unwrap();
        assert!(
            mount["options"].as_array().unwrap().contains(&json!("ro")),
            "{system}"
        );
    }
    let size = serde_json::to_vec(&spec).unwrap().len();
    assert!(size < 16 * 1024, "{size} bytes of config.json");
}

#[test]
fn a_privileged_container_has_all_that_this_host_has_and_nothing_hidden() {
    let settings = ContainerSettings {
        privileged: true,
        ..ContainerSettings::default()
    };
    let spec = json_of(&shell(), &settings);
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    for field in ["seccomp", "maskedPaths", "readonlyPaths"] {
        assert_eq!(spec["linux"].get(field), None, "{field}");
    }
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = status
        .lines()
        .find_map(|l| l.strip_prefix("CapBnd:"))
        .unwrap()
        .trim();
    let count = u64::from_str_radix(bounding, 16).unwrap().count_ones();
    assert_eq!(
        spec["process"]["capabilities"]["bounding"]
            .as_array()
            .unwrap()
            .len(),
        count as usize
    );
    assert!(
        spec["linux"]["devices"]
            .as_array()
            .unwrap()
            .iter()
            .all(|d| d["path"] != "/dev/null" && d["path"] != "/dev/ptmx")
    );
}

#[test]
fn settings_reach_the_spec() {
    let settings = ContainerSettings {
        hostname: Some("web".into()),
        readonly_rootfs: true,
        rootfs_path: "/run/x/rootfs".into(),
        no_new_privs: Some(false),
        namespaces: Namespaces::IN_POD,
        cgroups_path: Some("/magikrun/p/c".into()),
        annotations: BTreeMap::from([("a".into(), "b".into())]),
        oom_score_adj: Some(500),
        seccomp: SeccompProfile::Unconfined,
        resources: Resources {
            memory_limit: Some(64 << 20),
            cpu_millis: Some(250),
            cpu_shares: Some(1),
            pids_limit: Some(-1),
            huge_pages: [("2MB".to_owned(), 4 << 20)].into(),
        },
        mounts: vec![
            MountSetting::bind("/v", "/data/", true),
            MountSetting {
                kind: MountKind::Tmpfs { size: Some(4096) },
                ..MountSetting::bind("", "/dev/shm", false)
            },
        ],
        ..ContainerSettings::default()
    };
    let spec = json_of(&shell(), &settings);
    assert_eq!(
        spec.get("hostname"),
        None,
        "without a new UTS namespace no runtime takes it"
    );
    assert_eq!(spec["root"], json!({"path": "/run/x/rootfs", "readonly": true}));
    assert_eq!(spec["process"]["noNewPrivileges"], false);
    assert_eq!(spec["annotations"], json!({"a": "b"}));
    let linux = &spec["linux"];
    assert_eq!(
        linux["namespaces"],
        json!([{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}])
    );
    assert_eq!(linux["cgroupsPath"], "/magikrun/p/c");
    assert_eq!(linux.get("seccomp"), None);
    assert_eq!(spec["process"]["oomScoreAdj"], 500);
    let resources = &linux["resources"];
    assert_eq!(
        resources["hugepageLimits"],
        json!([{"pageSize": "2MB", "limit": 4 << 20}])
    );
    assert_eq!(resources["memory"], json!({"limit": 64 << 20, "swap": 64 << 20}));
    assert_eq!(
        resources["cpu"],
        json!({"quota": 25_000, "period": 100_000, "shares": 2})
    );
    assert_eq!(resources["pids"]["limit"], -1);
    let mounts = spec["mounts"].as_array().unwrap();
    assert_eq!(
        mounts.iter().filter(|m| m["destination"] == "/dev/shm").count(),
        1,
        "replaced, not doubled"
    );
    let data = mounts.iter().find(|m| m["destination"] == "/data").unwrap();
    assert_eq!(data["options"], json!(["rbind", "rprivate", "ro"]));

    let alone = ContainerSettings {
        hostname: Some("web".into()),
        ..ContainerSettings::default()
    };
    assert_eq!(json_of(&shell(), &alone)["hostname"], "web");
}

#[test]
fn a_bundle_is_written_whole_and_read_back_as_the_same_spec() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("new/bundle");
    let spec = runtime_spec(&image(&shell()), &ContainerSettings::default()).unwrap();
    write_bundle(&bundle, &spec).unwrap();
    write_bundle(&bundle, &spec).unwrap();
    assert_eq!(Spec::load(bundle.join("config.json")).unwrap(), spec);
    assert_eq!(
        fs::read_dir(&bundle).unwrap().count(),
        1,
        "no temporary file stays"
    );
    fs::write(dir.path().join("file"), "").unwrap();
    let message = write_bundle(&dir.path().join("file"), &spec)
        .unwrap_err()
        .to_string();
    assert!(message.contains("file/config.json"), "{message}");
}

/// A rootfs of busybox.
fn busybox(dir: &Path) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::copy("/usr/bin/busybox", dir.join("bin/busybox")).unwrap();
    for applet in [
        "sh", "id", "cat", "grep", "mknod", "chroot", "hostname", "ls", "touch", "echo",
    ] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet)).unwrap();
    }
    fs::write(
        dir.join("etc/passwd"),
        "root:x:0:0::/root:\napp:x:1000:1000::/home/app:\n",
    )
    .unwrap();
    fs::write(dir.join("etc/group"), "video:x:44:app\n").unwrap();
}

/// Runs a script in a container of runc, in namespaces of its own so that nothing stays; `None`, loudly, where it cannot.
fn run(test: &str, settings: ContainerSettings, script: &str) -> Option<String> {
    let needed = ["/usr/sbin/runc", "/usr/bin/busybox", "/usr/bin/unshare"];
    if let Some(missing) = needed.iter().find(|path| !Path::new(path).exists()) {
        eprintln!("SKIPPED {test}: needs {missing}");
        return None;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let rootfs = dir.path().join("rootfs");
    busybox(&rootfs);
    let id = format!(
        "magikrun-test-bundle-{}",
        dir.path()
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_start_matches('.')
    );
    let settings = ContainerSettings {
        args: words(&["/bin/sh", "-c", script]),
        rootfs_layers: vec![rootfs],
        cgroups_path: Some(format!("/{id}/c").into()),
        ..settings
    };
    let spec = runtime_spec(&image(&json!({})), &settings).unwrap();
    write_bundle(dir.path(), &spec).unwrap();
    // runc 1.1 does not know hybrid hierarchies' v2 part; as `run` ends it removes the container.
    let runc = format!(
        "mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified; exec runc --root {root}/runc run --bundle {root} {id}",
        root = dir.path().display()
    );
    let output = Command::new("/usr/bin/unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", &runc])
        .output()
        .unwrap();
    for controller in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        let _ = fs::remove_dir(controller.path().join(&id));
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(&id));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(text)
}

#[test]
fn a_real_runtime_runs_the_bundle_with_its_security() {
    let settings = ContainerSettings {
        user: Some("app".parse().unwrap()),
        hostname: Some("boxed".into()),
        readonly_rootfs: true,
        ..ContainerSettings::default()
    };
    let script = "id; hostname; echo home=$HOME; grep -E '^(NoNewPrivs|Seccomp|CapBnd):' /proc/self/status; \
                  touch /x 2>&1; echo masked=$(cat /proc/interrupts); echo devices:; ls /dev";
    let Some(text) = run(
        "a_real_runtime_runs_the_bundle_with_its_security",
        settings,
        script,
    ) else {
        return;
    };
    for part in [
        "uid=1000(app) gid=1000 groups=44(video),1000",
        "boxed\n",
        "home=/home/app\n",
        "NoNewPrivs:\t1\n",
        "Seccomp:\t2\n",
        "CapBnd:\t00000000800405fb\n",
        "touch: /x: Read-only file system\n",
        "masked=\n",
    ] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
    let devices: Vec<&str> = text
        .lines()
        .rev()
        .take_while(|line| *line != "devices:")
        .collect();
    let expected = [
        "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout",
        "tty", "urandom", "zero",
    ];
    assert!(
        devices.iter().all(|device| expected.contains(device)),
        "{devices:?}"
    );
}

#[test]
fn a_real_runtime_runs_a_privileged_bundle_on_this_host() {
    let settings = ContainerSettings {
        privileged: true,
        ..ContainerSettings::default()
    };
    let script = "grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status; ls /dev";
    let Some(text) = run(
        "a_real_runtime_runs_a_privileged_bundle_on_this_host",
        settings,
        script,
    ) else {
        return;
    };
    assert!(text.contains("NoNewPrivs:\t0\nSeccomp:\t0\n"), "{text}");
}
