//! A process in the foreground: passes signals on, connects its terminal, waits for its end.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use anyhow::{Context as _, Result};
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal},
};

use super::{notify::Notify, terminal::Foreground};

/// Signals for ourselves: of children, of job control, and those that cannot be blocked.
const OURS: [Signal; 8] = [
    Signal::SIGCHLD,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGPIPE,
    Signal::SIGKILL,
    Signal::SIGSTOP,
    Signal::SIGSEGV,
    Signal::SIGBUS,
];

/// Signals held back from us, to be passed on.
#[derive(Debug)]
pub(super) struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// From here on signals wait for [`attend`]; a process made later would inherit the mask.
    pub(super) fn hold() -> Result<Self> {
        let mut set = SigSet::all();
        for signal in OURS {
            set.remove(signal);
        }
        set.thread_block().context("block signals")?;
        let fd =
            SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).context("signalfd")?;
        Ok(Self { fd })
    }
}

/// Stays with the process until it has ended: passes signals on, connects its terminal, and reports
/// its readiness.
pub(super) fn attend(
    pid: i32,
    signals: &Signals,
    mut terminal: Option<Foreground>,
    mut notify: Option<Notify>,
) -> Result<()> {
    let process = open(pid)?;
    let stdin = io::stdin();
    loop {
        let mut fds = vec![
            PollFd::new(&process, PollFlags::IN),
            PollFd::from_borrowed_fd(signals.fd.as_fd(), PollFlags::IN),
        ];
        let wants_stdin = terminal.as_ref().is_some_and(Foreground::wants_stdin);
        if wants_stdin {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        fds.extend(terminal.as_ref().and_then(Foreground::poll_master));
        fds.extend(notify.as_ref().map(|notify| PollFd::new(notify, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e).context("poll"),
        }
        let ended = !fds[0].revents().is_empty();
        let stdin_ready = wants_stdin && !fds[2].revents().is_empty();
        drop(fds);
        forward(&process, signals, terminal.as_ref())?;
        if let Some(listening) = &notify
            && listening.forward(pid)?
        {
            notify = None;
        }
        if let Some(terminal) = &mut terminal {
            terminal.pump(stdin_ready)?;
        }
        if ended {
            return terminal.map_or(Ok(()), Foreground::finish);
        }
    }
}

fn open(pid: i32) -> Result<OwnedFd> {
    let pid = Pid::from_raw(pid).with_context(|| format!("process {pid}"))?;
    // Our own child until it is waited for: the pid cannot have been given to another.
    pidfd_open(pid, PidfdFlags::empty()).with_context(|| format!("process {pid}"))
}

fn forward(process: &OwnedFd, signals: &Signals, terminal: Option<&Foreground>) -> Result<()> {
    while let Some(signal) = signals.fd.read_signal().context("signalfd")? {
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        match terminal {
            Some(terminal) if number == Signal::SIGWINCH as i32 => terminal.resize(),
            _ => {
                if let Some(signal) = rustix::process::Signal::from_named_raw(number) {
                    // It may just have ended.
                    let _ = pidfd_send_signal(process, signal);
                }
            }
        }
    }
    Ok(())
}
