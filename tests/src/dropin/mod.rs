//! Other people's container engines with magikrun as their runtime.
//!
//! [`stage`] runs a test in namespaces of its own, so that nothing of an engine stays on the host; [`Client`] calls an
//! engine's command line; [`run_checks`] runs a table of named checks and reports each.

mod client;
mod image;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use anyhow::{Result, bail};

pub use client::{Client, Outcome};
pub use image::{busybox_tar, docker_archive};

/// Set in the staged half of a test to its directory.
const STAGED: &str = "MAGIKRUN_DROPIN_STAGED";
/// The runtime to test instead of magikrun: a check that runc or crun does not pass is no check.
const RUNTIME: &str = "MAGIKRUN_DROPIN_RUNTIME";

/// Where a test's engines live.
#[derive(Debug)]
pub struct Stage {
    /// A tmpfs that is gone when the test is over.
    pub dir: PathBuf,
    /// The runtime under test.
    pub runtime: PathBuf,
}

/// Runs the rest of the test in namespaces of its own: `Some` there, `None` outside once it is over.
///
/// # Panics
/// If the staged half failed.
#[must_use]
pub fn stage(test: &str, programs: &[&str]) -> Option<Stage> {
    if let Some(dir) = env::var_os(STAGED) {
        let runtime = env::var_os(RUNTIME).map_or_else(crate::magikrun::binary, PathBuf::from);
        return Some(Stage { dir: dir.into(), runtime });
    }
    if !rustix::process::geteuid().is_root() {
        skip(test, "needs root");
        return None;
    }
    if let Some(missing) = programs.iter().find(|p| !in_path(p)) {
        skip(test, &format!("needs {missing} (`cargo xtask test` installs it)"));
        return None;
    }
    let dir = tempfile::Builder::new().prefix("magikrun-dropin-").tempdir().expect("temporary directory");
    let script = dir.path().with_extension("sh");
    fs::write(&script, include_str!("stage.sh")).expect("stage.sh");
    let cgroup = Cgroup(format!("magikrun-test-{test}-{}", std::process::id()));
    let status = Command::new("bash")
        .args([script.as_os_str(), cgroup.0.as_ref(), dir.path().as_os_str()])
        .arg(env::current_exe().expect("own executable"))
        .args([test, "--exact", "--nocapture"])
        .env(STAGED, dir.path())
        // Engines must not find another engine's settings.
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("DOCKER_HOST")
        .status();
    let _ = fs::remove_file(&script);
    assert!(status.expect("bash").success(), "{test} failed: see above");
    None
}

#[allow(clippy::print_stderr, reason = "a skipped test says so")]
fn skip(test: &str, why: &str) {
    eprintln!("SKIPPED {test}: {why}");
}

fn in_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// A cgroup of every hierarchy, removed with all below it.
struct Cgroup(String);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            remove_cgroups(&hierarchy.join(&self.0));
        }
    }
}

/// cgroupfs removes empty directories only, from the leaves up.
fn remove_cgroups(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(dir);
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
    let checks: Vec<_> = checks.iter().filter(|(name, _)| only.as_ref().is_none_or(|o| name.contains(o))).collect();
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
    eprintln!("{what}: {passed} passed, {} failed in {} s", failed.len(), start.elapsed().as_secs());
    assert!(failed.is_empty(), "{what}: failed: {}", failed.join(", "));
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
