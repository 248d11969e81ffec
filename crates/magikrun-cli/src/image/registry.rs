//! Options of all commands that talk to registries.

use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

use anyhow::Result;
use magik_image::{
    auth::{AuthSource, Credential},
    connect::ConnectOptions,
};

use crate::{ask, roots::GlobalArgs};

/// Whom to trust on the way to a registry.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct TrustArgs {
    /// Talk plain HTTP (to loopback it is tried anyway)
    #[arg(long, conflicts_with = "tls_verify")]
    http: bool,
    /// Check certificates; =false takes any, or plain HTTP
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        hide_possible_values = true,
        hide_short_help = true
    )]
    tls_verify: Option<bool>,
    /// *.crt to trust, *.cert and *.key to show [default: podman's and docker's certs.d/HOST:PORT]
    #[arg(long, value_name = "DIR", hide_default_value = true, hide_short_help = true)]
    cert_dir: Option<PathBuf>,
}

impl TrustArgs {
    pub(crate) fn apply(&self, connect: &mut ConnectOptions, global: &GlobalArgs) {
        connect.insecure_http = self.http;
        connect.http_registries = global.config.http_registries().value;
        connect.tls_verify = self.tls_verify;
        connect.certificates.clone_from(&self.cert_dir);
        if self.tls_verify == Some(false) {
            tracing::warn!(
                "--tls-verify=false: others on the network can read passwords and change what is transferred"
            );
        }
    }
}

/// How registries are reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RegistryArgs {
    #[command(flatten)]
    trust: TrustArgs,
    /// Log in as this user, for this command only; a password that is left out is asked for
    #[arg(
        long,
        value_name = "USER[:PASSWORD]",
        conflicts_with = "authfile",
        hide_short_help = true
    )]
    creds: Option<Creds>,
    /// The file with credentials [default: podman's and docker's, see 'magikrun login --help']
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    authfile: Option<PathBuf>,
}

impl RegistryArgs {
    /// What holds for a registry that the other options do not mean.
    pub(super) fn of_another(&self) -> Self {
        Self {
            authfile: self.authfile.clone(),
            ..Self::default()
        }
    }

    /// Whether a user is named for this command.
    pub(crate) const fn has_credentials(&self) -> bool {
        self.creds.is_some()
    }

    /// Sets the options; may ask for a password.
    pub(crate) async fn apply(&self, connect: &mut ConnectOptions, global: &GlobalArgs) -> Result<()> {
        self.trust.apply(connect, global);
        if let Some(path) = &self.authfile {
            connect.auth = AuthSource::File(path.clone());
        }
        if let Some(Creds { username, password }) = &self.creds {
            let password = match password {
                Some(password) => password.clone(),
                None => ask::secret("Password: ", "give it as --creds USER:PASSWORD").await?,
            };
            connect.auth = AuthSource::Given(Credential::Basic {
                username: username.clone(),
                password,
            });
        }
        Ok(())
    }
}

/// `USER[:PASSWORD]`.
#[derive(Clone)]
struct Creds {
    username: String,
    password: Option<String>,
}

impl fmt::Debug for Creds {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Creds")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl FromStr for Creds {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let (username, password) = match text.split_once(':') {
            Some((username, password)) => (username, Some(password.to_owned())),
            None => (text, None),
        };
        let username = username.to_owned();
        Ok(Self { username, password })
    }
}
