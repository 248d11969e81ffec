//! Tests of other packages in a guest, whose kernel has cgroup v2 and nothing else: so that both versions are tested on
//! every change, whatever the host has. oci-native's own, those of the OCI command line, and the attacks.
//!
//! The guest boots from the test programs, the libraries they need and a busybox, all where they are on the host. Its init
//! runs one program after the other and leaves what they said in a share.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "each test of the guest is told, as a test runner does"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use magikrun_test_guest::Guest;
use magikrun_tests::binary;
use serde_json::Value;

/// Everything, on a busy machine.
const LIMIT: Duration = Duration::from_secs(420);
const MEMORY_MIB: u32 = 2048;

/// A package's test programs, and what they need.
struct Suite {
    package: &'static str,
    /// By name, each with arguments.
    programs: &'static [(&'static str, &'static str)],
    /// Programs that cargo has built beside the tests.
    binaries: &'static [&'static str],
    /// Programs of the host.
    tools: &'static [&'static str],
    /// Tests that cannot run in the guest and say `SKIPPED` there, and why. Anything else must pass.
    cannot_run: &'static [(&'static str, &'static str)],
}

/// What a world of a test's own is made with.
const WORLD_TOOLS: &[&str] = &["/usr/bin/bash", "/usr/bin/timeout", "/usr/bin/unshare"];

const OCI_NATIVE: Suite = Suite {
    package: "oci-native",
    programs: &[
        ("exec", ""),
        ("lifecycle", ""),
        ("oci_native", ""),
        ("single_threaded", ""),
        ("traps", ""),
    ],
    binaries: &["oci-native-worker"],
    // Tests compare with it.
    tools: &["/usr/sbin/runc"],
    cannot_run: &[],
};

const COMMAND_LINE: Suite = Suite {
    package: "magikrun",
    // Two that make containers by the dozen, and have nothing to do with cgroups, take minutes when emulated.
    programs: &[
        ("oci_exec", ""),
        (
            "oci_life",
            // And ps(1) is busybox's there.
            "--skip commands_on_one_container --skip a_command_killed_at_any_moment --skip list_and_ps_show",
        ),
        ("oci_safety", ""),
    ],
    binaries: &["magikrun"],
    tools: WORLD_TOOLS,
    cannot_run: &[],
};

const ATTACKS: Suite = Suite {
    package: "magikrun-tests",
    // Those on the way into a container; others take minutes when emulated, or have nothing to do with cgroups.
    programs: &[("security", "peeking")],
    binaries: &["magikrun"],
    tools: WORLD_TOOLS,
    cannot_run: &[],
};

/// The test programs of a suite: by name, and where cargo has put them.
fn programs(suite: &Suite) -> BTreeMap<String, PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The selection of `cargo xtask test`: everything is built already.
    let mut build = Command::new(cargo);
    build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["test", "--no-run", "--quiet", "--locked", "--workspace"])
        .args([
            "--features",
            "magikrun-cli/test-hooks",
            "--message-format",
            "json",
        ]);
    for (name, _) in suite.programs {
        // The library's own tests are called as the package is.
        if *name == suite.package.replace('-', "_") {
            build.arg("--lib");
        } else {
            build.args(["--test", name]);
        }
    }
    let built = build.output().expect("cargo");
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&built.stdout).lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let id = message["package_id"].as_str().unwrap_or_default();
        let named = format!("{}@", suite.package);
        let of_package = id.contains(&format!("/{}#", suite.package)) || id.contains(&format!("#{named}"));
        if message["profile"]["test"] == true
            && of_package
            && let (Some(name), Some(program)) =
                (message["target"]["name"].as_str(), message["executable"].as_str())
        {
            found.insert(name.to_owned(), program.into());
        }
    }
    let wanted: Vec<_> = suite.programs.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        wanted,
        "test programs of {}",
        suite.package
    );
    found
}

fn put(guest: &mut Guest, program: &Path, at: &Path) {
    guest
        .program(program, &at.display().to_string())
        .expect("a program");
}

/// The guest, and the script that runs the suite in it.
fn lay_out(suite: &Suite) -> (Guest, String) {
    let mut guest = Guest::create(Path::new("/")).expect("a guest");
    for tool in suite.tools.iter().map(Path::new).filter(|tool| tool.is_file()) {
        put(&mut guest, tool, tool);
    }
    let programs = programs(suite);
    for name in suite.binaries {
        let built = binary().with_file_name(name);
        put(&mut guest, &built, &built);
        // oci-native's tests look for it beside them.
        for program in programs.values() {
            put(&mut guest, &built, &program.with_file_name(name));
        }
    }
    let mut script = "export MAGIKRUN_TEST_BUSYBOX=/bin/busybox\n".to_owned();
    for (name, arguments) in suite.programs {
        let program = &programs[*name];
        put(&mut guest, program, program);
        let program = program.display();
        script += &format!(
            "{program} --test-threads=1 --show-output {arguments} >/out/{name}.log 2>&1 </dev/null\n\
             echo $? >/out/{name}.status\n"
        );
    }
    (guest, script)
}

/// What became of the tests of the guest.
#[derive(Debug, Default)]
struct Outcome {
    passed: BTreeSet<String>,
    failed: BTreeSet<String>,
    skipped: BTreeMap<String, String>,
}

impl Outcome {
    /// Reads what a program said, in libtest's form.
    fn read(&mut self, program: &str, log: &str) {
        for line in log.lines() {
            if let Some(rest) = line.strip_prefix("SKIPPED ") {
                let (test, reason) = rest.split_once(": ").unwrap_or((rest, ""));
                self.skipped.insert(test.to_owned(), reason.to_owned());
            } else if let Some((test, how)) = line
                .strip_prefix("test ")
                .and_then(|rest| rest.rsplit_once(" ... "))
            {
                let test = format!("{program} {test}");
                // Where a test prints something of its own, how it ended is elsewhere; the program's status says whether all is well.
                match how {
                    "ok" => self.passed.insert(test),
                    "FAILED" => self.failed.insert(test),
                    _ => false,
                };
            } else if line.starts_with("test result: ok. ") && !line.contains(" 0 passed") {
                self.passed.insert(program.to_owned());
            }
        }
    }
}

/// Runs a suite in a guest as the test `test`; every test of it must pass there.
fn run(suite: &Suite, test: &str) {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED {test}: needs root");
        return;
    }
    let (guest, script) = lay_out(suite);
    // target/debug/magikrun: target/vm.
    let machine_files = binary().ancestors().nth(2).expect("target").join("vm");
    let begun = Instant::now();
    let ended = guest.run(&script, &machine_files, MEMORY_MIB, LIMIT);
    let mut outcome = Outcome::default();
    let mut trouble = vec![];
    for (name, _) in suite.programs {
        let read = |kind: &str| fs::read_to_string(guest.out().join(format!("{name}.{kind}")));
        let log = read("log").unwrap_or_default();
        outcome.read(name, &log);
        let status = read("status").unwrap_or_else(|_| "did not end".to_owned());
        if status.trim() != "0" {
            println!("--- {name}: {}\n{log}", status.trim());
            trouble.push(format!("{name}: {}", status.trim()));
        }
    }
    for (test, reason) in &outcome.skipped {
        println!("not run in the guest: {test}: {reason}");
    }
    println!(
        "{} tests passed in the guest, {} failed, {} cannot run there; {:.0} s",
        outcome.passed.len().saturating_sub(outcome.skipped.len()),
        outcome.failed.len(),
        outcome.skipped.len(),
        begun.elapsed().as_secs_f64(),
    );
    ended.expect("the guest ends by itself");
    assert!(!outcome.passed.is_empty(), "no test ran in the guest");
    assert!(
        trouble.is_empty() && outcome.failed.is_empty(),
        "{trouble:?} {:?}",
        outcome.failed
    );
    if !Path::new("/usr/sbin/runc").is_file() {
        outcome.skipped.retain(|_, why| why != "needs runc");
    }
    let expected: BTreeMap<_, _> = suite
        .cannot_run
        .iter()
        .map(|(test, why)| ((*test).to_owned(), (*why).to_owned()))
        .collect();
    assert_eq!(outcome.skipped, expected, "what cannot run in the guest");
}

#[test]
fn oci_native_keeps_its_promises_on_cgroup_v2() {
    run(&OCI_NATIVE, "oci_native_keeps_its_promises_on_cgroup_v2");
}

#[test]
fn the_command_line_keeps_its_promises_on_cgroup_v2() {
    run(&COMMAND_LINE, "the_command_line_keeps_its_promises_on_cgroup_v2");
}

#[test]
fn attacks_fail_on_cgroup_v2() {
    run(&ATTACKS, "attacks_fail_on_cgroup_v2");
}
