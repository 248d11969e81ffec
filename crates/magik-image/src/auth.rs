//! Credentials for registries, from where docker and podman keep them.
//!
//! The first file that knows the registry wins:
//! 1. `REGISTRY_AUTH_FILE`, and then no other;
//! 2. `${XDG_RUNTIME_DIR}/containers/auth.json`, or `/run/containers/<uid>/auth.json`;
//! 3. `${XDG_CONFIG_HOME:-~/.config}/containers/auth.json`;
//! 4. `${DOCKER_CONFIG:-~/.docker}/config.json`.
//!
//! Within a file the order is: the registry's credential helper (`credHelpers`), the most specific
//! key of `auths` (`registry/namespace/repository`, …; containers-auth.json(5)), `credsStore`.
//!
//! [`LoginFile`] writes such a file, as `podman login` and `docker login` do.

mod helper;
mod key;
mod login;

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
};

use base64::{Engine as _, alphabet, engine::general_purpose};
use serde::Deserialize;

pub use self::{
    key::{AuthKey, InvalidAuthKey},
    login::LoginFile,
};
use crate::{
    Reference, bounded,
    environment::{Variables, config_home, own, variable},
    reference::DEFAULT_REGISTRY,
};

/// The largest auth file that is read, in bytes.
pub const MAX_AUTH_FILE_SIZE: u64 = 1024 * 1024;

/// What docker calls Docker Hub in its files and to its helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Where credentials come from.
#[derive(Debug, Clone, Default)]
pub enum AuthSource {
    /// docker's and podman's files, as this module's front page says.
    #[default]
    Default,
    /// This file only.
    File(PathBuf),
    /// These.
    Given(Credential),
    /// What these say in `auths`, and for registries that none of them names docker's and podman's
    /// files. No helper is asked that a text names.
    Texts(Vec<AuthText>),
}

/// A text in the form of docker's `config.json`.
#[derive(Clone)]
pub struct AuthText {
    name: String,
    text: String,
}

impl AuthText {
    /// The text, and what errors call it.
    #[must_use]
    pub const fn new(name: String, text: String) -> Self {
        Self { name, text }
    }
}

impl fmt::Debug for AuthText {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthText")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is shown to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// Nothing.
    Anonymous,
    /// A user's name and password.
    Basic {
        /// The name.
        username: String,
        /// The password, or what a registry gives out in its place.
        password: String,
    },
    /// An OAuth2 refresh token, which the registry's token server turns into an access token.
    IdentityToken(String),
}

impl fmt::Debug for Credential {
    /// Without the secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => f
                .debug_struct("Basic")
                .field("username", username)
                .finish_non_exhaustive(),
            Self::IdentityToken(_) => f.write_str("IdentityToken(..)"),
        }
    }
}

/// Why there are no credentials where there should be some. No message holds a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// The file cannot be read or is malformed.
    #[error("auth file {path}: {reason}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The credential helper failed.
    #[error("credential helper docker-credential-{helper}: {reason}")]
    Helper {
        /// The helper's name.
        helper: String,
        /// What went wrong.
        reason: String,
    },
}

impl AuthSource {
    /// The credentials for the repository of `reference`.
    ///
    /// # Errors
    /// [`AuthError`] if a file or helper that should know fails.
    pub async fn credential(&self, reference: &Reference) -> Result<Credential, AuthError> {
        let files = match self {
            Self::Given(credential) => return Ok(credential.clone()),
            Self::File(path) => vec![path.clone()],
            Self::Default => default_files(&|name| std::env::var_os(name)),
            Self::Texts(texts) => {
                for AuthText { name, text } in texts {
                    let path = Path::new(name);
                    let AuthFile { auths, .. } = parse(path, text.as_bytes())?;
                    // A program of this host's is not for who writes a manifest to choose.
                    let file = AuthFile {
                        auths,
                        ..AuthFile::default()
                    };
                    if let Some(credential) = file.credential(path, reference).await? {
                        return Ok(credential);
                    }
                }
                default_files(&|name| std::env::var_os(name))
            }
        };
        for path in files {
            let required = matches!(self, Self::File(_));
            let Some(file) = AuthFile::load(&path, required)? else {
                continue;
            };
            if let Some(credential) = file.credential(&path, reference).await? {
                tracing::debug!(path = %path.display(), registry = reference.registry(), "credentials found");
                return Ok(credential);
            }
        }
        Ok(Credential::Anonymous)
    }

    /// What to show at `place`, which has `image`: what was given for the image's registry is
    /// not for its mirrors.
    pub(crate) fn at(&self, place: &Reference, image: &Reference) -> Self {
        match self {
            Self::Given(given) if *given != Credential::Anonymous && place.registry() != image.registry() => {
                Self::Default
            }
            other => other.clone(),
        }
    }
}

/// The files in the order they are asked; `env` gives the variables of the environment.
fn default_files(env: &Variables<'_>) -> Vec<PathBuf> {
    if let Some(only) = variable(env, "REGISTRY_AUTH_FILE") {
        return vec![only];
    }
    let mut files = Vec::new();
    if let Some(runtime) = variable(env, "XDG_RUNTIME_DIR").and_then(own) {
        files.push(runtime.join("containers/auth.json"));
    }
    #[cfg(unix)]
    files.push(format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw()).into());
    if let Some(config) = config_home(env) {
        files.push(config.join("containers/auth.json"));
    }
    let docker = || Some(own(variable(env, "HOME")?)?.join(".docker"));
    if let Some(docker) = variable(env, "DOCKER_CONFIG").or_else(docker) {
        files.push(docker.join("config.json"));
    }
    files
}

/// docker's `config.json` and podman's `auth.json`, as far as they are about credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuthFile {
    #[serde(default)]
    auths: HashMap<String, Entry>,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").finish_non_exhaustive()
    }
}

impl AuthFile {
    fn load(path: &Path, required: bool) -> Result<Option<Self>, AuthError> {
        let bad = |reason: String| AuthError::File {
            path: path.to_owned(),
            reason,
        };
        let file = match bounded::open(path) {
            Ok(file) => file,
            // Another user's file is not for us, and as good as none.
            Err(e)
                if !required
                    && matches!(
                        e.kind(),
                        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
                    ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(bad(e.to_string())),
        };
        let text = bounded::read(file, MAX_AUTH_FILE_SIZE).map_err(|e| bad(e.to_string()))?;
        if text.is_empty() {
            return Ok(None);
        }
        parse(path, &text).map(Some)
    }

    async fn credential(&self, path: &Path, reference: &Reference) -> Result<Option<Credential>, AuthError> {
        let registry = reference.registry();
        let server = server_of(registry);
        if let Some(helper) = self.helper_of(registry) {
            return helper::get(helper, server).await;
        }
        if let Some((key, entry)) = self.entry(reference)
            && let Some(credential) = entry.credential().map_err(|reason| AuthError::File {
                path: path.to_owned(),
                reason: format!("auths.{key:?}: {reason}"),
            })?
        {
            return Ok(Some(credential));
        }
        match self.creds_store.as_deref() {
            Some(helper) if !helper.is_empty() => helper::get(helper, server).await,
            _ => Ok(None),
        }
    }

    /// The credential helper of a registry.
    fn helper_of(&self, registry: &str) -> Option<&str> {
        let named = self.cred_helpers.get(registry);
        let named = named.or_else(|| self.cred_helpers.get(server_of(registry)));
        named.map(String::as_str).filter(|helper| !helper.is_empty())
    }

    /// The most specific key of `auths` for the repository.
    fn entry(&self, reference: &Reference) -> Option<(&String, &Entry)> {
        let registry = reference.registry();
        let name = format!("{registry}/{}", reference.repository());
        // registry/a/b, registry/a, registry.
        let mut prefix = Some(name.as_str());
        while let Some(key) = prefix {
            if let Some(found) = self.auths.get_key_value(key) {
                return Some(found);
            }
            prefix = key.rsplit_once('/').map(|(shorter, _)| shorter);
        }
        // docker writes `https://registry/v1/` for some.
        self.auths.iter().find(|(key, _)| is_dockers_key(key, registry))
    }
}

/// Reads the JSON of an auth file.
fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, AuthError> {
    // serde_json's messages quote values of the wrong type: only the place is passed on.
    serde_json::from_slice(text).map_err(|e| AuthError::File {
        path: path.to_owned(),
        reason: format!(
            "is not what docker or podman write (line {}, column {})",
            e.line(),
            e.column()
        ),
    })
}

/// What docker's files and helpers call a registry.
fn server_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY {
        DOCKER_HUB_KEY
    } else {
        registry
    }
}

/// Whether a key of `auths` is docker's for a registry, in a form that is not its name.
fn is_dockers_key(key: &str, registry: &str) -> bool {
    let host = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let host = host.map(|rest| rest.split('/').next().unwrap_or(rest));
    match host {
        Some("index.docker.io" | "registry-1.docker.io") => registry == DEFAULT_REGISTRY,
        Some(host) => host == registry,
        None => key == "index.docker.io" && registry == DEFAULT_REGISTRY,
    }
}

impl Entry {
    /// `None` for an empty entry, which docker writes where a helper keeps the secret.
    fn credential(&self) -> Result<Option<Credential>, &'static str> {
        let given = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(token)));
        }
        if let Some(auth) = given(&self.auth) {
            let lenient = general_purpose::GeneralPurposeConfig::new()
                .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent);
            let decoded =
                general_purpose::GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(auth.trim());
            let decoded = decoded.ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let (username, password) = decoded
                .as_deref()
                .and_then(|text| text.split_once(':'))
                .ok_or("auth is not base64 of USER:PASSWORD")?;
            let (username, password) = (username.to_owned(), password.trim_end_matches('\0').to_owned());
            return Ok(Some(Credential::Basic { username, password }));
        }
        match (given(&self.username), given(&self.password)) {
            (Some(username), Some(password)) => Ok(Some(Credential::Basic { username, password })),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn texts_are_asked_for_their_registries_and_no_helper_of_theirs() {
        let auth = base64::engine::general_purpose::STANDARD.encode("u:p");
        let text = json!({
            "auths": {"registry.example": {"auth": auth}},
            "credsStore": "no-such-helper", "credHelpers": {"other.example": "no-such-helper"},
        });
        let source = AuthSource::Texts(vec![AuthText::new("Secret s".into(), text.to_string())]);
        let of = |image: &str| image.parse::<Reference>().unwrap();
        let found = source.credential(&of("registry.example/a:1")).await.unwrap();
        assert_eq!(found, basic("u", "p"));
        let other = source.credential(&of("other.example/a:1")).await;
        assert!(matches!(other, Ok(Credential::Anonymous)), "{other:?}");
        assert!(!format!("{source:?}").contains(&auth));
        let wrong = AuthSource::Texts(vec![AuthText::new("Secret s".into(), "[".into())]);
        let error = wrong
            .credential(&of("a.example/b"))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("Secret s"), "{error}");
    }

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic {
            username: username.into(),
            password: password.into(),
        }
    }

    fn encoded(text: &str) -> String {
        general_purpose::STANDARD.encode(text)
    }

    async fn lookup(file: &serde_json::Value, image: &str) -> Result<Credential, AuthError> {
        let mut temp = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut temp, file.to_string().as_bytes()).unwrap();
        AuthSource::File(temp.path().to_owned())
            .credential(&image.parse().unwrap())
            .await
    }

    #[tokio::test]
    async fn the_most_specific_key_of_podmans_file_counts() {
        let file = json!({"auths": {
            "quay.io/team/app": {"auth": encoded("app:1")},
            "quay.io/team": {"auth": encoded("team:2")},
            "quay.io": {"auth": encoded("all:with:colons").trim_end_matches('=')},
            "localhost:5000": {"username": "u", "password": "p"},
        }});
        for (image, expected) in [
            ("quay.io/team/app:v1", basic("app", "1")),
            ("quay.io/team/other", basic("team", "2")),
            ("quay.io/teams/app", basic("all", "with:colons")),
            ("localhost:5000/x", basic("u", "p")),
            ("localhost:5001/x", Credential::Anonymous),
        ] {
            assert_eq!(lookup(&file, image).await.unwrap(), expected, "{image}");
        }
    }

    #[tokio::test]
    async fn docker_hub_goes_by_its_old_name() {
        let file = json!({"auths": {"https://index.docker.io/v1/": {"auth": encoded("me:secret")}}});
        assert_eq!(lookup(&file, "nginx").await.unwrap(), basic("me", "secret"));
        assert_eq!(lookup(&file, "ghcr.io/x/y").await.unwrap(), Credential::Anonymous);
        let token =
            json!({"auths": {"myacr.io": {"auth": encoded("00000000:"), "identitytoken": "refresh"}}});
        assert_eq!(
            lookup(&token, "myacr.io/x").await.unwrap(),
            Credential::IdentityToken("refresh".into())
        );
    }

    #[tokio::test]
    async fn errors_name_the_file_and_never_a_secret() {
        let refusal = async |auth: serde_json::Value| {
            let file = json!({"auths": {"quay.io": {"auth": auth}}});
            lookup(&file, "quay.io/a").await.unwrap_err().to_string()
        };
        let bad = refusal("c2VjcmV0".into()).await;
        assert!(
            bad.contains("auths.\"quay.io\"") && !bad.contains("secret") && !bad.contains("c2VjcmV0"),
            "{bad}"
        );
        let wrong_type = refusal(json!(["hunter2"])).await;
        assert!(
            wrong_type.contains("auth file /") && !wrong_type.contains("hunter2"),
            "{wrong_type}"
        );
        let missing = AuthSource::File("/no/such/auth.json".into())
            .credential(&"a".parse().unwrap())
            .await;
        assert!(missing.unwrap_err().to_string().contains("/no/such/auth.json"));
        assert!(!format!("{:?}", basic("u", "hunter2")).contains("hunter2"));
    }

    #[test]
    fn files_are_asked_in_podmans_order_and_then_docker() {
        let env = |set: &[(&str, &str)]| {
            let set: HashMap<&str, &str> = set.iter().copied().collect();
            default_files(&|name| set.get(name).map(Into::into))
        };
        assert_eq!(
            env(&[("REGISTRY_AUTH_FILE", "/a"), ("HOME", "/h")]),
            [PathBuf::from("/a")]
        );
        let all = env(&[
            ("XDG_RUNTIME_DIR", "/run/user/7"),
            ("HOME", "/h"),
            ("DOCKER_CONFIG", ""),
        ]);
        assert_eq!(
            all.first().unwrap(),
            Path::new("/run/user/7/containers/auth.json")
        );
        assert_eq!(
            all[all.len() - 2..],
            [
                PathBuf::from("/h/.config/containers/auth.json"),
                "/h/.docker/config.json".into()
            ]
        );
        let moved = env(&[("XDG_CONFIG_HOME", "/c"), ("DOCKER_CONFIG", "/d")]);
        assert_eq!(
            moved[moved.len() - 2..],
            [PathBuf::from("/c/containers/auth.json"), "/d/config.json".into()]
        );
    }
}
