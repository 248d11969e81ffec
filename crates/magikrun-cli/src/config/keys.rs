//! The keys of the configuration, and what else sets the same.

use std::fmt;

use clap::ValueEnum;
use magik_pri::UserNamespaces;
use serde::{Deserialize, Serialize};

/// A key of the configuration files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    /// Its name, with that of its table: `logs.max-size`.
    pub(crate) name: &'static str,
    /// The option that sets the same for one call.
    pub(crate) option: Option<&'static str>,
    /// The variable that does.
    pub(crate) variable: &'static str,
}

const fn key(name: &'static str, option: Option<&'static str>, variable: &'static str) -> Key {
    Key {
        name,
        option,
        variable,
    }
}

/// All keys, in the order in which they are shown.
pub(crate) const KEYS: &[Key] = &[
    key("data-dir", Some("--data-dir"), "MAGIKRUN_DATA_DIR"),
    key("state-dir", Some("--state-dir"), "MAGIKRUN_STATE_DIR"),
    key("log-level", Some("--log-level"), "MAGIKRUN_LOG_LEVEL"),
    key(
        "max-layer-size",
        Some("--max-layer-size"),
        "MAGIKRUN_MAX_LAYER_SIZE",
    ),
    key(
        "max-image-size",
        Some("--max-image-size"),
        "MAGIKRUN_MAX_IMAGE_SIZE",
    ),
    key(
        "max-layer-files",
        Some("--max-layer-files"),
        "MAGIKRUN_MAX_LAYER_FILES",
    ),
    key("pull-timeout", Some("--pull-timeout"), "MAGIKRUN_PULL_TIMEOUT"),
    key("http-registries", None, "MAGIKRUN_HTTP_REGISTRIES"),
    key("allowed-unsafe-sysctls", None, "MAGIKRUN_ALLOWED_UNSAFE_SYSCTLS"),
    key("runtime", None, "MAGIKRUN_RUNTIME"),
    key("user-namespaces", None, "MAGIKRUN_USER_NAMESPACES"),
    key("logs.max-size", None, "MAGIKRUN_LOGS_MAX_SIZE"),
];

/// What `--data-dir`'s variable was called first; still read.
pub(crate) const OLD_DATA_DIR: &str = magikrun::roots::DATA_VARIABLES[1];

/// Which pods get a user namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Users {
    #[default]
    Auto,
    Never,
}

impl From<Users> for UserNamespaces {
    fn from(users: Users) -> Self {
        match users {
            Users::Auto => Self::Auto,
            Users::Never => Self::Never,
        }
    }
}

impl fmt::Display for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Never => "never",
        })
    }
}
