//! Pods in virtual machines of their own.
//!
//! On the host a pod lives under one process, the supervisor, which is PID 1 of a pid namespace and starts the machine's
//! processes: when it ends, however that comes about, the machine ends. In the guest, `vminit` runs the same pod init with
//! the same runtime as a native pod has. The supervisor stands in for it here: to clients, a microVM pod is like any other.
//!
//! Directories of the pod have the same paths in the guest as on the host, so that one plan serves both: its sandbox,
//! which the guest sees read-only, and below the data root what it writes, which stays in the guest's memory.

mod bundle;
mod guest;
mod machine;
mod supervisor;

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
};

use magik_image::{Image, platform::Platform as ImagePlatform};
use magik_infra::plan::ContainerPlan;
use magik_oci::Capability;
use oci_krun::Qemu;
pub use oci_krun::{Acceleration, VmFiles};

use self::machine::Machine;
use crate::{
    ContainerSpec, HostPathKind, PodSpec, RuntimeClass, SpecError, VolumeSource,
    pods::{
        Backend, ContainerImage, Failure, PodFiles, Pods, Process, Start, beside_own_binary, environment,
        spawn,
    },
};

pub use self::supervisor::{VM_SUPERVISOR, vm_supervisor_main};
pub use crate::pods::Roots;

/// The name of a binary that is nothing but a supervisor.
pub const SUPERVISOR_BINARY: &str = "magikrun-vm";

/// A pod runtime on virtual machines.
pub type MicroVmPodRuntime = Pods<MicroVm>;

/// What makes [`Pods`] microVMs.
#[derive(Debug)]
pub struct MicroVm {
    supervisor: PathBuf,
    files: VmFiles,
    acceleration: Acceleration,
}

impl MicroVmPodRuntime {
    /// A runtime on these roots, with what this host has. Nothing is touched before its first operation.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        let supervisor = beside_own_binary(SUPERVISOR_BINARY).unwrap_or_else(|| "/proc/self/exe".into());
        let backend = MicroVm {
            supervisor,
            files: VmFiles::find(),
            acceleration: Acceleration::Tcg,
        };
        Self::with_backend(roots, backend)
    }

    /// The program for the supervisor, whose `main` calls [`vm_supervisor_main`]. Default: [`SUPERVISOR_BINARY`] beside this
    /// program's own binary, or else this program itself.
    #[must_use]
    pub fn supervisor(self, supervisor: PathBuf) -> Self {
        self.configured(|backend| MicroVm {
            supervisor,
            ..backend
        })
    }

    /// What machines are made of.
    #[must_use]
    pub fn files(self, files: VmFiles) -> Self {
        self.configured(|backend| MicroVm { files, ..backend })
    }

    /// How guests are executed.
    #[must_use]
    pub fn acceleration(self, acceleration: Acceleration) -> Self {
        self.configured(|backend| MicroVm {
            acceleration,
            ..backend
        })
    }
}

impl Backend for MicroVm {
    const CLASS: RuntimeClass = RuntimeClass::MicroVm;

    fn availability(&self) -> Capability {
        use oci_krun::VmDriver;
        match self
            .files
            .vminit()
            .and_then(|_| Qemu::find(&self.files, self.acceleration))
        {
            Ok(driver) => Capability {
                available: true,
                detail: driver.manner(),
            },
            Err(error) => Capability {
                available: false,
                detail: error.to_string(),
            },
        }
    }

    fn check(&self, spec: &PodSpec) -> Result<(), SpecError> {
        if spec.host_network {
            return Err(SpecError::unsupported(
                "spec.hostNetwork",
                "a machine (runtimeClassName: microvm) has a network of its own",
            ));
        }
        for (number, volume) in spec.volumes.iter().enumerate() {
            if let VolumeSource::HostPath(host) = &volume.source
                && matches!(
                    host.kind,
                    HostPathKind::Socket | HostPathKind::CharDevice | HostPathKind::BlockDevice
                )
            {
                return Err(SpecError::unsupported(
                    format!("spec.volumes[{number}].hostPath.type"),
                    "only files and directories reach a machine (runtimeClassName: microvm)",
                ));
            }
        }
        Machine::size(spec).map(drop)
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

    fn binary(&self) -> &Path {
        &self.supervisor
    }

    fn start(&self, start: Start<'_>) -> io::Result<Process> {
        let machine = Machine::of(&start, self.files.clone(), self.acceleration)?;
        machine.write(&start.sandbox)?;
        let arguments: [&OsStr; 4] = [
            "magikrun".as_ref(),
            VM_SUPERVISOR.as_ref(),
            start.id.as_ref(),
            start.sandbox.as_ref(),
        ];
        spawn::spawn(spawn::Init {
            path: &self.supervisor,
            // Nobody can write to it through /proc/PID/exe (CVE-2019-5736).
            sealed: Some(oci_native::sealed_binary(&self.supervisor).map_err(io::Error::other)?),
            arguments: &arguments,
            environment: &environment(),
            descriptors: start.descriptors,
            cgroup: start.cgroups.make_init(start.id)?,
            namespaces: Some(spawn::Namespaces {
                user: false,
                network: true,
            }),
        })
    }
}
