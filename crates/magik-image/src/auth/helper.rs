//! Credential helpers: programs `docker-credential-<name>` that keep secrets elsewhere (docker/docker-credential-helpers).

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use super::{AuthError, Credential};

/// Long enough for a person to unlock a key ring.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most that is read of a helper's answer, in bytes.
const MAX_ANSWER: u64 = 256 * 1024;
/// What every helper prints when it knows nothing of the server (`credentials.NewErrCredentialsNotFound`).
const NOT_FOUND: &str = "credentials not found in native keychain";
/// The user name that says the secret is an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<helper>` for the credentials of `server`; `None` if it has none.
pub(super) async fn get(helper: &str, server: &str) -> Result<Option<Credential>, AuthError> {
    let failed = |reason: String| AuthError::Helper {
        helper: helper.to_owned(),
        reason,
    };
    // The name comes from a file: it must not reach beyond PATH.
    if !helper
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    {
        return Err(failed(
            "the name may hold only letters, digits, '-', '_' and '.'".into(),
        ));
    }
    let asked = tokio::time::timeout(TIMEOUT, ask(helper, server)).await;
    let (success, stdout, stderr) = asked
        .map_err(|_| failed(format!("did not answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if !success {
        let said = String::from_utf8_lossy(if stdout.is_empty() { &stderr } else { &stdout }).into_owned();
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(failed(crate::registry::one_line(&said)));
    }
    // Its answer holds the secret: nothing of it goes into the message.
    let answer: Answer = serde_json::from_slice(&stdout)
        .map_err(|_| failed("its answer is not the JSON that the protocol asks for".into()))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::IdentityToken(answer.secret),
        _ => Credential::Basic {
            username: answer.username,
            password: answer.secret,
        },
    }))
}

async fn ask(helper: &str, server: &str) -> std::io::Result<(bool, Vec<u8>, Vec<u8>)> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still answer.
        let _ = stdin.write_all(server.as_bytes()).await;
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
