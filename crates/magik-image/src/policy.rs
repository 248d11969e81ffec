//! Which images may be used: containers-policy.json(5), as podman and skopeo read it.
//!
//! The file is `~/.config/containers/policy.json`, else `/etc/containers/policy.json`. **Without a
//! file everything is accepted**, as in docker and containerd, which have no such policy. (podman
//! refuses, but its package brings the file.) A file that cannot be read, or has an unknown key or
//! value, refuses everything.
//!
//! It is applied before an image is pulled, imported, loaded or used by a pod, by its source:
//!
//! - a registry, transport `docker`: `HOST/REPOSITORY:TAG` or `…@DIGEST`, the repository, each
//!   namespace above it, the host, `*.DOMAIN`;
//! - `oci:DIR`, transport `oci`: the absolute directory, and each above it;
//! - `oci-archive:FILE`, transport `oci-archive`: the absolute file, and each directory above it;
//! - `docker-archive:FILE`, transport `docker-archive`: no scopes.
//!
//! The most specific scope counts, then the transport's default (`""`), then `default`. It is the
//! name that was asked for, not a mirror's.
//!
//! `insecureAcceptAnything` and `reject` are carried out. `signedBy` and `sigstoreSigned` refuse:
//! signatures are not checked here.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{
    ImageSource, Reference, bounded,
    environment::{Variables, config_home},
};

/// The largest file that is read, in bytes.
pub const MAX_POLICY_SIZE: u64 = 1024 * 1024;

/// Where the policy comes from.
#[derive(Debug, Clone, Default)]
pub enum PolicySource {
    /// podman's files, as this module's front page says.
    #[default]
    System,
    /// This file.
    File(PathBuf),
    /// This.
    Given(Policy),
}

/// A policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    default: Requirements,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Requirements>>,
}

/// All of them must be met.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "Vec<Requirement>")]
struct Requirements(Vec<Requirement>);

impl TryFrom<Vec<Requirement>> for Requirements {
    type Error = &'static str;

    fn try_from(all: Vec<Requirement>) -> Result<Self, Self::Error> {
        if all.is_empty() {
            return Err("a list of requirements is empty: write reject or insecureAcceptAnything");
        }
        Ok(Self(all))
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
enum Requirement {
    #[serde(rename = "insecureAcceptAnything")]
    Accept {},
    #[serde(rename = "reject")]
    Reject {},
    #[serde(rename = "signedBy")]
    SignedBy(serde::de::IgnoredAny),
    #[serde(rename = "sigstoreSigned")]
    SigstoreSigned(serde::de::IgnoredAny),
}

/// Why the policy keeps an image out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file cannot be read or is not understood.
    #[error("signature policy {path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The policy rejects the image.
    #[error("{image}: rejected by the signature policy{origin} ({rule})")]
    Rejected {
        /// The image.
        image: String,
        /// The file, " FILE", or nothing.
        origin: String,
        /// Which part of the policy says so.
        rule: String,
    },
    /// The policy asks for signatures.
    #[error(
        "{image}: the signature policy{origin} ({rule}) asks for {kind}, and signatures cannot be checked here: refused"
    )]
    Unsupported {
        /// The image.
        image: String,
        /// The file, " FILE", or nothing.
        origin: String,
        /// Which part of the policy says so.
        rule: String,
        /// `signedBy` or `sigstoreSigned`.
        kind: &'static str,
    },
}

/// Where an image comes from, as policies see it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    transport: &'static str,
    /// The most specific first.
    scopes: Vec<String>,
}

impl PolicySource {
    /// Whether an image may be used, by where it comes from.
    ///
    /// # Errors
    /// [`PolicyError`] if not.
    pub fn check(&self, source: &ImageSource) -> Result<(), PolicyError> {
        let (policy, path) = match self {
            Self::Given(policy) => (policy.clone(), None),
            Self::File(path) => {
                let text = read(path)?.ok_or_else(|| PolicyError::File {
                    path: path.clone(),
                    reason: "does not exist".into(),
                })?;
                (parse(path, &text)?, Some(path.clone()))
            }
            Self::System => {
                let files = system_files(&|name| std::env::var_os(name));
                let mut found = None;
                for path in files {
                    if let Some(text) = read(&path)? {
                        found = Some((parse(&path, &text)?, Some(path)));
                        break;
                    }
                }
                match found {
                    Some(found) => found,
                    None => return Ok(()),
                }
            }
        };
        let origin = path.map_or_else(String::new, |path| format!(" {}", path.display()));
        policy.check(&source.to_string(), &identity(source), &origin)
    }
}

impl Policy {
    /// What holds where there is no policy.
    #[must_use]
    pub fn accept_anything() -> Self {
        Self {
            default: Requirements(vec![Requirement::Accept {}]),
            transports: BTreeMap::new(),
        }
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|e| crate::one_line::one_line(&e.to_string()))
    }

    fn check(&self, image: &str, identity: &Identity, origin: &str) -> Result<(), PolicyError> {
        let (rule, requirements) = self.requirements(identity);
        for requirement in &requirements.0 {
            let (image, origin, rule) = (image.to_owned(), origin.to_owned(), rule.to_string());
            match requirement {
                Requirement::Accept {} => {}
                Requirement::Reject {} => return Err(PolicyError::Rejected { image, origin, rule }),
                Requirement::SignedBy(_) | Requirement::SigstoreSigned(_) => {
                    let kind = match requirement {
                        Requirement::SignedBy(_) => "signedBy",
                        _ => "sigstoreSigned",
                    };
                    return Err(PolicyError::Unsupported {
                        image,
                        origin,
                        rule,
                        kind,
                    });
                }
            }
        }
        Ok(())
    }

    fn requirements<'a>(&'a self, identity: &'a Identity) -> (Rule<'a>, &'a Requirements) {
        let transport = identity.transport;
        if let Some(scopes) = self.transports.get(transport) {
            let names = identity.scopes.iter().map(String::as_str).chain([""]);
            for scope in names {
                if let Some(found) = scopes.get(scope) {
                    return (Rule::Scope { transport, scope }, found);
                }
            }
        }
        (Rule::Default, &self.default)
    }
}

/// Which part of a policy counts.
enum Rule<'a> {
    Default,
    Scope { transport: &'a str, scope: &'a str },
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Scope { transport, scope } => write!(f, "transports.{transport}.{scope:?}"),
        }
    }
}

fn identity(source: &ImageSource) -> Identity {
    let (transport, path) = match source {
        ImageSource::Registry(reference) => {
            return Identity {
                transport: "docker",
                scopes: docker_scopes(reference),
            };
        }
        ImageSource::DockerArchive { .. } => {
            return Identity {
                transport: "docker-archive",
                scopes: Vec::new(),
            };
        }
        ImageSource::OciDir { path, .. } => ("oci", path),
        ImageSource::OciArchive { path, .. } => ("oci-archive", path),
    };
    // As containers/image: symbolic links resolved. What does not exist is refused later, for that.
    let path = path
        .canonicalize()
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.clone());
    let above = path.ancestors().filter(|p| p.parent().is_some());
    Identity {
        transport,
        scopes: above.map(|p| p.display().to_string()).collect(),
    }
}

/// `policyconfiguration.DockerReferenceIdentity` and `DockerReferenceNamespaces`.
fn docker_scopes(reference: &Reference) -> Vec<String> {
    let name = format!("{}/{}", reference.registry(), reference.repository());
    let whole = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, tag) => format!("{name}:{}", tag.unwrap_or_default()),
    };
    let mut scopes = vec![whole];
    let mut rest = Some(name.as_str());
    while let Some(name) = rest {
        scopes.push(name.to_owned());
        rest = name.rsplit_once('/').map(|(above, _)| above);
    }
    let host = reference.registry().split(':').next().unwrap_or_default();
    let mut domain = host.split_once('.').map(|(_, rest)| rest);
    while let Some(name) = domain {
        scopes.push(format!("*.{name}"));
        domain = name.split_once('.').map(|(_, rest)| rest);
    }
    scopes
}

/// In the order they are asked; `env` gives the variables of the environment.
fn system_files(env: &Variables<'_>) -> Vec<PathBuf> {
    let own = config_home(env).map(|dir| dir.join("containers/policy.json"));
    own.into_iter()
        .chain(["/etc/containers/policy.json".into()])
        .collect()
}

fn read(path: &Path) -> Result<Option<String>, PolicyError> {
    bounded::text_if_any(path, MAX_POLICY_SIZE).map_err(|e| PolicyError::File {
        path: path.to_owned(),
        reason: e.to_string(),
    })
}

fn parse(path: &Path, text: &str) -> Result<Policy, PolicyError> {
    Policy::parse(text).map_err(|reason| PolicyError::File {
        path: path.to_owned(),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(policy: &str, source: &str) -> Result<(), String> {
        let policy = Policy::parse(policy).unwrap();
        let source = source.parse().unwrap();
        PolicySource::Given(policy)
            .check(&source)
            .map_err(|e| e.to_string())
    }

    const LAYERED: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {
            "docker": {
                "": [{"type": "insecureAcceptAnything"}],
                "docker.io": [{"type": "reject"}],
                "docker.io/library": [{"type": "insecureAcceptAnything"}],
                "docker.io/library/nginx:1.27": [{"type": "reject"}],
                "docker.io/signed": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
                "docker.io/cosigned": [{"type": "insecureAcceptAnything"}, {"type": "sigstoreSigned", "keyPath": "/k"}],
                "*.corp.example": [{"type": "reject"}],
                "eu.corp.example:5000": [{"type": "insecureAcceptAnything"}]
            },
            "oci": {"/srv/images": [{"type": "insecureAcceptAnything"}]},
            "docker-archive": {"": [{"type": "insecureAcceptAnything"}]}
        }}"#;

    #[test]
    fn the_most_specific_scope_counts() {
        for (image, allowed) in [
            ("busybox", true),
            ("nginx:1.26", true),
            ("nginx:1.27", false),
            ("user/app", false),
            ("quay.io/a/b", true),
            ("us.corp.example/a", false),
            ("eu.corp.example:5000/a", true),
            ("eu.corp.example/a", false),
            ("corp.example/a", true),
            ("oci:/srv/images/x:v1", true),
            ("oci:/srv/images", true),
            ("oci:/srv/imagesx", false),
            ("oci-archive:/srv/images/x.tar", false),
            ("docker-archive:/anything", true),
        ] {
            assert_eq!(check(LAYERED, image).is_ok(), allowed, "{image}");
        }
    }

    #[test]
    fn a_path_is_the_place_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good"), dir.path().join("bad"));
        std::fs::create_dir_all(&good).unwrap();
        std::fs::create_dir_all(&bad).unwrap();
        let root = good.canonicalize().unwrap();
        let policy = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{"oci": {{{:?}: [{{"type": "insecureAcceptAnything"}}]}}}}}}"#,
            root.display().to_string()
        );
        assert!(check(&policy, &format!("oci:{}", good.display())).is_ok());
        assert!(check(&policy, &format!("oci:{}/../bad", good.display())).is_err());
    }

    #[test]
    fn refusals_name_image_and_rule() {
        assert_eq!(
            check(LAYERED, "nginx:1.27").unwrap_err(),
            "docker.io/library/nginx:1.27: rejected by the signature policy (transports.docker.\"docker.io/library/nginx:1.27\")"
        );
        for (image, kind) in [("signed/x", "signedBy"), ("cosigned/x", "sigstoreSigned")] {
            let error = check(LAYERED, image).unwrap_err();
            assert!(
                error.contains(kind) && error.contains("cannot be checked"),
                "{error}"
            );
        }
        let reject = r#"{"default": [{"type": "reject"}]}"#;
        assert!(check(reject, "x").unwrap_err().contains("(default)"));
    }

    #[test]
    fn a_policy_that_is_half_understood_is_refused() {
        for text in [
            "",
            "{}",
            r#"{"default": []}"#,
            r#"{"default": [{"type": "trustMe"}]}"#,
            r#"{"default": [{"type": "reject", "unless": "friday"}]}"#,
            r#"{"default": [{"type": "reject"}], "extra": 1}"#,
            r#"{"default": [{"type": "reject"}], "transports": {"docker": {"x": []}}}"#,
        ] {
            assert!(Policy::parse(text).is_err(), "{text}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "nonsense").unwrap();
        let error = PolicySource::File(file.path().into())
            .check(&"x".parse().unwrap())
            .unwrap_err();
        assert!(
            error.to_string().contains(&file.path().display().to_string()),
            "{error}"
        );
        let missing = PolicySource::File("/no/such/policy.json".into()).check(&"x".parse().unwrap());
        assert!(missing.unwrap_err().to_string().contains("does not exist"));
    }

    #[test]
    fn a_users_own_file_comes_first() {
        let home = |name: &str| (name == "HOME").then(|| "/h".into());
        assert_eq!(
            system_files(&home),
            [
                PathBuf::from("/h/.config/containers/policy.json"),
                "/etc/containers/policy.json".into()
            ]
        );
    }
}
