//! The attacker is root in a container, and tries to leave it or to take more than it was given.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use magikrun_tests::{BUSYBOX, Census, Magikrun, Scene, container, isolated, pod};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{eventually, log_until, prepared};

/// Compiles an attack that a shell cannot carry out. The program is linked statically: it runs in any image.
fn attack(scene: &Scene, name: &str, source: &str) -> PathBuf {
    let (dir, code) = (scene.dir().join("attacks"), scene.dir().join(format!("{name}.c")));
    fs::create_dir_all(&dir).unwrap();
    fs::write(&code, source).unwrap();
    let program = dir.join(name);
    let status = Command::new("cc")
        .args(["-static", "-pthread", "-O1", "-o"])
        .args([&program, &code])
        .status()
        .expect("cc(1)");
    assert!(status.success(), "cc {name}.c");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    program
}

/// Gives all containers of a pod the attacks, read-only at `/attacks`.
fn with_attacks(mut manifest: Value, attack: &Path) -> Value {
    let dir = attack.parent().expect("a directory");
    manifest["spec"]["volumes"] = json!([{"name": "attacks", "hostPath": {"path": dir}}]);
    for container in manifest["spec"]["containers"].as_array_mut().expect("containers") {
        container["volumeMounts"] = json!([{"name": "attacks", "mountPath": "/attacks", "readOnly": true}]);
    }
    manifest
}

/// A pod whose two containers share their processes; the first may trace, as in Kubernetes' own example.
pub(crate) fn sharing(script: &str) -> Value {
    let mut manifest = pod(
        "sharing",
        &[
            container("a", BUSYBOX, script),
            container("b", BUSYBOX, "exec sleep 1000"),
        ],
    );
    manifest["spec"]["shareProcessNamespace"] = json!(true);
    manifest["spec"]["containers"][0]["securityContext"] = json!({"capabilities": {"add": ["SYS_PTRACE"]}});
    manifest
}

fn phase(magikrun: &Magikrun, pod: &str) -> String {
    magikrun.json(&["pod", "status", pod])["phase"]
        .as_str()
        .expect("a phase")
        .to_owned()
}

/// The pid of a program, as the test sees it.
fn pid_of(comm: &str) -> Option<Pid> {
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("comm")).ok()?;
        let pid = entry.file_name().to_str()?.parse().ok()?;
        (found.trim_end() == comm).then(|| Pid::from_raw(pid))?
    })
}

isolated!(
    fn the_first_process_of_a_shared_namespace_leads_nowhere(scene) {
        let magikrun = prepared(scene);
        fs::write(scene.dir().join("of-the-host"), "secret").unwrap();
        let before = Census::take(&magikrun.roots());
        let script = format!(
            "for p in /proc/[0-9]*; do
               [ -e $p/root{marker} ] && echo REACHED $p
               chroot $p/root /bin/sh -c '[ -e {marker} ]' && echo ENTERED $p
               for fd in $p/fd/*; do [ -e $fd{marker} ] && echo OPEN $fd; done
             done 2>/dev/null
             ls -A /proc/1/root/ && echo listed
             ls -A /proc/1/fd/ && echo counted
             grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp|Uid|Groups):' /proc/1/status
             tr '\\0' '\\n' </proc/1/environ; touch /proc/1/root/x && echo WRITTEN
             until cat /proc/[0-9]*/comm | grep -q sleep; do :; done
             cat /proc/[0-9]*/comm | sort -u
             echo done; exec sleep 1000",
            marker = scene.dir().join("of-the-host").display(),
        );
        let out = magikrun.pod_run(&sharing(&script));
        assert_eq!(out.code, 0, "{}", out.stderr);
        let log = log_until(&magikrun, "sharing", "a", "done\n");
        for reached in ["REACHED", "ENTERED", "OPEN", "WRITTEN", "PATH="] {
            assert!(!log.contains(reached), "{log}");
        }
        let nothing = "listed\ncounted\nUid:\t65535\t65535\t65535\t65535\nGroups:\t \n\
                       CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n\
                       CapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert!(log.starts_with(nothing), "{log}");
        let programs = log.strip_prefix(nothing).unwrap();
        assert!(!programs.contains("magikrun"), "the init is seen: {programs}");
        assert!(programs.contains("pause\n") && programs.contains("sleep\n"), "{programs}");
        magikrun.ok(&["pod", "delete", "--force", "sharing"]);
        before.assert_same("after the pod was deleted");
    }
);

isolated!(
    fn no_signal_from_a_container_stops_a_pod_that_shares_its_processes(scene) {
        let magikrun = prepared(scene);
        let script = "for s in TERM INT HUP QUIT SEGV BUS STOP CHLD USR1 KILL; do kill -$s 1 || echo refused $s; done
                      sleep 1; echo done; exec sleep 1000";
        let out = magikrun.pod_run(&sharing(script));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(log_until(&magikrun, "sharing", "a", "done\n"), "done\n");
        assert_eq!(phase(&magikrun, "sharing"), "Running");
        // Both are there, exec works, and a stop still reaches them.
        let out = magikrun.ok(&["pod", "exec", "-c", "b", "sharing", "--", "sh", "-c", "cat /proc/1/comm; ps | grep -c '[s]leep 1000'"]);
        assert_eq!(out, "pause\n2\n");
        let stats = magikrun.json(&["pod", "stats", "sharing"]);
        assert!(!stats.to_string().contains("pause"), "{stats}");
        magikrun.ok(&["pod", "stop", "sharing"]);
        magikrun.ok(&["pod", "delete", "sharing"]);
    }
);

isolated!(
    fn what_is_orphaned_in_a_shared_namespace_does_not_stay_a_zombie(scene) {
        let magikrun = prepared(scene);
        let script = "i=0; while [ $i -lt 50 ]; do (sh -c 'sleep 0.1 & exit 0' &); i=$((i+1)); done
                      while ps -o comm | grep -q '^sh$'; do sleep 0.1; ps -o stat | grep -q ^Z || break; done
                      sleep 0.5; while ps -o stat | grep -q ^Z; do sleep 0.1; done; echo done; exec sleep 1000";
        let out = magikrun.pod_run(&sharing(script));
        assert_eq!(out.code, 0, "{}", out.stderr);
        log_until(&magikrun, "sharing", "a", "done\n");
        magikrun.ok(&["pod", "delete", "--force", "sharing"]);
    }
);

isolated!(
    fn a_shared_namespace_ends_with_its_first_process_and_only_that_pod_has_failed(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        let other = magikrun.pod_run(&pod("other", &[container("c", BUSYBOX, "exec sleep 1000")]));
        assert_eq!(other.code, 0, "{}", other.stderr);
        let out = magikrun.pod_run(&sharing("exec sleep 1000"));
        assert_eq!(out.code, 0, "{}", out.stderr);
        // As a container that traces it could have it end.
        kill_process(pid_of("pause").expect("PID 1 of the shared namespace"), Signal::KILL).unwrap();
        eventually("the end of the pod", || phase(&magikrun, "sharing") == "Failed");
        let status = magikrun.json(&["pod", "status", "sharing"]).to_string();
        assert!(status.contains("137"), "{status}");
        assert_eq!(phase(&magikrun, "other"), "Running");
        magikrun.ok(&["pod", "delete", "sharing"]);
        magikrun.ok(&["pod", "delete", "--force", "other"]);
        before.assert_same("after both pods were deleted");
    }
);

isolated!(
    fn a_container_neither_sees_nor_signals_the_pods_init(scene) {
        let magikrun = prepared(scene);
        let script = "grep -l magik[r]un /proc/[0-9]*/comm /proc/[0-9]*/cmdline 2>/dev/null | grep -v /proc/$$/
                      (sh -c 'kill -KILL -1'); echo done; exec sleep 1000";
        let out = magikrun.pod_run(&pod("alone", &[container("c", BUSYBOX, script)]));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(log_until(&magikrun, "alone", "c", "done\n"), "done\n");
        assert_eq!(phase(&magikrun, "alone"), "Running");
        magikrun.ok(&["pod", "delete", "--force", "alone"]);
    }
);

isolated!(
    fn the_hosts_memory_is_not_filled_through_files_in_etc(scene) {
        let magikrun = prepared(scene);
        let script = "for f in hosts hostname resolv.conf; do
                        dd if=/dev/zero of=/etc/$f bs=1M count=8 2>/dev/null && echo FILLED $f
                        echo x >> /etc/$f && echo WRITTEN $f
                        mount -o remount,rw,bind /etc/$f && echo REMOUNTED $f
                        rm -f /etc/$f && echo REMOVED $f
                        [ -e /etc/$f ] && [ -r /etc/$f ] || echo GONE $f
                      done 2>/dev/null; grep -c localhost /etc/hosts; cat /etc/hostname; exec sleep 1000";
        let out = magikrun.pod_run(&pod("etc", &[container("c", BUSYBOX, script)]));
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(log_until(&magikrun, "etc", "c", "etc\n"), "2\netc\n");
        for entry in fs::read_dir(magikrun.state.join("sandboxes")).unwrap().flatten() {
            for file in fs::read_dir(entry.path().join("etc")).unwrap().flatten() {
                assert!(file.metadata().unwrap().len() < 4096, "{file:?}");
            }
        }
        magikrun.ok(&["pod", "delete", "--force", "etc"]);
    }
);

const THREADS: &str = r#"
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *sleeps(void *x) { for (;;) pause(); return x; }
int main(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    int made = 1;
    pthread_t thread;
    while (made < 10000 && pthread_create(&thread, &small, sleeps, 0) == 0) made++;
    printf("made %d\n", made);
    fflush(stdout);
    for (;;) pause();
}
"#;

isolated!(
    fn a_pod_takes_no_more_processes_than_it_may_have(scene) {
        let magikrun = prepared(scene);
        let before = Census::take(&magikrun.roots());
        let bomb = attack(scene, "threads", THREADS);
        let names = ["a", "b", "c", "d"];
        let containers = names.map(|name| container(name, BUSYBOX, "exec /attacks/threads"));
        let out = magikrun.pod_run(&with_attacks(pod("bomb", &containers), &bomb));
        assert_eq!(out.code, 0, "{}", out.stderr);
        let made = names.map(|name| {
            let log = log_until(&magikrun, "bomb", name, "\n");
            log.trim_start_matches("made ").trim().parse::<u32>().expect("a number")
        });
        let total: u32 = made.iter().sum();
        assert!(total <= 4096, "{made:?}");
        assert!(total > 4000, "each but the last has what a container may have: {made:?}");
        // Another pod starts, and this one goes.
        let other = magikrun.pod_run(&pod("other", &[container("c", BUSYBOX, "exec sleep 1000")]));
        assert_eq!(other.code, 0, "{}", other.stderr);
        magikrun.ok(&["pod", "delete", "--force", "bomb"]);
        magikrun.ok(&["pod", "delete", "--force", "other"]);
        before.assert_same("after both pods were deleted");
    }
);

/// Looks for a key in the session keyring, and prints what it holds.
const KEYS: &str = r#"
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    char payload[100] = {0};
    long key = syscall(SYS_keyctl, 10 /* SEARCH */, -3 /* the session's */, "user", "of-the-launcher", 0);
    if (key < 0) printf("no key: %d\n", errno);
    else if (syscall(SYS_keyctl, 11 /* READ */, key, payload, sizeof payload - 1) < 0) printf("FOUND, errno %d\n", errno);
    else printf("FOUND %s\n", payload);
    fflush(stdout);
    pause();
}
"#;

#[allow(unsafe_code, reason = "neither std nor rustix has keys")]
fn add_a_key_to_a_session_of_our_own() {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    const SESSION_KEYRING: libc::c_long = -3;
    let payload = b"secret";
    // SAFETY: system calls on constants.
    let (joined, added) = unsafe {
        (
            libc::syscall(
                libc::SYS_keyctl,
                JOIN_SESSION_KEYRING,
                std::ptr::null::<libc::c_char>(),
            ),
            libc::syscall(
                libc::SYS_add_key,
                c"user".as_ptr(),
                c"of-the-launcher".as_ptr(),
                payload.as_ptr(),
                payload.len(),
                SESSION_KEYRING,
            ),
        )
    };
    assert!(joined > 0 && added > 0, "{}", std::io::Error::last_os_error());
}

isolated!(
    fn a_pod_has_none_of_the_keys_of_who_launched_it(scene) {
        let magikrun = prepared(scene);
        add_a_key_to_a_session_of_our_own();
        let keys = attack(scene, "keys", KEYS);
        let own = Command::new(&keys).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let manifest = pod("keys", &[container("c", BUSYBOX, "exec /attacks/keys")]);
        let out = magikrun.pod_run(&with_attacks(manifest, &keys));
        assert_eq!(out.code, 0, "{}", out.stderr);
        let log = log_until(&magikrun, "keys", "c", "\n");
        assert!(log.starts_with("no key: "), "{log}");
        magikrun.ok(&["pod", "delete", "--force", "keys"]);
        // The attack is a good one: it works from where it may.
        kill_process(Pid::from_child(&own), Signal::KILL).unwrap();
        let found = own.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&found.stdout), "FOUND secret\n");
    }
);

isolated!(
    fn a_container_changes_nothing_of_anothers_proc(scene) {
        let magikrun = prepared(scene);
        let program = attack(
            scene,
            "reconfigure",
            "#define _GNU_SOURCE
             #include <stdio.h>
             #include <sys/mount.h>
             #include <sys/syscall.h>
             #include <unistd.h>
             /* Before glibc 2.36 there are no functions for these. */
             int main(int argc, char **argv) {
                 int fs = syscall(433, -100, \"/proc\", 0);
                 if (fs < 0) { perror(\"fspick\"); return 1; }
                 if (syscall(431, fs, 1, argv[1], argv[2], 0) < 0) { perror(\"fsconfig\"); return 1; }
                 if (syscall(431, fs, 7, 0, 0, 0) < 0) { perror(\"reconfigure\"); return 1; }
                 return 0;
             }",
        );
        let mut manifest = sharing("exec sleep 1000");
        let init = container("first", BUSYBOX, "/attacks/reconfigure subset pid && echo changed");
        manifest["spec"]["initContainers"] = json!([init]);
        manifest["spec"]["initContainers"][0]["securityContext"] = json!({"privileged": true});
        let mut manifest = with_attacks(manifest, &program);
        manifest["spec"]["initContainers"][0]["volumeMounts"] = manifest["spec"]["containers"][0]["volumeMounts"].clone();
        let out = magikrun.pod_run(&manifest);
        assert_eq!(out.code, 0, "{}", out.stderr);
        assert_eq!(magikrun.ok(&["pod", "logs", "-c", "first", "sharing"]), "changed\n");
        for name in ["a", "b"] {
            let script = "head -c1 /proc/keys | wc -c; echo x >/proc/sys/kernel/core_pattern || echo refused; grep -c ' /proc' /proc/mounts";
            let out = magikrun.ok(&["pod", "exec", "-c", name, "sharing", "--", "sh", "-c", script]);
            let lines: Vec<&str> = out.lines().collect();
            assert_eq!(lines[..2], ["0", "refused"], "{name}: its masks are there");
            assert!(lines[2].parse::<u32>().unwrap() > 8, "{name}: {out}");
        }
        magikrun.ok(&["pod", "delete", "--force", "sharing"]);
    }
);
