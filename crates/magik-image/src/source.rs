//! Where an image comes from.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::reference::{InvalidReference, Reference};

/// A place an image is pulled or loaded from, as the command line names it.
///
/// `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]` and `docker-archive:FILE[:NAME]` are local; others are
/// names at a registry, perhaps after `docker://`. A path ends at its first colon, as in skopeo.
///
/// ```
/// use magik_image::ImageSource;
/// assert_eq!("a/b".parse::<ImageSource>().unwrap().to_string(), "docker.io/a/b:latest");
/// assert!(matches!("oci:/tmp/x:v1".parse().unwrap(), ImageSource::OciDir { tag: Some(_), .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageSource {
    /// A name at a registry.
    Registry(Reference),
    /// An OCI image layout directory.
    OciDir {
        /// The directory holding `oci-layout`.
        path: PathBuf,
        /// The `org.opencontainers.image.ref.name` in its index; absent: the only image there is.
        tag: Option<String>,
    },
    /// An OCI image layout in a tar file.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// As for [`OciDir`](Self::OciDir).
        tag: Option<String>,
    },
    /// What `docker save` writes.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// The name (`RepoTags`) of the image in it; absent: the only image there is.
        tag: Option<String>,
    },
}

/// Why a text names no image source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSource {
    /// A local source without a path.
    #[error("image source {0:?} has no path: write {1}:PATH")]
    NoPath(String, &'static str),
    /// Not local, and no reference either.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
}

impl ImageSource {
    /// The reference, if the source is a registry.
    #[must_use]
    pub const fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Registry(reference) => Some(reference),
            _ => None,
        }
    }
}

const OCI_DIR: &str = "oci";
const OCI_ARCHIVE: &str = "oci-archive";
const DOCKER_ARCHIVE: &str = "docker-archive";

impl FromStr for ImageSource {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        if let Some(name) = text.strip_prefix("docker://") {
            return Ok(Self::Registry(name.parse()?));
        }
        let local = [OCI_DIR, OCI_ARCHIVE, DOCKER_ARCHIVE]
            .into_iter()
            .find_map(|transport| {
                text.strip_prefix(transport)?
                    .strip_prefix(':')
                    .map(|rest| (transport, rest))
            });
        let Some((transport, rest)) = local else {
            return Ok(Self::Registry(text.parse()?));
        };
        let (path, tag) = rest.split_once(':').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(InvalidSource::NoPath(text.to_owned(), transport));
        }
        let (path, tag) = (
            PathBuf::from(path),
            Some(tag.to_owned()).filter(|tag| !tag.is_empty()),
        );
        Ok(match transport {
            OCI_DIR => Self::OciDir { path, tag },
            OCI_ARCHIVE => Self::OciArchive { path, tag },
            _ => Self::DockerArchive { path, tag },
        })
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            Self::Registry(reference) => return reference.fmt(f),
            Self::OciDir { path, tag } => (OCI_DIR, path, tag),
            Self::OciArchive { path, tag } => (OCI_ARCHIVE, path, tag),
            Self::DockerArchive { path, tag } => (DOCKER_ARCHIVE, path, tag),
        };
        write!(f, "{transport}:{}", path.display())?;
        match tag {
            Some(tag) => write!(f, ":{tag}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transports_have_a_path_and_perhaps_a_tag() {
        let cases = [
            (
                "oci:/a/b",
                ImageSource::OciDir {
                    path: "/a/b".into(),
                    tag: None,
                },
            ),
            (
                "oci:dir:v1",
                ImageSource::OciDir {
                    path: "dir".into(),
                    tag: Some("v1".into()),
                },
            ),
            (
                "oci-archive:x.tar",
                ImageSource::OciArchive {
                    path: "x.tar".into(),
                    tag: None,
                },
            ),
            (
                "docker-archive:x.tar:nginx:1.27",
                ImageSource::DockerArchive {
                    path: "x.tar".into(),
                    tag: Some("nginx:1.27".into()),
                },
            ),
        ];
        for (text, source) in cases {
            assert_eq!(text.parse::<ImageSource>().unwrap(), source);
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn everything_else_is_a_name_at_a_registry() {
        for text in ["oci", "docker://oci:latest", "ocifoo", "oci-archives:v1"] {
            assert!(
                text.parse::<ImageSource>().unwrap().reference().is_some(),
                "{text}"
            );
        }
        assert_eq!(
            "oci:".parse::<ImageSource>(),
            Err(InvalidSource::NoPath("oci:".into(), "oci"))
        );
        assert!(matches!(
            "A".parse::<ImageSource>(),
            Err(InvalidSource::Reference(_))
        ));
    }
}
