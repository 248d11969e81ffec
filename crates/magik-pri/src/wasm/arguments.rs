//! What the launcher says to a WebAssembly pod's process on the command line.

use std::{
    ffi::{OsStr, OsString},
    io,
    path::PathBuf,
};

use super::{POD, isolation::Kind};
use crate::pods::init::is_id;

/// Of a pod that uses the host's network.
pub(super) const HOST_NETWORK: &str = "host-network";
/// Of a pod with a network of its own.
pub(super) const OWN_NETWORK: &str = "own-network";
/// Before a directory outside of the pod's own that its containers may read.
pub(super) const READ_ONLY: &str = "ro";
/// Before one that they may write to.
pub(super) const READ_WRITE: &str = "rw";

/// What the launcher says on the command line.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) isolation: Kind,
    pub(super) host_network: bool,
    /// The data root.
    pub(super) data: PathBuf,
    pub(super) pod_data: PathBuf,
    pub(super) sandbox: PathBuf,
    #[cfg_attr(
        not(target_os = "linux"),
        expect(dead_code, reason = "there is no namespace to set it in")
    )]
    pub(super) hostname: OsString,
    /// Directories outside of the pod's own, and whether they are written to.
    pub(super) shared: Vec<(PathBuf, bool)>,
}

impl Arguments {
    /// Of a pod that root made.
    #[cfg(all(test, target_os = "linux"))]
    pub(super) fn of_root(pod_data: PathBuf, sandbox: PathBuf) -> Self {
        Self {
            isolation: Kind::Root,
            host_network: false,
            data: pod_data.clone(),
            pod_data,
            sandbox,
            hostname: OsString::new(),
            shared: Vec::new(),
        }
    }

    pub(super) fn read() -> io::Result<Self> {
        let wrong = || io::Error::other("a WebAssembly pod is started by magikrun itself, not by hand");
        let all: Vec<OsString> = std::env::args_os().collect();
        let [
            _,
            pod,
            id,
            isolation,
            network,
            data,
            sandbox,
            hostname,
            shared @ ..,
        ] = all.as_slice()
        else {
            return Err(wrong());
        };
        let id = id.to_str().filter(|id| is_id(id)).ok_or_else(wrong)?;
        let isolation = isolation.to_str().and_then(Kind::from_name).ok_or_else(wrong)?;
        let alone = isolation == Kind::None || rustix::process::getpid().is_init();
        if pod != POD || !alone || shared.len() % 2 != 0 {
            return Err(wrong());
        }
        let data = PathBuf::from(data);
        Ok(Self {
            isolation,
            host_network: network == OsStr::new(HOST_NETWORK),
            pod_data: data.join("pods").join(id),
            data,
            sandbox: sandbox.into(),
            hostname: hostname.clone(),
            shared: shared
                .chunks_exact(2)
                .map(|pair| (PathBuf::from(&pair[1]), pair[0] == OsStr::new(READ_WRITE)))
                .collect(),
        })
    }
}
