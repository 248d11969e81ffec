//! What a guest and its host say to each other before the control service begins.
//!
//! The guest dials, always: [`PORT`] of the host, over vsock. It says [`Hello`] first; on a wrong nonce or another
//! version the host hangs up. When the host takes the connection into use it answers with [`Welcome`], and from then on
//! the guest serves the control service on it. The first connection is [`Kind::Launch`]; beside it the guest always keeps
//! one spare, [`Kind::Control`], and dials another as soon as the host uses it: so the host has as many as it wants, and
//! the guest never listens.
//!
//! [`GuestConfig`] lies in the read-only share the guest boots from.

mod listener;

use std::{fmt::Debug, path::PathBuf};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

pub use listener::GuestListener;

use crate::plan::PodPlan;

/// The vsock port of the host that a guest dials.
pub const PORT: u32 = 1024;
/// Where the guest's init finds the share it was booted from, once it stands on a root of its own.
pub const SHARE: &str = "/share";
/// The pod's directory in the share: [`CONFIG`], the bundles, `/etc` files.
pub const POD: &str = "/share/pod";
/// The directory of the process namespace that the pod's containers share, if they do.
pub const PROCESSES: &str = "/run/processes";
/// The file name of the [`GuestConfig`] in the pod's directory.
pub const CONFIG: &str = "guest.json";
/// The longest [`GuestConfig`] that is read, in bytes.
pub const MAX_CONFIG: u64 = 1 << 20;
/// Bytes of a nonce.
pub const NONCE: usize = 32;

const MAGIC: [u8; 8] = *b"magikvm\x01";

/// A guest that runs a pod.
#[async_trait]
pub trait Guest: Send + Sync + Debug + 'static {
    /// Starts it, waits until it is up, and returns the launch connection and the plan as the guest sees it. Called once.
    ///
    /// # Errors
    /// In one line, why it will not be up.
    async fn boot(&self, plan: &PodPlan) -> Result<(UnixStream, PodPlan), String>;

    /// Another connection to its init; `None`: there will be none.
    async fn connection(&self) -> Option<UnixStream>;

    /// It has no such container any more: what was shown to it for that alone can go.
    fn removed(&self, _container: &str) {}

    /// Waits until its machine has ended, and says how.
    async fn ended(&self) -> String;
}

/// What the guest's init does before it dials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestConfig {
    /// Tells the init's connections from those of other programs in the guest.
    pub nonce: [u8; NONCE],
    /// The guest's host name.
    pub hostname: String,
    /// The tmpfs for everything the pod writes: upper layers, emptyDirs, logs.
    pub scratch: GuestScratch,
    /// Directories of the share that are seen elsewhere, too.
    #[serde(default)]
    pub binds: Vec<GuestBind>,
    /// Further shares, mounted in this order.
    #[serde(default)]
    pub shares: Vec<GuestShare>,
    /// Directories to make, in this order.
    #[serde(default)]
    pub directories: Vec<GuestDirectory>,
    /// Whether the containers share a process namespace, which the init makes at [`PROCESSES`].
    #[serde(default)]
    pub shared_processes: bool,
    /// Parameters of the kernel, as sysctl(8) has them: names and values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<(String, String)>,
}

/// A tmpfs in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestScratch {
    /// Where it is mounted; made when it does not exist.
    pub target: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// A directory of the guest seen at another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestBind {
    /// The directory, below [`SHARE`].
    pub source: PathBuf,
    /// Where it is seen; made when it does not exist.
    pub target: PathBuf,
}

/// A virtiofs share beside the one the guest boots from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestShare {
    /// Its virtiofs tag.
    pub tag: String,
    /// Where it is mounted; made when it does not exist.
    pub target: PathBuf,
    /// It is the root of a container, whose set-user-ID programs are such.
    #[serde(default)]
    pub root: bool,
}

/// A directory in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GuestDirectory {
    /// Its path; its parent exists.
    pub path: PathBuf,
    /// Its mode, whatever the umask.
    pub mode: u32,
    /// The group that it belongs to; absent: root's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<u32>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The one that launches the pod.
    Launch,
    /// One of the others.
    Control,
}

/// The first bytes on a connection, from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// What the connection is for.
    pub kind: Kind,
    /// The nonce of the [`GuestConfig`].
    pub nonce: [u8; NONCE],
}

/// Why a hello was not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HelloError {
    /// The bytes are no hello.
    #[error("the guest did not say hello")]
    Malformed,
    /// The guest's init is of another version.
    #[error("the guest's init speaks version {0} of the hello, this program {VERSION}: build vminit anew")]
    Version(u8),
    /// Some other program in the guest dialled.
    #[error("the guest's nonce is not the pod's")]
    Nonce,
}

const VERSION: u8 = MAGIC[7];

impl Hello {
    /// Bytes of a hello.
    pub const LEN: usize = 8 + 1 + NONCE;

    /// The bytes that are sent.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8] = match self.kind {
            Kind::Launch => 0,
            Kind::Control => 1,
        };
        bytes[9..].copy_from_slice(&self.nonce);
        bytes
    }

    /// Reads what the guest sent, which must know `nonce`.
    ///
    /// # Errors
    /// It is no hello, of another version, or without the nonce.
    pub fn decode(bytes: &[u8; Self::LEN], nonce: &[u8; NONCE]) -> Result<Kind, HelloError> {
        if bytes[..7] != MAGIC[..7] {
            return Err(HelloError::Malformed);
        }
        if bytes[7] != VERSION {
            return Err(HelloError::Version(bytes[7]));
        }
        let kind = match bytes[8] {
            0 => Kind::Launch,
            1 => Kind::Control,
            _ => return Err(HelloError::Malformed),
        };
        // In a time that does not depend on where they differ.
        let differ = bytes[9..].iter().zip(nonce).fold(0, |d, (a, b)| d | (a ^ b));
        if differ == 0 {
            Ok(kind)
        } else {
            Err(HelloError::Nonce)
        }
    }
}

/// The host's answer, when it takes a connection into use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Welcome {
    /// The time, for a guest without a clock of its own.
    pub now: Timestamp,
}

impl Welcome {
    /// Bytes of a welcome.
    pub const LEN: usize = 8 + 16;

    /// The bytes that are sent.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..].copy_from_slice(&self.now.as_nanosecond().to_le_bytes());
        bytes
    }

    /// Reads what the host sent; `None`: it is no welcome.
    #[must_use]
    pub fn decode(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let nanoseconds = bytes[8..].try_into().map(i128::from_le_bytes).ok()?;
        let now = Timestamp::from_nanosecond(nanoseconds).ok()?;
        (bytes[..8] == MAGIC).then_some(Self { now })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_read_as_it_was_written() {
        for kind in [Kind::Launch, Kind::Control] {
            let hello = Hello {
                kind,
                nonce: [7; NONCE],
            };
            assert_eq!(Hello::decode(&hello.encode(), &[7; NONCE]), Ok(kind));
        }
        let welcome = Welcome {
            now: Timestamp::now(),
        };
        assert_eq!(Welcome::decode(&welcome.encode()), Some(welcome));
    }

    #[test]
    fn whatever_is_wrong_with_a_hello_is_told_apart() {
        let right = Hello {
            kind: Kind::Launch,
            nonce: [7; NONCE],
        }
        .encode();
        let with = |place: usize, value: u8| {
            let mut bytes = right;
            bytes[place] = value;
            Hello::decode(&bytes, &[7; NONCE])
        };
        assert_eq!(with(0, b'x'), Err(HelloError::Malformed));
        assert_eq!(with(7, 9), Err(HelloError::Version(9)));
        assert_eq!(with(8, 2), Err(HelloError::Malformed));
        assert_eq!(with(9, 8), Err(HelloError::Nonce));
        assert_eq!(with(Hello::LEN - 1, 8), Err(HelloError::Nonce));
    }

    #[test]
    fn a_welcome_of_nonsense_is_none() {
        assert_eq!(Welcome::decode(&[0xff; Welcome::LEN]), None);
        let mut late = Welcome {
            now: Timestamp::UNIX_EPOCH,
        }
        .encode();
        late[23] = 0x7f;
        assert_eq!(Welcome::decode(&late), None);
    }
}
