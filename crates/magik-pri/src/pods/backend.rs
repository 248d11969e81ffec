//! What differs between the backends.

use std::{
    ffi::OsStr,
    fmt::Debug,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use magik_image::{Image, platform::Platform};
use magik_infra::plan::{ContainerPlan, ImagePlan};
use magik_oci::Capability;

use super::{
    cgroup::Hierarchies,
    failure::Failure,
    files::{ContainerImage, PodFiles},
    process::Process,
};
use crate::{ContainerSpec, PodSpec, RuntimeClass, SpecErrors};

/// The program that calls.
pub(crate) const SELF: &str = "/proc/self/exe";

/// How one kind of isolation lays out its containers and starts its pods' inits. All of it may wait
/// for files and processes: it is called where that holds nobody up.
pub(crate) trait Backend: Debug + Send + Sync + 'static {
    /// The class it is.
    fn class(&self) -> RuntimeClass;

    /// Whether it works here, and how or why not.
    fn availability(&self) -> Capability;

    /// Whether it can do what the pod asks for. Nothing is touched yet.
    ///
    /// # Errors
    /// Names every field that it cannot honour.
    fn check(&self, spec: &PodSpec) -> Result<(), SpecErrors>;

    /// The platform that is chosen from images for several; `None`: this machine's.
    fn platform(&self) -> Option<Platform> {
        None
    }

    /// Whether it can run an image.
    ///
    /// # Errors
    /// Why not, and what to do.
    fn check_image(&self, image: &Image) -> Result<(), String>;

    /// What a container needs of its image on disk: by default its layers, unpacked, the uppermost first. Holds the lease.
    ///
    /// # Errors
    /// As [`ImageStore::unpack`](magik_image::ImageStore::unpack).
    fn unpack(
        &self,
        images: &magik_image::ImageStore,
        image: &Image,
        lease: &str,
    ) -> magik_image::Result<Vec<PathBuf>> {
        images.unpack_blocking(image, lease)
    }

    /// Writes a container's files below the pod's directories, and says how it is created.
    ///
    /// # Errors
    /// What cannot be written, or what no container can have.
    fn container(
        &self,
        pod: &PodFiles<'_>,
        container: &ContainerSpec,
        image: &ContainerImage,
    ) -> Result<ContainerPlan, Failure>;

    /// How the pod's init mounts an image as a volume; `None`: its files are there already.
    ///
    /// # Errors
    /// What cannot be written.
    fn image_volume(
        &self,
        pod: &PodFiles<'_>,
        volume: &str,
        image: &ContainerImage,
    ) -> Result<Option<ImagePlan>, Failure>;

    /// Shows the pod's init, which runs, the layers of a container that is added. By default it sees
    /// the host's.
    ///
    /// # Errors
    /// What cannot be shown.
    fn show_layers(
        &self,
        _pod: &PodFiles<'_>,
        _container: &ContainerSpec,
        _image: &ContainerImage,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether a container can be added to a pod of this kind that runs.
    ///
    /// # Errors
    /// Why not.
    fn check_added(
        &self,
        pod: &PodSpec,
        container: &ContainerSpec,
        is_ephemeral: bool,
    ) -> Result<(), &'static str>;

    /// The program that is started as a pod's init; for messages.
    fn binary(&self) -> &Path;

    /// Starts a pod's init, which finds the descriptors as its 0 to 5, the listeners as those from 6 on, and nothing else open.
    ///
    /// # Errors
    /// It cannot be started.
    fn start(&self, start: Start<'_>) -> io::Result<Process>;
}

/// A backend, as [`Pods::with`](super::Pods::with) takes it.
#[derive(Debug)]
pub struct PodBackend(pub(super) Arc<dyn Backend>);

impl<B: Backend> From<B> for PodBackend {
    fn from(backend: B) -> Self {
        Self(Arc::new(backend))
    }
}

/// What an init is started with.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// The pod's id.
    pub(crate) id: &'a str,
    /// The pod.
    pub(crate) spec: &'a PodSpec,
    /// The host name its containers see.
    pub(crate) hostname: &'a str,
    /// `sandboxes/<id>`.
    pub(crate) sandbox: PathBuf,
    /// The data root.
    pub(crate) data: &'a Path,
    /// The host's id of the pod's root, if the pod has users of its own.
    #[cfg_attr(not(feature = "native"), expect(dead_code, reason = "only native pods have"))]
    pub(crate) users: Option<u32>,
    /// Where cgroups are made.
    pub(crate) cgroups: &'a Hierarchies,
    /// Null twice, the init's log, the launch socket, the lock, the state directory.
    pub(crate) descriptors: [OwnedFd; 6],
    /// The host's listeners for the pod's ports.
    pub(crate) listeners: Vec<OwnedFd>,
}

/// A binary of that name beside this program's own.
pub(crate) fn beside_own_binary(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    let beside = own.parent()?.join(name.as_ref());
    beside.is_file().then_some(beside)
}
