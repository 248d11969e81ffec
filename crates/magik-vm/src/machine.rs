//! A machine as whoever asks for one decides it, written down for its supervisor, who reads it.

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use magik_infra::guest::{GuestBind, GuestConfig, GuestDirectory, GuestScratch, GuestShare, NONCE, POD};
use serde::{Deserialize, Serialize};

use crate::{DriverKind, MAX_VCPUS};

/// The file in the sandbox.
const FILE: &str = "machine.json";
/// Where the guest mounts shares.
const SHARES: &str = "/run/shares";
/// What a guest needs beside its containers, in MiB: kernel, init, the runtime.
pub const OVERHEAD_MIB: u64 = 128;

/// The machine of a pod, or of one container.
#[derive(Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its virtual processors.
    pub vcpus: u32,
    /// What starts it.
    pub driver: DriverKind,
    /// How long the guest may take to say hello.
    pub hello_time: Duration,
    /// The directory of the files that machines are made of.
    pub files: PathBuf,
    /// The directory whose path the guest's scratch space has: what containers write, and on the host the logs.
    pub data: PathBuf,
    /// The guest's host name.
    pub hostname: String,
    /// The containers that have a writable layer in the guest's scratch space.
    pub containers: Vec<String>,
    /// The volumes in the guest's scratch space.
    pub empty_dirs: Vec<String>,
    /// The group that these belong to, and what is made in them.
    #[serde(default)]
    pub volume_group: Option<u32>,
    /// Whether the containers share a process namespace.
    pub shared_processes: bool,
    /// What is set in the guest, as sysctl(8) has it.
    #[serde(default)]
    pub sysctls: Vec<(String, String)>,
    /// What of the host the guest sees.
    pub shares: Vec<HostShare>,
}

/// A file or directory of the host that a container sees, and the share it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostShare {
    /// The share; those with a [`name`](Self::name) may have one together.
    pub number: usize,
    /// The file or directory.
    pub host_path: PathBuf,
    /// No container writes to it.
    pub read_only: bool,
    /// Its name in the share, if it is one file: machines share directories.
    pub name: Option<PathBuf>,
    /// It is a container's root.
    pub root: bool,
}

impl HostShare {
    /// The share's tag.
    #[must_use]
    pub fn tag(&self) -> String {
        format!("share{}", self.number)
    }

    /// Where the share is mounted in the guest.
    fn mount_point(&self) -> PathBuf {
        Path::new(SHARES).join(self.number.to_string())
    }

    /// Where the file or directory is in the guest.
    #[must_use]
    pub fn in_guest(&self) -> PathBuf {
        match &self.name {
            Some(name) => self.mount_point().join(name),
            None => self.mount_point(),
        }
    }
}

/// So many processors as are asked for, but as are here and as a machine may have.
#[must_use]
pub fn vcpus(asked: u64) -> u32 {
    let here = std::thread::available_parallelism().map_or(1, usize::from);
    let most = MAX_VCPUS.min(u32::try_from(here).unwrap_or(MAX_VCPUS));
    u32::try_from(asked).unwrap_or(u32::MAX).clamp(1, most)
}

impl Machine {
    /// Writes it for the supervisor.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn write(&self, sandbox: &Path) -> io::Result<()> {
        let mut options = fs::OpenOptions::new();
        let file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(sandbox.join(FILE))?;
        Ok(serde_json::to_writer(file, self)?)
    }

    /// Reads what [`write`](Self::write) wrote.
    ///
    /// # Errors
    /// There is none, or it cannot be read.
    pub fn read(sandbox: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(sandbox.join(FILE))?)?)
    }

    /// What the guest's init does before it dials.
    #[must_use]
    pub fn guest_config(&self, sandbox: &Path, nonce: [u8; NONCE]) -> GuestConfig {
        let directory = |path: PathBuf, mode| GuestDirectory {
            path,
            mode,
            group: None,
        };
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
        let mode = if self.volume_group.is_some() {
            0o2777
        } else {
            0o777
        };
        directories.extend(self.empty_dirs.iter().map(|name| GuestDirectory {
            path: volumes.join(name),
            mode,
            group: self.volume_group,
        }));
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
            sysctls: self.sysctls.clone(),
        }
    }

    /// One of each share's.
    pub fn distinct_shares(&self) -> impl Iterator<Item = &HostShare> {
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

    #[test]
    fn a_share_is_a_directory_and_a_file_has_its_name_in_one() {
        let directory = HostShare {
            number: 1,
            host_path: "/srv".into(),
            read_only: true,
            name: None,
            root: false,
        };
        assert_eq!(directory.in_guest(), Path::new("/run/shares/1"));
        let file = HostShare {
            name: Some("hosts".into()),
            ..directory
        };
        assert_eq!(file.in_guest(), Path::new("/run/shares/1/hosts"));
        assert_eq!(file.tag(), "share1");
    }
}
