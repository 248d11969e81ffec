//! The attacker has `CAP_SYS_PTRACE` in a container and looks into every process that appears beside it: a process of the
//! runtime's, on its way into the container, must not have the host's root, mounts, descriptors or capabilities (CVE-2016-9962
//! and what is left of it where the container may trace).

use std::{collections::HashSet, env, fs, path::Path};

use magikrun_tests::{dropin::runtime_under_test, run_isolated};
use serde_json::{Value, json};

use crate::harness::{Bundle, Runtime, eventually};

/// In the attacking container: a path of the host's that nobody in a container may see.
const LOOK_FOR: &str = "MAGIKRUN_SECURITY_LOOK_FOR";
/// What the attacker has seen, and that it looks.
const SEEN: &str = "/seen";
const LOOKS: &str = "/looks";
/// How often something is started beside it.
const ROUNDS: u32 = 60;

/// Looks at every process but its own, as fast as it can.
fn look_for_ever(secret: &str) -> ! {
    let own = effective("self").expect("own capabilities");
    let mut seen = HashSet::new();
    for round in 0_u64.. {
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            if pid == std::process::id() {
                continue;
            }
            if fs::metadata(format!("/proc/{pid}/root{secret}")).is_ok() {
                seen.insert("the host's root".to_owned());
            }
            for fd in 0..16 {
                // A directory that leads out of this root has a name that is not in it.
                let fd = format!("/proc/{pid}/fd/{fd}");
                let is_dir = fs::metadata(&fd).is_ok_and(|m| m.is_dir());
                if is_dir && fs::metadata(format!("{fd}/../../../../..{secret}")).is_ok() {
                    seen.insert("a directory of the host's".to_owned());
                }
            }
            if let Some(theirs) = effective(&pid.to_string())
                && theirs & !own != 0
            {
                seen.insert(format!("capabilities {theirs:x} beside {own:x}"));
            }
        }
        let _ = fs::write(SEEN, seen.iter().cloned().collect::<Vec<_>>().join("\n"));
        if round % 100 == 1 {
            let _ = fs::write(LOOKS, round.to_string());
        }
    }
    unreachable!("it is killed");
}

fn effective(pid: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// A container that runs this test's own program.
fn attacker<'a>(runtime: &'a Runtime, test: &str, secret: &Path) -> Bundle<'a> {
    let mut attacker = runtime.bundle("").expect("a bundle");
    let own = env::current_exe().expect("own executable");
    let mut mounts = vec![(own.as_path(), "/attack"), (Path::new("/usr"), "/usr")];
    for dir in ["/lib", "/lib64"].map(Path::new) {
        if dir.is_symlink() {
            let link = attacker.rootfs().join(dir.strip_prefix("/").expect("absolute"));
            std::os::unix::fs::symlink(format!("usr{}", dir.display()), link).expect("a link");
        } else if dir.exists() {
            mounts.push((dir, dir.to_str().expect("UTF-8")));
        }
    }
    for (source, destination) in mounts {
        let mount =
            json!({"destination": destination, "type": "bind", "source": source, "options": ["bind", "ro"]});
        attacker.config["mounts"]
            .as_array_mut()
            .expect("mounts")
            .push(mount);
    }
    let process = &mut attacker.config["process"];
    process["args"] = json!(["/attack", "--exact", test, "--nocapture"]);
    process["env"] = json!([format!("{LOOK_FOR}={}", secret.display())]);
    may_trace(process);
    attacker
}

fn may_trace(process: &mut Value) {
    let set = json!(["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"]);
    for kind in ["bounding", "effective", "permitted"] {
        process["capabilities"][kind] = set.clone();
    }
    process["noNewPrivileges"] = json!(false);
}

fn read(bundle: &Bundle<'_>, path: &str) -> String {
    fs::read_to_string(bundle.rootfs().join(path.trim_start_matches('/'))).unwrap_or_default()
}

/// Runs `start` beside the attacker again and again.
fn beside_the_attacker(name: &str, start: impl FnMut(&Runtime, &Bundle<'_>, u32)) {
    beside(name, |_| {}, start);
}

/// The same with another attacker.
fn beside(name: &str, change: impl FnOnce(&mut Value), mut start: impl FnMut(&Runtime, &Bundle<'_>, u32)) {
    if let Ok(secret) = env::var(LOOK_FOR) {
        look_for_ever(&secret);
    }
    run_isolated(name, |scene| {
        tempfile::env::override_temp_dir(scene.dir()).expect("the first to set it");
        let secret = scene.dir().join("a-secret-of-the-host");
        fs::write(&secret, "secret").expect("a secret");
        let runtime = Runtime::new("peek", runtime_under_test());
        let mut attacker = attacker(&runtime, name, &secret);
        change(&mut attacker.config);
        attacker.create().expect("the attacker");
        attacker.ok("start", &[]).expect("the attacker");
        eventually("the attacker looks", || Ok(!read(&attacker, LOOKS).is_empty())).expect("an attacker");
        for round in 0..ROUNDS {
            start(&runtime, &attacker, round);
        }
        assert_eq!(read(&attacker, SEEN), "", "what the attacker has seen");
    });
}

#[test]
fn a_process_that_is_executed_in_a_container_shows_nothing_of_the_host_cve_2016_9962() {
    let name = "peeking::a_process_that_is_executed_in_a_container_shows_nothing_of_the_host_cve_2016_9962";
    beside_the_attacker(name, |_, attacker, _| {
        attacker.ok("exec", &["/bin/busybox", "true"]).expect("exec");
    });
}

/// A container that joins the attacker's pid namespace.
fn joining<'a>(runtime: &'a Runtime, attacker: &Bundle<'_>) -> Bundle<'a> {
    let pid = attacker.pid().expect("a pid");
    let mut joins = runtime.bundle("true").expect("a bundle");
    let namespaces = joins.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    namespaces.push(json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}));
    // Its own capabilities are the attacker's: any more are the runtime's.
    may_trace(&mut joins.config["process"]);
    joins
}

fn run_or_be_refused(joins: &Bundle<'_>) {
    if let Err(refused) = joins.run() {
        // Older kernels make its /proc with a process that is there for a moment.
        assert!(format!("{refused:#}").contains("needs Linux 6.17"), "{refused:#}");
    }
}

#[test]
fn a_container_that_joins_a_pid_namespace_shows_nothing_of_the_host() {
    let name = "peeking::a_container_that_joins_a_pid_namespace_shows_nothing_of_the_host";
    beside_the_attacker(name, |runtime, attacker, round| {
        let mut joins = joining(runtime, attacker);
        if round % 2 == 0 {
            joins.config["process"]["noNewPrivileges"] = json!(true);
        }
        run_or_be_refused(&joins);
    });
}

/// The filter is then loaded after the process has joined: it has to have given up everything else
/// before.
#[test]
fn a_process_that_joins_before_its_filter_shows_nothing_of_the_host() {
    let name = "peeking::a_process_that_joins_before_its_filter_shows_nothing_of_the_host";
    const CLONE_PARENT: u64 = 0x8000;
    let forbid = |config: &mut Value| {
        let siblings = json!([{"index": 0, "value": CLONE_PARENT, "valueTwo": CLONE_PARENT, "op": "SCMP_CMP_MASKED_EQ"}]);
        let rule = json!({"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": siblings});
        config["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]});
        config["process"]["noNewPrivileges"] = json!(true);
    };
    beside(name, forbid, |runtime, attacker, round| {
        if round % 2 == 0 {
            attacker.ok("exec", &["/bin/busybox", "true"]).expect("exec");
            return;
        }
        let mut joins = joining(runtime, attacker);
        forbid(&mut joins.config);
        run_or_be_refused(&joins);
    });
}
