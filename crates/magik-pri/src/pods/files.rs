//! Everything of a pod that is files: logs, what is shared, and the plan that names them. Bundles are
//! the backend's, volumes are in [`volumes`](super::volumes).

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_image::{
    Image, ImageStore,
    bundle::{ContainerSettings, Resources, UserNamespace, runtime_spec, write_bundle},
};
use magik_infra::plan::{ContainerPlan, EphemeralPlan, Lifecycle, PodPlan, TARGET_PROCESSES};
use magik_oci::Signal;

use super::{
    backend::Backend,
    data,
    etc::{self, ETC},
    failure::Failure,
    paths::{Paths, entries, make_dir},
    publish,
    users::{self, Places},
    volumes::image_volumes,
};
use crate::{ContainerSpec, PodSpec, spec::Facts};

/// Where the image of one container is.
#[derive(Debug, Clone)]
pub(crate) struct ContainerImage {
    pub(crate) image: Image,
    /// Unpacked layers, uppermost first.
    pub(crate) layers: Vec<PathBuf>,
}

/// Removes a container's files but for its log. Nobody adds one of that name meanwhile.
pub(crate) fn remove_files(paths: &Paths, pod: &str, container: &str) -> Result<(), Failure> {
    let bundles = paths.bundles(pod);
    let names = entries(&bundles).map_err(Failure::new)?;
    let own = names
        .iter()
        .filter(|name| name.split('.').next() == Some(container));
    for dir in own
        .map(|name| bundles.join(name))
        .chain([paths.rw(pod, container)])
    {
        magik_sys::tree::remove(&dir).map_err(Failure::io(format!("remove {}", dir.display())))?;
    }
    Ok(())
}

/// A pod's files, all of them below its own directories.
#[derive(Debug)]
pub(crate) struct PodFiles<'a> {
    pub(super) paths: &'a Paths,
    images: &'a ImageStore,
    /// The pod's id.
    pub(crate) id: &'a str,
    /// The pod.
    pub(crate) spec: &'a PodSpec,
    /// As kubelet has it: the pod's own, or its name cut to a label, or the host's with the host's network.
    pub(crate) hostname: String,
    /// The host's id of the pod's root, if it has users of its own.
    pub(crate) users: Option<u32>,
    /// What its containers can be told of it.
    facts: Facts,
    /// Of a container that is added: what tells it from others that had its name before.
    generation: Option<String>,
    /// Of a container that is added for looking at others.
    ephemeral: Option<EphemeralPlan>,
}

impl<'a> PodFiles<'a> {
    pub(crate) fn new(
        paths: &'a Paths,
        images: &'a ImageStore,
        id: &'a str,
        spec: &'a PodSpec,
        users: Option<u32>,
    ) -> Self {
        Self {
            paths,
            images,
            id,
            spec,
            hostname: etc::host_name(spec),
            users,
            facts: Facts::of_pod(id),
            generation: None,
            ephemeral: None,
        }
    }

    /// For a container that is added; no other of the pod's has had this `generation`.
    pub(crate) fn of_added(self, generation: String, ephemeral: Option<EphemeralPlan>) -> Self {
        Self {
            generation: Some(generation),
            ephemeral,
            ..self
        }
    }

    /// What it is added for, if that is to look at others.
    pub(crate) fn ephemeral(&self) -> Option<&EphemeralPlan> {
        self.ephemeral.as_ref()
    }

    /// Makes the file that an ephemeral container's init shows the process namespace at.
    pub(crate) fn make_target_processes(&self, bundle: &Path) -> Result<(), Failure> {
        let file = bundle.join(TARGET_PROCESSES);
        fs::write(&file, "").map_err(Failure::io(format!("create {}", file.display())))
    }

    /// A name for what a container that is added has; `None`: it is one of those that the pod begins
    /// with.
    pub(crate) fn added(&self, container: &str) -> Option<String> {
        let generation = self.generation.as_ref()?;
        Some(format!("{container}.{generation}"))
    }

    /// Writes everything that needs to be there before the init starts. The images are those of all
    /// containers, init containers first, then of the volumes that are images.
    pub(crate) fn write(&self, images: &[ContainerImage], backend: &dyn Backend) -> Result<PodPlan, Failure> {
        let data = self.paths.data_pod(self.id);
        let sandbox = self.paths.sandbox(self.id);
        self.make_dirs(
            &[
                &data,
                &data.join("logs"),
                &data.join("rw"),
                &data.join("volumes"),
                &sandbox,
                &self.paths.bundles(self.id),
                &sandbox.join("etc"),
            ]
            .map(|dir| (dir.as_path(), 0o700)),
        )?;
        etc::write(&sandbox.join("etc"), self.spec).map_err(Failure::io("write its files of /etc"))?;
        if self.users.is_some() {
            let places = Places::of(&sandbox);
            places
                .make()
                .map_err(Failure::io(format!("create {}", sandbox.display())))?;
        }
        self.take_claims()?;
        let tmpfs = self.make_volumes()?;
        let mut plans = Vec::with_capacity(images.len());
        for (container, image) in self.spec.all_containers().zip(images) {
            let plan = backend.container(self, container, image);
            plans.push(plan.map_err(Failure::of(&container.name))?);
        }
        let mut mounted = Vec::new();
        for ((volume, _), image) in image_volumes(self.spec).zip(images.iter().skip(plans.len())) {
            mounted.extend(backend.image_volume(self, volume, image)?);
        }
        let containers = plans.split_off(self.spec.init_containers.len());
        Ok(PodPlan {
            user_namespace: self.users.map(|host_id| magik_infra::status::UserNamespace {
                host_id,
                size: users::SIZE,
            }),
            id: self.id.to_owned(),
            name: self.spec.name.clone(),
            namespace: self.spec.namespace.clone(),
            labels: self.spec.labels.clone(),
            annotations: self.spec.annotations.clone(),
            published: publish::ports(self.spec),
            tmpfs,
            images: mounted,
            shared: self.shared_volumes(),
            disk_limits: self.disk_limits(),
            data: data::plans(self.spec, |name| self.volume(name)),
            init_containers: plans,
            containers,
            grace_period_s: self.spec.termination_grace_period.as_secs(),
            active_deadline_s: self.spec.active_deadline.as_ref().map(Duration::as_secs),
            max_log_size: None,
            ends: magik_infra::plan::PodEnd::default(),
            back_off: magik_infra::plan::BackOff::default(),
            extensions: Vec::new(),
            ignored: Vec::new(),
        })
    }

    /// Writes the files of one container more, in place of what one of that name has left.
    pub(crate) fn add(
        &self,
        container: &ContainerSpec,
        write: impl Fn() -> Result<ContainerPlan, Failure>,
    ) -> Result<ContainerPlan, Failure> {
        remove_files(self.paths, self.id, &container.name)?;
        write().map_err(Failure::of(&container.name))
    }

    /// The pod's init, while it runs.
    #[cfg(feature = "krun")]
    pub(crate) fn init(&self) -> std::io::Result<Option<super::Process>> {
        super::Process::recorded(&self.paths.pod(self.id))
    }

    /// Makes new directories, each with exactly its mode.
    pub(crate) fn make_dirs(&self, dirs: &[(&Path, u32)]) -> Result<(), Failure> {
        for (dir, mode) in dirs {
            make_dir(dir, *mode).map_err(Failure::io(format!("create {}", dir.display())))?;
        }
        Ok(())
    }

    /// Unpacks an image into a directory that does not exist, for pods that can mount nothing.
    #[cfg(feature = "wasm")]
    pub(crate) fn copy_image(&self, image: &Image, dir: &Path) -> Result<(), Failure> {
        self.images.unpack_flat(image, dir).map_err(Failure::new)
    }

    /// Where the pod's init finds a directory of the pod's or of an image's layers: with owners as the pod's users have them.
    #[cfg(feature = "native")]
    pub(crate) fn seen_by_init(&self, path: &Path) -> PathBuf {
        match self.users {
            Some(_) => Places::of(&self.paths.sandbox(self.id)).mapped(self.paths.data_root(), path),
            None => path.to_owned(),
        }
    }

    /// Makes a directory that of the pod's root.
    pub(crate) fn give_to_root(&self, dir: &Path) -> Result<(), Failure> {
        let Some(first) = self.users else { return Ok(()) };
        std::os::unix::fs::chown(dir, Some(first), Some(first))
            .map_err(Failure::io(format!("give {} to the pod's root", dir.display())))
    }

    /// The user namespace that its containers join.
    fn user_namespace(&self) -> Option<UserNamespace> {
        let places = Places::of(&self.paths.sandbox(self.id));
        self.users.map(|first| UserNamespace {
            path: places.namespace(),
            first,
            size: users::SIZE,
        })
    }

    /// The pod's own directory, whose path never changes.
    #[cfg(feature = "native")]
    pub(crate) fn sandbox(&self) -> PathBuf {
        self.paths.sandbox(self.id)
    }

    /// A container's bundle. That of one that is added is where none was before: who has seen the
    /// other, like a guest, may go on seeing it there.
    pub(crate) fn bundle(&self, container: &str) -> PathBuf {
        let added = self.added(container);
        self.paths
            .bundles(self.id)
            .join(added.as_deref().unwrap_or(container))
    }

    /// What a container writes.
    pub(crate) fn rw(&self, container: &str) -> PathBuf {
        self.paths.rw(self.id, container)
    }

    /// A container's log.
    pub(crate) fn log(&self, container: &str) -> PathBuf {
        self.paths.log(self.id, container)
    }

    /// A layer to lie below all others, with what every container has something mounted on: what an image lacks of it need
    /// not be made in each container's own layer, together with a copy of the image's `/etc`.
    #[cfg(feature = "native")]
    pub(crate) fn mount_points(&self) -> Result<PathBuf, Failure> {
        let layer = self.paths.sandbox(self.id).join("mount-points");
        let make = || {
            if layer.exists() {
                return Ok(());
            }
            make_dir(&layer, 0o755)?;
            for dir in ["dev", "etc", "proc", "sys"] {
                make_dir(&layer.join(dir), 0o755)?;
            }
            ETC.iter()
                .try_for_each(|file| fs::write(layer.join("etc").join(file), ""))
        };
        make().map_err(Failure::io(format!("create {}", layer.display())))?;
        Ok(layer)
    }

    /// Copies unpacked layers, the uppermost first, to a directory that does not exist.
    #[cfg(feature = "native")]
    pub(crate) fn copy_layers(&self, layers: &[PathBuf], dir: &Path) -> Result<(), Failure> {
        self.images.copy_layers(layers, dir).map_err(Failure::new)
    }

    /// The settings of a container that do not depend on what isolates it.
    pub(crate) fn settings(&self, container: &ContainerSpec) -> Result<ContainerSettings, Failure> {
        let bound = container.bind(self.spec, &self.facts).map_err(Failure::new)?;
        Ok(ContainerSettings {
            command: bound.command,
            args: bound.args,
            env: bound.env,
            cwd: container.working_dir.clone(),
            hostname: Some(self.hostname.clone()),
            readonly_rootfs: container.security.read_only_root_filesystem,
            mounts: self.mounts(container, bound.sub_paths),
            resources: Resources {
                memory_limit: container.limits.memory,
                cpu_millis: container.limits.cpu_millis,
                cpu_shares: self.spec.cpu_shares_of(container),
                pids_limit: None,
                huge_pages: [
                    ("2MB", container.limits.huge_pages_2mi),
                    ("1GB", container.limits.huge_pages_1gi),
                ]
                .into_iter()
                .filter_map(|(size, limit)| Some((size.to_owned(), limit?)))
                .collect(),
            },
            user_namespace: self.user_namespace(),
            ..ContainerSettings::default()
        })
    }

    /// Its restarts, probes and hooks; where the pod does not say which signal asks it to end, the
    /// image does.
    pub(crate) fn lifecycle(&self, container: &ContainerSpec, image: &Image) -> Lifecycle {
        let mut lifecycle = container.lifecycle.clone();
        let of_image = image
            .config
            .config()
            .as_ref()
            .and_then(|config| config.stop_signal().as_deref());
        let of_image = of_image.and_then(|name| name.parse().ok());
        let of_image = of_image
            .map(|Signal(number)| number)
            .filter(|n| *n != Signal::TERM.0);
        lifecycle.stop_signal = lifecycle.stop_signal.or(of_image);
        lifecycle
    }

    /// Builds a container's runtime spec and writes it into its bundle.
    pub(crate) fn write_bundle(
        &self,
        container: &ContainerSpec,
        image: &Image,
        settings: &ContainerSettings,
    ) -> Result<(), Failure> {
        let spec = runtime_spec(&image.config, settings).map_err(Failure::new)?;
        write_bundle(&self.bundle(&container.name), &spec).map_err(Failure::new)
    }
}
