//! The limits of a pod's machine, set in the cgroups of the pod.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use magik_vm::HostLimits;
use rustix::process::Pid;

use crate::pods::Hierarchies;

/// Puts a process, which has no children yet, under a machine's limits, in the cgroups of its pod's init.
///
/// # Errors
/// A limit cannot be set. What was made is removed with the pod.
pub(super) fn apply(limits: HostLimits, hierarchies: &Hierarchies, id: &str, pid: Pid) -> io::Result<()> {
    for mount in hierarchies.mounts() {
        let unified = hierarchies.unified() == Some(mount.as_path());
        let values = limits.values(mount, unified);
        if values.is_empty() {
            continue;
        }
        let dir = mount.join(Hierarchies::init_path(id));
        fs::create_dir_all(&dir).map_err(at(&dir))?;
        if unified {
            enable(mount, &dir);
        }
        for (file, value) in values {
            let path = dir.join(file);
            // A controller that the host does not have limits nothing.
            if path.exists() {
                fs::write(&path, value).map_err(at(&path))?;
            }
        }
        if unified {
            oci_native::restrict_devices(&dir, &limits.devices()).map_err(at(&dir))?;
        }
        let path = dir.join("cgroup.procs");
        fs::write(&path, pid.as_raw_nonzero().to_string()).map_err(at(&path))?;
    }
    Ok(())
}

/// Makes cgroup v2's controllers work below the mount, down to the directory's parent: each alone, for one that is missing
/// must not keep the others away.
fn enable(mount: &Path, dir: &Path) {
    let below: Vec<PathBuf> = dir
        .ancestors()
        .skip(1)
        .take_while(|path| path.starts_with(mount))
        .map(Path::to_owned)
        .collect();
    for parent in below.iter().rev() {
        for controller in ["+memory", "+cpu", "+pids"] {
            let _ = fs::write(parent.join("cgroup.subtree_control"), controller);
        }
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |e| io::Error::new(e.kind(), format!("{path}: {e}"))
}
