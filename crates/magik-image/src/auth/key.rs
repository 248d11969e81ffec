//! What credentials are for.

use std::{fmt, str::FromStr};

use crate::{Reference, reference::InvalidReference};

/// What stands for any repository below a key.
const BELOW: &str = "/login";

/// A registry, or a part of one, that a user logs in to: `quay.io`, `localhost:5000`,
/// `quay.io/team`. It is a key of `auths` in an auth file (containers-auth.json(5)).
///
/// ```
/// use magik_image::auth::AuthKey;
/// assert_eq!("https://quay.io/".parse::<AuthKey>().unwrap().to_string(), "quay.io");
/// assert!("nginx".parse::<AuthKey>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthKey {
    text: String,
    below: Reference,
}

/// Why a text names no registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidAuthKey {
    /// It is no host name.
    #[error("{0:?} is no registry: give HOST or HOST:PORT, such as quay.io or localhost:5000")]
    Host(String),
    /// What follows the registry is no part of a repository's name.
    #[error("{0:?} is no registry: {1}")]
    Reference(String, InvalidReference),
}

impl AuthKey {
    /// Host name and optional port.
    #[must_use]
    pub fn registry(&self) -> &str {
        self.below.registry()
    }

    /// Whether it is a part of a registry only.
    #[must_use]
    pub fn is_part(&self) -> bool {
        self.text != self.registry()
    }

    /// A repository that these credentials are for, which need not exist.
    #[must_use]
    pub const fn repository(&self) -> &Reference {
        &self.below
    }
}

impl FromStr for AuthKey {
    type Err = InvalidAuthKey;

    fn from_str(text: &str) -> Result<Self, InvalidAuthKey> {
        let name = ["https://", "http://", "docker://"]
            .into_iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .unwrap_or(text)
            .trim_end_matches('/');
        let host = name.split('/').next().unwrap_or(name);
        // Any other first word is a user of Docker Hub to a reference.
        if !(host == "localhost" || host.contains(['.', ':'])) {
            return Err(InvalidAuthKey::Host(text.to_owned()));
        }
        let below: Reference = format!("{name}{BELOW}")
            .parse()
            .map_err(|e| InvalidAuthKey::Reference(text.to_owned(), e))?;
        let text = match below.repository().strip_suffix(BELOW) {
            Some(part) if name != host => format!("{}/{part}", below.registry()),
            _ => below.registry().to_owned(),
        };
        Ok(Self { text, below })
    }
}

impl fmt::Display for AuthKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_and_their_parts_are_keys() {
        for (text, key, part) in [
            ("quay.io", "quay.io", false),
            ("localhost", "localhost", false),
            ("localhost:5000", "localhost:5000", false),
            ("[::1]:5000", "[::1]:5000", false),
            ("docker.io", "docker.io", false),
            ("https://index.docker.io", "docker.io", false),
            ("docker.io/team", "docker.io/team", true),
            ("docker://quay.io/team/app/", "quay.io/team/app", true),
        ] {
            let parsed: AuthKey = text.parse().unwrap();
            assert_eq!(
                (parsed.to_string().as_str(), parsed.is_part()),
                (key, part),
                "{text}"
            );
        }
        for text in [
            "",
            "nginx",
            "team/app",
            "quay.io/app:1",
            "quay.io/A",
            "..",
            "/x.y",
            "a b.c",
            "quay.io/@x",
        ] {
            assert!(text.parse::<AuthKey>().is_err(), "{text:?}");
        }
    }
}
