//! Registries: mirrors, locations, blocked and insecure ones (containers-registries.conf(5)).
//!
//! The file is `CONTAINERS_REGISTRIES_CONF`, else `~/.config/containers/registries.conf`, else
//! `/etc/containers/registries.conf`. With the first or the last, the `*.conf` in
//! `/etc/containers/registries.conf.d` and `~/.config/containers/registries.conf.d` follow in the
//! order of their names; a `[[registry]]` replaces one of the same prefix. No file is no error.
//!
//! Supported are `[[registry]]` with `prefix` (also `*.example.com`), `location`, `insecure`,
//! `blocked`, `mirror` (`location`, `insecure`, `pull-from-mirror`) and `mirror-by-digest-only`.
//! Version 1 files and wrong types are refused. Settings of short names are not followed, and
//! logged where they matter: a short name is Docker Hub's ([`Reference`]). Other keys are logged
//! and ignored, as in podman.

mod parse;

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    Reference, bounded,
    environment::{Variables, config_home, variable},
};

/// The largest file that is read, in bytes.
pub const MAX_CONF_SIZE: u64 = 1024 * 1024;

/// Where the configuration comes from.
#[derive(Debug, Clone, Default)]
pub enum RegistriesSource {
    /// podman's files, as this module's front page says.
    #[default]
    System,
    /// This file only.
    File(PathBuf),
    /// This.
    Given(Registries),
}

/// Why there is no configuration where there should be one.
#[derive(Debug, thiserror::Error)]
#[error("registries file {path}: {reason}", path = path.display())]
pub struct RegistriesError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl RegistriesError {
    fn new(path: &Path, reason: impl Into<String>) -> Self {
        let (path, reason) = (path.to_owned(), reason.into());
        Self { path, reason }
    }
}

/// What is known of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    entries: Vec<Entry>,
}

/// One `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirrors: Vec<Mirror>,
    /// The file that says it.
    file: Option<PathBuf>,
}

/// What a configuration says of the images whose names begin so, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The beginning of the names.
    pub prefix: String,
    /// What takes the place of the prefix.
    pub location: String,
    /// Whether plain HTTP and untrusted certificates are allowed.
    pub insecure: bool,
    /// Whether such images may not be had.
    pub blocked: bool,
    /// The locations of mirrors, the first to be asked first.
    pub mirrors: Vec<String>,
    /// The file that says so; `None`: it was given as text.
    pub file: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    pull: PullFrom,
}

/// `pull-from-mirror`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullFrom {
    All,
    DigestOnly,
    TagOnly,
}

/// A place to get an image from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The image, as it is called there.
    pub reference: Reference,
    /// Whether plain HTTP and untrusted certificates are allowed.
    pub insecure: bool,
}

/// Why an image is not available, independent of the registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// The configuration forbids it.
    #[error("{image}: registries.conf blocks {prefix}")]
    Blocked {
        /// The image.
        image: String,
        /// The `prefix` that does.
        prefix: String,
    },
    /// A `location` makes an invalid name.
    #[error("{image}: registries.conf moves {prefix} to {location:?}, which gives no image name: {reason}")]
    Location {
        /// The image.
        image: String,
        /// The `prefix` that was replaced.
        prefix: String,
        /// The `location` it was replaced by.
        location: String,
        /// What is wrong with the result.
        reason: String,
    },
}

impl RegistriesSource {
    /// Reads the configuration.
    ///
    /// # Errors
    /// [`RegistriesError`] for a file that cannot be read or is not understood; a missing one only
    /// if it was named.
    pub fn load(&self) -> Result<Registries, RegistriesError> {
        match self {
            Self::Given(registries) => Ok(registries.clone()),
            Self::File(path) => {
                let mut registries = Registries::default();
                registries.add_file(path)?.ok_or_else(|| missing(path))?;
                Ok(registries)
            }
            Self::System => system(&|name| std::env::var_os(name), Path::new("/etc/containers")),
        }
    }
}

/// podman's files; `env` gives the variables of the environment.
fn system(env: &Variables<'_>, etc: &Path) -> Result<Registries, RegistriesError> {
    let user = config_home(env).map(|dir| dir.join("containers"));
    let mut registries = Registries::default();
    let own = user
        .as_ref()
        .map(|dir| dir.join("registries.conf"))
        .filter(|path| path.exists());
    let mut dropins = Vec::new();
    match (variable(env, "CONTAINERS_REGISTRIES_CONF"), own) {
        (Some(path), _) => {
            registries.add_file(&path)?.ok_or_else(|| missing(&path))?;
            dropins.push(etc.join("registries.conf.d"));
        }
        (None, Some(path)) => {
            registries.add_file(&path)?;
        }
        (None, None) => {
            registries.add_file(&etc.join("registries.conf"))?;
            dropins.push(etc.join("registries.conf.d"));
        }
    }
    dropins.extend(user.map(|dir| dir.join("registries.conf.d")));
    for dir in dropins {
        for path in conf_files(&dir)? {
            registries.add_file(&path)?;
        }
    }
    Ok(registries)
}

fn conf_files(dir: &Path) -> Result<Vec<PathBuf>, RegistriesError> {
    match bounded::sorted_paths(dir) {
        Ok(mut paths) => {
            paths.retain(|path| path.extension().is_some_and(|e| e == "conf"));
            Ok(paths)
        }
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        Err(e) => Err(RegistriesError::new(dir, e.to_string())),
    }
}

fn missing(path: &Path) -> RegistriesError {
    RegistriesError::new(path, "does not exist")
}

impl Registries {
    /// Reads a configuration from its text.
    ///
    /// # Errors
    /// What is wrong with it, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut registries = Self::default();
        registries.replace(parse::entries(text)?.0);
        Ok(registries)
    }

    /// Adds what a file says; `None` if there is no such file.
    fn add_file(&mut self, path: &Path) -> Result<Option<()>, RegistriesError> {
        let invalid = |reason: String| RegistriesError::new(path, reason);
        let text = bounded::text_if_any(path, MAX_CONF_SIZE).map_err(|e| invalid(e.to_string()))?;
        let Some(text) = text else {
            return Ok(None);
        };
        let (entries, remarks) = parse::entries(&text).map_err(invalid)?;
        for remark in remarks {
            tracing::warn!(path = %path.display(), "registries file: {remark}");
        }
        let file = Some(path.to_owned());
        self.replace(
            entries
                .into_iter()
                .map(|entry| Entry {
                    file: file.clone(),
                    ..entry
                })
                .collect(),
        );
        Ok(Some(()))
    }

    fn replace(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.entries.retain(|other| other.prefix != entry.prefix);
            self.entries.push(entry);
        }
    }

    /// What is configured, in the order of the files.
    pub fn rules(&self) -> impl Iterator<Item = Rule> {
        self.entries.iter().map(|entry| Rule {
            prefix: entry.prefix.clone(),
            location: entry.location.clone(),
            insecure: entry.insecure,
            blocked: entry.blocked,
            mirrors: entry.mirrors.iter().map(|m| m.location.clone()).collect(),
            file: entry.file.clone(),
        })
    }

    /// Where to get an image, the best place first: mirrors, then where the registry itself is.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn endpoints(&self, image: &Reference) -> Result<Vec<Endpoint>, Unavailable> {
        let Some((entry, len)) = self.entry(image) else {
            return Ok(vec![Endpoint {
                reference: image.clone(),
                insecure: false,
            }]);
        };
        if entry.blocked {
            return Err(Unavailable::Blocked {
                image: image.to_string(),
                prefix: entry.prefix.clone(),
            });
        }
        let name = image.to_string();
        let moved = |location: &str, insecure| {
            let reference = if location.is_empty() {
                Ok(image.clone())
            } else {
                format!("{location}{}", &name[len..]).parse()
            };
            reference
                .map(|reference| Endpoint { reference, insecure })
                .map_err(|e| Unavailable::Location {
                    image: name.clone(),
                    prefix: entry.prefix.clone(),
                    location: location.to_owned(),
                    reason: e.to_string(),
                })
        };
        let by_digest = image.digest().is_some();
        let wanted = entry.mirrors.iter().filter(|mirror| match mirror.pull {
            PullFrom::All => true,
            PullFrom::DigestOnly => by_digest,
            PullFrom::TagOnly => !by_digest,
        });
        let mut endpoints = wanted
            .map(|mirror| moved(&mirror.location, mirror.insecure))
            .collect::<Result<Vec<_>, _>>()?;
        endpoints.push(moved(&entry.location, entry.insecure)?);
        Ok(endpoints)
    }

    /// Where an image is pushed to: never a mirror.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub fn destination(&self, image: &Reference) -> Result<Endpoint, Unavailable> {
        let endpoints = self.endpoints(image)?;
        Ok(endpoints.into_iter().next_back().unwrap_or_else(|| Endpoint {
            reference: image.clone(),
            insecure: false,
        }))
    }

    /// The entry with the longest prefix, and how much of the image's name that is.
    fn entry(&self, image: &Reference) -> Option<(&Entry, usize)> {
        let name = image.to_string();
        let matching = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry, matched(&entry.prefix, &name)?)));
        // A wildcard's own length counts, as in podman, not that of what it stands for.
        matching.max_by_key(|(entry, _)| entry.prefix.len())
    }
}

/// How much of `name` a prefix is, which ends where a part of the name does.
fn matched(prefix: &str, name: &str) -> Option<usize> {
    let ends = |len: usize| matches!(name[len..].bytes().next(), None | Some(b'/' | b':' | b'@'));
    if let Some(domain) = prefix.strip_prefix('*') {
        // `*.example.com` is every host below example.com, with any port.
        let host = name.split(['/', ':']).next().unwrap_or(name);
        return (host.len() > domain.len() && host.ends_with(domain)).then_some(host.len());
    }
    (name.starts_with(prefix) && ends(prefix.len())).then_some(prefix.len())
}

#[cfg(test)]
mod tests;
