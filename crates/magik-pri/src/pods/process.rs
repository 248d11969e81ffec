//! A pod's init as others see it: a pid that is never mistaken for another process.

use std::{
    fs, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use magik_sys::process::watch_readable;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid},
};

/// Where the launcher records the init it started, in the pod's state directory.
const RECORD: &str = "init";

/// A process by descriptor.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    pub(crate) const fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Its pid, for who started it and has not waited for it.
    #[cfg(feature = "krun")]
    pub(crate) const fn pid(&self) -> Pid {
        self.pid
    }

    /// The init recorded in a pod's directory; `None` if it is gone.
    pub(crate) fn recorded(dir: &Path) -> io::Result<Option<Self>> {
        match fs::read_to_string(dir.join(RECORD)) {
            Ok(text) => Self::identified(&text),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The process of an [`identity`]; `None` if it is gone.
    pub(crate) fn identified(text: &str) -> io::Result<Option<Self>> {
        let mut fields = text.split_whitespace();
        let pid: Option<i32> = fields.next().and_then(|pid| pid.parse().ok());
        let started = fields.next().and_then(|time| time.parse().ok());
        let (Some(raw), Some(start_time)) = (pid, started) else {
            return Ok(None);
        };
        let process = magik_sys::process::Process { pid: raw, start_time };
        let pid = Pid::from_raw(raw);
        Ok(pid.zip(process.pidfd()?).map(|(pid, pidfd)| Self { pid, pidfd }))
    }

    /// Records an init that was just started, and not waited for.
    pub(crate) fn record(&self, dir: &Path) -> io::Result<()> {
        let identity = identity(self.pid).ok_or_else(|| io::Error::other("the pod init ended at once"))?;
        fs::write(dir.join(RECORD), identity)
    }

    /// Sends SIGKILL; one that has ended is no error.
    pub(crate) fn kill(&self) -> io::Result<()> {
        match pidfd_send_signal(&self.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has ended, and with it everything in its pid namespace; `false` after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let limit = Timespec::try_from(limit).map_err(io::Error::other)?;
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        loop {
            match poll(&mut fds, Some(&limit)) {
                Ok(n) => return Ok(n > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Takes the exit status, where the process is this one's child and has ended.
    pub(crate) fn reap(&self) -> Option<String> {
        let status = waitid(
            WaitId::PidFd(self.pidfd.as_fd()),
            WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
        )
        .ok()??;
        Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (_, Some(signal)) => format!("signal {signal}"),
            _ => "an unknown status".into(),
        })
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Waits as [`Process::wait`] does, without a limit, and takes the exit status if the process is
/// this one's child.
pub(crate) async fn ended(process: &Process) -> io::Result<()> {
    let pidfd = watch_readable(process.pidfd.try_clone()?)?;
    pidfd.readable().await?.retain_ready();
    process.reap();
    Ok(())
}

/// What tells a process from all others of this boot, as a line: its pid and when it was started. `None` if it is gone.
pub(crate) fn identity(pid: Pid) -> Option<String> {
    let pid = pid.as_raw_nonzero().get();
    let process = magik_sys::process::Process::of(pid).ok()?;
    Some(format!("{pid} {}\n", process.start_time))
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn a_reused_pid_is_not_taken_for_the_recorded_process() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Process::recorded(dir.path()).unwrap().is_none());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        Process::new(pid, pidfd).record(dir.path()).unwrap();
        let process = Process::recorded(dir.path()).unwrap().unwrap();
        assert!(!process.wait(Duration::ZERO).unwrap());
        fs::write(dir.path().join(RECORD), format!("{} 1\n", pid.as_raw_nonzero())).unwrap();
        assert!(Process::recorded(dir.path()).unwrap().is_none());
        process.kill().unwrap();
        assert!(process.wait(Duration::from_secs(10)).unwrap());
        assert_eq!(process.reap().as_deref(), Some("signal 9"));
        process.kill().unwrap();
        assert!(child.wait().is_err());
        fs::write(dir.path().join(RECORD), "garbage").unwrap();
        assert!(Process::recorded(dir.path()).unwrap().is_none());
    }
}
