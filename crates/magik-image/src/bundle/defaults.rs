//! The default mounts, hidden paths and devices of containers, as podman and containerd have them.

use oci_spec::runtime::{LinuxDevice, Mount, MountBuilder};

use super::BundleError;

/// Hidden behind an empty file or directory: podman's list (containers/common), and
/// `/proc/interrupts`, whose counters reveal others' input (docker hides it since 28).
pub(super) const MASKED_PATHS: [&str; 13] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/dev/block",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// Read-only: podman's list.
pub(super) const READONLY_PATHS: [&str; 6] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The standard mounts (runtime-spec, "Default Filesystems", and what podman adds).
pub(super) fn mounts(privileged: bool) -> Result<Vec<Mount>, BundleError> {
    let system = if privileged { "rw" } else { "ro" };
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            "nosuid,noexec,strictatime,mode=755,size=65536k",
        ),
        (
            "/dev/pts",
            "devpts",
            "devpts",
            "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5",
        ),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            "nosuid,noexec,nodev,mode=1777,size=65536k",
        ),
        ("/sys", "sysfs", "sysfs", &format!("nosuid,noexec,nodev,{system}")),
        (
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &format!("nosuid,noexec,nodev,relatime,{system}"),
        ),
    ]
    .into_iter()
    .map(|(target, kind, source, options)| {
        MountBuilder::default()
            .destination(target)
            .typ(kind)
            .source(source)
            .options(options.split(',').map(str::to_owned).collect::<Vec<_>>())
            .build()
            .map_err(|e| BundleError::field(format!("mount {target}"), e.to_string()))
    })
    .collect()
}

/// The host's device nodes, for a privileged container; without those the runtime makes itself.
#[cfg(target_os = "linux")]
pub(super) fn host_devices() -> Result<Vec<LinuxDevice>, BundleError> {
    /// Made by every runtime (runtime-spec, "Default Devices"), or part of a standard mount.
    const OWN: [&str; 13] = [
        "null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue", "fd",
        ".udev",
    ];
    /// More than any host has; bounds the walk and config.json.
    const MAX_DEVICES: usize = 4096;

    let mut devices = Vec::new();
    let mut directories = vec![std::path::PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        let io = |source| BundleError::Io {
            path: directory.clone(),
            source,
        };
        for entry in std::fs::read_dir(&directory).map_err(io)? {
            let entry = entry.map_err(io)?;
            if OWN.iter().any(|own| entry.file_name() == *own) {
                continue;
            }
            // A device may go away while we look.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            } else if let Some(device) = device_node(&entry.path(), &metadata)? {
                devices.push(device);
            }
            if devices.len() >= MAX_DEVICES {
                return Ok(devices);
            }
        }
    }
    devices.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(devices)
}

#[cfg(target_os = "linux")]
fn device_node(
    path: &std::path::Path,
    metadata: &std::fs::Metadata,
) -> Result<Option<LinuxDevice>, BundleError> {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

    use oci_spec::runtime::{LinuxDeviceBuilder, LinuxDeviceType};

    let kind = match metadata.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return Ok(None),
    };
    LinuxDeviceBuilder::default()
        .typ(kind)
        .major(i64::from(rustix::fs::major(metadata.rdev())))
        .minor(i64::from(rustix::fs::minor(metadata.rdev())))
        .file_mode(metadata.mode() & 0o777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .path(path)
        .build()
        .map(Some)
        .map_err(|e| BundleError::field(path.display().to_string(), e.to_string()))
}

/// Without Linux underneath, containers run in a virtual machine, which has no devices of the host.
#[cfg(not(target_os = "linux"))]
pub(super) fn host_devices() -> Result<Vec<LinuxDevice>, BundleError> {
    Ok(Vec::new())
}
