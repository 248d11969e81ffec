//! The runtime bundle: the one place that builds a runtime spec.
//!
//! - [`runtime_spec`] decides everything: program, environment, user, mounts, namespaces, and the
//!   default security (capabilities, seccomp, masked paths, `no_new_privs`) as in podman.
//! - [`write_bundle`] writes it as `config.json`.
//! - [`resolve_user`] looks up users in the image's files, across layers that are not mounted.
//!
//! The image's configuration is hostile, and so are the files of its root file system.

mod capabilities;
mod defaults;
mod lsm;
mod merged;
mod process;
mod seccomp;
mod settings;
mod spec;
mod user;
mod write;

use std::path::PathBuf;

pub use capabilities::DEFAULT_CAPABILITIES;
pub use process::DEFAULT_PATH;
pub use seccomp::{MAX_SECCOMP_PROFILE_SIZE, load_seccomp_profile};
pub use settings::{
    AppArmorProfile, ContainerSettings, DEFAULT_PIDS_LIMIT, MountKind, MountSetting, Namespaces,
    ProcessNamespace, Propagation, Resources, SeccompProfile, SelinuxLabel, UserNamespace, UserSpec,
};
pub use spec::{limits_update, runtime_spec};
pub use user::{MAX_USER_FILE_SIZE, User, resolve_user};
pub use write::write_bundle;

/// Why a bundle cannot be made. Every message names the field or file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Neither image nor settings name a program.
    #[error("no program to run: the image has neither entrypoint nor command; give a command")]
    NoCommand,
    /// A field of the settings, or of the image's configuration, has a value no container can have.
    #[error("{field}: {reason}")]
    Field {
        /// The field, `env[3]`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A capability that does not exist, here or at all.
    #[error("capability {name}: {reason}")]
    Capability {
        /// As it was given.
        name: String,
        /// Why not.
        reason: String,
    },
    /// A user or group that the image does not know.
    #[error("{kind} {name:?} is not in the image's {file}; use a number, or a name that is")]
    UnknownUser {
        /// `user` or `group`.
        kind: &'static str,
        /// As it was given.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: &'static str,
    },
    /// A file of the image cannot be read as what it should be.
    #[error("the image's {file}: {reason}")]
    ImageFile {
        /// Its path in the container.
        file: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the bundle or of the host.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: std::io::Error,
    },
}

impl BundleError {
    fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Field {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
