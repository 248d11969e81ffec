//! Pods of WebAssembly programs.
//!
//! A pod is one process, which holds the stores of all its containers: it is there with all of them or not at all. On Linux
//! it lives in namespaces of its own (a user namespace where the caller is not root) and gives up every right that its
//! containers do not need before it runs the first of them; elsewhere wasmtime's sandbox stands alone.
//!
//! The process is a program of its own, [`BINARY`], so that only it has wasmtime in it. Its `main` is
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     oci_wasm::run_compiler_if_asked();
//!     magik_pri::run_role_if_asked(&[magik_pri::wasm::ROLE]).unwrap_or(std::process::ExitCode::FAILURE)
//! }
//! ```

mod arguments;
mod bundle;
mod calls;
mod check;
mod confine;
mod init;
mod isolation;

use std::{
    io,
    path::{Path, PathBuf},
};

use magik_image::{Image, platform::Platform};
use magik_infra::plan::{ContainerPlan, ImagePlan};
use magik_oci::Capability;

use self::isolation::Isolation;
use crate::{
    ContainerSpec, PodSpec, Role, RuntimeClass, SpecErrors, VolumeSource,
    pods::{
        self, Backend, ContainerImage, Failure, PodFiles, Process, Start, beside_own_binary, environment,
        spawn,
    },
};

/// A WebAssembly pod's process, for [`run_role_if_asked`](crate::run_role_if_asked).
pub const ROLE: Role = Role::new(RuntimeClass::Wasm, init::run);

/// The name of the binary that WebAssembly pods are.
pub const BINARY: &str = "magikrun-wasm";

/// The backend of WebAssembly pods, for [`Pods::with`](crate::Pods::with).
#[derive(Debug)]
pub struct Wasm {
    binary: PathBuf,
    isolation: Isolation,
}

impl Default for Wasm {
    fn default() -> Self {
        Self::new()
    }
}

impl Wasm {
    /// With the default that its method tells.
    #[must_use]
    pub fn new() -> Self {
        Self {
            binary: beside_own_binary(BINARY).unwrap_or_else(|| BINARY.into()),
            isolation: Isolation::default(),
        }
    }

    /// The program that a pod is, whose `main` has [`ROLE`]. Default: [`BINARY`] beside this program's own binary.
    #[must_use]
    pub fn binary(self, binary: PathBuf) -> Self {
        Self { binary, ..self }
    }
}

impl Backend for Wasm {
    fn class(&self) -> RuntimeClass {
        RuntimeClass::Wasm
    }

    fn availability(&self) -> Capability {
        let available = self.binary.is_file();
        let detail = if available {
            self.isolation.describe().to_owned()
        } else {
            format!("there is no {}", self.binary.display())
        };
        Capability { available, detail }
    }

    fn check(&self, spec: &PodSpec) -> Result<(), SpecErrors> {
        check::check(spec, self.isolation.kind() != isolation::Kind::None)
    }

    fn platform(&self) -> Option<Platform> {
        // An image without one for wasi is tried all the same: its entrypoint may be a module.
        None
    }

    fn check_image(&self, _: &Image) -> Result<(), String> {
        // Any image may hold a module; what its program is, the runtime says.
        Ok(())
    }

    fn container(
        &self,
        pod: &PodFiles<'_>,
        container: &ContainerSpec,
        image: &ContainerImage,
    ) -> Result<ContainerPlan, Failure> {
        bundle::write(pod, container, image, &self.isolation)
    }

    fn image_volume(
        &self,
        pod: &PodFiles<'_>,
        volume: &str,
        image: &ContainerImage,
    ) -> Result<Option<ImagePlan>, Failure> {
        let target = pod.volume(volume);
        if self.isolation.kind() == isolation::Kind::Root {
            let layers = image.layers.clone();
            return Ok(Some(ImagePlan { target, layers }));
        }
        // It may mount nothing; the directory was made to be mounted on.
        std::fs::remove_dir(&target).map_err(Failure::io(format!("create {}", target.display())))?;
        pod.copy_image(&image.image, &target)?;
        Ok(None)
    }

    fn check_added(&self, _: &PodSpec, _: &ContainerSpec, _: bool) -> Result<(), &'static str> {
        Err("its process has given up what it takes to load another program")
    }

    fn binary(&self) -> &Path {
        &self.binary
    }

    fn start(&self, start: Start<'_>) -> io::Result<Process> {
        let spec = start.spec;
        // Volumes that lie outside of the pod's own directories.
        let outside = spec.volumes.iter().filter_map(|volume| {
            let VolumeSource::HostPath(host) = &volume.source else {
                return None;
            };
            let mut users = spec.all_containers().flat_map(|c| &c.mounts);
            let writes = users.any(|mount| mount.volume == volume.name && !mount.read_only);
            Some((host.path.clone(), writes))
        });
        let told = arguments::Told {
            isolation: self.isolation.kind(),
            shared: outside.collect(),
        };
        let [role, sandbox] = pods::init::tell(&start, RuntimeClass::Wasm, told)?;
        let cgroup = start.cgroups.make_init(start.id);
        spawn::spawn(spawn::Init {
            path: &self.binary,
            sealed: None,
            arguments: &[BINARY.as_ref(), &role, &sandbox],
            environment: &environment(),
            descriptors: start.descriptors,
            listeners: start.listeners,
            // Without root there is none to be made.
            cgroup: if self.isolation.kind() == isolation::Kind::Root {
                cgroup?
            } else {
                None
            },
            namespaces: match self.isolation.kind() {
                isolation::Kind::Root => Some(spawn::Namespaces {
                    user: false,
                    pid: true,
                    ipc: true,
                    network: !spec.host_network,
                }),
                isolation::Kind::User => Some(spawn::Namespaces {
                    user: true,
                    pid: true,
                    ipc: true,
                    network: !spec.host_network,
                }),
                isolation::Kind::None => None,
            },
        })
    }
}
