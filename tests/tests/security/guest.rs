//! The attacker has all of a virtual machine: its kernel, and root in it.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use magikrun_test_world::cgroup_file;
use magikrun_tests::{
    BUSYBOX, MachinePart, Magikrun, Output, Scene, busybox_layout, container, has_machines, isolated, pod,
};
use serde_json::{Value, json};

use crate::{container::sharing, support::log_until};

/// magikrun with busybox's image; `None`, and said, where no machine can be had.
fn prepared(scene: &Scene) -> Option<Magikrun> {
    if !has_machines(scene.dir()) {
        return None;
    }
    let magikrun = Magikrun::new(scene);
    let source = busybox_layout(&scene.dir().join("layout")).reference(BUSYBOX);
    magikrun.ok(&["image", "pull", &source]);
    Some(magikrun)
}

/// A pod of one container, which is whatever a guest's root may be.
fn machine(name: &str) -> Value {
    let mut manifest = pod(name, &[container("c", BUSYBOX, "echo ready; sleep 10000")]);
    manifest["spec"]["runtimeClassName"] = json!("microvm");
    manifest["spec"]["containers"][0]["securityContext"] = json!({"privileged": true});
    manifest
}

#[track_caller]
fn run(magikrun: &Magikrun, manifest: &Value) {
    let out = magikrun.pod_run(manifest);
    assert_eq!(out.code, 0, "{}", out.stderr);
}

fn in_guest(magikrun: &Magikrun, pod: &str, script: &str) -> Output {
    magikrun.run(&["pod", "exec", "-c", "c", pod, "--", "sh", "-c", script])
}

fn pids(part: MachinePart) -> Vec<u64> {
    part.pids()
        .iter()
        .map(|pid| pid.as_raw_nonzero().get().unsigned_abs().into())
        .collect()
}

fn read(pid: u64, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).expect("a process")
}

/// A field of `/proc/PID/status`.
fn field(pid: u64, name: &str) -> String {
    let status = read(pid, "status");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.expect("a field").trim().to_owned()
}

fn users(part: MachinePart) -> Vec<String> {
    let mut users: Vec<String> = pids(part).into_iter().map(|pid| field(pid, "Uid")).collect();
    users.sort();
    users
}

/// The ids of a process's four users, which are one.
fn one(number: u32) -> String {
    format!("{number}\t{number}\t{number}\t{number}")
}

isolated!(
    fn containers_of_a_machine_that_share_processes_do_not_reach_its_init(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let script = "for s in TERM INT HUP KILL; do kill -$s 1 || echo refused $s; done
                      for p in /proc/[0-9]*; do [ -e $p/root/share ] && echo REACHED $p; done
                      ls -A /proc/1/root/ && ls -A /proc/1/fd/ && cat /proc/1/comm
                      grep -E '^(Uid|CapEff|CapBnd|Seccomp):' /proc/1/status; echo done; exec sleep 10000";
        let mut manifest = sharing(script);
        manifest["spec"]["runtimeClassName"] = json!("microvm");
        run(&magikrun, &manifest);
        let nothing = "pause\nUid:\t65535\t65535\t65535\t65535\nCapEff:\t0000000000000000\n\
                       CapBnd:\t0000000000000000\nSeccomp:\t2\ndone\n";
        assert_eq!(log_until(&magikrun, "sharing", "a", "done\n"), nothing);
        // A program that is executed later is among the same processes.
        let out = magikrun.ok(&["pod", "exec", "-c", "b", "sharing", "--", "sh", "-c", "cat /proc/1/comm; ps | grep -c '[s]leep 1000'"]);
        assert_eq!(out, "pause\n2\n");
        magikrun.ok(&["pod", "delete", "--force", "sharing"]);
    }
);

isolated!(
    fn two_machines_are_two_users_who_may_use_no_device(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        for name in ["one", "two"] {
            run(&magikrun, &machine(name));
        }
        let qemu = users(MachinePart::Qemu);
        let number = |user: &str| user.split('\t').next().expect("a number").parse::<u32>().expect("a number");
        let [first, second] = qemu.as_slice() else { panic!("two machines: {qemu:?}") };
        assert_ne!(first, second, "a machine is nobody but itself");
        for user in [first, second] {
            assert!((0x7d6b_0000..0x7d6c_0000).contains(&number(user)), "{user}");
            assert_eq!(*user, one(number(user)));
        }
        assert_eq!(users(MachinePart::Vsock), qemu, "its device is the same user");

        // The rules of the cgroup that its processes are in.
        for part in MachinePart::ALL {
            for pid in pids(part) {
                let Ok(rules) = cgroup_file(pid, "devices", "devices.list", "cgroup.type") else { continue };
                if rules.starts_with("domain") {
                    // v2: a program of the kernel's, which is not to be read.
                    continue;
                }
                let expected = ["c 1:3 rw", "c 1:5 rw", "c 1:8 rw", "c 1:9 rw"];
                let mut rules: Vec<&str> = rules.lines().collect();
                rules.sort_unstable();
                assert_eq!(rules, expected, "{part:?}");
                assert_eq!(opens_there(pid, "/dev/null"), Some(true), "{part:?}");
                assert_eq!(opens_there(pid, "/dev/full"), Some(false), "{part:?}");
            }
        }

        // Who comes next is not who is still there.
        magikrun.ok(&["pod", "delete", "--force", "one"]);
        run(&magikrun, &machine("three"));
        let after = users(MachinePart::Qemu);
        assert!(after.len() == 2 && after[0] != after[1], "{after:?}");
        for name in ["two", "three"] {
            magikrun.ok(&["pod", "delete", "--force", name]);
        }
    }
);

/// Whether root opens a device in the device cgroup of a process; `None` without such cgroups.
fn opens_there(pid: u64, device: &str) -> Option<bool> {
    let cgroups = read(pid, "cgroup");
    let path = cgroups.lines().find_map(|line| line.split_once(":devices:"))?.1;
    let procs = Path::new("/sys/fs/cgroup/devices")
        .join(path.trim_start_matches('/'))
        .join("cgroup.procs");
    let script = r#"echo 0 > "$0" && exec 3<"$1""#;
    let out = Command::new("bash")
        .args(["-c", script])
        .arg(&procs)
        .arg(device)
        .output()
        .expect("bash");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        out.status.success() || said.contains("Operation not permitted") && said.contains(device),
        "{said}"
    );
    Some(out.status.success())
}

isolated!(
    fn a_guest_leaves_no_program_with_rights_and_no_device_in_a_share(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let shared = scene.dir().join("shared");
        fs::create_dir(&shared).expect("a directory");
        let mut manifest = machine("guest");
        manifest["spec"]["volumes"] = json!([
            {"name": "shared", "hostPath": {"path": shared}}, {"name": "empty", "emptyDir": {}},
        ]);
        manifest["spec"]["containers"][0]["volumeMounts"] =
            json!([{"name": "shared", "mountPath": "/data"}, {"name": "empty", "mountPath": "/empty"}]);
        run(&magikrun, &manifest);

        let attempts = [
            "cp /bin/busybox su; chmod 4755 su", "cp /bin/busybox sg; chmod 2755 sg", "cp /bin/busybox both; chmod u+s,g+s both",
            "mknod null c 1 3", "mknod disk b 7 0", "mkdir d; mknod d/mem c 1 1",
        ];
        for attempt in attempts {
            let out = in_guest(&magikrun, "guest", &format!("cd /data; {attempt}"));
            assert!(out.code != 0 && out.stderr.contains("not permitted"), "{attempt}: {out:?}");
        }
        // In its own memory it may do as it likes: that is no file of the host's.
        let out = in_guest(&magikrun, "guest", "cd /empty; cp /bin/busybox su; chmod 4755 su");
        assert_eq!(out.code, 0, "{out:?}");
        // The share works all the same: users, groups, sticky directories.
        let out = in_guest(&magikrun, "guest", "cd /data; echo x > own; chown 7:8 own; chmod 640 own; mkdir t; chmod 1777 t");
        assert_eq!(out.code, 0, "{out:?}");
        let own = fs::metadata(shared.join("own")).expect("a file");
        assert_eq!((own.uid(), own.gid(), own.mode() & 0o7777), (7, 8, 0o640));

        let mut found = vec![];
        for root in [&shared, &magikrun.root, &magikrun.state] {
            special(root, &mut found);
        }
        assert_eq!(found, Vec::<String>::new(), "nothing of it is on the host");

        // As the machine's processes see it: if there were such a file, it would be none there.
        for pid in pids(MachinePart::Virtiofsd) {
            let mounts = read(pid, "mountinfo");
            let served = mounts.lines().filter(|line| {
                let (point, kind) = (line.split(' ').nth(4), line.split(" - ").nth(1));
                point.is_some_and(|p| !p.starts_with("/proc")) && kind.is_some_and(|k| !k.starts_with("proc "))
            });
            let mut count = 0;
            for line in served {
                let options: Vec<&str> = line.split(' ').nth(5).expect("options").split(',').collect();
                assert!(["nosuid", "nodev", "noexec"].iter().all(|o| options.contains(o)), "{line}");
                count += 1;
            }
            assert!(count > 0, "{mounts}");
        }
        magikrun.ok(&["pod", "delete", "--force", "guest"]);
    }
);

/// Files below a directory that give rights or are devices.
fn special(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = fs::symlink_metadata(entry.path()) else {
            continue;
        };
        // The image's layers are what they were: their setuid files lie where only root comes by.
        if meta.is_dir() {
            special(&entry.path(), found);
        } else if meta.is_file() && meta.permissions().mode() & 0o6000 != 0 || meta.rdev() != 0 {
            found.push(entry.path().display().to_string());
        }
    }
}

isolated!(
    fn what_serves_a_share_sees_it_alone_and_may_do_nothing_else(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let shared = scene.dir().join("shared");
        fs::create_dir(&shared).expect("a directory");
        fs::write(shared.join("marker"), "").expect("a file");
        let mut manifest = machine("guest");
        manifest["spec"]["volumes"] = json!([{"name": "shared", "hostPath": {"path": shared}}]);
        manifest["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "shared", "mountPath": "/data"}]);
        run(&magikrun, &manifest);
        let supervisor = pids(MachinePart::Supervisor)[0];
        let namespace = |pid: u64, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("a namespace");
        let (mut roots, mut served) = (vec![], 0);
        for pid in pids(MachinePart::Virtiofsd) {
            assert_eq!((field(pid, "NoNewPrivs"), field(pid, "Seccomp")), ("1".into(), "2".into()));
            // Each serves from a process of a pid namespace of its own; another waits for its end.
            if namespace(pid, "pid") == namespace(supervisor, "pid") {
                continue;
            }
            served += 1;
            let capabilities = u64::from_str_radix(&field(pid, "CapEff"), 16).expect("a number");
            // CAP_SYS_PTRACE, _ADMIN, _BOOT, _MKNOD, _SETFCAP, _NET_ADMIN, _SYS_MODULE, _SYS_RAWIO, _SYS_CHROOT.
            for (name, number) in [("ptrace", 19), ("admin", 21), ("boot", 22), ("mknod", 27), ("setfcap", 31), ("net", 12), ("module", 16), ("rawio", 17), ("chroot", 18)] {
                assert_eq!(capabilities & 1 << number, 0, "{name}: {capabilities:x}");
            }
            for kind in ["mnt", "net"] {
                assert_ne!(namespace(pid, kind), namespace(supervisor, kind), "{kind}");
            }
            let mut names: Vec<String> = fs::read_dir(format!("/proc/{pid}/root")).expect("its root")
                .map(|e| e.expect("an entry").file_name().display().to_string()).collect();
            names.sort();
            roots.push(names);
        }
        assert!(served >= 2, "one for the guest's root, one for the share");
        assert!(roots.contains(&vec!["marker".to_owned()]), "{roots:?}");
        assert!(roots.iter().all(|names| !names.contains(&"usr".to_owned())), "{roots:?}");
        magikrun.ok(&["pod", "delete", "--force", "guest"]);
    }
);

isolated!(
    fn a_guest_changes_nothing_of_what_it_boots_from(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        run(&magikrun, &machine("guest"));
        // The guest's kernel keeps it from nothing: it is the guest's own.
        let mounted = in_guest(&magikrun, "guest", "mkdir /b && mount -t virtiofs rootfs /b && mount -o remount,rw /b && ls /b");
        assert_eq!(mounted.code, 0, "{mounted:?}");
        assert!(mounted.stdout.contains("init") && mounted.stdout.contains("layers"), "{mounted:?}");
        let attempts = [
            "echo x > /b/new", "rm /b/init", "mv /b/init /b/other", "mkdir /b/d", "ln -s /etc /b/l",
            "echo x > /b/pod/guest.json", "echo x > /b/pod/machine.json", "rm -f /b/pod/containers/c/config.json", "chmod 777 /b/init", "chown 1 /b/init",
            "echo x > /b/layers/c/new", "echo x > /b/layers/c/bin/busybox", "rm /b/layers/c/bin/sh", "chmod 777 /b/layers/c/bin/busybox",
        ];
        for attempt in attempts {
            let out = in_guest(&magikrun, "guest", attempt);
            assert!(out.code != 0 && out.stderr.contains("Read-only file system"), "{attempt}: {out:?}");
        }
        magikrun.ok(&["pod", "delete", "--force", "guest"]);
    }
);

/// What the machine's programs are started with.
fn command_lines(magikrun: &Magikrun, manifest: &Value) -> Vec<(MachinePart, Vec<String>, String)> {
    run(magikrun, manifest);
    let mut lines = vec![];
    for part in [MachinePart::Qemu, MachinePart::Virtiofsd, MachinePart::Vsock] {
        for pid in pids(part) {
            // The processor's frequency is measured each time.
            let measured = |word: &&str| !word.starts_with("tsc_early_khz=");
            let same = |argument: &str| argument.split(' ').filter(measured).collect::<Vec<_>>().join(" ");
            let arguments: Vec<String> = read(pid, "cmdline").split('\0').map(same).collect();
            lines.push((part, arguments, read(pid, "environ")));
        }
    }
    magikrun.ok(&[
        "pod",
        "delete",
        "--force",
        manifest["metadata"]["name"].as_str().expect("a name"),
    ]);
    lines.sort_by_key(|(_, arguments, _)| arguments.clone());
    lines
}

isolated!(
    fn no_word_of_a_manifest_is_an_argument_of_the_monitor(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let plain = command_lines(&magikrun, &machine("guest"));
        assert!(plain.len() >= 3, "{plain:?}");
        let mut loaded = machine("guest");
        let evil = "-device vfio-pci,host=00:00.0 init=/bin/sh";
        loaded["metadata"]["annotations"] = json!({
            "io.katacontainers.config.hypervisor.path": "/tmp/evil",
            "io.katacontainers.config.hypervisor.kernel": "/tmp/evil",
            "io.katacontainers.config.hypervisor.kernel_params": evil,
            "io.katacontainers.config.hypervisor.virtio_fs_daemon": "/tmp/evil",
            "io.katacontainers.config.hypervisor.virtio_fs_extra_args": "[\"-o\", \"source=/\"]",
            "run.oci.krun.args": evil, "krun.ram_mib": evil, "magikrun.dev/vm.args": evil,
            "magikrun.dev/vm.kernel": "/tmp/evil", "MAGIKRUN_VM_FILES": "/tmp",
        });
        loaded["metadata"]["labels"] = json!({"app": "x"});
        loaded["spec"]["containers"][0]["env"] =
            json!([{"name": "MAGIKRUN_VM_FILES", "value": "/tmp"}, {"name": "LD_PRELOAD", "value": "/tmp/evil.so"}]);
        assert_eq!(command_lines(&magikrun, &loaded), plain);

        // Nor is the name of a volume's directory: virtiofsd and QEMU take commas for ends.
        let odd = scene.dir().join("a,sandbox=none,source=/");
        fs::create_dir_all(&odd).expect("a directory");
        fs::write(odd.join("marker"), "").expect("a file");
        let mut volume = machine("odd");
        volume["spec"]["volumes"] = json!([{"name": "v", "hostPath": {"path": odd}}]);
        volume["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
        run(&magikrun, &volume);
        for pid in pids(MachinePart::Virtiofsd) {
            assert!(!read(pid, "cmdline").contains("none"), "the share's path is a number");
        }
        assert_eq!(in_guest(&magikrun, "odd", "ls /v").stdout, "marker\n");
        magikrun.ok(&["pod", "delete", "--force", "odd"]);
    }
);

isolated!(
    fn a_container_in_a_machine_has_setuid_programs_in_its_own_root_alone(scene) {
        let Some(magikrun) = prepared(scene) else { return };
        let bundle = scene.dir().join("bundle");
        magikrun.ok(&["image", "bundle", BUSYBOX, bundle.to_str().expect("UTF-8")]);
        let volume = scene.dir().join("volume");
        fs::create_dir(&volume).expect("a directory");
        let config = bundle.join("config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(&config).expect("spec")).expect("JSON");
        spec["root"]["readonly"] = json!(false);
        spec["process"]["args"] = json!(["sh", "-c", "cp /bin/busybox /su && chmod 4755 /su; cp /bin/busybox /data/su; chmod 4755 /data/su || echo refused"]);
        let mounts = spec["mounts"].as_array_mut().expect("mounts");
        mounts.push(json!({"destination": "/data", "type": "bind", "source": volume, "options": ["rbind"]}));
        fs::write(&config, spec.to_string()).expect("config.json");
        let out = magikrun.run(&["--runtime", "krun", "run", "-b", bundle.to_str().expect("UTF-8"), "c"]);
        assert_eq!((out.code, out.stdout.as_str()), (0, "refused\n"), "{out:?}");
        // What `commit` would make an image of.
        assert_eq!(fs::metadata(bundle.join("rootfs/su")).expect("a file").mode() & 0o7777, 0o4755);
        assert_eq!(fs::metadata(volume.join("su")).expect("a file").mode() & 0o6000, 0);
    }
);
