//! What of the network a container may use: nothing but what its annotations list.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, PoisonError, RwLock},
};

use wasmtime_wasi::sockets::SocketAddrUse;

use crate::annotations::{ALLOW_OUTBOUND, LISTEN};

/// The most entries of one list.
const MAX_ENTRIES: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// An address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listen {
    pub(crate) protocol: Protocol,
    pub(crate) address: SocketAddr,
}

/// Where a container may connect or send to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outbound {
    protocol: Option<Protocol>,
    host: Host,
    /// `None`: any.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Host {
    Network(IpAddr, u8),
    Name { name: String, addresses: Vec<IpAddr> },
}

/// Ports that containers of one runtime listen on: the others may connect to them over loopback.
#[derive(Debug, Clone, Default)]
pub(crate) struct Loopback(Arc<RwLock<Vec<(Protocol, u16)>>>);

/// A container's ports among those of its runtime, for as long as it is there.
#[derive(Debug)]
pub(crate) struct Listening {
    loopback: Loopback,
    ports: Vec<(Protocol, u16)>,
}

impl Loopback {
    pub(crate) fn add(&self, listen: &[Listen]) -> Listening {
        let ports: Vec<_> = listen.iter().map(|l| (l.protocol, l.address.port())).collect();
        self.0
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(&ports);
        Listening {
            loopback: self.clone(),
            ports,
        }
    }

    fn has(&self, protocol: Protocol, port: u16) -> bool {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(&(protocol, port))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut all = self.loopback.0.write().unwrap_or_else(PoisonError::into_inner);
        for port in &self.ports {
            if let Some(place) = all.iter().position(|p| p == port) {
                all.swap_remove(place);
            }
        }
    }
}

/// What one container may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Network {
    pub(crate) listen: Vec<Listen>,
    outbound: Vec<Outbound>,
    loopback: Loopback,
}

impl Network {
    /// Reads the two lists; names are looked up now.
    pub(crate) async fn new(
        listen: Option<&str>,
        outbound: Option<&str>,
        loopback: Loopback,
    ) -> Result<Self, String> {
        let mut network = Self {
            listen: entries(LISTEN, listen, parse_listen)?,
            outbound: entries(ALLOW_OUTBOUND, outbound, parse_outbound)?,
            loopback,
        };
        for entry in &mut network.outbound {
            if let Host::Name { name, addresses } = &mut entry.host {
                let found = tokio::net::lookup_host((name.as_str(), 0)).await;
                let found = found.map_err(|e| format!("{ALLOW_OUTBOUND}: cannot look up {name:?}: {e}"))?;
                addresses.extend(found.map(|a| a.ip()));
            }
        }
        Ok(network)
    }

    /// Whether it may look names up: only if it may go to some.
    pub(crate) fn names(&self) -> bool {
        self.outbound.iter().any(|o| matches!(o.host, Host::Name { .. }))
    }

    pub(crate) fn uses(&self, protocol: Protocol) -> bool {
        // Other containers' ports may appear later: sockets exist, and reach what is allowed.
        protocol == Protocol::Tcp
            || self.listen.iter().any(|l| l.protocol == protocol)
            || self
                .outbound
                .iter()
                .any(|o| o.protocol.is_none_or(|p| p == protocol))
    }

    /// Whether a socket may be used so.
    pub(crate) fn allows(&self, address: SocketAddr, usage: SocketAddrUse) -> bool {
        match usage {
            SocketAddrUse::TcpBind => self.may_bind(Protocol::Tcp, address),
            SocketAddrUse::UdpBind => self.may_bind(Protocol::Udp, address),
            SocketAddrUse::TcpListen => self.may_listen(Protocol::Tcp, address),
            SocketAddrUse::TcpConnect => self.may_reach(Protocol::Tcp, address),
            SocketAddrUse::UdpSend => self.may_reach(Protocol::Udp, address),
            // The socket that accepts was allowed to listen.
            SocketAddrUse::TcpAccept => true,
            SocketAddrUse::UdpReceive => {
                self.listen.iter().any(|l| l.protocol == Protocol::Udp)
                    || self.may_reach(Protocol::Udp, address)
            }
        }
    }

    /// Whether an HTTP request may go to a host as its URL names it.
    pub(crate) fn allows_request(&self, host: &str, port: u16) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.may_reach(Protocol::Tcp, SocketAddr::new(address, port));
        }
        self.outbound.iter().any(|o| {
            matches!(&o.host, Host::Name { name, .. } if name.eq_ignore_ascii_case(host))
                && o.protocol != Some(Protocol::Udp)
                && o.port.is_none_or(|p| p == port)
        })
    }

    /// Port 0 is for what goes out: the system picks a port, on which nothing may listen.
    fn may_bind(&self, protocol: Protocol, address: SocketAddr) -> bool {
        address.port() == 0 || self.may_listen(protocol, address)
    }

    fn may_listen(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.listen.iter().any(|l| {
            l.protocol == protocol
                && l.address.port() == address.port()
                // A narrower address than the listed one is fine.
                && (l.address.ip() == address.ip() || l.address.ip().is_unspecified())
        })
    }

    fn may_reach(&self, protocol: Protocol, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        if ip.is_loopback() && self.loopback.has(protocol, address.port()) {
            return true;
        }
        self.outbound.iter().any(|o| {
            o.protocol.is_none_or(|p| p == protocol)
                && o.port.is_none_or(|p| p == address.port())
                && match &o.host {
                    Host::Network(network, bits) => within(ip, *network, *bits),
                    Host::Name { addresses, .. } => addresses.iter().any(|a| a.to_canonical() == ip),
                }
        })
    }
}

fn entries<T>(list: &str, text: Option<&str>, parse: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, String> {
    let entries: Vec<&str> = text
        .unwrap_or_default()
        .split(',')
        .map(str::trim)
        .filter(|e| !e.is_empty())
        .collect();
    if entries.len() > MAX_ENTRIES {
        return Err(format!(
            "{list}: {} entries, at most {MAX_ENTRIES} are allowed",
            entries.len()
        ));
    }
    entries
        .into_iter()
        .map(|e| parse(e).ok_or_else(|| format!("{list}: cannot read {e:?}")))
        .collect()
}

fn protocol(entry: &str) -> (Option<Protocol>, &str) {
    for (prefix, protocol) in [("tcp:", Protocol::Tcp), ("udp:", Protocol::Udp)] {
        if let Some(rest) = entry.strip_prefix(prefix) {
            return (Some(protocol), rest);
        }
    }
    (None, entry)
}

fn parse_listen(entry: &str) -> Option<Listen> {
    let (protocol, rest) = protocol(entry);
    let address = match rest.parse::<u16>() {
        Ok(port) => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
        Err(_) => rest.parse().ok()?,
    };
    (address.port() != 0).then_some(Listen {
        protocol: protocol.unwrap_or(Protocol::Tcp),
        address,
    })
}

fn parse_outbound(entry: &str) -> Option<Outbound> {
    let (protocol, rest) = protocol(entry);
    let (host, port) = rest.rsplit_once(':')?;
    let port = match port {
        "*" => None,
        port => Some(port.parse().ok().filter(|p| *p != 0)?),
    };
    let host = match (host.strip_prefix('[').and_then(|h| h.strip_suffix(']')), host) {
        (Some(inner), _) => parse_network(inner).filter(|h| matches!(h, Host::Network(IpAddr::V6(_), _)))?,
        (None, host) => match parse_network(host) {
            Some(Host::Network(IpAddr::V6(_), _)) => return None,
            Some(network) => network,
            None if is_name(host) => Host::Name {
                name: host.to_owned(),
                addresses: Vec::new(),
            },
            None => return None,
        },
    };
    Some(Outbound { protocol, host, port })
}

fn parse_network(text: &str) -> Option<Host> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().ok()?;
    let all = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) => bits.parse().ok().filter(|b| *b <= all)?,
        None => all,
    };
    Some(Host::Network(address, bits))
}

/// A host name: letters, digits and hyphens between dots. Digits only are taken as an address.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 253
        && text.split('.').all(|label| {
            !label.is_empty()
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        && text.bytes().any(|b| b.is_ascii_alphabetic())
        && !text.starts_with("0x")
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            (a.to_bits() ^ n.to_bits()) & mask == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            (a.to_bits() ^ n.to_bits()) & mask == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn network(listen: &str, outbound: &str) -> Network {
        Network::new(Some(listen), Some(outbound), Loopback::default())
            .await
            .unwrap()
    }

    fn at(address: &str) -> SocketAddr {
        address.parse().unwrap()
    }

    #[tokio::test]
    async fn nothing_is_allowed_by_default() {
        let network = network("", "").await;
        for usage in [
            SocketAddrUse::TcpConnect,
            SocketAddrUse::TcpListen,
            SocketAddrUse::TcpBind,
            SocketAddrUse::UdpSend,
            SocketAddrUse::UdpReceive,
            SocketAddrUse::UdpBind,
        ] {
            assert!(!network.allows(at("127.0.0.1:80"), usage), "{usage:?}");
        }
        assert!(!network.allows_request("localhost", 80));
        assert!(!network.names());
    }

    #[tokio::test]
    async fn listens_where_it_is_listed_and_nowhere_else() {
        let network = network("8080, udp:127.0.0.1:53", "").await;
        assert!(network.allows(at("0.0.0.0:8080"), SocketAddrUse::TcpListen));
        assert!(network.allows(at("127.0.0.1:8080"), SocketAddrUse::TcpBind));
        assert!(!network.allows(at("0.0.0.0:8081"), SocketAddrUse::TcpListen));
        assert!(network.allows(at("127.0.0.1:53"), SocketAddrUse::UdpBind));
        assert!(!network.allows(at("0.0.0.0:53"), SocketAddrUse::UdpBind));
        assert!(network.allows(at("0.0.0.0:0"), SocketAddrUse::TcpBind));
        assert!(!network.allows(at("0.0.0.0:40000"), SocketAddrUse::TcpListen));
    }

    #[tokio::test]
    async fn reaches_what_is_listed_and_nothing_else() {
        let network = network("", "127.0.0.1:6379, 10.1.0.0/16:*, udp:[::1]:53").await;
        assert!(network.allows(at("127.0.0.1:6379"), SocketAddrUse::TcpConnect));
        assert!(network.allows(at("[::ffff:127.0.0.1]:6379"), SocketAddrUse::TcpConnect));
        assert!(!network.allows(at("127.0.0.1:6380"), SocketAddrUse::TcpConnect));
        assert!(!network.allows(at("127.0.0.2:6379"), SocketAddrUse::TcpConnect));
        assert!(network.allows(at("10.1.255.1:1"), SocketAddrUse::TcpConnect));
        assert!(!network.allows(at("10.2.0.1:1"), SocketAddrUse::TcpConnect));
        assert!(network.allows(at("[::1]:53"), SocketAddrUse::UdpSend));
        assert!(!network.allows(at("[::1]:53"), SocketAddrUse::TcpConnect));
        assert!(network.allows_request("127.0.0.1", 6379));
        assert!(!network.allows_request("localhost", 6379));
    }

    #[tokio::test]
    async fn containers_reach_each_others_ports_over_loopback() {
        let loopback = Loopback::default();
        let server = Network::new(Some("9000"), None, loopback.clone()).await.unwrap();
        let client = Network::new(None, None, loopback.clone()).await.unwrap();
        assert!(!client.allows(at("127.0.0.1:9000"), SocketAddrUse::TcpConnect));
        let listening = loopback.add(&server.listen);
        assert!(client.allows(at("127.0.0.1:9000"), SocketAddrUse::TcpConnect));
        assert!(!client.allows(at("192.0.2.1:9000"), SocketAddrUse::TcpConnect));
        drop(listening);
        assert!(!client.allows(at("127.0.0.1:9000"), SocketAddrUse::TcpConnect));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for entry in [
            "x",
            "1.2.3.4",
            "1.2.3.4:0",
            "1.2.3.4:99999",
            "::1:80",
            "1.2.3.4/33:1",
            "2130706433:80",
            "a b:1",
            ":1",
        ] {
            assert_eq!(parse_outbound(entry), None, "{entry}");
        }
        for entry in ["0", "http", "1.2.3.4", "sctp:1", "tcp:udp:1"] {
            assert_eq!(parse_listen(entry), None, "{entry}");
        }
    }
}
