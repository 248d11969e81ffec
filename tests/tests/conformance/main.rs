//! Behaviour of the OCI runtime command line that the runtime-spec demands, check by check, the same for every runtime.
//!
//! The checks restate what opencontainers/runtime-tools' validation programs look at. They run against our binary and, where
//! Debian's runc and crun are installed, against those too: whatever one of the two passes on this machine, ours has to pass.
//! `MAGIKRUN_CONFORMANCE=name` runs the checks whose name contains `name`.
#![allow(clippy::print_stderr, reason = "a test reports each check")]

mod cgroups;
mod filesystem;
mod harness;
mod hooks;
mod lifecycle;
mod namespaces;
mod process;

use std::path::{Path, PathBuf};

use harness::{Check, Runtime};
use magikrun_test_world::cgroups_named;

fn checks() -> Vec<Check> {
    [
        lifecycle::CHECKS,
        process::CHECKS,
        filesystem::CHECKS,
        namespaces::CHECKS,
        cgroups::CHECKS,
        hooks::CHECKS,
    ]
    .concat()
    .into_iter()
    .filter(|c| std::env::var("MAGIKRUN_CONFORMANCE").map_or(true, |part| c.name.contains(&part)))
    .collect()
}

/// Every check against one runtime, in order.
fn run_all(runtime: &Runtime) -> Vec<Result<(), String>> {
    checks()
        .iter()
        .map(|check| (check.run)(runtime).map_err(|e| format!("{e:#}")))
        .collect()
}

#[test]
fn passes_whatever_runc_or_crun_passes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED passes_whatever_runc_or_crun_passes: needs root");
        return;
    }
    let ours = Runtime::new("magikrun", magikrun_tests::binary());
    let peers: Vec<Runtime> = [("runc", "/usr/sbin/runc"), ("crun", "/usr/bin/crun")]
        .into_iter()
        .filter(|(_, path)| Path::new(path).exists())
        .map(|(name, path)| Runtime::new(name, PathBuf::from(path)))
        .collect();
    if peers.is_empty() {
        eprintln!("SKIPPED comparison with runc and crun: neither is installed; every check must pass");
    }

    let (mine, theirs) = std::thread::scope(|scope| {
        let theirs: Vec<_> = peers.iter().map(|peer| scope.spawn(|| run_all(peer))).collect();
        let mine = run_all(&ours);
        (
            mine,
            theirs
                .into_iter()
                .map(|t| t.join().expect("a peer's checks"))
                .collect::<Vec<_>>(),
        )
    });

    // The parent of all containers' cgroups is ours to remove, and crun leaves some below it; rmdir takes empty ones only.
    for parent in cgroups_named("magikrun-conformance").expect("cgroups") {
        for left in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(left.path());
        }
        let _ = std::fs::remove_dir(parent);
    }

    let (mut passed, mut missing, mut beyond) = (0, Vec::new(), 0);
    for (i, check) in checks().iter().enumerate() {
        let peers_pass = peers.is_empty() || theirs.iter().any(|results| results[i].is_ok());
        let by_peer: Vec<String> = peers
            .iter()
            .zip(&theirs)
            .map(|(p, results)| format!("{} {}", p.name, if results[i].is_ok() { "ok" } else { "fails" }))
            .collect();
        match &mine[i] {
            Ok(()) => {
                passed += 1;
                beyond += usize::from(!peers_pass);
                eprintln!("ok    {:<44} {}", check.name, by_peer.join(", "));
            }
            Err(why) => {
                eprintln!(
                    "{} {:<44} {}: {why}",
                    if peers_pass { "FAIL " } else { "n/a  " },
                    check.name,
                    by_peer.join(", ")
                );
                if peers_pass {
                    missing.push(check.name);
                }
            }
        }
    }
    for (peer, results) in peers.iter().zip(&theirs) {
        eprintln!(
            "{} passes {} of {}",
            peer.name,
            results.iter().filter(|r| r.is_ok()).count(),
            results.len()
        );
    }
    eprintln!(
        "magikrun passes {passed} of {}, {beyond} of which no peer passes",
        mine.len()
    );
    assert!(
        missing.is_empty(),
        "a peer passes these, magikrun does not: {missing:?}"
    );
}
