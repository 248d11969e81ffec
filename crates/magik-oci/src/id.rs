//! Container ids.

use std::{fmt, str::FromStr};

/// The longest container id in bytes.
pub const MAX_CONTAINER_ID_LEN: usize = 128;

/// A container id that is safe to use as a file name and as a cgroup name.
///
/// The same alphabet as runc's: ASCII letters, digits, `_`, `+`, `-` and `.`. It starts with a
/// letter, a digit or `_`, so it is never `.`, `..` or an option.
///
/// ```
/// use magik_oci::ContainerId;
/// assert!("web-1".parse::<ContainerId>().is_ok());
/// assert!("../etc".parse::<ContainerId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// Why a string is not a container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidId {
    /// It has no character.
    #[error("container id is empty")]
    Empty,
    /// It has more than [`MAX_CONTAINER_ID_LEN`] bytes.
    #[error("container id has {0} bytes, at most {MAX_CONTAINER_ID_LEN} are allowed")]
    TooLong(usize),
    /// It has a character outside `[A-Za-z0-9_+.-]`, or starts with one of `+`, `-`, `.`.
    #[error(
        "container id {0:?} may hold only letters, digits, '_', '+', '-' and '.', and starts with one of the first three"
    )]
    Character(String),
}

impl ContainerId {
    /// Checks `id` and takes it.
    ///
    /// # Errors
    /// [`InvalidId`] says which rule it breaks.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidId> {
        let id = id.into();
        let Some(first) = id.chars().next() else {
            return Err(InvalidId::Empty);
        };
        if id.len() > MAX_CONTAINER_ID_LEN {
            return Err(InvalidId::TooLong(id.len()));
        }
        let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
        if !(first.is_ascii_alphanumeric() || first == '_') || !id.chars().all(inner) {
            return Err(InvalidId::Character(id));
        }
        Ok(Self(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<std::path::Path> for ContainerId {
    fn as_ref(&self) -> &std::path::Path {
        self.0.as_ref()
    }
}

impl FromStr for ContainerId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

impl TryFrom<String> for ContainerId {
    type Error = InvalidId;
    fn try_from(s: String) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_podman_and_containerd_use() {
        for id in [
            "a",
            "_init",
            "web-1.2+3",
            &"f".repeat(64),
            &"x".repeat(MAX_CONTAINER_ID_LEN),
        ] {
            assert!(ContainerId::new(id).is_ok(), "{id}");
        }
    }

    #[test]
    fn rejects_paths_options_and_control_characters() {
        for id in [
            ".", "..", "a/b", "../a", "-a", "+a", ".a", "a b", "a\0", "a\n", "ä",
        ] {
            assert!(
                matches!(ContainerId::new(id), Err(InvalidId::Character(_))),
                "{id:?}"
            );
        }
        assert_eq!(ContainerId::new(""), Err(InvalidId::Empty));
    }

    #[test]
    fn rejects_one_byte_past_the_bound() {
        assert_eq!(
            ContainerId::new("x".repeat(MAX_CONTAINER_ID_LEN + 1)),
            Err(InvalidId::TooLong(129))
        );
    }
}
