//! The listener for the system calls that a seccomp filter notifies (runtime-spec, "listenerPath").

use std::{
    io::Write as _,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::net::UnixStream,
    },
};

use magik_sys::socket;
use oci_spec::runtime::{
    ContainerProcessState, ContainerProcessStateBuilder, ContainerState, Linux, SECCOMP_FD_NAME, StateBuilder,
};

use crate::{failure::Failure, job::CreateJob, seccomp::Filter};

/// Connects to the listener, from the host's side.
pub(super) fn connect(linux: &Linux, filter: Option<&Filter>) -> Result<Option<OwnedFd>, Failure> {
    if !filter.is_some_and(Filter::notifies) {
        return Ok(None);
    }
    let path = linux.seccomp().as_ref().and_then(|s| s.listener_path().clone());
    let path =
        path.ok_or_else(|| Failure::Other("linux.seccomp notifies, but has no listenerPath".into()))?;
    UnixStream::connect(&path)
        .map(|socket| Some(socket.into()))
        .map_err(|e| Failure::Other(format!("linux.seccomp.listenerPath {}: {e}", path.display())))
}

/// Sends the filter's descriptor and the container's state to the listener.
pub(super) fn tell(socket: OwnedFd, filter: &OwnedFd, job: &CreateJob, pid: i32) -> Result<(), Failure> {
    let failed = |e: String| Failure::Other(format!("telling the seccomp listener: {e}"));
    let state = state(job, pid).map_err(|e| failed(e.to_string()))?;
    let json = serde_json::to_vec(&state).map_err(|e| failed(e.to_string()))?;
    let sent = socket::send(&socket, &json, &[filter.as_fd()]).map_err(|e| failed(e.to_string()))?;
    UnixStream::from(socket)
        .write_all(&json[sent..])
        .map_err(|e| failed(e.to_string()))
}

fn state(job: &CreateJob, pid: i32) -> Result<ContainerProcessState, oci_spec::OciSpecError> {
    let seccomp = job.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref());
    let state = StateBuilder::default()
        .version(job.spec.version())
        .id(&*job.id)
        .status(ContainerState::Creating)
        .pid(pid)
        .bundle(job.bundle.clone())
        .annotations(job.spec.annotations().clone().unwrap_or_default())
        .build()?;
    let mut process = ContainerProcessStateBuilder::default()
        .version(job.spec.version())
        .fds([SECCOMP_FD_NAME.to_owned()])
        .pid(pid)
        .state(state)
        .build()?;
    process.set_metadata(seccomp.and_then(|s| s.listener_metadata().clone()));
    Ok(process)
}
