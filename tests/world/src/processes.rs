//! How other processes stand.

use std::fs;

/// Whether a process has a handler for a signal. One that is not yet there loses the signal if the process is the first
/// of its pid namespace: a test that sends one waits for this.
#[must_use]
pub fn catches(pid: u64, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|c| u64::from_str_radix(c.trim(), 16).ok());
    caught.is_some_and(|c| c & (1 << (signal - 1)) != 0)
}

/// Whether a process is over: gone, or a zombie, which has let go of all its files and locks.
#[must_use]
pub fn has_ended(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    !stat.is_ok_and(|stat| !stat.contains(") Z "))
}
