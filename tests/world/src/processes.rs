//! How other processes stand.

use std::fs;

use rustix::process::Signal;

/// Whether a process has a handler for a signal. One that is not yet there loses the signal if the process is the first
/// of its pid namespace: a test that sends one waits for this.
#[must_use]
pub fn catches(pid: u64, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|c| u64::from_str_radix(c.trim(), 16).ok());
    caught.is_some_and(|c| c & (1 << (signal.as_raw() - 1)) != 0)
}

/// Whether a process is over: gone, or a zombie, which has let go of all its files and locks.
#[must_use]
pub fn has_ended(pid: u64) -> bool {
    Stat::read(&pid.to_string()).is_none_or(|stat| stat.is_zombie)
}

/// The processes that have begun to end and are still there: `pid comm`.
///
/// # Panics
/// Without procfs.
#[must_use]
pub fn ending() -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries
        .filter_map(|entry| Stat::read(entry.file_name().to_str()?))
        .filter(|stat| stat.is_zombie || stat.is_exiting)
        .map(|stat| stat.name)
        .collect()
}

/// Of `/proc/PID/stat` (proc(5)).
struct Stat {
    /// `pid comm`.
    name: String,
    is_zombie: bool,
    /// On its way out (`PF_EXITING`, linux/sched.h).
    is_exiting: bool,
}

impl Stat {
    /// `None` if there is no such process.
    fn read(pid: &str) -> Option<Self> {
        const EXITING: u32 = 4;
        // A file below /proc that is no process's may have that name, too.
        if !pid.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // `pid (comm) state ppid pgrp session tty tpgid flags …`; a comm may contain anything.
        let (name, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let is_zombie = fields.next()? == "Z";
        let flags: u32 = fields.nth(5)?.parse().ok()?;
        Some(Self {
            name: name.replacen('(', "", 1),
            is_zombie,
            is_exiting: flags & EXITING != 0,
        })
    }
}
