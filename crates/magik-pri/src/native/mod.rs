//! Pods of Linux namespaces and control groups.
//!
//! A pod lives under one process, its init, which is PID 1 of a pid namespace: when it ends, however that comes about,
//! the kernel ends everything else of the pod. What lies where, and how a pod is committed, is in docs/architecture.md.
//!
//! The program that runs pods by [`Native`] is also the init's program: its `main` begins with
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     if let Some(ended) = magik_pri::run_role_if_asked(&[magik_pri::native::ROLE]) {
//!         return ended;
//!     }
//!     // …
//! # std::process::ExitCode::SUCCESS
//! }
//! ```

mod init;
mod rootfs;
mod trim;
mod users;

use std::{
    io,
    path::{Path, PathBuf},
};

use magik_image::{Image, bundle::ContainerSettings, platform::Platform as ImagePlatform};
use magik_infra::plan::{ContainerPlan, ImagePlan};
use magik_oci::{Capability, Platform};

use crate::{
    ContainerSpec, PodSpec, Role, RuntimeClass, SpecErrors,
    pods::{
        self, Backend, ContainerImage, Failure, PodFiles, Process, SELF, Start, beside_own_binary,
        environment, linux_bundle, spawn, volumes,
    },
};

pub use self::rootfs::Rootfs;

/// The init of native pods, for [`run_role_if_asked`](crate::run_role_if_asked).
pub const ROLE: Role = Role::new(RuntimeClass::Native, init::run);

/// The name of a binary that is nothing but a pod init.
pub const INIT_BINARY: &str = "magikrun-init";

/// The backend of native pods, for [`Pods::with`](crate::Pods::with).
#[derive(Debug)]
pub struct Native {
    init_binary: PathBuf,
    rootfs: Rootfs,
}

impl Default for Native {
    fn default() -> Self {
        Self::new()
    }
}

impl Native {
    /// With the defaults that its methods tell.
    #[must_use]
    pub fn new() -> Self {
        Self {
            init_binary: beside_own_binary(INIT_BINARY).unwrap_or_else(|| SELF.into()),
            rootfs: Rootfs::default(),
        }
    }

    /// The program for the init, whose `main` has [`ROLE`]. Default: [`INIT_BINARY`] beside this program's
    /// own binary, which costs a pod less memory, or else this program itself.
    #[must_use]
    pub fn init_binary(self, binary: PathBuf) -> Self {
        Self {
            init_binary: binary,
            ..self
        }
    }

    /// How root file systems are made. Default: [`Rootfs::OverlayOrCopy`].
    #[must_use]
    pub fn rootfs(self, rootfs: Rootfs) -> Self {
        Self { rootfs, ..self }
    }
}

impl Backend for Native {
    fn class(&self) -> RuntimeClass {
        RuntimeClass::Native
    }

    fn availability(&self) -> Capability {
        Platform::detect().native
    }

    fn check(&self, _: &PodSpec) -> Result<(), SpecErrors> {
        Ok(())
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
        let rootfs = rootfs::make(self.rootfs, pod, container, image)?;
        linux_bundle::write(pod, container, image, rootfs, |settings| ContainerSettings {
            process_namespace: linux_bundle::processes(
                pod,
                &init::shared_processes(&pod.sandbox()),
                container,
            ),
            ..settings
        })
    }

    fn image_volume(
        &self,
        pod: &PodFiles<'_>,
        volume: &str,
        image: &ContainerImage,
    ) -> Result<Option<ImagePlan>, Failure> {
        let layers = image.layers.iter().map(|layer| pod.seen_by_init(layer));
        Ok(Some(ImagePlan {
            target: pod.volume(volume),
            layers: layers.collect(),
        }))
    }

    fn check_added(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        is_ephemeral: bool,
    ) -> Result<(), &'static str> {
        linux_bundle::check_added(pod, container, is_ephemeral)
    }

    fn binary(&self) -> &Path {
        &self.init_binary
    }

    fn start(&self, start: Start<'_>) -> io::Result<Process> {
        start.cgroups.limit_pids(start.id)?;
        start.cgroups.limit(start.id, start.spec)?;
        let told = init::Told {
            shared_processes: start.spec.share_process_namespace,
            host_processes: start.spec.host_pid,
            sysctls: start.spec.sysctls.clone(),
            shared: volumes::shared_host_paths(start.spec),
            users: start.users,
        };
        let [role, sandbox] = pods::init::tell(&start, RuntimeClass::Native, told)?;
        spawn::spawn(spawn::Init {
            path: &self.init_binary,
            // No container can write to it through /proc/PID/exe (CVE-2019-5736); the init finds nothing left to do itself.
            sealed: Some(oci_native::sealed_binary(&self.init_binary).map_err(io::Error::other)?),
            arguments: &["magikrun".as_ref(), &role, &sandbox],
            environment: &environment(),
            descriptors: start.descriptors,
            listeners: start.listeners,
            cgroup: start.cgroups.make_init(start.id)?,
            namespaces: Some(spawn::Namespaces {
                user: false,
                pid: !start.spec.host_pid,
                ipc: !start.spec.host_ipc,
                // A pod with users of its own has its network made by its init, so that it is theirs.
                network: !start.spec.host_network && start.users.is_none(),
            }),
        })
    }
}
