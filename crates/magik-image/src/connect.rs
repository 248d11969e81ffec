//! How registries are reached, for pulling as for pushing.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use crate::{
    Error, Reference, Result,
    auth::AuthSource,
    registries::{Endpoint, RegistriesSource},
    registry::{Connection, Deadline, Operation, Registry},
};

/// How long a registry may send nothing.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How many blobs are transferred at a time.
pub const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// How registries are reached: [`within`](Self::within) a time, with fields set.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// Use plain HTTP. Registries on loopback are tried without TLS first in any case.
    pub insecure_http: bool,
    /// The registries, `HOST` or `HOST:PORT`, that are spoken to in plain HTTP.
    pub http_registries: Vec<String>,
    /// Whether certificates are checked, instead of what registries.conf says: `true` also for
    /// registries on loopback, and never plain HTTP; `false` takes any certificate, or plain HTTP.
    pub tls_verify: Option<bool>,
    /// Where credentials come from.
    pub auth: AuthSource,
    /// Mirrors, and registries that are elsewhere, insecure or blocked.
    pub registries: RegistriesSource,
    /// A directory with `*.crt` (authorities besides the system's), `*.cert` and `*.key` (ours).
    /// Default: `certs.d/HOST:PORT` in `~/.config/containers`, `/etc/containers`, `/etc/docker`.
    pub certificates: Option<PathBuf>,
    /// How long the whole transfer may take.
    pub timeout: Duration,
    /// How long nothing may arrive, or be taken.
    pub idle_timeout: Duration,
    /// How many blobs are transferred at a time.
    pub concurrency: NonZeroUsize,
}

impl ConnectOptions {
    /// The defaults, with a limit for the whole transfer.
    #[must_use]
    pub fn within(timeout: Duration) -> Self {
        Self {
            insecure_http: false,
            http_registries: Vec::new(),
            tls_verify: None,
            auth: AuthSource::default(),
            registries: RegistriesSource::default(),
            certificates: None,
            timeout,
            idle_timeout: IDLE_TIMEOUT,
            concurrency: DEFAULT_CONCURRENCY,
        }
    }

    /// Where an image is, or goes: the best place first.
    pub(crate) async fn endpoints(&self, image: &Reference, operation: Operation) -> Result<Vec<Endpoint>> {
        let (source, image) = (self.registries.clone(), image.clone());
        let mut endpoints = crate::background::blocking(move || {
            let registries = source.load().map_err(Error::Registries)?;
            Ok(match operation {
                Operation::Pull => registries.endpoints(&image)?,
                Operation::Push | Operation::Login => vec![registries.destination(&image)?],
            })
        })
        .await?;
        if let Some(verify) = self.tls_verify {
            for endpoint in &mut endpoints {
                endpoint.insecure = !verify;
            }
        }
        Ok(endpoints)
    }

    /// A connection to a place where `image` is, or goes.
    pub(crate) async fn connect(
        &self,
        image: &Reference,
        endpoint: &Endpoint,
        deadline: Deadline,
        operation: Operation,
    ) -> Result<Registry> {
        let host = endpoint.reference.registry();
        let connection = Connection {
            insecure_http: self.insecure_http || self.http_registries.iter().any(|http| http == host),
            always_verify: self.tls_verify == Some(true),
            auth: self.auth.at(&endpoint.reference, image),
            certificates: self.certificates.clone(),
            idle_timeout: self.idle_timeout,
            deadline,
        };
        Registry::connect(endpoint, connection, operation).await
    }
}
