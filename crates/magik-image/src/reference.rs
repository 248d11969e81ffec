//! Image references, read as docker and podman read them.

use std::{fmt, str::FromStr};

use magik_cas::{Digest, InvalidDigest};
use serde::{Deserialize, Serialize};

/// The registry that a name without one means.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that a name with neither tag nor digest means.
pub const DEFAULT_TAG: &str = "latest";
/// The longest registry and repository together, in bytes (distribution's `NameTotalLengthMax`).
pub const MAX_NAME_LEN: usize = 255;
/// The longest tag in bytes.
pub const MAX_TAG_LEN: usize = 128;

/// Docker Hub's repositories without a user live here.
const OFFICIAL: &str = "library";
/// What docker called [`DEFAULT_REGISTRY`] before 2015; still found in scripts.
const LEGACY_REGISTRY: &str = "index.docker.io";

/// A normalised image reference: registry, repository, and a tag, a digest or both.
///
/// The grammar is that of distribution's `reference` package. A name whose first part holds no `.`,
/// no `:` and is not `localhost` is one of Docker Hub; a name without tag and digest means
/// `latest`. With both, the digest decides what is pulled and the tag is the image's name.
///
/// ```
/// use magik_image::Reference;
/// let reference: Reference = "nginx".parse().unwrap();
/// assert_eq!(reference.to_string(), "docker.io/library/nginx:latest");
/// assert_eq!(reference.familiar(), "nginx:latest");
/// assert_eq!("localhost:5000/a/b".parse::<Reference>().unwrap().registry(), "localhost:5000");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference. Every message quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReference {
    /// It is empty.
    #[error("image name is empty")]
    Empty,
    /// It is longer than any reference can be.
    #[error("image name of {0} bytes is too long: registry and repository may have {MAX_NAME_LEN}")]
    TooLong(usize),
    /// The registry is no host name with an optional port.
    #[error("image name {0:?}: {1:?} is not a registry's host name")]
    Registry(String, String),
    /// A repository has an upper-case letter.
    #[error("image name {0:?}: the repository must be lower case")]
    Uppercase(String),
    /// A part of the repository breaks the grammar.
    #[error(
        "image name {0:?}: {1:?} is not a repository name: lower-case letters and digits, joined by '.', '_', '__' or dashes"
    )]
    Repository(String, String),
    /// The repository is 64 hexadecimal digits: it would be mistaken for an image id.
    #[error("image name {0:?} is 64 hexadecimal digits, which is an image id and no name")]
    LooksLikeId(String),
    /// The tag breaks the grammar.
    #[error(
        "image name {0:?}: {1:?} is not a tag: at most {MAX_TAG_LEN} letters, digits, '_', '.' and '-', the first no '.' or '-'"
    )]
    Tag(String, String),
    /// What follows the `@` is no digest.
    #[error("image name {0:?}: {1}")]
    Digest(String, InvalidDigest),
}

impl Reference {
    /// Host name and optional port, `docker.io` for Docker Hub.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in its registry, `library/nginx`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if there is one.
    #[must_use]
    pub const fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The short form docker shows: `nginx:1.27`, `user/app:v1`, `ghcr.io/a/b:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let short = full.strip_prefix("docker.io/").unwrap_or(&full);
        // `library/a/b` is not official: without its first part it would name another repository.
        match short.strip_prefix("library/") {
            Some(official)
                if short.len() != full.len() && !self.repository["library/".len()..].contains('/') =>
            {
                official.to_owned()
            }
            _ => short.to_owned(),
        }
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self {
            tag: None,
            digest: Some(digest),
            ..self.clone()
        }
    }

    /// What a manifest is asked for by: the digest, else the tag.
    #[must_use]
    pub fn tag_or_digest(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        // Bounds the work below and the size of what the errors quote.
        if text.len() > MAX_NAME_LEN + 1 + MAX_TAG_LEN + 1 + "sha512:".len() + 128 {
            return Err(InvalidReference::TooLong(text.len()));
        }
        if text.is_empty() {
            return Err(InvalidReference::Empty);
        }
        let quoted = || text.to_owned();
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (
                rest,
                Some(
                    digest
                        .parse()
                        .map_err(|e| InvalidReference::Digest(quoted(), e))?,
                ),
            ),
            None => (text, None),
        };
        // A colon after the last slash begins the tag; one before it is a port.
        let (name, tag) = match rest.rsplit_once(':') {
            Some((_, tag)) if tag.contains('/') => (rest, None),
            Some((_, tag)) if !is_tag(tag) => return Err(InvalidReference::Tag(quoted(), tag.to_owned())),
            Some((name, tag)) => (name, Some(tag.to_owned())),
            None => (rest, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if names_a_registry(first) => (first, rest.to_owned()),
            _ => (DEFAULT_REGISTRY, name.to_owned()),
        };
        if !is_host(registry) {
            return Err(InvalidReference::Registry(quoted(), registry.to_owned()));
        }
        let registry = if registry == LEGACY_REGISTRY {
            DEFAULT_REGISTRY
        } else {
            registry
        };
        if repository.chars().any(char::is_uppercase) {
            return Err(InvalidReference::Uppercase(quoted()));
        }
        if let Some(part) = repository.split('/').find(|part| !is_path_component(part)) {
            return Err(InvalidReference::Repository(quoted(), part.to_owned()));
        }
        if name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(InvalidReference::LooksLikeId(quoted()));
        }
        let repository = match registry {
            DEFAULT_REGISTRY if !repository.contains('/') => format!("{OFFICIAL}/{repository}"),
            _ => repository,
        };
        if registry.len() + 1 + repository.len() > MAX_NAME_LEN {
            return Err(InvalidReference::TooLong(text.len()));
        }
        let tag = tag.or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            tag,
            digest,
        })
    }
}

/// Whether the first part is a registry, not a Docker Hub user (`reference.splitDockerDomain`).
fn names_a_registry(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase)
}

/// `host`, `host:port`, `[v6]`, `[v6]:port`.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let (is_host, port) = match text.strip_prefix('[') {
        Some(v6) => {
            let Some((v6, rest)) = v6.split_once(']') else {
                return false;
            };
            let port = (!rest.is_empty()).then(|| rest.strip_prefix(':').unwrap_or_default());
            (v6.parse::<std::net::Ipv6Addr>().is_ok(), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
            (host.split('.').all(label), port)
        }
    };
    let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    is_host && port.is_none_or(is_port)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators = text
        .split(|c: char| u8::try_from(c).is_ok_and(alphanumeric))
        .filter(|between| !between.is_empty());
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.iter().all(|end| end.is_some_and(alphanumeric))
        && separators
            .into_iter()
            .all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

/// `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`
fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MAX_TAG_LEN
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;
    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Reference {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn short_names_are_completed_as_docker_does() {
        let names = "
            nginx                     docker.io/library/nginx:latest    nginx:latest
            nginx:1.27                docker.io/library/nginx:1.27      nginx:1.27
            user/app                  docker.io/user/app:latest         user/app:latest
            docker.io/nginx           docker.io/library/nginx:latest    nginx:latest
            index.docker.io/user/app  docker.io/user/app:latest         user/app:latest
            library/a/b               docker.io/library/a/b:latest      library/a/b:latest
            localhost/a               localhost/a:latest                localhost/a:latest
            localhost:5000/a:v1       localhost:5000/a:v1               localhost:5000/a:v1
            127.0.0.1:5000/a/b        127.0.0.1:5000/a/b:latest         127.0.0.1:5000/a/b:latest
            [::1]:5000/a              [::1]:5000/a:latest               [::1]:5000/a:latest
            ghcr.io/library/x         ghcr.io/library/x:latest          ghcr.io/library/x:latest
            Registry/x                Registry/x:latest                 Registry/x:latest
            a__b/c-d--e.f_g           docker.io/a__b/c-d--e.f_g:latest  a__b/c-d--e.f_g:latest
        ";
        for line in names.lines().filter(|line| !line.trim().is_empty()) {
            let [text, full, familiar] = line.split_whitespace().collect::<Vec<_>>()[..] else {
                panic!("{line}")
            };
            assert_eq!(
                (parse(text).to_string(), parse(text).familiar()),
                (full.into(), familiar.into()),
                "{text}"
            );
            assert_eq!(parse(full), parse(text), "a full name is read as itself");
            assert_eq!(
                parse(familiar),
                parse(text),
                "a familiar name is read as the same image"
            );
        }
    }

    #[test]
    fn a_digest_takes_the_place_of_the_default_tag_and_stands_beside_a_given_one() {
        let by_digest = parse(&format!("nginx@sha256:{HEX}"));
        assert_eq!(
            (by_digest.tag(), by_digest.tag_or_digest()),
            (None, format!("sha256:{HEX}"))
        );
        let both = parse(&format!("quay.io/a/b:v1@sha256:{HEX}"));
        assert_eq!((both.tag(), both.digest().is_some()), (Some("v1"), true));
        assert_eq!(both.to_string(), format!("quay.io/a/b:v1@sha256:{HEX}"));
        assert_eq!(both.with_digest(Digest::sha256(b"")).tag(), None);
    }

    #[test]
    fn rejects_what_docker_rejects() {
        use InvalidReference as E;
        type Check = fn(&E) -> bool;
        let cases: [(&str, Check); 21] = [
            ("", |e| matches!(e, E::Empty)),
            ("Nginx", |e| matches!(e, E::Uppercase(_))),
            ("user/App", |e| matches!(e, E::Uppercase(_))),
            ("a//b", |e| matches!(e, E::Repository(..))),
            ("/a", |e| matches!(e, E::Repository(..))),
            ("a/", |e| matches!(e, E::Repository(..))),
            ("../a", |e| matches!(e, E::Registry(..))),
            ("a/../b", |e| matches!(e, E::Repository(..))),
            ("a___b", |e| matches!(e, E::Repository(..))),
            ("a..b", |e| matches!(e, E::Repository(..))),
            ("-a", |e| matches!(e, E::Repository(..))),
            ("a b", |e| matches!(e, E::Repository(..))),
            ("a\nb", |e| matches!(e, E::Repository(..))),
            ("a:", |e| matches!(e, E::Tag(..))),
            ("a:-v", |e| matches!(e, E::Tag(..))),
            ("a:v:w", |e| matches!(e, E::Repository(..))),
            ("host:port/a", |e| matches!(e, E::Registry(..))),
            ("host:99999/a", |e| matches!(e, E::Registry(..))),
            ("a@sha256:12", |e| matches!(e, E::Digest(..))),
            ("a@md5:d41d8cd98f00b204e9800998ecf8427e", |e| {
                matches!(e, E::Digest(..))
            }),
            (HEX, |e| matches!(e, E::LooksLikeId(_))),
        ];
        for (text, check) in cases {
            let error = text.parse::<Reference>().expect_err(text);
            assert!(check(&error), "{text:?}: {error:?}");
            assert!(!error.to_string().contains('\n'), "one line: {error}");
        }
    }

    #[test]
    fn lengths_are_limited_at_their_bounds() {
        let name = |len: usize| format!("quay.io/{}", "a".repeat(len - "quay.io/".len()));
        assert!(name(MAX_NAME_LEN).parse::<Reference>().is_ok());
        assert!(matches!(
            name(MAX_NAME_LEN + 1).parse::<Reference>(),
            Err(InvalidReference::TooLong(_))
        ));
        assert!(
            format!("a:{}", "t".repeat(MAX_TAG_LEN))
                .parse::<Reference>()
                .is_ok()
        );
        assert!(matches!(
            format!("a:{}", "t".repeat(MAX_TAG_LEN + 1)).parse::<Reference>(),
            Err(InvalidReference::Tag(..))
        ));
        assert!(matches!(
            "a".repeat(1 << 20).parse::<Reference>(),
            Err(InvalidReference::TooLong(_))
        ));
    }

    #[test]
    fn serialises_as_its_text() {
        let json = serde_json::to_string(&parse("nginx")).unwrap();
        assert_eq!(json, "\"docker.io/library/nginx:latest\"");
        assert_eq!(
            serde_json::from_str::<Reference>("\"nginx\"").unwrap(),
            parse("nginx")
        );
        assert!(serde_json::from_str::<Reference>("\"../x\"").is_err());
    }
}
