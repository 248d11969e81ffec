//! Hooks (runtime-spec, "POSIX-platform Hooks"), and other steps between mounts and change of root.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libcontainer::{
    container::{ContainerStatus, State},
    hooks,
    network::{
        address::AddressClient,
        link::LinkClient,
        network_device::{
            dev_change_net_namespace, resolve_device_name, setup_addresses_in_network_namespace,
        },
        wrapper::create_network_client,
    },
};
use oci_spec::runtime::{Hook, LinuxNetDevice};
use rustix::{
    fs::{Mode, OFlags},
    process::Pid,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::{
    failure::Failure,
    job::{Answer, CreateJob, Done, HooksJob},
};

/// Runs hooks that come after creation.
pub(crate) fn run(job: &HooksJob) -> Answer {
    let status = if job.stopped {
        ContainerStatus::Stopped
    } else {
        ContainerStatus::Running
    };
    let mut state = State::new(&job.id, status, job.pid, job.bundle.clone());
    state.annotations = Some(job.annotations.clone());
    // A failing poststop hook does not stop the others (runtime-spec, "Lifecycle" 13).
    let together = if job.stopped { 1 } else { job.hooks.len().max(1) };
    let mut first_failure = Ok(Done { process: None });
    for hooks in job.hooks.chunks(together) {
        let ran = hooks::run_hooks(Some(&hooks.to_vec()), Some(&state), None, None, None);
        if let (Err(e), true) = (ran, first_failure.is_ok()) {
            first_failure = Err(Failure::of(&e));
        }
    }
    first_failure
}

/// What the container's process waits for after its mounts: the host's hooks, network devices.
pub(super) fn before_start(job: &CreateJob, pid: Pid) -> Result<(), Failure> {
    let number = pid.as_raw_nonzero().get();
    if let Some(all) = job.spec.hooks() {
        let state = state(job, ContainerStatus::Creating, number);
        #[allow(deprecated, reason = "containers that still use it are still served")]
        let both = [all.prestart(), all.create_runtime()];
        for hooks in both {
            hooks::run_hooks(hooks.as_ref(), Some(&state), None, None, None).map_err(|e| Failure::of(&e))?;
        }
    }
    let devices = job.spec.linux().as_ref().and_then(|l| l.net_devices().as_ref());
    match devices {
        Some(devices) => devices
            .iter()
            .try_for_each(|(name, device)| move_device(name, device, number)),
        None => Ok(()),
    }
}

/// Moves a host's network device into the container, with the addresses that the kernel would drop.
fn move_device(name: &str, device: &LinuxNetDevice, pid: i32) -> Result<(), Failure> {
    let open = |path: String| {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Failure::Other(format!("linux.netDevices {name}: {e}")))
    };
    let (own, theirs) = (
        open("/proc/self/ns/net".into())?,
        open(format!("/proc/{pid}/ns/net"))?,
    );
    let enter = |fd: &OwnedFd| {
        move_into_link_name_space(fd.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(|e| Failure::Other(format!("linux.netDevices {name}: {e}")))
    };
    let addresses =
        dev_change_net_namespace(name, theirs.as_raw_fd(), device).map_err(|e| Failure::of(&e))?;
    enter(&theirs)?;
    let set_up = || {
        let name = resolve_device_name(device, name);
        let mut links = LinkClient::new(create_network_client())?;
        let index = links.get_by_name(name)?.header.index;
        let mut client = AddressClient::new(create_network_client())?;
        setup_addresses_in_network_namespace(&addresses, index, name, &mut client)?;
        links.set_up(index)
    };
    let done = set_up().map_err(|e| Failure::of(&e));
    enter(&own)?;
    done
}

/// Runs the hooks of the container's namespaces; those without an environment get `environment`.
pub(super) fn run_inside(
    job: &CreateJob,
    hooks: Option<&Vec<Hook>>,
    status: ContainerStatus,
    environment: Option<&[String]>,
) -> Result<(), Failure> {
    if hooks.is_none_or(Vec::is_empty) {
        return Ok(());
    }
    let state = state(job, status, rustix::process::getpid().as_raw_nonzero().get());
    let pair = |v: &String| v.split_once('=').map(|(n, v)| (n.to_owned(), v.to_owned()));
    let environment = environment.map(|all| all.iter().filter_map(pair).collect());
    hooks::run_hooks(hooks, Some(&state), None, None, environment.as_ref()).map_err(|e| Failure::of(&e))
}

fn state(job: &CreateJob, status: ContainerStatus, pid: i32) -> State {
    let mut state = State::new(&job.id, status, Some(pid), job.bundle.clone());
    state.annotations = job.spec.annotations().clone();
    state
}

/// Whether the container's process has to wait between its mounts and its change of root.
pub(super) fn wait_outside(job: &CreateJob) -> bool {
    let some = |hooks: &Option<Vec<Hook>>| hooks.as_ref().is_some_and(|h| !h.is_empty());
    #[allow(deprecated, reason = "containers that still use it are still served")]
    let hooks = job
        .spec
        .hooks()
        .as_ref()
        .is_some_and(|h| some(h.prestart()) || some(h.create_runtime()));
    let linux = job.spec.linux().as_ref();
    hooks
        || linux
            .and_then(|l| l.net_devices().as_ref())
            .is_some_and(|d| !d.is_empty())
}
