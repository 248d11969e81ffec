//! One repository at one registry.

use std::{sync::Once, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture};
use magik_cas::Digest;
use reqwest::{Method, Response, StatusCode, Url, header};
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Problem, RegistryError, error, host, is_loopback, one_line,
    token::{self, Authorization},
};
use crate::{Error, Reference, Result, auth::Credential, manifest::MANIFEST_TYPES};

/// The most that is read of the body of an error, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The most redirects that are followed for one request: a registry, a storage service, and some slack.
const MAX_REDIRECTS: usize = 5;
/// The pauses before an attempt is made again; as many attempts more than there are pauses.
const RETRY_AFTER: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Pull,
    Push,
}

/// A repository at a registry, and what it takes to read it.
#[derive(Debug)]
pub(crate) struct Registry {
    http: reqwest::Client,
    /// `https://host/v2/repository/`.
    base: Url,
    reference: Reference,
    connection: Connection,
    operation: Operation,
    credential: Credential,
    authorization: tokio::sync::RwLock<Option<Authorization>>,
    stopped: CancellationToken,
}

/// A manifest or index, its bytes hashing to `digest`.
#[derive(Debug, Clone)]
pub(crate) struct Fetched {
    pub bytes: Vec<u8>,
    pub digest: Digest,
    pub media_type: Option<String>,
}

impl Registry {
    /// Finds out how to talk to the registry of `reference`; nothing is asked of it yet, unless it is on this machine.
    pub(crate) async fn connect(
        reference: &Reference,
        connection: Connection,
        operation: Operation,
    ) -> Result<Self> {
        let credential = connection.auth.credential(reference).await.map_err(Error::Auth)?;
        let host = host(reference);
        let schemes: &[&str] = match (connection.insecure_http, is_loopback(host)) {
            (true, _) => &["http"],
            (_, true) => &["http", "https"],
            _ => &["https"],
        };
        let failed = |problem| failure(reference, problem);
        let http = http_client(schemes[0] == "https", host).map_err(|e| {
            failed(Problem::Connection {
                what: "set up".into(),
                reason: error::chain(&e),
            })
        })?;
        let base = |scheme: &str| {
            Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository())).map_err(|e| {
                failed(Problem::Protocol {
                    what: "its address".into(),
                    reason: e.to_string(),
                })
            })
        };
        let mut registry = Self {
            http,
            base: base(schemes[0])?,
            reference: reference.clone(),
            connection,
            operation,
            credential,
            authorization: tokio::sync::RwLock::default(),
            stopped: CancellationToken::new(),
        };
        if let [_, tls] = schemes
            && registry.speaks_only_tls().await?
        {
            registry.base = base(tls)?;
            registry.http = http_client(true, host).map_err(|e| {
                registry.error(Problem::Connection {
                    what: "set up".into(),
                    reason: error::chain(&e),
                })
            })?;
        }
        Ok(registry)
    }

    /// A TLS server answers a plain request with 400 (Go's, nginx) or hangs up.
    async fn speaks_only_tls(&self) -> Result<bool> {
        let ping = self
            .base
            .join("/v2/")
            .map_err(|e| self.protocol("its address", e.to_string()))?;
        match self.wait("GET /v2/", self.http.get(ping).send()).await? {
            Ok(response) => Ok(response.status() == StatusCode::BAD_REQUEST),
            Err(e) => Ok(!e.is_connect()),
        }
    }

    /// Fetches a manifest or index by tag or digest: at most `limit` bytes, and those that the digest names.
    ///
    /// A digest in `Docker-Content-Digest` is checked as well; it is the registry's own word for a tag, and a proxy that
    /// sends something else is found out.
    pub(crate) async fn manifest(&self, tag_or_digest: &str, limit: u64) -> Result<Fetched> {
        let what = format!("manifest {tag_or_digest}");
        self.retried(&what, || {
            Box::pin(async {
                let request = self.request(Method::GET, &format!("manifests/{tag_or_digest}"))?;
                let response = self
                    .send(&what, request.header(header::ACCEPT, MANIFEST_TYPES.join(", ")))
                    .await?;
                let header_of = |name: &str| {
                    response
                        .headers()
                        .get(name)
                        .and_then(|v| v.to_str().ok())
                        .map(str::to_owned)
                };
                let (media_type, promised) = (header_of("content-type"), header_of("docker-content-digest"));
                let bytes = self.body(&what, response, limit).await?;
                let asked = tag_or_digest.parse::<Digest>().ok();
                for expected in [asked, promised.and_then(|text| text.parse().ok())]
                    .into_iter()
                    .flatten()
                {
                    let found = Digest::of(expected.algorithm(), &bytes);
                    if found != expected {
                        return Err(self.error(Problem::DigestMismatch {
                            what: what.clone(),
                            expected,
                            found,
                        }));
                    }
                }
                let digest = asked.unwrap_or_else(|| Digest::sha256(&bytes));
                Ok(Fetched {
                    bytes,
                    digest,
                    media_type,
                })
            })
        })
        .await
    }

    /// Whether the registry has a blob.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool> {
        let what = format!("blob {digest}");
        let found = self
            .retried(&what, || {
                Box::pin(async {
                    let request = self.request(Method::HEAD, &format!("blobs/{digest}"))?;
                    self.send(&what, request).await.map(drop)
                })
            })
            .await;
        match found {
            Ok(()) => Ok(true),
            Err(Error::Registry(e)) if matches!(e.problem, Problem::NotFound(_)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    pub(super) fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder> {
        let url = self
            .base
            .join(path)
            .map_err(|e| self.protocol(path, e.to_string()))?;
        Ok(self.http.request(method, url))
    }

    /// Sends a request, with authorization once the registry has asked for it. Anything but success is an error.
    pub(super) async fn send(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Response> {
        let again = request.try_clone();
        let sent_with = self.authorization.read().await.clone();
        let response = self.exchange(what, with(request, sent_with.as_ref())).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.successful(what, response).await;
        }
        let authorization = self.authorize(what, sent_with, response).await?;
        let again =
            again.ok_or_else(|| self.protocol(what, "asked for credentials in the middle of it".into()))?;
        let response = self.exchange(what, with(again, Some(&authorization))).await?;
        self.successful(what, response).await
    }

    /// The `Authorization` that uploads need, after asking the registry for a challenge.
    pub(crate) async fn authorization(&self) -> Result<Option<Authorization>> {
        let what = "GET /v2/";
        let url = self
            .base
            .join("/v2/")
            .map_err(|e| self.protocol(what, e.to_string()))?;
        let response = self
            .retried(what, || {
                Box::pin(async { self.exchange(what, self.http.get(url.clone())).await })
            })
            .await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(None);
        }
        self.authorize(what, None, response).await.map(Some)
    }

    /// Answers the challenge in `response`; `refused` is what the request had been sent with.
    async fn authorize(
        &self,
        what: &str,
        refused: Option<Authorization>,
        response: Response,
    ) -> Result<Authorization> {
        let mut current = self.authorization.write().await;
        if *current != refused
            && let Some(fresh) = &*current
        {
            return Ok(fresh.clone()); // another request has been here meanwhile
        }
        let challenge = token::Challenge::of(response.headers());
        // What is not a token does not get better by asking for it again.
        if matches!(refused, Some(Authorization::Basic { .. })) || challenge.is_none() {
            return Err(self.unauthorized(what, response).await);
        }
        let answer = match (challenge, &self.credential) {
            (Some(token::Challenge::Bearer(challenge)), credential) => {
                let request = challenge.request(&self.http, &self.base, &self.scope(), credential);
                let request = request.map_err(|reason| self.protocol("its token server", reason))?;
                let response = self.exchange("its token server", request).await?;
                if !response.status().is_success() {
                    return Err(self.unauthorized("its token server", response).await);
                }
                let body = self
                    .body("its token", response, token::MAX_TOKEN_RESPONSE)
                    .await?;
                token::read(&body).map_err(|reason| self.protocol("its token", reason))?
            }
            (Some(token::Challenge::Basic), Credential::Basic { username, password }) => {
                Authorization::Basic {
                    username: username.clone(),
                    password: password.clone(),
                }
            }
            _ => return Err(self.unauthorized(what, response).await),
        };
        *current = Some(answer.clone());
        Ok(answer)
    }

    fn scope(&self) -> String {
        let actions = match self.operation {
            Operation::Pull => "pull",
            Operation::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.reference.repository())
    }

    async fn exchange(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Response> {
        let sent = self.wait(what, request.send()).await?;
        sent.map_err(|e| self.broken(what, &e))
    }

    /// Turns an answer that is none into an error, reading no more of it than a message needs.
    async fn successful(&self, what: &str, response: Response) -> Result<Response> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.unauthorized(what, response).await,
            StatusCode::NOT_FOUND => self.error(Problem::NotFound(what.to_owned())),
            _ => {
                let message = self.message(response).await;
                self.error(Problem::Status {
                    what: what.to_owned(),
                    status: status.as_u16(),
                    message,
                })
            }
        })
    }

    async fn unauthorized(&self, what: &str, response: Response) -> Error {
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
    async fn body(&self, what: &str, response: Response, limit: u64) -> Result<Vec<u8>> {
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

    /// Waits for the network, no longer than it may stay silent, and not past the deadline.
    pub(crate) async fn wait<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        let idle = self.connection.idle_timeout;
        match self
            .before_deadline(what, tokio::time::timeout(idle, future))
            .await?
        {
            Ok(value) => Ok(value),
            Err(_) => Err(self.error(Problem::Stalled {
                what: what.to_owned(),
                after: idle,
            })),
        }
    }

    /// Waits, but not past the deadline, nor after another transfer has failed.
    async fn before_deadline<T>(&self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        let deadline = self.connection.deadline;
        let waited = tokio::select! {
            biased;
            () = self.stopped.cancelled() => return Err(Error::Task(format!("{what}: stopped"))),
            waited = tokio::time::timeout_at(deadline.at.into(), future) => waited,
        };
        waited.map_err(|_| {
            self.error(Problem::TimedOut {
                what: what.to_owned(),
                limit: deadline.limit,
            })
        })
    }

    /// Runs an attempt again where the problem may pass. Boxed, not `AsyncFn`: nothing says that what that returns is `Send`.
    pub(super) async fn retried<'a, T>(
        &self,
        what: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Sync,
    ) -> Result<T> {
        let mut pauses = RETRY_AFTER.into_iter();
        loop {
            let failed = match attempt().await {
                Err(Error::Registry(e)) if e.problem.is_transient() => e,
                other => return other,
            };
            let Some(pause) = pauses.next() else {
                return Err(Error::Registry(failed));
            };
            tracing::debug!(%what, error = %failed, "trying again");
            self.before_deadline(what, tokio::time::sleep(pause)).await?;
        }
    }

    pub(crate) fn broken(&self, what: &str, error: &reqwest::Error) -> Error {
        let (what, reason) = (what.to_owned(), error::chain(error));
        if error.is_redirect() {
            return self.error(Problem::Protocol { what, reason });
        }
        self.error(Problem::Connection { what, reason })
    }

    pub(crate) fn protocol(&self, what: &str, reason: String) -> Error {
        self.error(Problem::Protocol {
            what: what.to_owned(),
            reason,
        })
    }

    pub(crate) fn error(&self, problem: Problem) -> Error {
        failure(&self.reference, problem)
    }

    /// The image, as messages call it.
    pub(crate) fn image(&self) -> String {
        self.reference.to_string()
    }

    /// Ends every wait of this client, now and from now on: one of several transfers has failed.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Whether the registry is spoken to over plain HTTP.
    pub(crate) fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }
}

fn failure(reference: &Reference, problem: Problem) -> Error {
    let (image, registry) = (reference.to_string(), host(reference).to_owned());
    Error::from(Box::new(RegistryError {
        image,
        registry,
        problem,
    }))
}

fn with(request: reqwest::RequestBuilder, authorization: Option<&Authorization>) -> reqwest::RequestBuilder {
    match authorization {
        None => request,
        Some(Authorization::Basic { username, password }) => request.basic_auth(username, Some(password)),
        Some(Authorization::Bearer(token)) => request.bearer_auth(token),
    }
}

/// A client that does not step down from HTTPS to HTTP; reqwest itself keeps credentials from other hosts.
fn http_client(tls: bool, host: &str) -> Result<reqwest::Client, reqwest::Error> {
    install_crypto();
    let policy = reqwest::redirect::Policy::custom(move |attempt| {
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("redirected too often")
        } else if tls && attempt.url().scheme() != "https" {
            attempt.error("redirected from HTTPS to HTTP, which is not followed")
        } else {
            attempt.follow()
        }
    });
    let builder = reqwest::Client::builder();
    // As in Go: what is on this machine is not behind a proxy.
    let builder = if is_loopback(host) {
        builder.no_proxy()
    } else {
        builder
    };
    builder
        .referer(false)
        .user_agent(concat!("magikrun/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(policy)
        .build()
}

/// rustls takes its cryptography from one provider per process: `ring`, unless the program has chosen another.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that somebody else was faster, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    });
}
