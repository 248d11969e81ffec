//! The HTTP client of one registry: whom it trusts, and where it lets itself be sent.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once, OnceLock, PoisonError},
    time::Duration,
};

use reqwest::{
    Certificate, Identity, Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::is_loopback;
use crate::{bounded, environment::config_home};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The most redirects of one request: a registry, a storage service, and some slack.
const MAX_REDIRECTS: usize = 5;
/// The largest certificate or key file, in bytes.
const MAX_CERT_SIZE: u64 = 1024 * 1024;
/// Podman's directories of certificates, by registry and port; the first that exists counts.
const CERT_DIRS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

pub(super) const USER_AGENT: &str = concat!("magikrun/", env!("CARGO_PKG_VERSION"));

/// How far an address is from the rest of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    Public,
    /// RFC 1918, RFC 6598, unique local addresses.
    Private,
    /// Of one link: 169.254.169.254 is where clouds keep their secrets.
    Link,
    /// This machine, and what is no address of a host at all.
    Loopback,
}

impl Reach {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => Self::of(IpAddr::V4(v4)),
                None if v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() => Self::Loopback,
                None if v6.is_unicast_link_local() => Self::Link,
                None if v6.is_unique_local() => Self::Private,
                None => Self::Public,
            },
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                if v4.is_loopback() || a == 0 || v4.is_multicast() || v4.is_broadcast() {
                    Self::Loopback
                } else if v4.is_link_local() {
                    Self::Link
                } else if v4.is_private() || (a == 100 && b & 0xc0 == 64) {
                    Self::Private
                } else {
                    Self::Public
                }
            }
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Private => "private",
            Self::Link => "link-local",
            Self::Loopback => "loopback",
        }
    }
}

/// Where a registry may send us: to public addresses, and to those as near as the registry.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    /// The registry's host, without port and brackets.
    host: Arc<str>,
    /// As near as the registry's addresses are; known once it has been looked up.
    near: Arc<Mutex<Vec<Reach>>>,
    /// The hosts of the proxies that the environment names, which are the user's choice.
    proxies: Arc<[String]>,
}

impl Guard {
    /// For the registry at `host`, which may have a port.
    pub(super) fn new(host: &str) -> Self {
        let name = bare(host);
        let near = name.parse().map(Reach::of).into_iter().collect();
        Self {
            host: name.to_ascii_lowercase().into(),
            near: Arc::new(Mutex::new(near)),
            proxies: proxies().collect(),
        }
    }

    fn near(&self) -> Vec<Reach> {
        self.near.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether to go to `address`; else, why not. A registry on this machine may send us into its
    /// own network, one in a private network not to this machine.
    fn allows(&self, address: IpAddr) -> Result<(), String> {
        let reach = Reach::of(address);
        let near = self.near();
        let as_near = match reach {
            Reach::Public => true,
            Reach::Private => near.contains(&Reach::Private) || near.contains(&Reach::Loopback),
            other => near.contains(&other),
        };
        if as_near {
            return Ok(());
        }
        Err(format!(
            "points to {address}, a {} address, where the registry itself is not: not followed",
            reach.name()
        ))
    }

    /// Whether to go to a URL with a literal address; names are checked when they are resolved.
    pub(super) fn allows_url(&self, url: &Url) -> Result<(), String> {
        match url.host_str().map(|host| bare(host).parse::<IpAddr>()) {
            Some(Ok(address)) => self.allows(address),
            _ => Ok(()),
        }
    }

    async fn look_up(self, name: String) -> io::Result<Vec<SocketAddr>> {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
        if name.eq_ignore_ascii_case(&self.host) {
            let mut near = self.near.lock().unwrap_or_else(PoisonError::into_inner);
            *near = found.iter().map(|address| Reach::of(address.ip())).collect();
            return Ok(found);
        }
        if self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(&name)) {
            return Ok(found);
        }
        let mut refused = None;
        let allowed: Vec<SocketAddr> = found
            .into_iter()
            .filter(|address| match self.allows(address.ip()) {
                Ok(()) => true,
                Err(why) => {
                    refused = Some(why);
                    false
                }
            })
            .collect();
        match refused {
            Some(why) if allowed.is_empty() => Err(io::Error::other(format!("{name} {why}"))),
            _ => Ok(allowed),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let found = guard.look_up(name).await?;
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// The hosts of the proxies that the environment names.
fn proxies() -> impl Iterator<Item = String> {
    let named = [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ];
    named.into_iter().filter_map(|name| {
        let value = std::env::var(name).ok()?;
        let url = Url::parse(&value).ok().filter(Url::has_host);
        let url = url.or_else(|| Url::parse(&format!("http://{value}")).ok())?;
        url.host_str().map(str::to_owned)
    })
}

/// A host without its port and without the brackets of IPv6.
pub(super) fn bare(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => name,
            _ => host,
        },
    }
}

/// How to speak to a registry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trust {
    /// Over TLS: then nothing makes us step down from it.
    pub tls: bool,
    /// Accept any certificate.
    pub any_certificate: bool,
}

/// Certificates for one registry.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    authorities: Vec<Certificate>,
    identity: Option<Identity>,
}

impl Certificates {
    /// Reads `*.crt` (authorities, besides the system's), and the first `*.cert` with its `*.key`
    /// (ours) from `given`, or from podman's directory for `host`.
    pub(super) fn load(given: Option<&Path>, host: &str) -> Result<Self, String> {
        let dir = match given {
            Some(dir) => Some(dir.to_owned()),
            None => default_dirs(host).into_iter().find(|dir| dir.is_dir()),
        };
        let Some(dir) = dir else {
            return Ok(Self::default());
        };
        let failed = |path: &Path, e: &dyn std::fmt::Display| format!("certificates {}: {e}", path.display());
        let paths = bounded::sorted_paths(&dir).map_err(|e| failed(&dir, &e))?;
        let mut found = Self::default();
        for path in paths {
            match path.extension().and_then(|e| e.to_str()) {
                Some("crt") => {
                    let pem = read(&path).map_err(|e| failed(&path, &e))?;
                    let authorities = Certificate::from_pem_bundle(&pem).map_err(|e| failed(&path, &e))?;
                    found.authorities.extend(authorities);
                }
                Some("cert") if found.identity.is_none() => {
                    let key = path.with_extension("key");
                    let mut pem = read(&path).map_err(|e| failed(&path, &e))?;
                    pem.extend(read(&key).map_err(|e| failed(&key, &e))?);
                    found.identity = Some(Identity::from_pem(&pem).map_err(|e| failed(&path, &e))?);
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

fn default_dirs(host: &str) -> Vec<PathBuf> {
    let own = config_home(&|name| std::env::var_os(name)).map(|dir| dir.join("containers/certs.d"));
    let all = own.into_iter().chain(CERT_DIRS.map(PathBuf::from));
    all.map(|dir| dir.join(host)).collect()
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    bounded::read(bounded::open(path)?, MAX_CERT_SIZE)
}

/// Where redirects of a request lead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redirects {
    /// To all that the guard allows: storage services. reqwest does not send the `Authorization`
    /// header to other hosts and ports.
    ToOthers,
    /// To the same scheme, host and port only. After a 307 or 308 a request is sent again with its
    /// body, which no client strips of the secrets in it.
    SameOrigin,
}

/// The clients of one registry.
#[derive(Debug)]
pub(super) struct Clients {
    trust: Trust,
    host: String,
    guard: Guard,
    certificates: Arc<Certificates>,
    reading: reqwest::Client,
    /// Made when first needed: a pull without credentials may never need it.
    sending: OnceLock<reqwest::Client>,
}

impl Clients {
    /// Clients that do not step down from HTTPS to HTTP and go nowhere that `guard` does not allow.
    pub(super) fn new(
        trust: Trust,
        host: &str,
        guard: &Guard,
        certificates: &Arc<Certificates>,
    ) -> Result<Self, reqwest::Error> {
        Ok(Self {
            trust,
            host: host.to_owned(),
            guard: guard.clone(),
            certificates: Arc::clone(certificates),
            reading: client(trust, host, guard, certificates, Redirects::ToOthers)?,
            sending: OnceLock::new(),
        })
    }

    /// For requests without a body that only read from the registry.
    pub(super) const fn reading(&self) -> &reqwest::Client {
        &self.reading
    }

    /// For token requests and for everything that has a body.
    pub(super) fn sending(&self) -> Result<&reqwest::Client, reqwest::Error> {
        if let Some(client) = self.sending.get() {
            return Ok(client);
        }
        let made = client(
            self.trust,
            &self.host,
            &self.guard,
            &self.certificates,
            Redirects::SameOrigin,
        )?;
        Ok(self.sending.get_or_init(|| made))
    }
}

fn client(
    trust: Trust,
    host: &str,
    guard: &Guard,
    certificates: &Certificates,
    follow: Redirects,
) -> Result<reqwest::Client, reqwest::Error> {
    install_crypto();
    let redirects = guard.clone();
    let policy = reqwest::redirect::Policy::custom(move |attempt| {
        let stays = || {
            let from = attempt.previous().last();
            from.is_some_and(|from| from.origin() == attempt.url().origin())
        };
        if attempt.previous().len() > MAX_REDIRECTS {
            attempt.error("redirected too often")
        } else if follow == Redirects::SameOrigin && !stays() {
            attempt.error("redirected to another server, which is not followed with credentials or a body")
        } else if trust.tls && attempt.url().scheme() != "https" {
            attempt.error("redirected from HTTPS to HTTP, which is not followed")
        } else if let Err(why) = redirects.allows_url(attempt.url()) {
            attempt.error(format!("the redirect {why}"))
        } else {
            attempt.follow()
        }
    });
    let mut builder = reqwest::Client::builder()
        .referer(false)
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .redirect(policy)
        .dns_resolver(Arc::new(guard.clone()))
        .tls_certs_merge(certificates.authorities.iter().cloned());
    if let Some(identity) = &certificates.identity {
        builder = builder.identity(identity.clone());
    }
    if trust.any_certificate {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    // As in Go: what is on this machine is not behind a proxy.
    if is_loopback(host) {
        builder = builder.no_proxy();
    }
    builder.build()
}

/// rustls has one cryptography provider per process: `ring`, unless the program chose another.
pub(super) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // An error says that another thread was faster, which is as good.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(registry: &str, url: &str) -> bool {
        Guard::new(registry).allows_url(&Url::parse(url).unwrap()).is_ok()
    }

    #[test]
    fn a_registry_sends_us_no_nearer_than_it_is() {
        for (registry, url, expected) in [
            ("registry.example", "https://203.0.113.7/x", true),
            ("203.0.113.1", "https://127.0.0.1/x", false),
            ("203.0.113.1", "http://169.254.169.254/latest", false),
            ("203.0.113.1:5000", "https://10.0.0.1/x", false),
            ("203.0.113.1", "https://100.64.0.1/x", false),
            ("203.0.113.1", "https://0.0.0.0/x", false),
            ("203.0.113.1", "https://[::1]/x", false),
            ("203.0.113.1", "https://[::ffff:127.0.0.1]/x", false),
            ("203.0.113.1", "https://[fe80::1]/x", false),
            ("203.0.113.1", "https://[fd00::1]/x", false),
            ("203.0.113.1", "https://2130706433/x", false),
            ("10.0.0.1:5000", "http://192.168.1.1/x", true),
            ("10.0.0.1:5000", "http://127.0.0.1/x", false),
            ("10.0.0.1:5000", "http://169.254.169.254/x", false),
            ("127.0.0.1:5000", "http://127.0.0.1:9000/x", true),
            ("127.0.0.1:5000", "http://10.0.0.1/x", true),
            ("[::1]:5000", "http://[::1]:9000/x", true),
            ("127.0.0.1:5000", "http://169.254.169.254/x", false),
        ] {
            assert_eq!(allows(registry, url), expected, "{registry} -> {url}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_stand_for() {
        let public = Guard::new("203.0.113.1");
        let error = public.look_up("localhost".into()).await.unwrap_err().to_string();
        assert!(
            error.contains("localhost points to") && error.contains("loopback"),
            "{error}"
        );
        // The registry itself may be anywhere, and is what others are measured by.
        let here = Guard::new("localhost:5000");
        assert!(
            here.allows("127.0.0.1".parse().unwrap()).is_err(),
            "not known yet"
        );
        assert!(!here.clone().look_up("localhost".into()).await.unwrap().is_empty());
        assert!(here.allows("127.0.0.1".parse().unwrap()).is_ok());
    }
}
