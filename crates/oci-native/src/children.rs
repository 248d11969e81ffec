//! Waiting for children: containers' inits and exec'd processes, whose parent this process is.
//!
//! There are two ways, chosen when the runtime is built. By default only our own children are
//! waited for, through pidfds, so that the program can wait for its others. As PID 1 of a pod
//! (`reap_orphans`) one task reaps every child and hands its status to the caller that waits for
//! it. Unclaimed statuses are kept: a container may end before its creator knows its pid.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use magik_oci::{ContainerId, Exit};
use magik_sys::process::watch_readable;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitOptions};
use tokio::sync::watch;

/// How many statuses of unknown pids are kept. Making a container leaves one or two helpers.
const MAX_UNCLAIMED: usize = 1024;

/// The children of this process that matter to a runtime.
#[derive(Debug)]
pub(crate) struct Children {
    orphans: bool,
    reaping: AtomicBool,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    containers: HashMap<ContainerId, Arc<Child>>,
    execs: HashMap<i32, Arc<Child>>,
    /// Those whose status the reaper has not seen yet.
    awaited: HashMap<i32, Arc<Child>>,
    unclaimed: VecDeque<(i32, Exit)>,
}

/// One child.
#[derive(Debug)]
pub(crate) struct Child {
    pid: i32,
    /// Absent if the reaper task reports the end.
    pidfd: Option<OwnedFd>,
    exit: watch::Sender<Option<Exit>>,
}

impl Children {
    pub(crate) fn new(orphans: bool) -> Self {
        Self {
            orphans,
            reaping: AtomicBool::new(false),
            table: Mutex::default(),
        }
    }

    /// Whether every child is reaped by the reaper task.
    pub(crate) fn reaps_orphans(&self) -> bool {
        self.orphans
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the reaper task on the current tokio runtime, if it is wanted and does not run yet.
    pub(crate) fn ensure_reaping(self: &Arc<Self>) -> io::Result<()> {
        if !self.orphans || self.reaping.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let mut signals = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::child())?;
        let weak = Arc::downgrade(self);
        tokio::spawn(async move {
            // Children that ended before the handler existed sent it no signal.
            while reap(&weak) {
                if signals.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(())
    }

    fn adopt(&self, pid: i32) -> io::Result<Arc<Child>> {
        let mut table = self.table();
        let seen = table
            .unclaimed
            .iter()
            .position(|(p, _)| *p == pid)
            .and_then(|i| table.unclaimed.remove(i));
        let pidfd = match (self.orphans, Pid::from_raw(pid)) {
            (false, Some(pid)) => Some(rustix::process::pidfd_open(pid, PidfdFlags::empty())?),
            _ => None,
        };
        let child = Arc::new(Child {
            pid,
            pidfd,
            exit: watch::Sender::new(seen.map(|(_, exit)| exit)),
        });
        if self.orphans && seen.is_none() {
            table.awaited.insert(pid, child.clone());
        }
        Ok(child)
    }

    /// Takes note of a container's init.
    pub(crate) fn adopt_container(&self, id: &ContainerId, pid: i32) -> io::Result<()> {
        let child = self.adopt(pid)?;
        self.table().containers.insert(id.clone(), child);
        Ok(())
    }

    /// Takes note of an exec'd process, and reaps it when it ends, even without a waiter. Else its
    /// pid namespace's init could not end: it waits for all (zap_pid_ns_processes in the kernel).
    pub(crate) fn adopt_exec(&self, pid: i32) -> io::Result<()> {
        let child = self.adopt(pid)?;
        self.table().execs.insert(pid, child.clone());
        if !self.orphans {
            tokio::spawn(async move { child.wait().await });
        }
        Ok(())
    }

    /// The container's init, if this process made it.
    pub(crate) fn container(&self, id: &ContainerId) -> Option<Arc<Child>> {
        self.table().containers.get(id).cloned()
    }

    /// An exec'd process, if this process made it.
    pub(crate) fn exec(&self, pid: i32) -> Option<Arc<Child>> {
        self.table().execs.get(&pid).cloned()
    }

    /// Forgets a container that was deleted.
    pub(crate) fn forget_container(&self, id: &ContainerId) {
        self.table().containers.remove(id);
    }

    /// Forgets an exec whose status was given out.
    pub(crate) fn forget_exec(&self, pid: i32) {
        self.table().execs.remove(&pid);
    }
}

/// Reaps what there is; `false` once the runtime is gone.
fn reap(children: &Weak<Children>) -> bool {
    let Some(children) = children.upgrade() else {
        return false;
    };
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        let exit = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Exit::exited(code),
            (None, Some(signal)) => Exit::signalled(signal),
            (None, None) => continue,
        };
        let pid = pid.as_raw_nonzero().get();
        let mut table = children.table();
        if let Some(child) = table.awaited.remove(&pid) {
            child.exit.send_replace(Some(exit));
        } else {
            if table.unclaimed.len() == MAX_UNCLAIMED {
                table.unclaimed.pop_front();
            }
            // A pid that is reused: no caller waits for the earlier status.
            table.unclaimed.retain(|(p, _)| *p != pid);
            table.unclaimed.push_back((pid, exit));
        }
    }
    true
}

impl Child {
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// How it ended, once it has. Any number of callers may wait; cancelling one loses nothing.
    pub(crate) async fn wait(&self) -> io::Result<Exit> {
        let mut told = self.exit.subscribe();
        if let Some(exit) = *told.borrow_and_update() {
            return Ok(exit);
        }
        let Some(pidfd) = &self.pidfd else {
            let exit = told.wait_for(Option::is_some).await.map_err(io::Error::other)?;
            return exit.ok_or_else(|| io::Error::other("the reaper is gone"));
        };
        let fd = watch_readable(pidfd.try_clone()?)?;
        loop {
            // Another caller may have reaped it.
            let known = *self.exit.borrow();
            if let Some(exit) = known {
                return Ok(exit);
            }
            if let Some(exit) = self.try_reap()? {
                return Ok(exit);
            }
            fd.readable().await?.clear_ready();
        }
    }

    /// Reaps it if it has ended, and tells every waiter.
    fn try_reap(&self) -> io::Result<Option<Exit>> {
        use std::os::fd::AsFd;
        let Some(pidfd) = &self.pidfd else {
            return Ok(*self.exit.borrow());
        };
        let mut result = Ok(None);
        self.exit.send_if_modified(|known| {
            if known.is_some() {
                result = Ok(*known);
                return false;
            }
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
                Ok(Some(status)) => {
                    let exit = match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::exited(code),
                        (None, signal) => Exit::signalled(signal.unwrap_or(libc::SIGKILL)),
                    };
                    *known = Some(exit);
                    result = Ok(Some(exit));
                    true
                }
                Ok(None) => false,
                Err(e) => {
                    result = Err(e.into());
                    false
                }
            }
        });
        result
    }
}
