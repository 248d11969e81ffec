//! Credential helpers: programs `docker-credential-<name>` (docker/docker-credential-helpers).

use std::{ffi::OsStr, process::Stdio, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::{AuthError, Credential};

/// Long enough for a person to unlock a key ring.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most that is read of a helper's answer, in bytes.
const MAX_ANSWER: u64 = 256 * 1024;
/// What every helper prints for an unknown server (`credentials.NewErrCredentialsNotFound`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that says the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// What a helper is told to keep.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Kept<'a> {
    #[serde(rename = "ServerURL")]
    server: &'a str,
    username: &'a str,
    secret: &'a str,
}

/// Asks `docker-credential-<helper>` for the credentials of `server`; `None` if it has none.
pub(super) async fn get(helper: &str, server: &str) -> Result<Option<Credential>, AuthError> {
    get_in(None, helper, server).await
}

/// Gives it credentials to keep.
pub(super) async fn store(
    helper: &str,
    server: &str,
    username: &str,
    password: &str,
) -> Result<(), AuthError> {
    let kept = Kept {
        server,
        username,
        secret: password,
    };
    let kept = serde_json::to_vec(&kept).map_err(|e| failure(helper, e.to_string()))?;
    call(None, helper, "store", &kept).await.map(drop)
}

/// Makes it forget what it has for `server`; whether it had something.
pub(super) async fn erase(helper: &str, server: &str) -> Result<bool, AuthError> {
    if get(helper, server).await?.is_none() {
        return Ok(false);
    }
    let erased = call(None, helper, "erase", server.as_bytes()).await?;
    Ok(erased.is_some())
}

fn failure(helper: &str, reason: String) -> AuthError {
    AuthError::Helper {
        helper: helper.to_owned(),
        reason,
    }
}

/// [`get`] with another `PATH` for the helper.
async fn get_in(path: Option<&OsStr>, helper: &str, server: &str) -> Result<Option<Credential>, AuthError> {
    let Some(stdout) = call(path, helper, "get", server.as_bytes()).await? else {
        return Ok(None);
    };
    // Its answer holds the secret: nothing of it goes into the message.
    let answer: Answer = serde_json::from_slice(&stdout).map_err(|_| {
        failure(
            helper,
            "its answer is not the JSON that the protocol asks for".into(),
        )
    })?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(answer.secret),
        _ => Credential::Basic {
            username: answer.username,
            password: answer.secret,
        },
    }))
}

/// Runs a helper and returns what it prints; `None` if it says that it knows no such server.
async fn call(
    path: Option<&OsStr>,
    helper: &str,
    action: &str,
    input: &[u8],
) -> Result<Option<Vec<u8>>, AuthError> {
    let failed = |reason: String| failure(helper, reason);
    // The name comes from a file: it must not reach beyond PATH.
    if !helper
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(failed(
            "the name may hold only letters, digits, '-', '_' and '.'".into(),
        ));
    }
    let asked = tokio::time::timeout(TIMEOUT, ask(path, helper, action, input)).await;
    let (success, stdout, stderr) = asked
        .map_err(|_| failed(format!("did not answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if !success {
        let said = String::from_utf8_lossy(if stdout.is_empty() { &stderr } else { &stdout }).into_owned();
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(failed(crate::one_line::one_line(&said)));
    }
    Ok(Some(stdout))
}

async fn ask(
    path: Option<&OsStr>,
    helper: &str,
    action: &str,
    input: &[u8],
) -> std::io::Result<(bool, Vec<u8>, Vec<u8>)> {
    let mut command = tokio::process::Command::new(format!("docker-credential-{helper}"));
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(input).await;
    }
    let (stdout, stderr) = tokio::try_join!(read(child.stdout.take()), read(child.stderr.take()))?;
    Ok((child.wait().await?.success(), stdout, stderr))
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(MAX_ANSWER).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// Asks a helper that is this shell script.
    async fn answer(script: &str) -> Result<Option<Credential>, AuthError> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docker-credential-test");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        get_in(Some(path.as_ref()), "test", "quay.io").await
    }

    #[tokio::test]
    async fn a_helper_is_asked_over_its_standard_input() {
        let script = r#"[ "$1" = get ] && [ "$(cat)" = quay.io ] && echo '{"ServerURL":"quay.io","Username":"u","Secret":"p"}'"#;
        let basic = Credential::Basic {
            username: "u".into(),
            password: "p".into(),
        };
        assert_eq!(answer(script).await.unwrap(), Some(basic));
        let script = r#"echo '{"Username":"<token>","Secret":"t"}'"#;
        assert_eq!(
            answer(script).await.unwrap(),
            Some(Credential::IdentityToken("t".into()))
        );
    }

    #[tokio::test]
    async fn a_helper_that_knows_nothing_is_no_error_and_one_that_fails_is() {
        assert_eq!(
            answer("echo 'credentials not found in native keychain'; exit 1")
                .await
                .unwrap(),
            None
        );
        let failed = answer("echo 'key ring\nlocked' >&2; exit 3")
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            failed,
            "credential helper docker-credential-test: key ring locked"
        );
        let nonsense = answer("echo hunter2").await.unwrap_err().to_string();
        assert!(
            nonsense.contains("is not the JSON") && !nonsense.contains("hunter2"),
            "{nonsense}"
        );
        let missing = get("no-such-helper-here", "quay.io")
            .await
            .unwrap_err()
            .to_string();
        assert!(
            missing.contains("docker-credential-no-such-helper-here"),
            "{missing}"
        );
        assert!(get("../../bin/sh", "quay.io").await.is_err());
    }
}
