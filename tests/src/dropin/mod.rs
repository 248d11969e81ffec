//! Other people's container engines with magikrun as their runtime.
//!
//! [`on_stage`] runs a test in a world of its own, so that nothing of an engine stays on the host; [`Client`] calls an
//! engine's command line; [`run_checks`] runs a table of named checks and reports each.

mod client;
mod containerd;
mod documented;
mod image;

use std::{
    env,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};
use magikrun_test_world::{catches, mount_tmpfs};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::Signal,
};

pub use client::{Client, Outcome};
pub use containerd::Containerd;
pub use documented::documented;
pub use image::{BOX, busybox_tar, docker_archive};

/// The runtime to test instead of magikrun: a check that runc or crun does not pass is no check.
const RUNTIME: &str = "MAGIKRUN_DROPIN_RUNTIME";

/// That runtime, or magikrun.
#[must_use]
pub fn runtime_under_test() -> PathBuf {
    env::var_os(RUNTIME).map_or_else(crate::binary, PathBuf::from)
}

/// Where a test's engines live.
#[derive(Debug)]
pub struct Stage {
    /// A tmpfs that is gone when the test is over.
    pub dir: PathBuf,
    /// The runtime under test.
    pub runtime: PathBuf,
}

/// Runs `body` as the test `name` in a world of its own, or says `SKIPPED` where a program is missing.
///
/// # Panics
/// If the test fails.
pub fn on_stage(name: &str, programs: &[&str], body: impl FnOnce(&Stage)) {
    if let Some(missing) = programs.iter().find(|p| !in_path(p)) {
        skip(name, &format!("needs {missing} (`cargo xtask test` installs it)"));
        return;
    }
    crate::run_isolated(name, |scene| {
        let runtime = runtime_under_test();
        // What engines keep in fixed places is theirs alone.
        for dir in ["/run", "/dev/shm"] {
            mount_tmpfs(Path::new(dir), 1 << 30).expect("mount");
        }
        if runtime.ends_with("crun") {
            // It refuses hybrid hierarchies.
            let _ = unmount("/sys/fs/cgroup/unified", UnmountFlags::DETACH);
        }
        body(&Stage {
            dir: scene.dir().to_owned(),
            runtime,
        });
    });
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

fn in_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// A named check of an engine.
pub type Check<C> = (&'static str, fn(&C) -> Result<()>);

/// Runs the checks on `threads` threads, prints how each went, and fails if one did.
///
/// # Panics
/// If a check failed.
#[allow(clippy::print_stderr, reason = "the report of the test")]
pub fn run_checks<C: Sync>(what: &str, client: &C, threads: usize, checks: &[Check<C>]) {
    let only = env::var("MAGIKRUN_DROPIN_ONLY").ok();
    let checks: Vec<_> = checks
        .iter()
        .filter(|(name, _)| only.as_ref().is_none_or(|o| name.contains(o)))
        .collect();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((name, check)) = checks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let started = Instant::now();
                    let result = check(client);
                    let took = started.elapsed().as_millis();
                    match result {
                        Ok(()) => eprintln!("{what}: ok   {name} ({took} ms)"),
                        Err(error) => {
                            eprintln!("{what}: FAIL {name} ({took} ms): {error:#}");
                            failed.lock().expect("no check panics").push(*name);
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no check panics");
    let passed = checks.len() - failed.len();
    eprintln!(
        "{what}: {passed} passed, {} failed in {} s",
        failed.len(),
        start.elapsed().as_secs()
    );
    assert!(failed.is_empty(), "{what}: failed: {}", failed.join(", "));
}

/// Waits until a process handles a signal, as [`eventually`] does.
///
/// # Errors
/// It does not.
pub fn until_caught(pid: u64, signal: Signal) -> Result<()> {
    eventually("the signal is handled", || catches(pid, signal))
}

/// Waits until `condition` holds, at most 20 seconds.
///
/// # Errors
/// It does not, and `what` says what was waited for.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    for _ in 0..400 {
        if condition() {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    bail!("waited in vain: {what}")
}
