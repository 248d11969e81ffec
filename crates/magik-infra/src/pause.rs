//! PID 1 of a process namespace that the containers of a pod share (`shareProcessNamespace`).
//!
//! Whoever may see a process, may trace it or may open its `/proc/PID/root`, has all that it has: a container with
//! `CAP_SYS_PTRACE`, say, and PID 1. So PID 1 is not the pod's init but a process that has nothing: no capabilities and no way
//! to get any, a user of its own, an empty read-only root file system, no descriptors, a session keyring of its own, and a
//! filter that lets it sleep. It executes the init's program once more, so that nothing of the init's is in its memory, and
//! gives all of this up before the first container joins its namespace. The init is in the namespace above, which no
//! container sees.
//!
//! All it does is to ignore SIGCHLD: the kernel then reaps what is left to it. The kernel also keeps signals from inside the
//! namespace away from it (pid_namespaces(7)), SIGKILL included. A container that may trace it can end it, and with it
//! every process in the namespace: the pod has failed, and nobody else's has. It ends with the init.

mod child;
mod confine;

use std::{
    ffi::OsStr,
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use magik_sys::mount::{attach, look_at_dir};

pub use confine::main;

/// The arguments, after the program's name, with which an init's program becomes PID 1 of a shared process namespace: its
/// `main` then calls [`confine::main`] before it does anything else.
pub const ARGUMENTS: [&str; 2] = ["pod-init", "pause"];

/// What it says when it has nothing left; anything else is why it could not give something up.
const DONE: &[u8] = b"done";

/// What comes with each `/proc` of the namespace.
const PROCFS: &[u8] = b"proc";

/// The file of a shared process namespace, given the directory of
/// [`PodInit::shared_processes`](crate::PodInit::shared_processes).
pub fn namespace(dir: &Path) -> PathBuf {
    dir.join("namespace")
}

/// Where a container's `/proc` of a shared process namespace is mounted, for it to be shown there.
/// Each has one of its own: options of a procfs that a container changes hold for all who are shown
/// that one.
pub fn procfs(dir: &Path, container: &str) -> PathBuf {
    // No container is called that.
    dir.join(format!("proc.{container}"))
}

/// Whether these are [`ARGUMENTS`], the program's name first.
pub fn is_asked_for<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> bool {
    let mut arguments = arguments.into_iter().skip(1);
    let all = ARGUMENTS
        .iter()
        .all(|expected| arguments.next().is_some_and(|a| a.as_ref() == *expected));
    all && arguments.next().is_none()
}

/// Why a process namespace could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PauseError {
    /// Its first process could not be started.
    #[error("start its first process: {0}")]
    Start(#[source] io::Error),
    /// Its first process could not give up something, or ended.
    #[error("its first process could not give up its rights: {0}")]
    Confine(String),
    /// The namespace, or its `/proc`, could not be mounted.
    #[error("mount it at {path}: {source}")]
    Mount {
        /// Where.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Makes a process namespace and mounts its [file](namespace) and a [`/proc`](procfs) for each
/// container in a new directory, in this process's mount namespace.
pub(crate) async fn start(dir: &Path, containers: &[&str]) -> Result<(), PauseError> {
    let (pid, report) = child::spawn(containers.len()).map_err(PauseError::Start)?;
    let (said, procs) = child::read_all(report).await.map_err(PauseError::Start)?;
    match said.as_slice() {
        DONE if procs.len() == containers.len() => {}
        [] => return Err(PauseError::Confine("it ended".to_owned())),
        said => return Err(PauseError::Confine(String::from_utf8_lossy(said).into_owned())),
    }
    // What it said last it said with nothing left, and as long as it is not waited for the pid is its own.
    let procs: Vec<_> = containers.iter().copied().zip(procs).collect();
    mount(pid, &procs, dir).map_err(|source| PauseError::Mount {
        path: dir.to_owned(),
        source,
    })
}

fn mount(pid: rustix::process::Pid, procs: &[(&str, OwnedFd)], dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    fs::write(namespace(dir), "")?;
    rustix::mount::mount_bind(format!("/proc/{}/ns/pid", pid.as_raw_nonzero()), namespace(dir))?;
    for (container, proc) in procs {
        let place = procfs(dir, container);
        fs::create_dir(&place)?;
        attach(proc, look_at_dir(&place)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_these_arguments_ask_for_it() {
        assert!(is_asked_for(["magikrun", "pod-init", "pause"]));
        for others in [
            &["magikrun", "pod-init"][..],
            &["magikrun", "pod-init", "pause", "x"],
            &["pod-init", "pause"],
            &["magikrun", "pod", "pause"],
        ] {
            assert!(!is_asked_for(others), "{others:?}");
        }
    }
}
