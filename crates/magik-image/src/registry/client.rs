//! One repository at one registry.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use magik_cas::Digest;
use reqwest::{Method, Response, StatusCode, Url, header};
use tokio_util::sync::CancellationToken;

use super::{
    Connection, Problem, RegistryError, error, host,
    http::{Certificates, Clients, Guard, Trust},
    is_loopback, retry,
    token::{self, Authorization},
};
use crate::{
    Error, Reference, Result, auth::Credential, background::blocking, manifest::MANIFEST_TYPES,
    registries::Endpoint,
};

/// The most that is read of an answer to `GET /v2/`, in bytes.
const MAX_LOGIN_ANSWER: u64 = 64 * 1024;

/// What a token is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Pull,
    Push,
    /// Nothing but to be let in.
    Login,
}

/// A repository at a registry, and what it takes to read it.
#[derive(Debug)]
pub(crate) struct Registry {
    clients: Clients,
    pub(super) guard: Guard,
    /// `https://host/v2/repository/`.
    pub(super) base: Url,
    reference: Reference,
    pub(super) connection: Connection,
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
    /// Finds out how to talk to a registry. Sends no request unless TLS is in question.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        connection: Connection,
        operation: Operation,
    ) -> Result<Self> {
        let reference = &endpoint.reference;
        let credential = connection.auth.credential(reference).await.map_err(Error::Auth)?;
        let host = host(reference);
        let failed = |problem| failure(reference, problem);
        let trust = |tls| Trust {
            tls,
            any_certificate: endpoint.insecure,
        };
        // What to try first, and what then.
        let (first, then) = match (connection.insecure_http, is_loopback(host), endpoint.insecure) {
            (true, _, _) => (trust(false), None),
            _ if connection.always_verify => (trust(true), None),
            (_, true, _) => (trust(false), Some(trust(true))),
            (_, _, true) => (trust(true), Some(trust(false))),
            _ => (trust(true), None),
        };
        let (given, name) = (connection.certificates.clone(), reference.registry().to_owned());
        let certificates = blocking(move || Ok(Certificates::load(given.as_deref(), &name))).await?;
        let certificates = Arc::new(certificates.map_err(|reason| failed(set_up(reason)))?);
        let guard = Guard::new(host);
        let clients = |trust| {
            let made = Clients::new(trust, host, &guard, &certificates);
            made.map_err(|e| failed(set_up(error::chain(&e))))
        };
        let base = |trust: Trust| {
            let scheme = if trust.tls { "https" } else { "http" };
            Url::parse(&format!("{scheme}://{host}/v2/{}/", reference.repository())).map_err(|e| {
                failed(Problem::Protocol {
                    what: "its address".into(),
                    reason: e.to_string(),
                })
            })
        };
        let mut registry = Self {
            clients: clients(first)?,
            guard: guard.clone(),
            base: base(first)?,
            reference: reference.clone(),
            connection,
            operation,
            credential,
            authorization: tokio::sync::RwLock::default(),
            stopped: CancellationToken::new(),
        };
        if let Some(then) = then
            && !registry.understands().await?
        {
            registry.base = base(then)?;
            registry.clients = clients(then)?;
        }
        Ok(registry)
    }

    /// Whether the registry understands this protocol. A TLS server answers a plain request with
    /// 400 (Go's, nginx) or hangs up; a plain one cannot answer a handshake.
    async fn understands(&self) -> Result<bool> {
        let ping = self
            .base
            .join("/v2/")
            .map_err(|e| self.protocol("its address", e.to_string()))?;
        match self
            .wait("GET /v2/", self.clients.reading().get(ping).send())
            .await?
        {
            Ok(response) => Ok(!self.is_plain() || response.status() != StatusCode::BAD_REQUEST),
            // No server is there: the other protocol would fail, too.
            Err(e) => Ok(self.is_plain() && e.is_connect()),
        }
    }

    /// Fetches a manifest or index by tag or digest: at most `limit` bytes, with that digest.
    ///
    /// A digest in `Docker-Content-Digest` is checked as well: it shows when a proxy sends another
    /// document for a tag.
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

    pub(super) fn request(&self, method: Method, path: &str) -> Result<reqwest::RequestBuilder> {
        let url = self
            .base
            .join(path)
            .map_err(|e| self.protocol(path, e.to_string()))?;
        let client = if method == Method::GET || method == Method::HEAD {
            self.clients.reading()
        } else {
            self.sending()?
        };
        Ok(client.request(method, url))
    }

    /// The client for token requests and for everything that has a body.
    pub(super) fn sending(&self) -> Result<&reqwest::Client> {
        let made = self.clients.sending();
        made.map_err(|e| self.error(set_up(error::chain(&e))))
    }

    /// Sends a request, with authorization once asked for it. Only success is no error.
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

    /// What requests are sent with at present.
    pub(super) async fn authorization(&self) -> Option<Authorization> {
        self.authorization.read().await.clone()
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
                let http = self.sending()?;
                let request =
                    challenge.request(http, &self.base, &self.guard, self.scope().as_deref(), credential);
                let request = request.map_err(|reason| self.protocol("its token server", reason))?;
                let response = self.exchange("its token server", request).await?;
                let response = self.successful("its token server", response).await?;
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

    /// What a token is to allow, if it is to allow something.
    fn scope(&self) -> Option<String> {
        let actions = match self.operation {
            Operation::Pull => "pull",
            Operation::Push => "pull,push",
            Operation::Login => return None,
        };
        Some(format!("repository:{}:{actions}", self.reference.repository()))
    }

    /// Whether the registry lets this user in. One that lets in everybody is not shown the password.
    pub(crate) async fn log_in(&self) -> Result<()> {
        let what = "GET /v2/";
        self.retried(what, || {
            Box::pin(async {
                let response = self.send(what, self.request(Method::GET, "/v2/")?).await?;
                // Which of them answered decides nothing; the connection can be used again.
                self.body(what, response, MAX_LOGIN_ANSWER).await.map(drop)
            })
        })
        .await
    }

    pub(super) async fn exchange(&self, what: &str, request: reqwest::RequestBuilder) -> Result<Response> {
        let sent = self.wait(what, request.send()).await?;
        sent.map_err(|e| self.broken(what, &e))
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

    /// Retries an attempt on passing problems. Boxed: `AsyncFn` results are not known to be `Send`.
    pub(super) async fn retried<'a, T>(
        &self,
        what: &str,
        attempt: impl Fn() -> BoxFuture<'a, Result<T>> + Sync,
    ) -> Result<T> {
        let mut pauses = retry::Pauses::new();
        loop {
            match attempt().await {
                Err(error) => self.pause(what, error, &mut pauses).await?,
                done => return done,
            }
        }
    }

    /// Waits before something is tried again, or gives the error back if that would not help.
    pub(super) async fn pause(&self, what: &str, error: Error, pauses: &mut retry::Pauses) -> Result<()> {
        let pause = match &error {
            Error::Registry(e) => pauses.after(&e.problem),
            _ => None,
        };
        let Some(pause) = pause else {
            return Err(error);
        };
        tracing::debug!(%what, %error, ?pause, "trying again");
        self.before_deadline(what, tokio::time::sleep(pause)).await
    }

    pub(crate) fn broken(&self, what: &str, error: &reqwest::Error) -> Error {
        // reqwest's own words quote the address, which may hold a secret; the causes say more.
        let cause = std::error::Error::source(error).map_or_else(|| error::chain(error), error::chain);
        let (what, reason) = (what.to_owned(), cause);
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

    /// The error for an invalid document from this registry.
    pub(crate) fn answered(&self, error: Error) -> Error {
        match error {
            Error::InvalidDocument { document, reason } => self.protocol(&document, reason),
            other => other,
        }
    }

    /// Ends every wait of this client, now and from now on: one of several transfers has failed.
    pub(crate) fn stop(&self) {
        self.stopped.cancel();
    }

    /// Whether the registry is spoken to over plain HTTP.
    fn is_plain(&self) -> bool {
        self.base.scheme() == "http"
    }
}

/// The client itself could not be made.
fn set_up(reason: String) -> Problem {
    Problem::SetUp(reason)
}

fn failure(reference: &Reference, problem: Problem) -> Error {
    let (image, registry) = (reference.to_string(), host(reference).to_owned());
    Error::from(Box::new(RegistryError {
        image,
        registry,
        problem,
    }))
}

pub(super) fn with(
    request: reqwest::RequestBuilder,
    authorization: Option<&Authorization>,
) -> reqwest::RequestBuilder {
    match authorization {
        None => request,
        Some(Authorization::Basic { username, password }) => request.basic_auth(username, Some(password)),
        Some(Authorization::Bearer(token)) => request.bearer_auth(token),
    }
}
