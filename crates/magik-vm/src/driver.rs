//! What a virtual machine is made of, and what starts one.

use std::{
    fmt::{self, Debug},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::{process::Child, task::JoinHandle};

use crate::{Console, Ended, Error, Result, VmProcess, VmUser};

/// The most memory a machine may have, in MiB.
pub const MAX_VM_MEMORY_MIB: u32 = 4096;
/// The least memory a guest boots in, in MiB.
pub const MIN_VM_MEMORY_MIB: u32 = 128;
/// The most virtual processors a machine may have.
pub const MAX_VCPUS: u32 = 8;
/// The most shares a machine may have: virtio-mmio has interrupts for a few devices only.
pub const MAX_SHARES: usize = 8;

/// A virtual machine to be started.
#[derive(Debug, Clone)]
pub struct VmSpec {
    /// Its memory in MiB, at most [`MAX_VM_MEMORY_MIB`].
    pub memory_mib: u32,
    /// Its virtual processors, at most [`MAX_VCPUS`].
    pub vcpus: u32,
    /// The directory it boots from, whose `init` is its first program. What the guest must not change is mounted
    /// read-only: no monitor keeps it from writing.
    pub root: PathBuf,
    /// Further directories.
    pub shares: Vec<Share>,
    /// A directory for the machine's sockets, of its own and empty. Connections of the guest to port `N` of the host
    /// arrive at [`vsock_path`].
    pub sockets: PathBuf,
    /// The user the monitor runs as, which may use `sockets`; `None`: this process's.
    pub user: Option<Arc<VmUser>>,
}

/// A directory that a guest mounts.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Its virtiofs tag.
    pub tag: String,
    /// The directory.
    pub directory: PathBuf,
    /// The guest may make files in it that give others the rights of their owner (setuid), as a container's root has them. Elsewhere
    /// they would be programs of the host's.
    #[serde(default)]
    pub setuid: bool,
}

impl VmSpec {
    /// Whether no limit is exceeded.
    ///
    /// # Errors
    /// Names the limit.
    pub fn check(&self) -> Result<()> {
        let most = |what, asked: u64, limit: u64| {
            if asked > limit {
                Err(Error::TooMuch { what, asked, limit })
            } else {
                Ok(())
            }
        };
        most(
            "the machine's memory in MiB",
            self.memory_mib.into(),
            MAX_VM_MEMORY_MIB.into(),
        )?;
        most("the machine's processors", self.vcpus.into(), MAX_VCPUS.into())?;
        most(
            "the machine's shares",
            self.shares.len() as u64,
            MAX_SHARES as u64,
        )
    }
}

/// What the names of the sockets begin with that listen for the guest; the port follows.
pub(crate) const VSOCK_PREFIX: &str = "vsock_";

/// Where the guest's connections to a port of the host arrive: a unix socket, which listens before the machine starts.
#[must_use]
pub fn vsock_path(sockets: &Path, port: u32) -> PathBuf {
    sockets.join(format!("{VSOCK_PREFIX}{port}"))
}

/// A virtual machine monitor.
#[async_trait]
pub trait VmDriver: Debug + Send + Sync {
    /// `qemu` or `krun`.
    fn name(&self) -> &'static str;

    /// How it runs guests, for a person: whether by the hardware, or emulated and slow.
    fn manner(&self) -> String;

    /// The files and directories beyond `/usr` and `/lib*` that the driver's programs are and read: a caller that
    /// confines itself keeps them in reach.
    fn files(&self) -> Vec<PathBuf>;

    /// The device files it opens.
    fn devices(&self) -> &'static [&'static str];

    /// Starts a machine; its processes are children of this process and end with it. Needs a tokio runtime.
    ///
    /// # Errors
    /// Something is missing or cannot be executed. That the guest does not boot shows later.
    async fn spawn(&self, spec: &VmSpec) -> Result<Vm>;
}

/// A machine that was started. Dropping it kills its processes.
pub struct Vm {
    /// The monitor.
    pub(crate) monitor: Part,
    /// Those that serve it.
    pub(crate) devices: Vec<Part>,
}

/// One of a machine's processes, and what it says; of the monitor, that is the guest's console.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) process: VmProcess,
    pub(crate) child: Child,
    pub(crate) output: Console,
    pub(crate) followed: JoinHandle<()>,
}

impl Part {
    /// How it ended, with its last lines.
    pub(crate) async fn post_mortem(&mut self, status: std::io::Result<ExitStatus>) -> Ended {
        // For a moment only: a process of its own may hold its output open.
        let _ = tokio::time::timeout(MOMENT, &mut self.followed).await;
        Ended {
            process: self.process,
            status,
            last_words: self.output.last_lines(),
        }
    }
}

/// How long a process's last words may take to be read.
const MOMENT: Duration = Duration::from_millis(50);
/// How long a monitor may take to be seen to end after its devices have, which end with it.
const AFTER_DEVICE: Duration = Duration::from_secs(1);

impl Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("monitor", &self.monitor.process)
            .finish_non_exhaustive()
    }
}

impl Vm {
    /// What the guest's console and the monitor said last.
    #[must_use]
    pub const fn console(&self) -> &Console {
        &self.monitor.output
    }

    /// Waits until the first of its processes ends, which is the end of the machine, and says how. May be dropped and
    /// called again.
    pub async fn ended(&mut self) -> Ended {
        let Self { monitor, devices } = self;
        let device = async {
            let waits = devices.iter_mut().map(|part| {
                Box::pin(async move {
                    let status = part.child.wait().await;
                    (part, status)
                })
            });
            match waits.collect::<Vec<_>>() {
                waits if waits.is_empty() => std::future::pending().await,
                waits => futures_util::future::select_all(waits).await.0,
            }
        };
        tokio::select! {
            biased;
            status = monitor.child.wait() => monitor.post_mortem(status).await,
            (part, status) = device => match tokio::time::timeout(AFTER_DEVICE, monitor.child.wait()).await {
                Ok(status) => monitor.post_mortem(status).await,
                Err(_) => part.post_mortem(status).await,
            },
        }
    }

    /// Ends the machine at once and waits for its processes.
    pub async fn kill(mut self) {
        let mut parts: Vec<&mut Part> = std::iter::once(&mut self.monitor)
            .chain(&mut self.devices)
            .collect();
        for part in &mut parts {
            let _ = part.child.start_kill();
        }
        for part in parts {
            let _ = part.child.wait().await;
        }
    }
}

/// The console's last lines as the end of a message.
pub(crate) fn quoted(console: &Console) -> String {
    match console.last_lines() {
        lines if lines.is_empty() => String::new(),
        lines => format!(": {lines}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> VmSpec {
        VmSpec {
            memory_mib: MAX_VM_MEMORY_MIB,
            vcpus: MAX_VCPUS,
            root: "/".into(),
            shares: vec![
                Share {
                    tag: "s".into(),
                    directory: "/".into(),
                    setuid: false,
                };
                MAX_SHARES
            ],
            sockets: "/".into(),
            user: None,
        }
    }

    #[test]
    fn a_machine_has_at_most_what_it_may_have() {
        spec().check().unwrap();
        let past: [fn(&mut VmSpec); 3] = [
            |s| s.memory_mib += 1,
            |s| s.vcpus += 1,
            |s| s.shares.push(s.shares[0].clone()),
        ];
        for change in past {
            let mut spec = spec();
            change(&mut spec);
            assert!(matches!(spec.check(), Err(Error::TooMuch { .. })));
        }
    }
}
