//! Getting a grace period of the kernel's over with early.

use std::{ffi::CString, fs, path::PathBuf};

use super::Layout;

/// Begins what moving a process into a cgroup waits for, and does not wait.
///
/// A write to `cgroup.procs` makes the kernel switch a lock of all forks over to its writers, which takes an RCU grace
/// period, about 8 ms, unless somebody did so within the last one (cgroup_threadgroup_rwsem, rcu_sync). libcontainer does
/// that write in the middle of creating a container. A child that moves itself to where it is gets the grace period over
/// with while the container is being prepared.
#[derive(Debug)]
pub(crate) struct WarmUp(rustix::process::Pid);

impl WarmUp {
    #[allow(unsafe_code, reason = "there is no safe fork")]
    pub(crate) fn begin(layout: &Layout) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let procs = CString::new(own_procs(layout)?.into_os_string().into_vec()).ok()?;
        // SAFETY: the child makes three system calls, allocates nothing and takes no lock, so it does not matter what
        // other threads held when it was forked; it ends with _exit. The path is NUL-terminated and alive.
        let pid = unsafe {
            let pid = libc::fork();
            if pid == 0 {
                let fd = libc::open(procs.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
                libc::write(fd, c"0".as_ptr().cast(), 1);
                libc::_exit(0);
            }
            pid
        };
        rustix::process::Pid::from_raw(pid.max(0)).map(Self)
    }
}

impl Drop for WarmUp {
    fn drop(&mut self) {
        let _ = rustix::process::waitpid(Some(self.0), rustix::process::WaitOptions::empty());
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
