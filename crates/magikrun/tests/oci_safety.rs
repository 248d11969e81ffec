//! What a hostile container must not be able to do to the runtime that starts it, one test per published hole.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

mod oci_support;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::{fs::MetadataExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Stdio},
};

use oci_support::{BINARY, Host, capabilities, eventually};
use serde_json::{Value, json};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A container of the host's root that sees the host's processes and may look at their files.
fn nosy(c: &mut Value) {
    c["linux"]["namespaces"] = json!([{"type": "mount"}]);
    c["process"]["capabilities"] = capabilities(&[
        "CAP_SYS_PTRACE",
        "CAP_DAC_OVERRIDE",
        "CAP_DAC_READ_SEARCH",
        "CAP_KILL",
    ]);
}

/// What an attacked process runs.
const VICTIM: &str = "echo runs; exec sleep 60";

/// Waits for a process that executes the file of this inode, holds it open until the process is
/// gone, then tries to write to it. Reading is the only way to open it while it runs (ETXTBSY).
/// Without `command` a shell ends where `exec` cannot open a file: of a process that has just
/// ended, say.
fn overwriter(file: &Path) -> String {
    let inode = fs::metadata(file).unwrap().ino();
    format!(
        "echo ready; while :; do for p in /proc/[0-9]*; do \
         if test \"$(stat -L -c %i $p/exe)\" = {inode} && command exec 3<$p/exe; then echo holding; while test -e $p; do sleep 0.05; done; \
         if echo overwritten >/proc/self/fd/3; then echo written; else echo refused; fi; exit 0; fi; done; done 2>/dev/null"
    )
}

/// Lets a container of the host's pid namespace attack a process that executes a copy of a program and runs `VICTIM`, and
/// says what it said in the end. It begins when `VICTIM` runs: whoever sees the host's processes can open the file of
/// any of them, this one's too until it has executed itself once more from where nobody can write.
fn attack(host: &Host, name: &str, file: &Path, victim: &mut Command) -> String {
    let victim = victim.args(["sh", "-c", VICTIM]).stdin(Stdio::null());
    let mut victim = victim.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut said = BufReader::new(victim.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    assert_eq!(line, "runs\n");
    let bundle = host.bundle(name, &overwriter(file), nosy);
    host.detached(name, &bundle);
    eventually("the attacker holds it", || host.log(name).contains("holding"));
    victim.kill().unwrap();
    victim.wait().unwrap();
    host.until(name, "stopped");
    host.log(name)
}

#[test]
fn a_container_cannot_overwrite_the_runtime_cve_2019_5736() {
    let Some(host) = Host::root("a_container_cannot_overwrite_the_runtime_cve_2019_5736") else {
        return;
    };
    // The attack works on a process without protection.
    let plain = host.path("plain");
    fs::copy("/bin/busybox", &plain).unwrap();
    let said = attack(&host, "control", &plain, Command::new(&plain).arg0("busybox"));
    assert!(said.contains("written"), "{said}");

    // A copy, so that a runtime without protection loses no more than that.
    let copy = host.path("copy");
    fs::copy(BINARY, &copy).unwrap();
    host.sleeper("target", |_| {});
    let mut exec = Command::new(&copy);
    exec.arg("--root").arg(host.path("root")).args(["exec", "target"]);
    let said = attack(&host, "attacker", &copy, &mut exec);
    assert!(said.contains("refused"), "{said}");

    // One with pids of its own sees what enters it, from the first instant.
    let bundle = host.bundle("inside", &overwriter(&copy), |c| {
        nosy(c);
        c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}]);
    });
    host.detached("inside", &bundle);
    eventually("ready", || host.log("inside").contains("ready"));
    for _ in 0..20 {
        let mut exec = Command::new(&copy);
        exec.arg("--root").arg(host.path("root"));
        let status = exec.args(["exec", "inside", "true"]).status().unwrap();
        assert!(
            status.success() || host.log("inside").contains("refused"),
            "{status}"
        );
    }
    assert!(!host.log("inside").contains("written"), "{}", host.log("inside"));
    assert!(
        fs::read(&copy).unwrap() == fs::read(BINARY).unwrap(),
        "the runtime was overwritten"
    );
}

#[test]
fn no_descriptor_of_the_host_leaks_and_no_cwd_leads_out_cve_2024_21626() {
    let Some(host) = Host::root("no_descriptor_of_the_host_leaks_and_no_cwd_leads_out_cve_2024_21626") else {
        return;
    };
    host.sleeper("target", |_| {});
    let root = host.path("root");
    for number in 3..20 {
        let cwd = format!("/proc/self/fd/{number}");
        let name = format!("c{number}");
        // The escape reads a file above the leaked directory.
        let bundle = host.bundle(
            &name,
            "cat ../../../../../../etc/debian_version etc/debian_version",
            |c| c["process"]["cwd"] = json!(cwd),
        );
        let ran = host.run(&["run", "-b", text(&bundle), &name]);
        assert!(ran.code != 0 && ran.stdout.is_empty(), "{cwd}: {ran:?}");
        let ran = host.run(&[
            "exec",
            "--cwd",
            &cwd,
            "target",
            "cat",
            "../../../../../../etc/debian_version",
        ]);
        assert!(ran.code != 0 && ran.stdout.is_empty(), "exec {cwd}: {ran:?}");
    }
    // Not even descriptors that the caller left open without close-on-exec.
    let bundle = host.bundle("fds", "ls -l /proc/self/fd", |_| {});
    for command in [
        format!("run -b {} fds", text(&bundle)),
        "exec target ls -l /proc/self/fd".to_owned(),
    ] {
        let line = format!(
            "exec 5</ 9</etc 200</root; exec {BINARY} --root {} {command}",
            text(&root)
        );
        let out = Command::new("bash").args(["-c", &line]).output().unwrap();
        let listing = String::from_utf8_lossy(&out.stdout);
        let descriptors = listing.lines().filter(|l| l.starts_with('l')).count();
        // The fourth is the directory that ls reads.
        assert!(out.status.success() && descriptors == 4, "{listing}");
    }
}

#[test]
fn masking_does_not_follow_a_replaced_dev_null_cve_2025_31133() {
    let Some(host) = Host::root("masking_does_not_follow_a_replaced_dev_null_cve_2025_31133") else {
        return;
    };
    // No /dev of the runtime's: the image's own, in which /dev/null leads to a file that must not become visible.
    let change = |c: &mut Value| {
        c["mounts"] = json!([{"destination": "/proc", "type": "proc", "source": "proc"}]);
        c["linux"]["maskedPaths"] = json!(["/etc/masked"]);
    };
    for link in ["/etc/secret", "/proc/sys/kernel/core_pattern"] {
        let name = format!("c{}", link.len());
        let bundle = host.bundle(&name, "cat /etc/masked; echo overwritten >/etc/masked", change);
        let rootfs = bundle.join("rootfs");
        fs::write(rootfs.join("etc/secret"), "secret\n").unwrap();
        fs::write(rootfs.join("etc/masked"), "masked\n").unwrap();
        std::os::unix::fs::symlink(link, rootfs.join("dev/null")).unwrap();
        let before = fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap();
        let ran = host.run(&["run", "-b", text(&bundle), &name]);
        assert!(
            !ran.stdout.contains("secret")
                && !ran.stdout.contains("masked")
                && !ran.stdout.contains(before.trim()),
            "{ran:?}"
        );
        assert_eq!(
            fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap(),
            before
        );
        assert_eq!(fs::read_to_string(rootfs.join("etc/secret")).unwrap(), "secret\n");
        assert_eq!(fs::read_to_string(rootfs.join("etc/masked")).unwrap(), "masked\n");
    }
}

#[test]
fn the_console_does_not_follow_a_link_of_the_image_cve_2025_52565() {
    let Some(host) = Host::root("the_console_does_not_follow_a_link_of_the_image_cve_2025_52565") else {
        return;
    };
    let bundle = host.bundle("c", "ls -l /etc/target; cat /etc/target", |c| {
        c["process"]["terminal"] = json!(true);
        c["mounts"] = json!([
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["newinstance", "ptmxmode=0666", "mode=0620"]},
        ]);
    });
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(rootfs.join("dev/pts")).unwrap();
    fs::write(rootfs.join("etc/target"), "target\n").unwrap();
    std::os::unix::fs::symlink("/etc/target", rootfs.join("dev/console")).unwrap();
    let ran = oci_support::on_terminal(host.command(&["run", "-b", text(&bundle), "c"]), "");
    // Either it is refused, or the link was not followed: the target is still the plain file.
    assert!(
        ran.code != 0 || (ran.stdout.contains("-rw") && ran.stdout.contains("target\n")),
        "{ran:?}"
    );
    assert_eq!(fs::read_to_string(rootfs.join("etc/target")).unwrap(), "target\n");
}

#[test]
fn writes_to_proc_go_to_proc_only_cve_2025_52881() {
    let Some(host) = Host::root("writes_to_proc_go_to_proc_only_cve_2025_52881") else {
        return;
    };
    // A proc that is a link, or a directory of the image's with links in the places the runtime writes to.
    let linked = host.bundle("linked", "true", |c| {
        c["linux"]["sysctl"] = json!({"kernel.domainname": "attack"});
    });
    let rootfs = linked.join("rootfs");
    fs::remove_dir(rootfs.join("proc")).unwrap();
    fs::create_dir_all(rootfs.join("fake/sys/kernel")).unwrap();
    std::os::unix::fs::symlink("/fake", rootfs.join("proc")).unwrap();
    host.run(&["run", "-b", text(&linked), "linked"]).fails(1);

    let faked = host.bundle("faked", "true", |c| {
        c["mounts"] = json!([]);
        c["linux"]["sysctl"] = json!({"kernel.domainname": "attack"});
    });
    let rootfs = faked.join("rootfs");
    fs::create_dir_all(rootfs.join("proc/sys/kernel")).unwrap();
    fs::write(rootfs.join("etc/target"), "target\n").unwrap();
    std::os::unix::fs::symlink("/etc/target", rootfs.join("proc/sys/kernel/domainname")).unwrap();
    let ran = host.run(&["run", "-b", text(&faked), "faked"]);
    assert_eq!(
        fs::read_to_string(rootfs.join("etc/target")).unwrap(),
        "target\n",
        "{ran:?}"
    );

    // And nothing may be mounted over parts of it.
    let covered = host.bundle("covered", "true", |c| {
        c["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/proc/self", "type": "tmpfs", "source": "tmpfs"}));
    });
    host.run(&["run", "-b", text(&covered), "covered"]).fails(1);
}

#[test]
fn a_read_only_cgroup_mount_is_read_only() {
    let Some(host) = Host::root("a_read_only_cgroup_mount_is_read_only") else {
        return;
    };
    for (name, namespace) in [("without", None), ("with", Some("cgroup"))] {
        let script = "for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do test -e $f && echo found && echo 1 >$f && echo writable; done; true";
        let bundle = host.bundle(name, script, |c| {
            c["mounts"].as_array_mut().unwrap().extend([
                json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]}),
                json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            ]);
            if let Some(namespace) = namespace {
                c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": namespace}));
            }
        });
        let out = host.run(&["run", "-b", text(&bundle), name]).ok();
        assert!(
            out.contains("found") && !out.contains("writable"),
            "{name}: {out}"
        );
    }
}

#[test]
fn cgroup_paths_that_are_not_the_containers_are_refused() {
    let Some(host) = Host::root("cgroup_paths_that_are_not_the_containers_are_refused") else {
        return;
    };
    for (i, path) in ["", "/", "..", "/a/../..", "../../x", "/./"]
        .into_iter()
        .enumerate()
    {
        let bundle = host.bundle(&format!("c{i}"), "true", |c| {
            c["linux"]["cgroupsPath"] = json!(path);
        });
        let line = host.run(&["run", "-b", text(&bundle), "c"]).fails(1);
        assert!(line.contains("cgroupsPath"), "{path:?}: {line}");
    }
}
