//! New namespaces and cgroups for a program that runs containers.

use std::{
    ffi::{CString, OsStr},
    fs,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use rustix::mount::{MountFlags, mount};

use crate::cgroups::{self, Cgroups};

/// Enters the cgroups named by the first argument, then new namespaces, then runs the rest below a PID 1 that reaps
/// orphans (bash does) and passes the exit code on.
const ENTER: &str = r#"
IFS=:; for dir in $1; do echo 0 > "$dir/cgroup.procs" || exit 97; done; unset IFS; shift
exec unshare --cgroup --pid --fork --kill-child --mount --propagation private --net --ipc --uts --mount-proc \
    bash -c '"$@"; exit $?' init "$@"
"#;

/// A cgroup in every hierarchy, to start programs in; removed on drop. Needs root.
#[derive(Debug)]
pub struct World {
    cgroups: Cgroups,
}

impl World {
    /// Makes the cgroups; `name` is one path component that nobody else uses.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn create(name: &str) -> Result<Self> {
        Ok(Self {
            cgroups: Cgroups::create(name)?,
        })
    }

    /// A command that starts `program` in these cgroups and in new namespaces; the program then calls [`enter`].
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("bash");
        command
            .args(["-c", ENTER, "enter", &self.cgroups.argument()])
            .arg(program)
            .stdin(Stdio::null());
        command
    }
}

/// From inside: mounts the cgroup hierarchies so that the world's own cgroup is their root, and brings loopback up.
///
/// # Errors
/// If a mount is refused, or there is no busybox (Debian: busybox-static).
pub fn enter() -> Result<()> {
    cgroups::enter_namespace()?;
    let up = Command::new("busybox")
        .args(["ip", "link", "set", "lo", "up"])
        .status()
        .context("busybox: install busybox-static")?;
    ensure!(up.success(), "busybox ip link set lo up: {up}");
    Ok(())
}

/// Makes the directory `target` and mounts a file system of `size` bytes on it.
///
/// # Errors
/// If either is refused.
pub fn mount_tmpfs(target: &Path, size: usize) -> Result<()> {
    fs::create_dir_all(target).with_context(|| target.display().to_string())?;
    let options = CString::new(format!("size={size},mode=0755"))?;
    mount("tmpfs", target, "tmpfs", MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mount {}", target.display()))
}
