//! Getting a grace period of the kernel's over with early.

use std::{ffi::CString, fs, path::PathBuf};

use super::Layout;

/// Begins what moving a process into a cgroup waits for, and does not wait.
///
/// A write to `cgroup.procs` makes the kernel switch a lock of all forks over to its writers, which takes an RCU grace
/// period, about 8 ms, unless somebody did so within the last one (cgroup_threadgroup_rwsem, rcu_sync). libcontainer does
/// that write in the middle of creating a container. A child that moves itself to where it is gets the grace period over
/// with while the container is being prepared, and goes on doing so for a while, so that it stays over.
#[derive(Debug)]
pub(crate) struct WarmUp {
    child: rustix::process::Pid,
    /// Somebody else waits for every child of this process.
    reaped_elsewhere: bool,
}

/// Shorter than a grace period.
static INTERVAL: libc::timespec = libc::timespec {
    tv_sec: 0,
    tv_nsec: 3_000_000,
};
/// How often at the most: a container is in its cgroup long before that.
const TIMES: u32 = 20;

impl WarmUp {
    #[allow(unsafe_code, reason = "there is no safe fork")]
    pub(crate) fn begin(layout: &Layout, reaped_elsewhere: bool) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let procs = CString::new(own_procs(layout)?.into_os_string().into_vec()).ok()?;
        // SAFETY: the child makes system calls only, allocates nothing and takes no lock, so it does not matter what other
        // threads held when it was forked; it ends with _exit, or with this process. The path is NUL-terminated and alive.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let fd = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                for _ in 0..TIMES {
                    libc::write(fd, c"0".as_ptr().cast(), 1);
                    libc::nanosleep(&raw const INTERVAL, std::ptr::null_mut());
                }
                libc::_exit(0);
            }
            pid
        };
        let child = rustix::process::Pid::from_raw(pid.max(0))?;
        Some(Self {
            child,
            reaped_elsewhere,
        })
    }
}

impl Drop for WarmUp {
    fn drop(&mut self) {
        // It cannot be another's pid: nobody but this process waits for it, and a reaper task runs on this thread.
        let _ = rustix::process::kill_process(self.child, rustix::process::Signal::KILL);
        if !self.reaped_elsewhere {
            let _ = rustix::process::waitpid(Some(self.child), rustix::process::WaitOptions::empty());
        }
    }
}

/// The `cgroup.procs` of this process's own cgroup in one hierarchy.
fn own_procs(layout: &Layout) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut lines = text.lines().map(|l| l.splitn(3, ':').skip(1));
    let (mount, path) = match layout {
        Layout::V2(root) => (
            root,
            lines.find_map(|mut l| l.next()?.is_empty().then(|| l.next()).flatten())?,
        ),
        Layout::V1(all) => {
            let hierarchy = all.first()?;
            let is_it = |names: &str| {
                names
                    .split(',')
                    .any(|n| hierarchy.controllers.iter().any(|c| c == n))
            };
            (
                &hierarchy.mount,
                lines.find_map(|mut l| is_it(l.next()?).then(|| l.next()).flatten())?,
            )
        }
    };
    Some(mount.join(path.trim_start_matches('/')).join("cgroup.procs"))
}
