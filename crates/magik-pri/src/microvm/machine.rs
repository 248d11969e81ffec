//! What the launcher decides about a pod's machine, and the supervisor reads.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_infra::guest::{GuestBind, GuestConfig, GuestDirectory, GuestScratch, GuestShare, NONCE, POD};
use magik_vm::{DriverKind, MAX_SHARES, MAX_VCPUS, MAX_VM_MEMORY_MIB, VmFiles};
use serde::{Deserialize, Serialize};

use crate::{HostPathKind, PodSpec, SpecError, VolumeSource, pods::Start};

/// The file in the pod's sandbox.
const FILE: &str = "machine.json";
/// What a guest needs beside its containers, in MiB: kernel, init, the runtime.
pub(super) const OVERHEAD_MIB: u64 = 128;
/// What a container is taken to need that says nothing, in MiB.
const UNSAID_MIB: u64 = 128;

/// A pod's machine.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Machine {
    pub(super) memory_mib: u32,
    pub(super) vcpus: u32,
    pub(super) driver: DriverKind,
    /// How long the guest may take to say hello.
    pub(super) hello_time: Duration,
    pub(super) files: PathBuf,
    /// The pod's directory below the data root.
    pub(super) data: PathBuf,
    pub(super) hostname: String,
    pub(super) containers: Vec<String>,
    pub(super) empty_dirs: Vec<String>,
    /// Whether the containers share a process namespace.
    pub(super) shared_processes: bool,
    pub(super) shares: Vec<HostShare>,
}

/// A `hostPath` volume, or a mount of a container's, and the share it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct HostShare {
    /// The share; those with a [`name`](Self::name) may have one together.
    pub(super) number: usize,
    pub(super) host_path: PathBuf,
    /// No container writes to it.
    pub(super) read_only: bool,
    /// Its name in the share, if it is one file: machines share directories.
    pub(super) name: Option<PathBuf>,
    /// It is a container's root.
    pub(super) root: bool,
}

impl HostShare {
    /// Those of a pod.
    pub(super) fn all(spec: &PodSpec) -> Vec<Self> {
        let mut known = BTreeSet::new();
        let mut shares = Vec::new();
        for volume in &spec.volumes {
            let VolumeSource::HostPath(host) = &volume.source else {
                continue;
            };
            let mut mounts = spec.all_containers().flat_map(|c| &c.mounts);
            if !mounts.any(|m| m.volume == volume.name) || !known.insert(&host.path) {
                continue;
            }
            let of_path: Vec<_> = spec
                .volumes
                .iter()
                .filter(|v| matches!(&v.source, VolumeSource::HostPath(h) if h.path == host.path))
                .map(|v| &v.name)
                .collect();
            let mut all = spec.all_containers().flat_map(|c| &c.mounts);
            let is_file =
                matches!(host.kind, HostPathKind::File | HostPathKind::FileOrCreate) || host.path.is_file();
            shares.push(Self {
                number: shares.len(),
                host_path: host.path.clone(),
                read_only: all.all(|m| m.read_only || !of_path.contains(&&m.volume)),
                name: host.path.file_name().filter(|_| is_file).map(PathBuf::from),
                root: false,
            });
        }
        shares
    }

    pub(super) fn tag(&self) -> String {
        format!("share{}", self.number)
    }

    /// Where the share is mounted in the guest.
    fn mount_point(&self) -> PathBuf {
        PathBuf::from("/run/shares").join(self.number.to_string())
    }

    /// Where the volume is in the guest.
    pub(super) fn in_guest(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.mount_point().join(name),
            None => self.mount_point(),
        }
    }
}

/// So many processors as are asked for, but as are here and as a machine may have.
pub(super) fn vcpus(asked: u64) -> u32 {
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let most = MAX_VCPUS.min(u32::try_from(here).unwrap_or(MAX_VCPUS));
    u32::try_from(asked).unwrap_or(u32::MAX).clamp(1, most)
}

impl Machine {
    /// Memory in MiB and processors for a pod: the sum of what its containers may use, or the most that an init container
    /// may, and what the guest itself needs.
    pub(super) fn size(spec: &PodSpec) -> Result<(u32, u32), SpecError> {
        let memory = |c: &crate::ContainerSpec| {
            let bytes = c.limits.memory.or(c.requests.memory);
            bytes.map_or(UNSAID_MIB, |b| b.div_ceil(1 << 20))
        };
        let together: u64 = spec.containers.iter().map(memory).sum();
        let before: u64 = spec.init_containers.iter().map(memory).max().unwrap_or_default();
        let memory_mib = together.max(before) + OVERHEAD_MIB;
        if memory_mib > u64::from(MAX_VM_MEMORY_MIB) {
            return Err(SpecError::invalid(
                "spec.containers",
                format!(
                    "the pod's machine would need {memory_mib} MiB of memory (limits, and {OVERHEAD_MIB} MiB for the guest), and the most is {MAX_VM_MEMORY_MIB}"
                ),
            ));
        }
        let millis: u64 = spec
            .containers
            .iter()
            .map(|c| c.limits.cpu_millis.unwrap_or(1000))
            .sum();
        let vcpus = vcpus(millis.div_ceil(1000));
        if HostShare::all(spec).len() > MAX_SHARES {
            return Err(SpecError::invalid(
                "spec.volumes",
                format!("a machine takes {MAX_SHARES} hostPath volumes at most"),
            ));
        }
        Ok((u32::try_from(memory_mib).unwrap_or(u32::MAX), vcpus))
    }

    /// The machine of a pod that is about to be started.
    pub(super) fn of(start: &Start<'_>, files: VmFiles, driver: DriverKind) -> io::Result<Self> {
        let (memory_mib, vcpus) = Self::size(start.spec).map_err(io::Error::other)?;
        let empty_dirs = start.spec.volumes.iter();
        let empty_dirs = empty_dirs.filter(|v| matches!(v.source, VolumeSource::EmptyDir(_)));
        Ok(Self {
            memory_mib,
            vcpus: if driver.is_emulated() { 1 } else { vcpus },
            driver,
            hello_time: driver.hello_time(),
            files: files.into_directory(),
            data: start.data.join("pods").join(start.id),
            hostname: start.hostname.to_owned(),
            containers: start.spec.all_containers().map(|c| c.name.clone()).collect(),
            empty_dirs: empty_dirs.map(|v| v.name.clone()).collect(),
            shared_processes: start.spec.share_process_namespace,
            shares: HostShare::all(start.spec),
        })
    }

    /// Writes it for the supervisor.
    pub(super) fn write(&self, sandbox: &Path) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(sandbox.join(FILE))?;
        Ok(serde_json::to_writer(file, self)?)
    }

    /// Reads what the launcher wrote.
    pub(super) fn read(sandbox: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(sandbox.join(FILE))?)?)
    }

    /// What the guest's init does before it dials.
    pub(super) fn guest_config(&self, sandbox: &Path, nonce: [u8; NONCE]) -> GuestConfig {
        let directory = |path: PathBuf, mode| GuestDirectory { path, mode };
        let (rw, volumes) = (self.data.join("rw"), self.data.join("volumes"));
        let mut directories = vec![
            directory(self.data.join("logs"), 0o700),
            directory(rw.clone(), 0o700),
            directory(volumes.clone(), 0o700),
        ];
        for container in &self.containers {
            let rw = rw.join(container);
            directories.extend([
                directory(rw.clone(), 0o700),
                // The upper directory's mode is that of the container's `/`.
                directory(rw.join("upper"), 0o755),
                directory(rw.join("work"), 0o700),
            ]);
        }
        // Any user of any container may write: as kubelet makes it.
        directories.extend(
            self.empty_dirs
                .iter()
                .map(|name| directory(volumes.join(name), 0o777)),
        );
        GuestConfig {
            nonce,
            hostname: self.hostname.clone(),
            scratch: GuestScratch {
                target: self.data.clone(),
                size: u64::from(self.memory_mib) << 19,
            },
            binds: vec![GuestBind {
                source: POD.into(),
                target: sandbox.to_owned(),
            }],
            shares: self.distinct_shares().map(guest_share).collect(),
            directories,
            shared_processes: self.shared_processes,
        }
    }

    /// One of each share's.
    pub(super) fn distinct_shares(&self) -> impl Iterator<Item = &HostShare> {
        let mut known = BTreeSet::new();
        self.shares.iter().filter(move |share| known.insert(share.number))
    }
}

fn guest_share(share: &HostShare) -> GuestShare {
    GuestShare {
        tag: share.tag(),
        target: share.mount_point(),
        root: share.root,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(containers: &str, volumes: &str) -> PodSpec {
        let text = format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p}}, spec: {{containers: [{containers}], volumes: [{volumes}]}}}}"
        );
        PodSpec::from_yaml(&text).unwrap()
    }

    #[test]
    fn a_machine_is_as_large_as_its_containers_together() {
        let one = |memory: &str, cpu: &str| {
            format!(
                "{{name: a{memory}, image: i, resources: {{limits: {{memory: {memory}Mi, cpu: '{cpu}'}}}}}}"
            )
        };
        let size = |containers: &str| Machine::size(&spec(containers, ""));
        assert_eq!(size("{name: a, image: i}").unwrap().0, 256);
        assert_eq!(
            size(&format!("{}, {}", one("100", "0.5"), one("200", "0.5"))).unwrap(),
            (428, 1)
        );
        let most = u64::from(MAX_VM_MEMORY_MIB) - OVERHEAD_MIB;
        size(&one(&most.to_string(), "1")).unwrap();
        let error = size(&one(&(most + 1).to_string(), "1")).unwrap_err().to_string();
        assert!(error.contains("4097 MiB"), "{error}");
    }

    #[test]
    fn host_paths_are_shares_that_are_read_only_unless_somebody_writes() {
        let spec = spec(
            "{name: a, image: i, volumeMounts: [{name: v, mountPath: /v, readOnly: true}, {name: w, mountPath: /w}, {name: x, mountPath: /x, readOnly: true}]}",
            "{name: v, hostPath: {path: /srv}}, {name: w, hostPath: {path: /var}}, {name: x, hostPath: {path: /var}}, {name: unused, hostPath: {path: /opt}}",
        );
        let shares = HostShare::all(&spec);
        let found: Vec<_> = shares
            .iter()
            .map(|s| (s.host_path.to_str().unwrap(), s.read_only))
            .collect();
        assert_eq!(found, [("/srv", true), ("/var", false)]);
        assert_eq!(shares[1].in_guest(), Path::new("/run/shares/1"));
    }
}
