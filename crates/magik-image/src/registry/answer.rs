//! What a registry answers, read no further than it must be.

use futures_util::StreamExt as _;
use reqwest::{Response, StatusCode};

use super::{Problem, Registry, one_line, retry};
use crate::{Error, Result};

/// The most that is read of the body of an error, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

impl Registry {
    /// Turns an unsuccessful answer into an error; reads only what its message needs.
    pub(super) async fn successful(&self, what: &str, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(what, response).await,
            StatusCode::NOT_FOUND => self.error(Problem::NotFound(what.to_owned())),
            _ => {
                let retry_after = retry::asked_for(response.headers());
                let message = self.message(response).await;
                self.error(Problem::Status {
                    what: what.to_owned(),
                    status: status.as_u16(),
                    message,
                    retry_after,
                })
            }
        })
    }

    pub(super) async fn unauthorized(&self, what: &str, response: Response) -> Error {
        let message = self.message(response).await;
        self.error(Problem::Unauthorized(format!(" for {what}{message}")))
    }

    /// What the registry says about an error, " (…)", or nothing.
    async fn message(&self, response: Response) -> String {
        #[derive(serde::Deserialize)]
        struct Envelope {
            errors: Vec<Entry>,
        }
        #[derive(serde::Deserialize)]
        struct Entry {
            code: Option<String>,
            message: Option<String>,
        }
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while body.len() < MAX_ERROR_BODY
            && let Ok(Some(Ok(chunk))) = self.wait("error", stream.next()).await
        {
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
        }
        let envelope = serde_json::from_slice::<Envelope>(&body).ok();
        let text = match envelope.and_then(|envelope| envelope.errors.into_iter().next()) {
            Some(Entry {
                message: Some(message),
                ..
            }) if !message.is_empty() => message,
            Some(Entry { code: Some(code), .. }) => code,
            _ => String::from_utf8_lossy(&body).into_owned(),
        };
        // A page for a browser says nothing in one line.
        let text = one_line(&text);
        if text.is_empty() || text.starts_with('<') {
            String::new()
        } else {
            format!(" ({text})")
        }
    }

    /// Reads a body of at most `limit` bytes.
    pub(super) async fn body(&self, what: &str, response: Response, limit: u64) -> Result<Vec<u8>> {
        let too_large = || {
            self.error(Problem::TooLarge {
                what: what.to_owned(),
                limit,
            })
        };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = self.wait(what, stream.next()).await? {
            let chunk = chunk.map_err(|e| self.broken(what, &e))?;
            if body.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
