//! What a caller decides about a container; the rest comes from the image.

use std::{collections::BTreeMap, path::PathBuf, str::FromStr};

use oci_spec::runtime::LinuxSeccomp;

/// The default limit on processes and threads; podman's default.
pub const DEFAULT_PIDS_LIMIT: i64 = 2048;

/// The settings of one container, beside its image.
///
/// ```
/// use magik_image::bundle::ContainerSettings;
/// let settings = ContainerSettings { args: Some(vec![]), ..ContainerSettings::default() };
/// assert_eq!(settings.rootfs_path.to_str(), Some("rootfs"));
/// ```
#[derive(Debug, Clone)]
pub struct ContainerSettings {
    /// Replaces the image's entrypoint, and drops the image's command (Kubernetes `command`).
    pub command: Option<Vec<String>>,
    /// Replaces the image's command (Kubernetes `args`).
    pub args: Option<Vec<String>>,
    /// Added to the image's variables; replaces equal names. The last of equal ones counts.
    pub env: Vec<(String, String)>,
    /// Replaces the image's working directory; absolute.
    pub cwd: Option<PathBuf>,
    /// Replaces the image's user.
    pub user: Option<UserSpec>,
    /// Whether a user that is 0, or is not known to be another, is refused (Kubernetes
    /// `runAsNonRoot`).
    pub run_as_non_root: bool,
    /// Added to the user's groups.
    pub supplemental_groups: Vec<u32>,
    /// Whether the user only has its primary group and `supplemental_groups`, and none from
    /// `/etc/group`.
    pub strict_supplemental_groups: bool,
    /// Where `/etc/passwd` and `/etc/group` are looked up: the layers uppermost first, or one flat
    /// rootfs. With none, a user given by name is an error.
    pub rootfs_layers: Vec<PathBuf>,
    /// The host name. Set by the runtime if [`Namespaces::uts`] is new; always in `HOSTNAME`.
    pub hostname: Option<String>,
    /// `root.path`: absolute, or relative to the bundle. Default `rootfs`.
    pub rootfs_path: PathBuf,
    /// Whether the root file system is read-only.
    pub readonly_rootfs: bool,
    /// Whether the program gets a pseudo-terminal.
    pub terminal: bool,
    /// All capabilities the host has, its devices, no seccomp filter, nothing masked or read-only.
    pub privileged: bool,
    /// Added to [the default](super::DEFAULT_CAPABILITIES): `NET_ADMIN`, `CAP_NET_ADMIN`, `ALL`.
    pub add_capabilities: Vec<String>,
    /// Removed from them: as above. What is both added and dropped is added, as Kubernetes has it.
    pub drop_capabilities: Vec<String>,
    /// `no_new_privs`; the inverse of Kubernetes' `allowPrivilegeEscalation`. Absent: set, unless
    /// the container is privileged.
    pub no_new_privs: Option<bool>,
    /// Mounts after the standard ones, in order; one with the target of a standard one replaces it.
    pub mounts: Vec<MountSetting>,
    /// Limits.
    pub resources: Resources,
    /// Which namespaces are new; the others are inherited.
    pub namespaces: Namespaces,
    /// The user namespace to join, with the pod's other namespaces; absent: the host's users.
    pub user_namespace: Option<UserNamespace>,
    /// The process namespace that the container joins; then [`Namespaces::pid`] is `false`.
    pub process_namespace: Option<ProcessNamespace>,
    /// `linux.cgroupsPath`; absent: the runtime's choice.
    pub cgroups_path: Option<PathBuf>,
    /// `oom_score_adj` of its processes; absent: as the runtime's own.
    pub oom_score_adj: Option<i32>,
    /// Annotations of the spec.
    pub annotations: BTreeMap<String, String>,
    /// The filter on system calls.
    pub seccomp: SeccompProfile,
    /// Whether nothing of `/proc` and `/sys` is hidden or read-only (Kubernetes `procMount:
    /// Unmasked`): only for a container in a user namespace of its own.
    pub unmasked: bool,
    /// The AppArmor profile.
    pub apparmor: AppArmorProfile,
    /// The SELinux label of its processes, where SELinux is enabled. Files are not labelled.
    pub selinux: Option<SelinuxLabel>,
    /// Whether the security modules of this host are those of the kernel that runs the container;
    /// not so in a virtual machine.
    pub host_security_modules: bool,
}

impl Default for ContainerSettings {
    fn default() -> Self {
        Self {
            command: None,
            args: None,
            env: Vec::new(),
            cwd: None,
            user: None,
            run_as_non_root: false,
            supplemental_groups: Vec::new(),
            strict_supplemental_groups: false,
            rootfs_layers: Vec::new(),
            hostname: None,
            rootfs_path: "rootfs".into(),
            readonly_rootfs: false,
            terminal: false,
            privileged: false,
            add_capabilities: Vec::new(),
            drop_capabilities: Vec::new(),
            no_new_privs: None,
            mounts: Vec::new(),
            resources: Resources::default(),
            namespaces: Namespaces::ALL,
            user_namespace: None,
            process_namespace: None,
            cgroups_path: None,
            oom_score_adj: None,
            annotations: BTreeMap::new(),
            seccomp: SeccompProfile::Default,
            unmasked: false,
            apparmor: AppArmorProfile::Unset,
            selinux: None,
            host_security_modules: true,
        }
    }
}

/// A process namespace that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessNamespace {
    /// Its file.
    pub path: PathBuf,
    /// Where its `/proc` is mounted. The container is shown that one: before Linux 6.17 a runtime can
    /// make one of its own only with a process that is in the namespace, with rights that others there
    /// could take from it. Absent: the runtime makes one, or refuses where it must not.
    pub procfs: Option<PathBuf>,
}

/// A user and a group, each by number or name; what is absent comes from the image.
///
/// ```
/// use magik_image::bundle::UserSpec;
/// let spec: UserSpec = "1000:100".parse().unwrap();
/// assert_eq!(spec, UserSpec::numeric(Some(1000), Some(100)));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserSpec {
    /// A uid or a name in `/etc/passwd`. A number is always a uid.
    pub user: Option<String>,
    /// A gid or a name in `/etc/group`. A number is always a gid.
    pub group: Option<String>,
}

impl UserSpec {
    /// Kubernetes' `runAsUser` and `runAsGroup`.
    #[must_use]
    pub fn numeric(uid: Option<u32>, gid: Option<u32>) -> Self {
        Self {
            user: uid.map(|uid| uid.to_string()),
            group: gid.map(|gid| gid.to_string()),
        }
    }
}

impl FromStr for UserSpec {
    type Err = std::convert::Infallible;

    /// Reads `USER[:GROUP]`, as an image's `User` and docker's `--user` have it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        let given = |part: &str| Some(part.to_owned()).filter(|part| !part.is_empty());
        Ok(Self {
            user: given(user),
            group: given(group),
        })
    }
}

/// A mount of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSetting {
    /// What is mounted, absolute; not used for a tmpfs.
    pub source: PathBuf,
    /// Where in the container, absolute, not `/`.
    pub target: PathBuf,
    /// Whether it is read-only.
    pub readonly: bool,
    /// Whether what is mounted below a bind mount that is read-only is so, too.
    pub recursive_readonly: bool,
    /// Where mounts go that are made in a bind mount later.
    pub propagation: Propagation,
    /// What kind it is.
    pub kind: MountKind,
    /// Whether its files' owners are shown as they are, with a user namespace, too.
    pub keeps_owners: bool,
    /// More options of the runtime's, added as they are.
    pub options: Vec<String>,
}

impl MountSetting {
    /// A bind mount.
    #[must_use]
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>, readonly: bool) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
            readonly,
            recursive_readonly: false,
            propagation: Propagation::Private,
            kind: MountKind::Bind,
            keeps_owners: false,
            options: Vec::new(),
        }
    }
}

/// Where mounts go that are made in a bind mount, or in its source, later (mount_namespaces(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Nowhere (`rprivate`).
    #[default]
    Private,
    /// From the source to the container (`rslave`).
    FromSource,
    /// Both ways (`rshared`).
    Both,
}

/// The kinds of mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// The source and what is mounted beneath it.
    Bind,
    /// Likewise, and the owners of its files are the host's also where the container has users of
    /// its own: they are who made the files.
    BindUnmapped,
    /// A new, empty tmpfs, mode 1777.
    Tmpfs {
        /// The limit in bytes; absent: half of the host's memory.
        size: Option<u64>,
    },
}

/// Limits on what a container uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes of memory; swap gets nothing on top.
    pub memory_limit: Option<u64>,
    /// Thousandths of a processor per second of real time, enforced in periods of 100 ms.
    pub cpu_millis: Option<u64>,
    /// The weight against others when processors are short, 2 to 262144 (cgroup v1 `cpu.shares`;
    /// 1024 is one processor's worth in Kubernetes).
    pub cpu_shares: Option<u64>,
    /// Processes and threads; absent: [`DEFAULT_PIDS_LIMIT`]; -1: unlimited.
    pub pids_limit: Option<i64>,
    /// Bytes in huge pages, by the size of a page as the kernel writes it: `2MB`, `1GB`.
    pub huge_pages: BTreeMap<String, u64>,
}

/// Which namespaces a container gets new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespaces {
    /// Processes.
    pub pid: bool,
    /// Mounts; without it the runtime cannot change the root.
    pub mount: bool,
    /// Network interfaces, ports, routes.
    pub network: bool,
    /// System V IPC and POSIX message queues.
    pub ipc: bool,
    /// The host name.
    pub uts: bool,
    /// The view of the control groups.
    pub cgroup: bool,
}

impl Namespaces {
    /// All of them: a container on its own.
    pub const ALL: Self = Self {
        pid: true,
        mount: true,
        network: true,
        ipc: true,
        uts: true,
        cgroup: true,
    };
    /// A container of a pod whose init already holds the pod's network, IPC and UTS namespaces.
    pub const IN_POD: Self = Self {
        pid: true,
        mount: true,
        network: false,
        ipc: false,
        uts: false,
        cgroup: true,
    };
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::ALL
    }
}

/// A user namespace that is there already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNamespace {
    /// The file that stands for it.
    pub path: PathBuf,
    /// The host's id of its root, for users and groups alike.
    pub first: u32,
    /// How many ids it has.
    pub size: u32,
}

/// The filter on system calls.
#[derive(Debug, Clone, Default, PartialEq)]
pub enum SeccompProfile {
    /// What docker's and containerd's default profiles allow, for the container's capabilities.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// This one.
    Custom(Box<LinuxSeccomp>),
    /// One in JSON, in docker's form or the runtime-spec's, for the container's capabilities; see
    /// [`load_seccomp_profile`](super::load_seccomp_profile).
    Document {
        /// What errors call it.
        name: String,
        /// The JSON.
        text: Vec<u8>,
    },
}

/// The AppArmor profile of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AppArmorProfile {
    /// The runtime's own.
    #[default]
    Unset,
    /// A default profile for containers: `magikrun-default`, or that of docker, containerd or
    /// podman. An error if AppArmor is enabled and none of them is loaded.
    Default,
    /// None.
    Unconfined,
    /// This one; an error if it is not loaded.
    Named(String),
}

/// Parts of an SELinux label; what is absent is that of `system_u:system_r:container_t:s0`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SelinuxLabel {
    /// The user.
    pub user: Option<String>,
    /// The role.
    pub role: Option<String>,
    /// The type.
    pub type_: Option<String>,
    /// The level.
    pub level: Option<String>,
}
