//! What `magikrun-vmm` is told, in a sealed memory file: nothing of it is seen in a process list, and nobody changes it
//! between check and use.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    os::fd::OwnedFd,
    path::PathBuf,
};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use serde::{Deserialize, Serialize};

use crate::Share;

/// The longest configuration that is read, in bytes.
pub const MAX_VMM_CONFIG: u64 = 256 << 10;

/// Nothing changes a file that has these.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK)
    .union(SealFlags::SEAL);

/// One machine for `magikrun-vmm`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmmConfig {
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its virtual processors.
    pub vcpus: u8,
    /// The directory it boots from; the guest never writes to it.
    pub root: PathBuf,
    /// The guest's first program, which the root directory need not hold.
    pub init: PathBuf,
    /// Further directories.
    pub shares: Vec<Share>,
    /// The ports of the host that the guest may dial.
    pub ports: Vec<VmmPort>,
    /// libkrunfw, which holds the kernel.
    pub kernel: PathBuf,
    /// An empty directory, on which the process's own root is put together.
    pub jail: PathBuf,
    /// The user that it becomes; `None`: it stays who it is.
    pub user: Option<u32>,
}

/// A vsock port of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VmmPort {
    /// Its number.
    pub port: u32,
    /// The unix socket that connections to it arrive at.
    pub socket: PathBuf,
}

impl VmmConfig {
    /// Writes it into a memory file that nobody can change any more.
    ///
    /// # Errors
    /// There is no memory file to be had.
    pub fn seal(&self) -> io::Result<OwnedFd> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let mut file = File::from(memfd_create("machine", flags)?);
        serde_json::to_writer(&mut file, self)?;
        file.flush()?;
        file.rewind()?;
        fcntl_add_seals(&file, SEALS)?;
        Ok(file.into())
    }

    /// Reads what [`seal`](Self::seal) wrote.
    ///
    /// # Errors
    /// It is no such file.
    pub fn read(file: OwnedFd) -> io::Result<Self> {
        if !fcntl_get_seals(&file)?.contains(SEALS) {
            return Err(io::Error::other("the configuration is not sealed"));
        }
        let mut text = Vec::new();
        File::from(file).take(MAX_VMM_CONFIG).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_read_as_it_was_written_and_nobody_changes_it() {
        let config = VmmConfig {
            memory_mib: 256,
            vcpus: 2,
            root: "/machine/root".into(),
            init: "/usr/lib/magikrun/vminit".into(),
            shares: vec![Share {
                tag: "share0".into(),
                directory: "/machine/shares/0".into(),
                setuid: false,
            }],
            ports: vec![VmmPort {
                port: 1024,
                socket: "/machine/sockets/vsock_1024".into(),
            }],
            kernel: "/usr/lib/libkrunfw.so.5".into(),
            jail: "/machine/sockets/jail".into(),
            user: Some(1),
        };
        let sealed = config.seal().unwrap();
        let mut writer = File::from(sealed.try_clone().unwrap());
        assert!(writer.write_all(b"x").is_err());
        assert!(writer.set_len(0).is_err());
        assert_eq!(VmmConfig::read(sealed).unwrap(), config);
    }

    #[test]
    fn a_file_that_others_may_change_is_no_configuration() {
        let file = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let error = VmmConfig::read(file).unwrap_err().to_string();
        assert!(error.contains("not sealed"), "{error}");
    }
}
