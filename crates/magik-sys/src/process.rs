//! Processes by pid and start time: a pid alone can be another process by now.

use std::{
    fs,
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
};

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use tokio::io::{Interest, unix::AsyncFd};

/// Whether this process is in a user namespace that is not the host's first, whose ids are all its own (user_namespaces(7)).
///
/// # Errors
/// There is no `/proc`.
pub fn in_user_namespace() -> io::Result<bool> {
    let map = fs::read_to_string("/proc/self/uid_map")?;
    Ok(!map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// A process that cannot be confused with a later one of the same pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its pid, as this process numbers it.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to its start.
    pub start_time: u64,
}

impl Process {
    /// The process that has this pid now, be it a zombie.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        let stat = stat(pid)?;
        Ok(Self {
            pid,
            start_time: stat.start_time,
        })
    }

    /// Whether it still runs: it exists, is the same process, and is not a zombie.
    pub fn is_alive(self) -> bool {
        stat(self.pid)
            .is_ok_and(|s| s.start_time == self.start_time && !matches!(s.state, b'Z' | b'X' | b'x'))
    }

    /// A descriptor of it, checked to be of this very process; `None` when it has gone.
    ///
    /// # Errors
    /// This process has too many descriptors.
    pub fn pidfd(self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            // The descriptor pins the pid, so what stat says now is about the descriptor's process.
            Ok(fd) => Ok(stat(self.pid)
                .is_ok_and(|s| s.start_time == self.start_time)
                .then_some(fd)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Sends it a signal, real-time ones included; `false` when it has gone.
    ///
    /// # Errors
    /// This process may not, or there is no such signal.
    pub fn signal(self, signal: i32) -> io::Result<bool> {
        match self.pidfd()? {
            Some(fd) => pidfd_signal(&fd, signal),
            None => Ok(false),
        }
    }
}

/// Sends any signal, real-time ones included, to the process of a pidfd; `false` when it has ended.
///
/// # Errors
/// This process may not, or there is no such signal.
#[allow(
    unsafe_code,
    reason = "rustix's Signal has no safe way to name a real-time signal"
)]
pub fn pidfd_signal(fd: &OwnedFd, signal: i32) -> io::Result<bool> {
    // SAFETY: the descriptor is open; the kernel validates the signal; no memory is passed.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if answer == 0 {
        return Ok(true);
    }
    match io::Error::last_os_error() {
        e if e.raw_os_error() == Some(libc::ESRCH) => Ok(false),
        e => Err(e),
    }
}

/// Watches a pidfd, which is readable once its process has ended.
///
/// # Errors
/// There is no tokio runtime that drives descriptors.
#[allow(
    unsafe_code,
    reason = "tokio made registering a descriptor unsafe: its number must stay the same"
)]
pub fn watch_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the AsyncFd owns the descriptor, and an OwnedFd's number never changes.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

/// What `/proc/PID/stat` says that matters here.
struct Stat {
    state: u8,
    start_time: u64,
}

fn stat(pid: i32) -> io::Result<Stat> {
    // The command's name may hold any byte, also parentheses; the line is far shorter.
    let mut text = [0_u8; 1024];
    let mut file = fs::File::open(format!("/proc/{pid}/stat"))?;
    let n = file.read(&mut text)?;
    parse_stat(&text[..n])
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "unexpected /proc/PID/stat"))
}

fn parse_stat(text: &[u8]) -> Option<Stat> {
    let end_of_name = text.iter().rposition(|b| *b == b')')?;
    let mut fields = text.get(end_of_name + 2..)?.split(|b| *b == b' ');
    let state = *fields.next()?.first()?;
    let start_time = std::str::from_utf8(fields.nth(18)?).ok()?.parse().ok()?;
    Some(Stat { state, start_time })
}

/// Whether this process has one thread only, so that a plain fork copies no held lock.
pub fn is_single_threaded() -> bool {
    // Each thread is a directory below task: "." and ".." and one link per thread.
    fs::metadata("/proc/self/task").is_ok_and(|m| m.nlink() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stat_of_a_process_with_a_hostile_name() {
        let line = b"7 (a) Z 1 2 (x) S 1 7 7 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 4242 1 1";
        let stat = parse_stat(line).unwrap();
        assert_eq!((stat.state, stat.start_time), (b'S', 4242));
        assert!(parse_stat(b"7 (a) S 1").is_none());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = Process::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(me.is_alive());
        let other = Process {
            start_time: me.start_time + 1,
            ..me
        };
        assert!(!other.is_alive());
        assert!(other.pidfd().unwrap().is_none());
    }
}
