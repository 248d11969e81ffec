//! The processes of a virtual machine, as a test that kills them sees them: in its world they are all its own.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// An emulated machine on a busy one: nothing is asserted about how long anything takes.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Whether there is what machines are made of; says so when not, and what is skipped: the test in this directory.
#[must_use]
pub fn has_machines(test: &Path) -> bool {
    // target/debug/magikrun: target/vm.
    let vminit = crate::binary()
        .ancestors()
        .nth(2)
        .expect("target")
        .join("vm/vminit");
    #[expect(
        clippy::print_stderr,
        reason = "a skipped test says so where the runner shows it"
    )]
    if !vminit.is_file() {
        eprintln!(
            "SKIPPED {}: {} is missing: cargo xtask vm",
            test.display(),
            vminit.display()
        );
    }
    vminit.is_file()
}

/// A process of a pod's machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MachinePart {
    /// The process all others live under.
    Supervisor,
    /// The monitor.
    Qemu,
    /// What serves the guest its files.
    Virtiofsd,
    /// What carries its connections.
    Vsock,
}

impl MachinePart {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Supervisor, Self::Qemu, Self::Virtiofsd, Self::Vsock];

    fn is(self, comm: &str, arguments: &[u8]) -> bool {
        match self {
            Self::Supervisor => {
                let mut arguments = arguments.split(|b| *b == 0).skip(1);
                let is_init = arguments.next() == Some(&b"pod-init"[..]);
                let sandbox = arguments
                    .next()
                    .map(|sandbox| Path::new(OsStr::from_bytes(sandbox)));
                is_init && sandbox.is_some_and(|sandbox| sandbox.join("machine.json").exists())
            }
            Self::Qemu => comm.starts_with("qemu-system"),
            Self::Virtiofsd => comm == "virtiofsd",
            Self::Vsock => comm.starts_with("vhost-device-vs"),
        }
    }

    /// The pids of those that are there.
    ///
    /// # Panics
    /// Without procfs.
    #[must_use]
    pub fn pids(self) -> Vec<Pid> {
        let mut found = vec![];
        for entry in fs::read_dir("/proc").expect("/proc").flatten() {
            let read = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let name = entry.file_name();
            let pid = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
            if let Some(pid) = pid
                && self.is(
                    String::from_utf8_lossy(&read("comm")).trim_end(),
                    &read("cmdline"),
                )
            {
                found.push(pid);
            }
        }
        found
    }

    /// Waits until nothing of any machine is there.
    ///
    /// # Panics
    /// If something stays.
    #[track_caller]
    pub fn all_end(when: &str) {
        wait_for(&format!("the end of every process {when}"), || {
            Self::ALL.iter().all(|part| part.pids().is_empty())
        });
    }

    /// Kills them all, and says how many there were.
    pub fn kill(self) -> usize {
        let pids = self.pids();
        for pid in &pids {
            let _ = kill_process(*pid, Signal::KILL);
        }
        pids.len()
    }
}

/// Waits for something that will happen.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        sleep(Duration::from_millis(20));
    }
}
