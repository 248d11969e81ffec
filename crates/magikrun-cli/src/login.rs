//! `magikrun login` and `logout`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use magik_image::{
    auth::{AuthKey, AuthSource, Credential, LoginFile},
    connect::ConnectOptions,
    pull::IMAGE_PULL_TIMEOUT,
    reference::DEFAULT_REGISTRY,
};

use crate::{ask, image::TrustArgs, output, roots::GlobalArgs};

pub(crate) const LOGIN_EXAMPLE: &str = "\
Examples: magikrun login quay.io
          pass quay | magikrun login -u me --password-stdin quay.io
Credentials are kept where podman finds them, too: REGISTRY_AUTH_FILE, or containers/auth.json in XDG_RUNTIME_DIR.";
pub(crate) const LOGOUT_EXAMPLE: &str = "\
Examples: magikrun logout quay.io
          magikrun logout --all";

#[derive(Debug, clap::Args)]
pub(crate) struct LoginArgs {
    /// HOST, HOST:PORT, or a part of a registry, HOST/NAMESPACE
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY)]
    registry: AuthKey,
    /// The user's name [default: asked for]
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username", conflicts_with = "password")]
    password_stdin: bool,
    /// The password, which other users see: better is --password-stdin
    #[arg(short, long, value_name = "PASSWORD", requires = "username")]
    password: Option<Password>,
    /// Print the user who is logged in, and nothing else
    #[arg(long, conflicts_with_all = ["username", "password_stdin", "password"])]
    get_login: bool,
    #[command(flatten)]
    file: FileArg,
    #[command(flatten)]
    trust: TrustArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogoutArgs {
    /// What was logged in to
    #[arg(value_name = "REGISTRY", default_value = DEFAULT_REGISTRY, conflicts_with = "all")]
    registry: AuthKey,
    /// Forget the credentials of all registries
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    file: FileArg,
}

/// Which file keeps credentials.
#[derive(Debug, clap::Args)]
struct FileArg {
    /// The file that keeps credentials [default: podman's]
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
}

impl FileArg {
    fn file(&self) -> LoginFile {
        self.authfile
            .as_ref()
            .map_or_else(LoginFile::of_user, LoginFile::at)
    }

    /// Who is logged in, by the file that was named, or by all that pulls look at.
    async fn credential(&self, key: &AuthKey) -> Result<Credential> {
        let source = match &self.authfile {
            Some(path) if !path.exists() => return Ok(Credential::Anonymous),
            Some(path) => AuthSource::File(path.clone()),
            None => AuthSource::Default,
        };
        Ok(source.credential(key.repository()).await?)
    }
}

/// A word of the command line that messages must not show.
#[derive(Clone)]
struct Password(String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl std::str::FromStr for Password {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

pub(crate) async fn login(global: &GlobalArgs, args: &LoginArgs) -> Result<()> {
    let key = &args.registry;
    if args.get_login {
        return match args.file.credential(key).await? {
            Credential::Basic { username, .. } => output::line(output::printable(&username)),
            Credential::IdentityToken(_) => output::line("<token>"),
            Credential::Anonymous => bail!("not logged in to {key}: 'magikrun login {key}' does that"),
        };
    }
    let mut connect = ConnectOptions::within(IMAGE_PULL_TIMEOUT);
    args.trust.apply(&mut connect, global);
    let (username, password) = match (&args.username, &args.password) {
        (Some(username), Some(Password(password))) => {
            tracing::warn!("--password: other users see it in the list of processes; use --password-stdin");
            (username.clone(), password.clone())
        }
        (Some(username), None) if args.password_stdin => (username.clone(), ask::password_from_stdin()?),
        (username, _) => asked(key, username.clone()).await?,
    };
    if username.is_empty() || username.contains(':') {
        bail!("login to {key}: the user name {username:?} is empty or holds a ':': give another with -u");
    }
    if password.is_empty() {
        bail!("login to {key}: the password is empty");
    }
    let credential = Credential::Basic {
        username: username.clone(),
        password: password.clone(),
    };
    connect.log_in(key, credential).await?;
    let file = args.file.file();
    file.store(key, &username, &password)
        .await
        .with_context(|| format!("login to {key} succeeded, but is not kept"))?;
    output::line("Login Succeeded!")
}

/// Asks for what was not given.
async fn asked(key: &AuthKey, username: Option<String>) -> Result<(String, String)> {
    let otherwise = "give -u NAME --password-stdin";
    let username = match username {
        Some(username) => username,
        None => ask::line(&format!("Username for {key}: "), otherwise).await?,
    };
    Ok((username, ask::secret("Password: ", otherwise).await?))
}

pub(crate) async fn logout(args: &LogoutArgs) -> Result<()> {
    let file = args.file.file();
    if args.all {
        file.remove_all().await?;
        return output::line("Removed login credentials for all registries");
    }
    let key = &args.registry;
    let removed = file.remove(key).await?;
    let left = args.file.credential(key).await? != Credential::Anonymous;
    if !removed {
        let path = file.path().display();
        if left {
            bail!("not logged in to {key} by {path}, but by another file: name it with --authfile");
        }
        bail!("not logged in to {key} by {path}");
    }
    if left {
        tracing::warn!("another file, or one for all of the registry, still has credentials for {key}");
    }
    output::line(format_args!("Removed login credentials for {key}"))
}
