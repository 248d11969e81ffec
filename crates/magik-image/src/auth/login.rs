//! Logging in and out: the file that keeps credentials, and asking the registry.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{
    AuthError, AuthFile, AuthKey, AuthSource, Credential, MAX_AUTH_FILE_SIZE, helper, is_dockers_key, parse,
    server_of,
};
use crate::{
    Error, Result, background, bounded,
    connect::ConnectOptions,
    environment::{Variables, own, variable},
    registry::{Deadline, Operation, Problem},
};

/// How long another login or logout may have the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// The file that logins are kept in, of podman's form or of docker's.
///
/// Where the file names a credential helper (`credHelpers` for the registry, else `credsStore`),
/// the helper keeps the password; else the file does, which only its owner can read. Whatever else
/// the file says stays as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginFile {
    path: PathBuf,
}

impl LoginFile {
    /// Podman's: `REGISTRY_AUTH_FILE`, else `${XDG_RUNTIME_DIR}/containers/auth.json`, else
    /// `/run/containers/<uid>/auth.json`.
    #[must_use]
    pub fn of_user() -> Self {
        Self::at(user_file(&|name| std::env::var_os(name)))
    }

    /// This file.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is, or will be.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps a user's name and password; replaces what was kept for the key.
    ///
    /// # Errors
    /// [`AuthError`] if the file or the helper fails, or the helper cannot keep this.
    pub async fn store(&self, key: &AuthKey, username: &str, password: &str) -> Result<(), AuthError> {
        let registry = key.registry();
        match self.helper(key).await? {
            Helper::None => {
                let auth = STANDARD.encode(format!("{username}:{password}"));
                self.change(key, move |auths, keys| {
                    for key in keys {
                        auths.insert(key, json!({ "auth": auth }));
                    }
                    true
                })
                .await
                .map(drop)
            }
            Helper::OfRegistry(name) if key.is_part() => Err(self.bad(format!(
                "gives {registry} to the credential helper {name:?}, which keeps one user of a registry: log in to {registry}"
            ))),
            Helper::OfRegistry(name) => {
                helper::store(&name, server_of(registry), username, password).await?;
                self.forget(key).await.map(drop)
            }
            Helper::OfAll(name) => {
                helper::store(&name, server_of(registry), username, password).await?;
                // As docker does: an entry without a secret says that the helper has it.
                self.change(key, |auths, keys| {
                    for key in keys {
                        auths.insert(key, json!({}));
                    }
                    true
                })
                .await
                .map(drop)
            }
        }
    }

    /// Forgets what is kept for the key; whether there was something.
    ///
    /// # Errors
    /// [`AuthError`] if the file or the helper fails.
    pub async fn remove(&self, key: &AuthKey) -> Result<bool, AuthError> {
        let erased = match self.helper(key).await? {
            Helper::OfRegistry(name) | Helper::OfAll(name) if !key.is_part() => {
                helper::erase(&name, server_of(key.registry())).await?
            }
            _ => false,
        };
        Ok(self.forget(key).await? || erased)
    }

    /// Forgets everything that is kept, also in helpers.
    ///
    /// # Errors
    /// [`AuthError`] if the file or a helper fails.
    pub async fn remove_all(&self) -> Result<(), AuthError> {
        if let Some(file) = self.load().await? {
            for (server, name) in file.cred_helpers.iter().filter(|(_, name)| !name.is_empty()) {
                helper::erase(name, server_of(server)).await?;
            }
            if let Some(name) = file.creds_store.as_deref().filter(|name| !name.is_empty()) {
                for key in file.auths.keys() {
                    helper::erase(name, server_of(key)).await?;
                }
            }
            self.edit(|auths| {
                let any = !auths.is_empty();
                auths.clear();
                any
            })
            .await?;
        }
        Ok(())
    }

    /// Takes the entries of the key out of the file.
    async fn forget(&self, key: &AuthKey) -> Result<bool, AuthError> {
        if self.load().await?.is_none() {
            return Ok(false);
        }
        self.change(key, |auths, keys| {
            let mut any = false;
            for key in keys {
                any |= auths.remove(&key).is_some();
            }
            any
        })
        .await
    }

    async fn load(&self) -> Result<Option<AuthFile>, AuthError> {
        let path = self.path.clone();
        blocking(&self.path, move || match read(&path)? {
            Some(text) => parse(&path, &text).map(Some),
            None => Ok(None),
        })
        .await
    }

    async fn helper(&self, key: &AuthKey) -> Result<Helper, AuthError> {
        let file = self.load().await?.unwrap_or_default();
        let of_registry = file.helper_of(key.registry()).map(str::to_owned);
        Ok(match (of_registry, file.creds_store) {
            (Some(name), _) => Helper::OfRegistry(name),
            (None, Some(name)) if !name.is_empty() && !key.is_part() => Helper::OfAll(name),
            _ => Helper::None,
        })
    }

    /// Changes `auths`, with the keys in it that mean `key`: its own, and docker's where it is
    /// there. Writes the file if `change` says so, which is the answer.
    async fn change(
        &self,
        key: &AuthKey,
        change: impl FnOnce(&mut Map<String, Value>, Vec<String>) -> bool + Send + 'static,
    ) -> Result<bool, AuthError> {
        let (own, part, registry) = (key.to_string(), key.is_part(), key.registry().to_owned());
        self.edit(move |auths| {
            let dockers = auths.keys().filter(|key| !part && is_dockers_key(key, &registry));
            let keys = dockers.cloned().chain([own]).collect();
            change(auths, keys)
        })
        .await
    }

    /// Changes `auths` in the file, which is replaced as a whole.
    async fn edit(
        &self,
        edit: impl FnOnce(&mut Map<String, Value>) -> bool + Send + 'static,
    ) -> Result<bool, AuthError> {
        let path = self.path.clone();
        blocking(&self.path, move || rewrite(&path, edit)).await
    }

    fn bad(&self, reason: String) -> AuthError {
        bad(&self.path, reason)
    }
}

/// Who keeps a registry's password.
enum Helper {
    /// The file.
    None,
    /// The helper that `credHelpers` names for it.
    OfRegistry(String),
    /// `credsStore`.
    OfAll(String),
}

impl ConnectOptions {
    /// Asks the registry of `key` whether it lets in a user with this name and password. A
    /// registry that lets in everybody takes all.
    ///
    /// # Errors
    /// [`Error::Registry`]: [`Problem::LoginRefused`] if it does not.
    pub async fn log_in(&self, key: &AuthKey, credential: Credential) -> Result<()> {
        let repository = key.repository();
        let with = Self {
            auth: AuthSource::Given(credential),
            ..self.clone()
        };
        let asked = async {
            let deadline = Deadline::after(with.timeout);
            for mut endpoint in with.endpoints(repository, Operation::Login).await? {
                // A registry that is elsewhere is asked by its own name: the password is for that.
                endpoint.reference = repository.clone();
                let connected = with.connect(repository, &endpoint, deadline, Operation::Login);
                connected.await?.log_in().await?;
            }
            Ok(())
        };
        asked.await.map_err(|error| match error {
            Error::Registry(mut error) => {
                "login".clone_into(&mut error.image);
                error.problem = match error.problem {
                    Problem::Unauthorized(said) => Problem::LoginRefused(said),
                    other => other,
                };
                Error::Registry(error)
            }
            other => other,
        })
    }
}

async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
) -> Result<T, AuthError> {
    let done = background::blocking(move || Ok(work()?)).await;
    done.map_err(|error| match error {
        Error::Auth(error) => error,
        other => bad(path, other.to_string()),
    })
}

fn bad(path: &Path, reason: impl Into<String>) -> AuthError {
    AuthError::File {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// `env` gives the variables of the environment.
fn user_file(env: &Variables<'_>) -> PathBuf {
    if let Some(path) = variable(env, "REGISTRY_AUTH_FILE") {
        return path;
    }
    let runtime = variable(env, "XDG_RUNTIME_DIR")
        .and_then(own)
        .map(|dir| dir.join("containers"));
    let uid = rustix::process::getuid().as_raw();
    let dir = runtime.unwrap_or_else(|| format!("/run/containers/{uid}").into());
    dir.join("auth.json")
}

/// The file's text; `None` if there is none, or an empty one.
fn read(path: &Path) -> Result<Option<Vec<u8>>, AuthError> {
    let file = match bounded::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(path, e.to_string())),
    };
    let text = bounded::read(file, MAX_AUTH_FILE_SIZE).map_err(|e| bad(path, e.to_string()))?;
    Ok(Some(text).filter(|text| !text.trim_ascii().is_empty()))
}

fn rewrite(path: &Path, edit: impl FnOnce(&mut Map<String, Value>) -> bool) -> Result<bool, AuthError> {
    let failed = |e: io::Error| bad(path, e.to_string());
    // What a link leads to is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_private(dir).map_err(|e| {
        bad(
            path,
            format!("{}: {e}: name another file in REGISTRY_AUTH_FILE", dir.display()),
        )
    })?;
    let _lock = lock(path, dir)?;
    let mut file: Map<String, Value> = match read(path)? {
        Some(text) => parse(path, &text)?,
        None => Map::new(),
    };
    let auths = file.entry("auths").or_insert_with(|| json!({}));
    let Value::Object(auths) = auths else {
        return Err(bad(path, "auths is no object"));
    };
    if !edit(auths) {
        return Ok(false);
    }
    let mut text = serde_json::to_vec_pretty(&file).map_err(|e| failed(e.into()))?;
    text.push(b'\n');
    // The mode of a temporary file is 0600.
    let mut temp = tempfile::Builder::new()
        .prefix(".auth-")
        .tempfile_in(dir)
        .map_err(failed)?;
    temp.write_all(&text)
        .and_then(|()| temp.as_file().sync_all())
        .map_err(failed)?;
    temp.persist(path).map_err(|e| failed(e.error))?;
    Ok(true)
}

/// Makes a directory, and those above it, that only this user can enter.
fn make_private(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Two that change the file do it one after the other. The lock is the directory's: the file is
/// replaced. Somebody else may hold that of a directory that all can read, so it is not waited for
/// for ever.
fn lock(path: &Path, dir: &Path) -> Result<File, AuthError> {
    let dir = File::open(dir).map_err(|e| bad(path, e.to_string()))?;
    let begin = Instant::now();
    loop {
        match dir.try_lock() {
            Ok(()) => return Ok(dir),
            Err(TryLockError::WouldBlock) if begin.elapsed() < LOCK_TIMEOUT => {
                sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(bad(path, "another program has locked its directory: try again"));
            }
            Err(TryLockError::Error(e)) => return Err(bad(path, e.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn key(text: &str) -> AuthKey {
        text.parse().unwrap()
    }

    /// What a file holds.
    fn json_of(path: &Path) -> Value {
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    async fn user(path: &Path, key: &AuthKey) -> Option<String> {
        let source = AuthSource::File(path.to_owned());
        match source.credential(key.repository()).await.unwrap() {
            Credential::Basic { username, .. } => Some(username),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_login_is_kept_for_its_owner_only_and_keeps_what_it_does_not_know() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/containers/auth.json");
        let file = LoginFile::at(&path);
        assert!(!file.remove(&key("quay.io")).await.unwrap());
        assert!(!path.exists(), "logging out makes no file");

        file.store(&key("quay.io"), "me", "pass:word").await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert_eq!(user(&path, &key("quay.io")).await.as_deref(), Some("me"));

        let foreign = json!({"auths": {"other.io": {"auth": "eDp5", "future": 1}}, "detachKeys": "ctrl-e"});
        fs::write(&path, foreign.to_string()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        file.store(&key("quay.io/team"), "team", "p").await.unwrap();
        let now = json_of(&path);
        assert_eq!(
            (&now["detachKeys"], &now["auths"]["other.io"]["future"]),
            (&json!("ctrl-e"), &json!(1))
        );
        assert_eq!(mode(&path), 0o600);
        assert_eq!(
            user(&path, &key("quay.io/team/app")).await.as_deref(),
            Some("team")
        );
        assert_eq!(user(&path, &key("quay.io")).await, None);

        assert!(file.remove(&key("quay.io/team")).await.unwrap());
        assert!(!file.remove(&key("quay.io/team")).await.unwrap());
        file.remove_all().await.unwrap();
        assert_eq!(json_of(&path), json!({"auths": {}, "detachKeys": "ctrl-e"}));
        assert_eq!(
            fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "no leftovers"
        );
    }

    #[tokio::test]
    async fn docker_finds_a_login_to_its_hub_in_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        let hub = "https://index.docker.io/v1/";
        fs::write(&path, json!({"auths": {hub: {"auth": "eDp5"}}}).to_string()).unwrap();
        let file = LoginFile::at(&path);
        file.store(&key("docker.io"), "me", "new").await.unwrap();
        let now = json_of(&path);
        assert_eq!(now["auths"][hub], now["auths"]["docker.io"]);
        assert_ne!(now["auths"][hub]["auth"], "eDp5");
        assert!(file.remove(&key("docker.io")).await.unwrap());
        assert_eq!(json_of(&path), json!({"auths": {}}));
    }

    #[tokio::test]
    async fn a_file_that_is_none_of_docker_or_podman_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("auth.json");
        for text in [
            "[]",
            "{\"auths\": []}",
            "hunter2",
            "{\"auths\": {\"a\": \"hunter2\"}}",
        ] {
            fs::write(&path, text).unwrap();
            let error = LoginFile::at(&path)
                .store(&key("quay.io"), "u", "p")
                .await
                .unwrap_err();
            let said = error.to_string();
            assert!(said.contains("auth.json") && !said.contains("hunter2"), "{said}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        let link = dir.path().join("link.json");
        fs::write(&path, "{}").unwrap();
        std::os::unix::fs::symlink("auth.json", &link).unwrap();
        LoginFile::at(&link)
            .store(&key("quay.io"), "u", "p")
            .await
            .unwrap();
        assert!(
            fs::symlink_metadata(&link).unwrap().is_symlink(),
            "the link stays one"
        );
        assert_eq!(user(&path, &key("quay.io")).await.as_deref(), Some("u"));
    }

    #[tokio::test]
    async fn of_many_logins_at_once_none_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let file = LoginFile::at(dir.path().join("auth.json"));
        let logins: Vec<_> = (0..16)
            .map(|n| {
                let file = file.clone();
                tokio::spawn(async move { file.store(&key(&format!("r{n}.example")), "u", "p").await })
            })
            .collect();
        for login in logins {
            login.await.unwrap().unwrap();
        }
        assert_eq!(json_of(file.path())["auths"].as_object().unwrap().len(), 16);
    }

    #[test]
    fn the_file_is_where_podman_looks_first() {
        let file = |name: &'static str, value: &'static str| {
            user_file(&move |asked| (asked == name).then(|| value.into()))
        };
        assert_eq!(file("REGISTRY_AUTH_FILE", "/a"), Path::new("/a"));
        let runtime = file("XDG_RUNTIME_DIR", "/run/user/7");
        assert_eq!(runtime, Path::new("/run/user/7/containers/auth.json"));
        assert!(file("HOME", "/h").starts_with("/run/containers"));
    }
}
