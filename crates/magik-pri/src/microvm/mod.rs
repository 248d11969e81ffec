//! Pods in virtual machines of their own.
//!
//! On the host a pod lives under one process, the supervisor, which is PID 1 of a pid namespace and starts the machine's
//! processes: when it ends, however that comes about, the machine ends. In the guest, `vminit` runs the same pod init with
//! the same runtime as a native pod has. The supervisor stands in for it here: to clients, a microVM pod is like any other.
//!
//! Directories of the pod have the same paths in the guest as on the host, so that one plan serves both: its sandbox,
//! which the guest sees read-only, and below the data root what it writes, which stays in the guest's memory.

mod bundle;
mod limits;
mod machine;
mod supervisor;

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_image::{Image, platform::Platform as ImagePlatform};
use magik_infra::plan::{ContainerPlan, ImagePlan};
use magik_oci::Capability;
pub use magik_vm::{DRIVER_VARIABLE, DriverKind, VmFiles};
use magik_vm::{Drivers, HostLimits, layers};

use crate::{
    ContainerSpec, HostPathKind, Mount, MountPropagation, PodSpec, Role, RuntimeClass, SpecError, SpecErrors,
    VolumeSource,
    pods::{
        self, Backend, ContainerImage, Failure, PodFiles, Process, Roots, SELF, Start, beside_own_binary,
        environment, linux_bundle, spawn,
    },
    spec::Problems,
};

/// The supervisor of pods in machines, for [`run_role_if_asked`](crate::run_role_if_asked).
pub const ROLE: Role = Role::new(RuntimeClass::MicroVm, supervisor::run);

/// How long a killed supervisor may take to end.
const KILL_TIME: Duration = Duration::from_secs(10);
/// The name of a binary that is nothing but a supervisor.
pub const SUPERVISOR_BINARY: &str = oci_krun::PROGRAM;

/// The backend of pods in virtual machines, for [`Pods::with`](crate::Pods::with).
#[derive(Debug)]
pub struct MicroVm {
    supervisor: PathBuf,
    drivers: Drivers,
}

impl MicroVm {
    /// With what this host has, and the defaults that its methods tell. Which driver boots a guest
    /// is remembered below the state root.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self {
            supervisor: beside_own_binary(SUPERVISOR_BINARY).unwrap_or_else(|| SELF.into()),
            drivers: Drivers::new(VmFiles::find(), roots.state.clone()),
        }
    }

    /// The program for the supervisor, whose `main` has [`ROLE`]. Default: [`SUPERVISOR_BINARY`] beside this
    /// program's own binary, or else this program itself.
    #[must_use]
    pub fn supervisor(self, supervisor: PathBuf) -> Self {
        Self { supervisor, ..self }
    }

    /// What machines are made of.
    #[must_use]
    pub fn files(mut self, files: VmFiles) -> Self {
        self.drivers = self.drivers.with_files(files);
        self
    }

    /// The driver. Default: what [`DRIVER_VARIABLE`] allows, the best in which a guest really boots, which is tried once per
    /// boot of the host.
    #[must_use]
    pub fn driver(mut self, kind: DriverKind) -> Self {
        self.drivers = self.drivers.only(kind);
        self
    }

    /// Whether guests are emulated here, and thus slow. May take as long as booting one.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.drivers.kind().is_ok_and(DriverKind::is_emulated)
    }
}

/// What the guest's kernel has not.
fn check_containers(spec: &PodSpec, problems: &mut Problems) {
    for (path, container) in spec.containers_by_path() {
        for (name, limit) in container.limits.huge_pages() {
            if limit.is_some() {
                problems.add(SpecError::unsupported(
                    format!("{path}.resources.limits.{name}"),
                    "a machine (runtimeClassName: microvm) has no huge pages; remove it",
                ));
            }
        }
    }
}

/// What the host mounts later does not reach a guest, nor the other way round.
fn check_mounts(spec: &PodSpec, problems: &mut Problems) {
    let is_of_host = |name: &str| {
        let mut volumes = spec.volumes.iter();
        volumes.any(|v| v.name == name && matches!(v.source, VolumeSource::HostPath(_)))
    };
    for (path, container) in spec.containers_by_path() {
        for (i, mount) in container.mounts.iter().enumerate() {
            if mount.propagation != MountPropagation::None && is_of_host(&mount.volume) {
                problems.add(SpecError::unsupported(
                    format!("{path}.volumeMounts[{i}].mountPropagation"),
                    "no mount of the host's reaches a machine (runtimeClassName: microvm); remove it",
                ));
            }
        }
    }
}

impl Backend for MicroVm {
    fn class(&self) -> RuntimeClass {
        RuntimeClass::MicroVm
    }

    fn availability(&self) -> Capability {
        self.drivers.availability()
    }

    fn check(&self, spec: &PodSpec) -> Result<(), SpecErrors> {
        let mut problems = Problems::default();
        if spec.host_network {
            problems.add(SpecError::unsupported(
                "spec.hostNetwork",
                "a machine (runtimeClassName: microvm) has a network of its own; remove it",
            ));
        }
        for (asked, field) in [(spec.host_pid, "hostPID"), (spec.host_ipc, "hostIPC")] {
            if asked {
                problems.add(SpecError::unsupported(
                    format!("spec.{field}"),
                    "a machine (runtimeClassName: microvm) has a kernel of its own; remove it",
                ));
            }
        }
        for (number, volume) in spec.volumes.iter().enumerate() {
            if let VolumeSource::HostPath(host) = &volume.source
                && matches!(
                    host.kind,
                    HostPathKind::Socket | HostPathKind::CharDevice | HostPathKind::BlockDevice
                )
            {
                problems.add(SpecError::unsupported(
                    format!("spec.volumes[{number}].hostPath.type"),
                    "only files and directories reach a machine (runtimeClassName: microvm); remove the volume",
                ));
            }
        }
        for (number, volume) in spec.volumes.iter().enumerate() {
            if matches!(volume.source, VolumeSource::Image(_)) {
                problems.add(SpecError::unsupported(
                    format!("spec.volumes[{number}].image"),
                    "a machine (runtimeClassName: microvm) sees its containers' images only; copy the files by an init container",
                ));
            }
        }
        check_containers(spec, &mut problems);
        check_mounts(spec, &mut problems);
        problems.ok(machine::size(spec));
        problems.finish()
    }

    fn check_image(&self, image: &Image) -> Result<(), String> {
        if ImagePlatform::from(&image.config).is_wasm() {
            return Err("is WebAssembly, which runs in a pod with runtimeClassName: wasm".into());
        }
        Ok(())
    }

    fn container(
        &self,
        pod: &PodFiles<'_>,
        container: &ContainerSpec,
        image: &ContainerImage,
    ) -> Result<ContainerPlan, Failure> {
        bundle::write(pod, container, image)
    }

    fn image_volume(
        &self,
        _: &PodFiles<'_>,
        _: &str,
        _: &ContainerImage,
    ) -> Result<Option<ImagePlan>, Failure> {
        // Refused before.
        Ok(None)
    }

    fn show_layers(
        &self,
        pod: &PodFiles<'_>,
        container: &ContainerSpec,
        image: &ContainerImage,
    ) -> Result<(), Failure> {
        let Some(name) = pod.added(&container.name) else {
            return Ok(());
        };
        let failed = Failure::io("show its image to the machine");
        let show = || {
            let supervisor = pod
                .init()?
                .ok_or_else(|| io::Error::other("its supervisor is gone"))?;
            layers::show(supervisor.as_fd(), &pod.sandbox(), &name, &image.layers)
        };
        show().map_err(failed)
    }

    fn check_added(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        is_ephemeral: bool,
    ) -> Result<(), &'static str> {
        linux_bundle::check_added(pod, container, is_ephemeral)?;
        let shares = machine::shares(pod);
        let is_seen = |mount: &Mount| {
            let volume = pod.volumes.iter().find(|volume| volume.name == mount.volume);
            let Some(VolumeSource::HostPath(host)) = volume.map(|volume| &volume.source) else {
                return true;
            };
            let share = shares.iter().find(|share| share.host_path == host.path);
            share.is_some_and(|share| mount.read_only || !share.read_only)
        };
        if !container.mounts.iter().all(is_seen) {
            return Err("a machine has the hostPath volumes that its first containers mount, as they do");
        }
        Ok(())
    }

    fn binary(&self) -> &Path {
        &self.supervisor
    }

    fn start(&self, start: Start<'_>) -> io::Result<Process> {
        let driver = self.drivers.kind().map_err(io::Error::other)?;
        let machine = machine::of(&start, self.drivers.files().clone(), driver)?;
        machine.write(&start.sandbox)?;
        let [role, sandbox] = pods::init::tell(&start, RuntimeClass::MicroVm, ())?;
        let init = spawn::spawn(spawn::Init {
            path: &self.supervisor,
            // Nobody can write to it through /proc/PID/exe (CVE-2019-5736).
            sealed: Some(oci_native::sealed_binary(&self.supervisor).map_err(io::Error::other)?),
            arguments: &["magikrun".as_ref(), &role, &sandbox],
            environment: &environment(),
            descriptors: start.descriptors,
            listeners: start.listeners,
            cgroup: start.cgroups.make_init(start.id)?,
            namespaces: Some(spawn::Namespaces {
                user: false,
                pid: true,
                ipc: true,
                network: true,
            }),
        })?;
        // It waits to be told what to launch: none of the machine's processes is there yet.
        let host_limits = HostLimits::new(machine.memory_mib, machine.vcpus, machine.driver);
        if let Err(error) = limits::apply(host_limits, start.cgroups, start.id, init.pid()) {
            init.kill()?;
            init.wait(KILL_TIME)?;
            init.reap();
            return Err(error);
        }
        Ok(init)
    }
}
